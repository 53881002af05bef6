//! Looks at a database the way the daemon will use it, before the daemon does, and says what it
//! would stumble over. It writes nothing: what it asks runs in READ ONLY transactions.

mod connection;
mod extensions;
mod lease;
mod ledger;
mod role;

use std::time::Duration;

use serde::Serialize;
use tokio_postgres::{
    Row,
    types::{ToSql, Type},
};

use crate::{
    failure::Failure,
    lease::LeaseSettings as Leases,
    migration::{set::MigrationSet, signature::SigningKeys},
    postgres::{DatabaseError, DatabaseUrl, logins::Logins, session::MigrationSession},
};

/// A few dozen round trips; a server that is slower than this is none to migrate.
const WITHIN: Duration = Duration::from_secs(60);

/// What is looked at: the settings that the daemon would have.
#[derive(Clone, Debug)]
pub struct DoctorSettings {
    /// Where it reads.
    pub database: DatabaseUrl,
    /// Where it migrates, when that is elsewhere.
    pub migration_database: Option<DatabaseUrl>,
    /// Runs the migrations, where it is not the role that logs in.
    pub role: Option<String>,
    /// Signs the downs that the ledger keeps.
    pub signing: Option<SigningKeys>,
    /// Where databases are leased.
    pub leases: Option<Leases>,
}

/// How something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum CheckStatus {
    /// As it should be.
    Ok,
    /// It works, and somebody should know.
    Warn,
    /// Operations, or reading, will not work.
    Fail,
}

impl CheckStatus {
    /// OK, WARN or FAIL.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Warn => "WARN",
            Self::Fail => "FAIL",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CheckResult {
    /// Its name, the same for ever.
    pub check: &'static str,
    /// How it is.
    pub status: CheckStatus,
    /// What was found.
    pub found: String,
    /// What to do, a statement or a sentence each.
    pub todo: Vec<String>,
}

impl CheckResult {
    fn new(check: &'static str, status: CheckStatus, found: impl Into<String>) -> Self {
        Self {
            check,
            status,
            found: found.into(),
            todo: Vec::new(),
        }
    }

    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(check, CheckStatus::Ok, found)
    }

    fn warn(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(check, CheckStatus::Warn, found)
    }

    /// A no of schemad's own; the GRANTs in it are what to do.
    fn fail(check: &'static str, failure: impl Into<Failure>) -> Self {
        let failure = failure.into();
        let grants = failure
            .metadata
            .iter()
            .filter(|(key, _)| key.starts_with("grant"))
            .map(|(_, grant)| grant.clone());
        let alternative = failure
            .metadata
            .get("alternative")
            .map(|sql| format!("or {sql}"));
        let todo = grants.chain(alternative).collect();
        Self {
            todo,
            ..Self::new(
                check,
                CheckStatus::Fail,
                format!("{}: {}", failure.reason, failure.message),
            )
        }
    }

    fn todo(mut self, what: impl Into<String>) -> Self {
        self.todo.push(what.into());
        self
    }
}

/// Everything that was looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DoctorReport {
    /// In order.
    pub checks: Vec<CheckResult>,
    /// There was no server to ask.
    pub unreachable: bool,
}

impl DoctorReport {
    /// The worst of them.
    pub fn status(&self) -> CheckStatus {
        self.checks
            .iter()
            .map(|check| check.status)
            .max()
            .unwrap_or(CheckStatus::Ok)
    }

    /// What cannot be asked is not as it should be.
    fn add(&mut self, name: &'static str, check: Result<CheckResult, DatabaseError>) {
        self.checks
            .push(check.unwrap_or_else(|error| CheckResult::fail(name, error)));
    }
}

/// Looks at everything. Dropped in the middle, its connections close and nothing remains.
pub async fn examine(plan: &DoctorSettings, catalog: &MigrationSet) -> DoctorReport {
    tokio::time::timeout(WITHIN, look(plan, catalog))
        .await
        .unwrap_or_else(|_| {
            let check = CheckResult::fail("connection", DatabaseError::Timeout(WITHIN));
            DoctorReport {
                checks: vec![check],
                unreachable: true,
            }
        })
}

