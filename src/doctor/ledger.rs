//! The ledger: whether it can be read and used, who else may, and whether its downs are signed.

use super::{CheckResult, CheckStatus, DoctorReport, DoctorSettings, ReadOnlySession};
use crate::{
    ledger::{self, LedgerSnapshot, install, one_database, public},
    migration::set::MigrationSet,
    operation,
    postgres::{
        DatabaseError, DatabaseUrl,
        pool::{LedgerOwner, PooledReader},
    },
};

/// Reads what status, lists and health read.
pub(super) async fn reading(
    report: &mut DoctorReport,
    plan: &DoctorSettings,
) -> Option<LedgerSnapshot> {
    let read = async {
        let whose = LedgerOwner::of(&plan.database, plan.migration_database.as_ref());
        let mut reader = PooledReader::connect(&plan.database, "schemad doctor", whose).await?;
        ledger::read::snapshot(&mut reader).await
    };
    match read.await {
        Ok(snapshot) => {
            let table = snapshot.diesel_table.as_deref().unwrap_or("not made yet");
            let applied = snapshot.rows.iter().filter(|row| row.is_applied()).count();
            report.checks.push(CheckResult::ok(
                "reading",
                format!("{applied} applied migrations; Diesel's table: {table}"),
            ));
            Some(snapshot)
        }
        Err(error) => {
            report.checks.push(CheckResult::fail("reading", error));
            None
        }
    }
}

/// Whether DATABASE_URL and MIGRATION_DATABASE_URL lead to one database.
pub(super) async fn databases(
    asking: &ReadOnlySession<'_>,
    url: &DatabaseUrl,
) -> Result<CheckResult, DatabaseError> {
    let reading = ledger::read::identity(
        &mut PooledReader::connect(url, "schemad doctor", LedgerOwner::default()).await?,
    )
    .await?;
    let migrating = asking
        .only_reading(async || one_database::identity(asking.0.client()).await)
        .await?;
    Ok(match one_database::compare(&reading, &migrating) {
        Err(failure) => CheckResult::fail("databases", failure)
            .todo("point DATABASE_URL and MIGRATION_DATABASE_URL at one database"),
        Ok(()) => CheckResult::ok("databases", "both addresses lead to one database"),
    })
}

/// Its version, and whether this release may upgrade it. That it is too new is among the rights.
pub(super) async fn version(
    asking: &ReadOnlySession<'_>,
    snapshot: Option<&LedgerSnapshot>,
) -> Result<CheckResult, DatabaseError> {
    let Some(snapshot) = snapshot else {
        return Ok(CheckResult::new(
            "ledger",
            CheckStatus::Fail,
            "it cannot be read",
        ));
    };
    let Some(found) = &snapshot.ledger else {
        return Ok(CheckResult::ok(
            "ledger",
            "none yet; the daemon makes it when it starts",
        ));
    };
    let told = format!(
        "version {}, this release's is {}; {}",
        found.version,
        install::VERSION,
        found.id
    );
    if found.compatible_with > install::VERSION {
        return Ok(CheckResult::new("ledger", CheckStatus::Fail, told).todo("use a newer release"));
    }
    let upgrade = found.version < install::VERSION;
    let may = !upgrade
        || asking
            .only_reading(async || public::may_upgrade(asking.0.client()).await)
            .await?;
    Ok(match (upgrade, may) {
        (false, _) => CheckResult::ok("ledger", told),
        (true, true) => CheckResult::ok(
            "ledger",
            format!(
                "{told}; the daemon upgrades it when it \
            starts"
            ),
        ),
        (true, false) => CheckResult::new(
            "ledger",
            CheckStatus::Fail,
            format!("{told}; the role does not own all of it, so it cannot upgrade it"),
        )
        .todo(
            "start this release once as the role that made the ledger, or make the role a member \
            of that one",
        ),
    })
}

/// Everybody has nothing to look for in it, and nobody else may put code into it.
pub(super) async fn public(asking: &ReadOnlySession<'_>) -> Result<CheckResult, DatabaseError> {
    let mut todo = asking
        .only_reading(async || public::revokes(asking.0.client()).await)
        .await?;
    let intruders = asking
        .only_reading(async || public::intruders(asking.0.client()).await)
        .await?;
    let mut found = Vec::new();
    if !todo.is_empty() {
        found.push("PUBLIC has rights on the ledger that nobody needs".to_owned());
    }
    if !intruders.is_empty() {
        let mut roles: Vec<&str> = intruders.iter().map(|(role, _)| role.as_str()).collect();
        roles.dedup();
        found.push(format!(
            "{} may put functions or triggers into the ledger, which the daemon then refuses",
            roles.join(", ")
        ));
    }
    todo.extend(intruders.into_iter().map(|(_, revoke)| revoke));
    Ok(if found.is_empty() {
        CheckResult::ok("public", "PUBLIC has no right on the ledger")
    } else {
        CheckResult {
            todo,
            ..CheckResult::warn("public", found.join("; "))
        }
    })
}

/// Whether downs are signed, and which a rollback would refuse.
pub(super) async fn signing(
    plan: &DoctorSettings,
    catalog: &MigrationSet,
    snapshot: Option<&LedgerSnapshot>,
) -> Result<CheckResult, DatabaseError> {
    let Some(keys) = &plan.signing else {
        return Ok(CheckResult::warn(
            "signing",
            "no key: whoever can write the ledger chooses what a \
            rollback runs",
        )
        .todo(
            "make one with `openssl rand -hex 32` and give it with --signing-key-file \
                (docs/security.md)",
        ));
    };
    let found = format!("{} key(s)", keys.count());
    let Some((snapshot, ledger)) =
        snapshot.and_then(|snapshot| Some((snapshot, snapshot.ledger.as_ref()?)))
    else {
        return Ok(CheckResult::ok("signing", found));
    };
    let wanted = operation::signed_texts(catalog, &snapshot.rows);
    let texts = if wanted.is_empty() {
        Vec::new()
    } else {
        let mut reader =
            PooledReader::connect(&plan.database, "schemad doctor", LedgerOwner::default()).await?;
        ledger::read::scripts(&mut reader, wanted).await?
    };
    let refused =
        operation::unverified(keys.signer(&ledger.id), catalog, &snapshot.rows, texts).len();
    Ok(match refused {
        0 => CheckResult::ok("signing", found),
        n => CheckResult::warn(
            "signing",
            format!(
                "{found}; {n} down(s) in the ledger do not verify, so a rollback would be refused"
            ),
        )
        .todo("`schemad status` lists them; look at them, then `schemad ledger sign`"),
    })
}
