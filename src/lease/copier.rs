//! A few sessions on which databases are made or dropped, several at once: tests that begin
//! together need not wait for each other.

use std::sync::{Mutex, PoisonError};

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_postgres::Client;

use crate::postgres::{DatabaseError, DatabaseUrl, session::MigrationSession};

/// Sessions that are kept for the next use; a burst has more.
const KEPT: usize = 2;

pub(super) struct SessionPool {
    url: DatabaseUrl,
    permits: Semaphore,
    idle: Mutex<Vec<MigrationSession>>,
}

/// A session in use. Dropped, it is closed; [`PooledSession::give_back`] keeps it.
pub(super) struct PooledSession<'a> {
    session: MigrationSession,
    sessions: &'a SessionPool,
    _permit: SemaphorePermit<'a>,
}

impl SessionPool {
    /// At most so many in use.
    pub(super) fn new(url: DatabaseUrl, most: usize) -> Self {
        Self {
            url,
            permits: Semaphore::new(most),
            idle: Mutex::default(),
        }
    }

    /// One that nobody uses, or a new one; waits while all are in use.
    pub(super) async fn get(&self) -> Result<PooledSession<'_>, DatabaseError> {
        let permit = self
            .permits
            .acquire()
            .await
            .map_err(|_| DatabaseError::Lost("nobody closes this semaphore".into()))?;
        let idle = {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.retain(|session| !session.client().is_closed());
            idle.pop()
        };
        let session = match idle {
            Some(session) => session,
            None => MigrationSession::open(&self.url).await?,
        };
        Ok(PooledSession {
            session,
            sessions: self,
            _permit: permit,
        })
    }
}

impl PooledSession<'_> {
    pub(super) fn client(&self) -> &Client {
        self.session.client()
    }

    pub(super) fn give_back(self) {
        let mut idle = self
            .sessions
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if idle.len() < KEPT {
            idle.push(self.session);
        }
    }
}
