//! Where test databases are leased, as `serve` with the same settings would use it.

use super::{
    CheckResult, CheckStatus, DoctorReport, DoctorSettings, ReadOnlySession, connect, connection,
    extensions,
};
use crate::{
    lease::{self, LeaseSettings},
    migration::set::MigrationSet,
    postgres::{DatabaseError, session::MigrationSession},
};

/// Looks at the server of the leases; `main` is a session on that of the database.
pub(super) async fn examine(
    report: &mut DoctorReport,
    plan: &DoctorSettings,
    catalog: &MigrationSet,
    main: &MigrationSession,
) {
    let Some(settings) = &plan.leases else { return };
    let unreachable = report.unreachable;
    let session = connect(report, "lease connection", &settings.database).await;
    report.unreachable = unreachable; // the daemon works without leases
    let Some(session) = session else { return };
    let asking = ReadOnlySession(&session);
    let pooler = connection::pooler(
        "lease pooler",
        &session,
        &settings.database,
        "SCHEMAD_LEASE_DATABASE_URL",
    );
    report.checks.push(pooler.await);
    report.add("lease role", role(&asking, settings).await);
    report.add(
        "lease server",
        server(&asking, &ReadOnlySession(main)).await,
    );
    report.add(
        "lease extensions",
        extensions::extensions("lease extensions", &asking, catalog, &[], None).await,
    );
}

/// Whether it may make databases, and drop them under those who use them.
async fn role(
    asking: &ReadOnlySession<'_>,
    settings: &LeaseSettings,
) -> Result<CheckResult, DatabaseError> {
    const NAME: &str = "lease role";
    let row = asking
        .one(
            "SELECT quote_ident(rolname), rolsuper, rolcreatedb FROM pg_roles WHERE rolname = \
            current_user",
        )
        .await?;
    let (role, superuser, makes): (String, bool, bool) = (row.get(0), row.get(1), row.get(2));
    if !superuser && !makes {
        let check = CheckResult::new(
            NAME,
            CheckStatus::Fail,
            format!("MISSING_RIGHT: {role} may not make databases"),
        );
        return Ok(check.todo(format!("ALTER ROLE {role} CREATEDB")));
    }
    if let Err(failure) = lease::may_throw_out(&settings.database, &settings.client.role()).await {
        return Ok(CheckResult::fail(NAME, failure));
    }
    let clients = settings.client.role();
    Ok(if superuser {
        CheckResult::warn(
            NAME,
            format!("{role} is a superuser; clients are told to be {clients}"),
        )
        .todo("make leases as a role with CREATEDB: docs/lease.md")
    } else {
        CheckResult::ok(
            NAME,
            format!("{role} may make databases; clients are told to be {clients}"),
        )
    })
}

/// Whoever has a lease has its role on the whole server.
async fn server(
    asking: &ReadOnlySession<'_>,
    main: &ReadOnlySession<'_>,
) -> Result<CheckResult, DatabaseError> {
    const WHICH: &str = "SELECT system_identifier FROM pg_control_system()";
    let (leases, database): (i64, i64) = (
        asking.one(WHICH).await?.get(0),
        main.one(WHICH).await?.get(0),
    );
    Ok(if leases != database {
        CheckResult::ok("lease server", "another than the database's")
    } else {
        CheckResult::warn(
            "lease server",
            "the database's own, where whoever has a lease can connect, too",
        )
        .todo("lease on another server: docs/lease.md")
    })
}
