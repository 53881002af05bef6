//! The one lock of a database. Every operation holds it as a session advisory lock, however many daemons there are; it is
//! polled, never waited for, because a waiter's open transaction would deadlock with CREATE INDEX CONCURRENTLY.

use tokio_postgres::types::Type;

use super::{
    Error,
    session::{Session, insist},
};

/// The key: "schemad" in ASCII. The guards in `ledger/0001.sql` hold the same number.
pub const KEY: i64 = 32_478_922_351_141_220;

/// A session that holds the lock. It is given back with the session: closing the connection releases it.
pub struct LockedSession {
    session: Session,
}

/// What came of trying.
pub enum Attempt {
    /// The lock is ours.
    Won(LockedSession),
    /// Another session has it; this one is given back.
    Held(Session),
}

impl LockedSession {
    /// Tries once, without waiting.
    ///
    /// # Errors
    /// The database's, or its loss.
    pub async fn try_lock(session: Session) -> Result<Attempt, Error> {
        let row = session.client().query_typed("SELECT pg_try_advisory_lock($1)", &[(&KEY, Type::INT8)]).await?;
        let won = row.first().is_some_and(|r| r.get::<_, bool>(0));
        Ok(if won { Attempt::Won(Self { session }) } else { Attempt::Held(session) })
    }

    /// Gives the lock back and keeps the session.
    ///
    /// # Errors
    /// The database's, or its loss (which releases the lock too).
    pub async fn release(self) -> Result<Session, Error> {
        let client = self.session.client();
        insist!(client.query_typed("SELECT pg_advisory_unlock($1)", &[(&KEY, Type::INT8)]))?;
        Ok(self.session)
    }
}

impl std::ops::Deref for LockedSession {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.session
    }
}

impl std::ops::DerefMut for LockedSession {
    fn deref_mut(&mut self) -> &mut Session {
        &mut self.session
    }
}
