//! The login that runs migrations, and the one that writes the ledger. With one address both are
//! the same login. With two, the login that runs migrations may have no right on the ledger's
//! tables: then the ledger is written on a session of the other login beside it, which a
//! migration's script cannot reach. Which of the two it is the database's rights say, so there is
//! no setting that could say otherwise.

use std::time::SystemTime;

use tokio_postgres::types::Type;

use super::{DatabaseError, DatabaseUrl, pooler, session::MigrationSession};

/// The addresses of one database.
#[derive(Clone, Debug)]
pub(crate) struct Logins {
    migrating: DatabaseUrl,
    reading: Option<DatabaseUrl>,
}

/// Another login's session, beside one for migrations that may not write the ledger.
pub struct LedgerSession {
    /// It writes the ledger.
    pub(super) session: MigrationSession,
    /// Where it is connected.
    pub url: DatabaseUrl,
    /// The session for migrations, which the ledger lists as the operation's.
    pub of: MigratingSession,
}

/// A session for migrations, as it says itself: to other logins the server may not show when it
/// began.
pub struct MigratingSession {
    /// Its process id.
    pub pid: i32,
    /// When it began, where either login may see it: not where a setting of the login names another
    /// role.
    pub started: Option<SystemTime>,
    /// Its current_user: another than the login where a setting of the login names a role.
    pub user: String,
    /// Its session_user: the login.
    pub login: String,
}

/// The session itself, and whether the ledger is kept by the login $1 instead: that may write it
/// (or make it), and this session's own has no right to change it (or may not make it). A login
/// with only some of those rights is one that lacks the others.
const WHO: &str = "SELECT a.pid, a.backend_start, current_user::text, session_user::text, EXISTS \
        (SELECT FROM pg_roles o LEFT JOIN pg_namespace s ON s.nspname = 'schemad' LEFT JOIN \
        pg_class t ON t.relnamespace = s.oid AND t.relname = 'operations' LEFT JOIN pg_database d \
        ON d.datname = current_database() WHERE o.rolname = $1 AND o.rolname <> session_user AND \
        CASE WHEN t.oid IS NOT NULL THEN has_table_privilege(o.oid, t.oid, 'INSERT') AND NOT \
        has_table_privilege(t.oid, 'INSERT, UPDATE, DELETE, TRUNCATE') WHEN s.oid IS NOT NULL THEN \
        has_schema_privilege(o.oid, s.oid, 'CREATE') AND NOT has_schema_privilege(s.oid, 'CREATE') \
        ELSE has_database_privilege(o.oid, d.oid, 'CREATE') AND NOT has_database_privilege(d.oid, \
        'CREATE') END) FROM pg_stat_activity a WHERE a.pid = pg_backend_pid()";

impl Logins {
    /// `reading`: another address of the same database, where there is one.
    pub(crate) fn new(migrating: DatabaseUrl, reading: Option<DatabaseUrl>) -> Self {
        Self { migrating, reading }
    }

    /// Where migrations run.
    pub(crate) fn migrating(&self) -> &DatabaseUrl {
        &self.migrating
    }

    /// Opens a session for migrations, and the ledger's beside it where that is another login's.
    ///
    /// # Errors
    /// As [`MigrationSession::open`].
    pub(crate) async fn open(&self) -> Result<MigrationSession, DatabaseError> {
        let session = MigrationSession::open(&self.migrating).await?;
        let Some(reading) = &self.reading else {
            return Ok(session);
        };
        let rows = session
            .client()
            .query_typed(WHO, &[(&reading.login(), Type::TEXT)])
            .await?;
        let row = rows
            .first()
            .ok_or_else(|| DatabaseError::Lost("the server does not list this session".into()))?;
        if !row.get::<_, bool>(4) {
            return Ok(session);
        }
        let mut of = MigratingSession {
            pid: row.get(0),
            started: row.get(1),
            user: row.get(2),
            login: row.get(3),
        };
        let keeping = MigrationSession::open(reading).await?;
        if of.started.is_none() {
            let seen = "SELECT a.backend_start FROM pg_stat_activity a WHERE a.pid = $1";
            let rows = keeping
                .client()
                .query_typed(seen, &[(&of.pid, Type::INT4)])
                .await?;
            of.started = rows.first().and_then(|row| row.get(0));
        }
        let keeper = LedgerSession {
            session: keeping,
            url: reading.clone(),
            of,
        };
        Ok(session.with_keeper(keeper))
    }

    /// The same, and proves that no pooler gives its server connections to others between two
    /// statements.
    ///
    /// # Errors
    /// As [`Logins::open`], and [`DatabaseError::Pooler`].
    pub(crate) async fn open_direct(&self) -> Result<MigrationSession, DatabaseError> {
        let session = self.open().await?;
        self.prove_direct(&session).await?;
        Ok(session)
    }

    /// Proves it of a session that is open.
    ///
    /// # Errors
    /// [`DatabaseError::Pooler`], or the database's, or its loss.
    pub(crate) async fn prove_direct(
        &self,
        session: &MigrationSession,
    ) -> Result<(), DatabaseError> {
        pooler::prove_direct(session, &self.migrating).await?;
        if let Some(keeper) = session.keeper() {
            let proved = pooler::prove_direct(&keeper.session, &keeper.url).await;
            proved.map_err(of_the_keeper)?;
        }
        Ok(())
    }

    /// Opens a session that writes the ledger, and nothing else.
    ///
    /// # Errors
    /// As [`Logins::open`].
    pub(crate) async fn open_ledger(&self) -> Result<MigrationSession, DatabaseError> {
        Ok(self.open().await?.into_ledger_session())
    }
}

/// The address that is at fault is the other one.
fn of_the_keeper(error: DatabaseError) -> DatabaseError {
    let DatabaseError::Pooler(_) = error else {
        return error;
    };
    let told = "DATABASE_URL goes through a transaction pooler (two connections share a server \
        connection), and its login keeps the ledger, because that of MIGRATION_DATABASE_URL may \
        not write it: set DATABASE_URL to a direct or session-pooled address";
    DatabaseError::Pooler(told.into())
}

impl From<DatabaseUrl> for Logins {
    /// One login for everything.
    fn from(url: DatabaseUrl) -> Self {
        Self::new(url, None)
    }
}
