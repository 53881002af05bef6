//! A request that was seen before is the same operation: its recorded result, or the result it will
//! have.

use std::time::Duration;

use super::{OperationLog, OperationRequest, accept::reused, watch::LedgerReplay};
use crate::operation::registry::OperationsInner;
use crate::{
    failure::{Failure, Reason},
    ledger::claims::{self, ExistingOperation},
    postgres::{
        lock::{LockOutcome, LockedSession},
        session::MigrationSession,
    },
    runtime::shutdown::ShutdownPhase,
};

/// How often a repeat that reached another daemon looks for the end.
const POLL: Duration = Duration::from_millis(250);

impl OperationsInner {
    /// Follows an operation through the ledger until it has ended. `None`: it was never accepted
    /// and its row is gone.
    pub(super) async fn attach(
        &self,
        session: &MigrationSession,
        request: &OperationRequest,
        existing: ExistingOperation,
        log: &OperationLog,
    ) -> Result<Option<Result<(), Failure>>, Failure> {
        if existing.request_hash != request.hash().to_string() {
            return Err(reused(request.request_id));
        }
        let (mut announced, mut tail) = (false, LedgerReplay::default());
        let mut phases = self.phases.clone();
        let mut current = Some(existing);
        while let Some(operation) = current {
            // What may still be refused is not told, because a refusal takes it away.
            if operation.is_accepted && !announced {
                announced = true;
                log.name(operation.id);
                log.mark_as_repeat();
            }
            if announced && let Some(ending) = tail.advance(self, operation.id, log).await? {
                return Ok(Some(ending.failure.map_or(Ok(()), Err)));
            }
            if !operation.is_alive {
                self.bury().await?;
            }
            tokio::select! {
                () = tokio::time::sleep(POLL) => {}
                _ = phases.wait_for(|phase| *phase > ShutdownPhase::Serving) => {
                    return Err(Failure::new(Reason::ShuttingDown, "this daemon is shutting down; \
                        repeat the request elsewhere"));
                }
            }
            current = claims::find(session.ledger(), operation.id).await?;
        }
        Ok(None)
    }

    /// Closes what a dead daemon left, unless somebody has the lock after all.
    async fn bury(&self) -> Result<(), Failure> {
        if let LockOutcome::Won(locked) =
            LockedSession::try_lock(self.open_session().await?).await?
        {
            claims::close_abandoned(&locked, uuid::Uuid::nil()).await?;
            locked.release().await?;
        }
        Ok(())
    }
}
