//! Reading for an answer: with a connection of the pool, and at once in the negative when the
//! database is known to be away.

use std::{pin::Pin, sync::Arc, time::Duration};

use tokio::sync::watch;

use crate::{
    database::monitor::DatabaseView,
    failure::{Failure, Reason},
    postgres::{
        DatabaseError,
        pool::{PooledReader, ReadPool},
    },
};

/// A read that takes longer is no use to whoever asked.
const READ_WITHIN: Duration = Duration::from_secs(10);

/// A read under way.
pub(crate) type ActiveRead<'a, T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send + 'a>>;

/// What reads need.
#[derive(Clone)]
pub(crate) struct ReadHandle {
    /// The connections.
    pub pool: ReadPool,
    /// What is known about the database.
    pub views: watch::Receiver<Arc<DatabaseView>>,
}

impl ReadHandle {
    /// Reads with a connection of the pool, and with the next one when the server had closed that;
    /// nothing of a ledger that is somebody else's.
    ///
    /// # Errors
    /// The read's own, or why it could not be made.
    pub(crate) async fn read<T, E: Into<Failure>>(
        &self,
        read: impl Fn(&mut PooledReader) -> ActiveRead<'_, T, E>,
    ) -> Result<T, Failure> {
        if let Err(away) = &self.views.borrow().database
            && matches!(
                away.reason,
                Reason::DatabaseUnavailable | Reason::LedgerForeign
            )
        {
            return Err(away.clone());
        }
        let reading = async {
            let mut closed = 0;
            loop {
                let mut reader = self.pool.get().await?;
                match read(&mut reader).await {
                    // Each broken connection leaves the pool, so this ends at the latest with a new
                    // one.
                    Err(_) if reader.is_broken() && closed <= self.pool.max_size() => closed += 1,
                    answer => return answer.map_err(|error| locked(error.into())),
                }
            }
        };
        let late = |_| Err(DatabaseError::Timeout(READ_WITHIN).into());
        tokio::time::timeout(READ_WITHIN, reading)
            .await
            .unwrap_or_else(late)
    }
}

/// A read waits half a second for a lock. Only what locks a whole table of the ledger, or Diesel's,
/// is in its way.
fn locked(failure: Failure) -> Failure {
    if !failure.is_lock_timeout() {
        return failure;
    }
    let message = "another session has locked a table of the ledger (schema schemad) or Diesel's \
        against reading: pg_locks says who. End that, or ask again later";
    Failure {
        reason: Reason::LedgerLocked,
        message: message.into(),
        ..failure
    }
}
