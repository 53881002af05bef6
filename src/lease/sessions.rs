//! A few sessions on which databases are copied, several at once: a burst of tests that begin need not wait for each other.

use std::sync::{Mutex, PoisonError};

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_postgres::Client;

use crate::db::{DatabaseUrl, Error, session::Session};

/// More copies at once gain nothing: a copy is the server's disk and WAL.
const MOST: usize = 4;

pub(super) struct Sessions {
    url: DatabaseUrl,
    permits: Semaphore,
    idle: Mutex<Vec<Session>>,
}

/// A session in use. Dropped, it is closed; [`Held::give_back`] keeps it.
pub(super) struct Held<'a> {
    session: Session,
    sessions: &'a Sessions,
    _permit: SemaphorePermit<'a>,
}

impl Sessions {
    pub fn new(url: DatabaseUrl) -> Self {
        Self { url, permits: Semaphore::new(MOST), idle: Mutex::default() }
    }

    /// One that nobody uses, or a new one; waits while all are in use.
    pub async fn get(&self) -> Result<Held<'_>, Error> {
        let permit = self.permits.acquire().await.map_err(|_| Error::Lost("nobody closes this semaphore".into()))?;
        let idle = {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.retain(|session| !session.client().is_closed());
            idle.pop()
        };
        let session = match idle {
            Some(session) => session,
            None => Session::open(&self.url).await?,
        };
        Ok(Held { session, sessions: self, _permit: permit })
    }
}

impl Held<'_> {
    pub fn client(&self) -> &Client {
        self.session.client()
    }

    pub fn give_back(self) {
        self.sessions.idle.lock().unwrap_or_else(PoisonError::into_inner).push(self.session);
    }
}
