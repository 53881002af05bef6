//! The one lock of a database. Every operation holds it as a session advisory lock, however many
//! daemons there are; it is polled, never waited for, because a waiter's open transaction would
//! deadlock with CREATE INDEX CONCURRENTLY.

use std::time::Duration;

use tokio_postgres::{Client, types::Type};

use super::{
    DatabaseError,
    activity::Blocker,
    session::{MigrationSession, insist},
};

/// The key: "schemad" in ASCII. The guards in `ledger/0001.sql` hold the same number.
pub(crate) const KEY: i64 = 32_478_922_351_141_220;

/// True for the row `k` of pg_locks with which a session holds the lock of this database.
macro_rules! operation_lock {
    () => {
        "k.locktype = 'advisory' AND k.granted AND k.objsubid = 1 AND k.classid = 7562088 AND \
         k.objid = 1701667172 AND k.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE \
         d.datname = pg_catalog.current_database())"
    };
}
pub(crate) use operation_lock;

/// A session that holds the lock. It is given back with the session: closing the connection
/// releases it.
pub(crate) struct LockedSession {
    session: MigrationSession,
}

/// What came of trying.
pub(crate) enum LockOutcome {
    /// The lock is ours.
    Won(LockedSession),
    /// Another session has it; this one is given back.
    Held(MigrationSession),
}

impl LockedSession {
    /// Tries once, without waiting.
    ///
    /// # Errors
    /// The database's, or its loss.
    pub(crate) async fn try_lock(session: MigrationSession) -> Result<LockOutcome, DatabaseError> {
        let row = session
            .client()
            .query_typed("SELECT pg_try_advisory_lock($1)", &[(&KEY, Type::INT8)])
            .await?;
        let won = row.first().is_some_and(|r| r.get::<_, bool>(0));
        Ok(if won {
            LockOutcome::Won(Self { session })
        } else {
            LockOutcome::Held(session)
        })
    }

    /// Gives the lock back and keeps the session.
    ///
    /// # Errors
    /// The database's, or its loss (which releases the lock too).
    pub(crate) async fn release(self) -> Result<MigrationSession, DatabaseError> {
        let client = self.session.client();
        insist!(client.query_typed("SELECT pg_advisory_unlock($1)", &[(&KEY, Type::INT8)]))?;
        Ok(self.session)
    }
}

/// Who holds the lock. `None`: nobody any more.
///
/// # Errors
/// The database's, or its loss.
pub(crate) async fn holder(client: &Client) -> Result<Option<Blocker>, DatabaseError> {
    let query = concat!(
        "SELECT k.pid, a.usename::text, a.application_name, a.state, \
         extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, a.state_change))::float8 \
         FROM pg_catalog.pg_locks k LEFT JOIN pg_catalog.pg_stat_activity a USING (pid) WHERE ",
        operation_lock!()
    );
    let rows = client.query_typed(query, &[]).await?;
    Ok(rows.first().map(|row| Blocker {
        pid: row.get(0),
        user: row.get(1),
        application: row.get(2),
        state: row.get(3),
        age: row
            .get::<_, Option<f64>>(4)
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
        ..Blocker::default()
    }))
}

impl std::ops::Deref for LockedSession {
    type Target = MigrationSession;

    fn deref(&self) -> &MigrationSession {
        &self.session
    }
}

impl std::ops::DerefMut for LockedSession {
    fn deref_mut(&mut self) -> &mut MigrationSession {
        &mut self.session
    }
}