async fn look(plan: &DoctorSettings, catalog: &MigrationSet) -> DoctorReport {
    let mut report = DoctorReport::default();
    let migrating = plan.migration_database.as_ref().unwrap_or(&plan.database);
    let Some(session) = connect(&mut report, "connection", migrating).await else {
        return report;
    };
    let session = match &plan.migration_database {
        Some(migrating)
            if connect(&mut report, "reading connection", &plan.database)
                .await
                .is_some() =>
        {
            Logins::new(migrating.clone(), Some(plan.database.clone()))
                .open()
                .await
                .unwrap_or(session)
        }
        _ => session,
    };
    let (asking, keeping) = (
        ReadOnlySession(&session),
        ReadOnlySession(session.ledger_session()),
    );
    report.add("server", connection::server(&asking).await);
    report
        .checks
        .push(connection::pooler("pooler", &session, migrating, "MIGRATION_DATABASE_URL").await);
    report.add("clock", connection::clock(&asking).await);
    report.add("role", role::attributes(&asking).await);
    report.add(
        "migrating role",
        role::migrating(&session, plan.role.as_deref()).await,
    );
    report.add("rights", role::rights(&asking).await);
    report.add(
        "migrating login",
        role::login(
            &asking,
            plan.migration_database
                .as_ref()
                .map(|_| plan.database.login()),
            plan.role.as_deref(),
        )
        .await,
    );
    report.add("visibility", role::visibility(&keeping).await);
    report.add(
        "settings",
        role::settings(&asking, plan.role.as_deref()).await,
    );
    report.add(
        "search_path",
        role::search_path(&asking, plan.role.as_deref()).await,
    );
    let snapshot = ledger::reading(&mut report, plan).await;
    if plan.migration_database.is_some() {
        report.add(
            "databases",
            ledger::databases(&asking, &plan.database).await,
        );
    }
    report.add("ledger", ledger::version(&keeping, snapshot.as_ref()).await);
    report.add("public", ledger::public(&keeping).await);
    report.add(
        "signing",
        ledger::signing(plan, catalog, snapshot.as_ref()).await,
    );
    let rows = snapshot.as_ref().map_or(&[][..], |snapshot| &snapshot.rows);
    let role = plan.role.as_deref();
    report.add(
        "extensions",
        extensions::extensions("extensions", &asking, catalog, rows, role).await,
    );
    lease::examine(&mut report, plan, catalog, &session).await;
    report
}

async fn connect(
    report: &mut DoctorReport,
    name: &'static str,
    url: &DatabaseUrl,
) -> Option<MigrationSession> {
    match MigrationSession::open(url).await {
        Ok(session) => {
            report.add(
                name,
                connection::connection(name, &ReadOnlySession(&session), url).await,
            );
            Some(session)
        }
        Err(error) => {
            report.unreachable |= matches!(
                error,
                DatabaseError::Connect { .. } | DatabaseError::Lost(_) | DatabaseError::Timeout(_)
            );
            report.checks.push(CheckResult::fail(name, error));
            None
        }
    }
}

/// A session that only reads.
struct ReadOnlySession<'a>(&'a MigrationSession);

impl ReadOnlySession<'_> {
    async fn all(
        &self,
        query: &str,
        values: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<Vec<Row>, DatabaseError> {
        self.only_reading(async || Ok(self.0.client().query_typed(query, values).await?))
            .await
    }

    /// The only row.
    async fn one(&self, query: &str) -> Result<Row, DatabaseError> {
        self.all(query, &[])
            .await?
            .pop()
            .ok_or_else(|| DatabaseError::Lost("the server returned no row".into()))
    }

    /// Does `work` in a transaction that cannot write.
    async fn only_reading<T, E: From<DatabaseError>>(
        &self,
        work: impl AsyncFnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        let client = self.0.client();
        client
            .batch_execute("BEGIN READ ONLY")
            .await
            .map_err(DatabaseError::from)?;
        let done = work().await;
        client
            .batch_execute("ROLLBACK")
            .await
            .map_err(DatabaseError::from)?;
        done
    }
}
