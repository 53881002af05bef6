//! Ends an operation from any daemon: the wish is written into the ledger, where the daemon that
//! runs it sees it, and the running statement is cancelled at once.

use std::time::Duration;

use uuid::Uuid;

use super::Operations;
use crate::operation::registry::OperationsInner;
use crate::{
    access::{Principal, Role},
    failure::{Failure, FailureKind, Reason},
    ledger::{self, OperationRow, claims, control},
    postgres::activity,
    runner::StopReason,
};

/// How long the answer waits for the end.
const ENDED_WITHIN: Duration = Duration::from_secs(30);

/// How often the end is looked for.
const POLL: Duration = Duration::from_millis(100);

/// Wishes that are written at once; each takes a session of its own for a moment.
pub(super) const AT_ONCE: usize = 4;

impl Operations {
    /// Cancels an operation and returns it as it ended, or as it is when it does not end in time.
    /// Anybody may cancel their own, an admin any.
    ///
    /// # Errors
    /// UNKNOWN_OPERATION, OPERATION_ENDED, PERMISSION_DENIED, or the database's.
    pub(crate) async fn cancel(&self, id: Uuid, by: &Principal) -> Result<OperationRow, Failure> {
        let inner = &self.0;
        // First what a connection of the pool is enough for: whoever may not, or comes too late,
        // opens no session.
        let known = match inner.read(id).await {
            // The ledger is locked, and that may be what the operation waits for.
            Err(locked) if locked.is_lock_timeout() => match inner.cancel_here(id, by).await {
                Some(cancelled) => return cancelled,
                None => return Err(inner.name_who_locks(locked).await),
            },
            known => known?.ok_or_else(|| control::unknown(id))?,
        };
        if by.role < Role::Admin && known.principal != by.name {
            let denied = denied(id, &known.principal, by);
            self.note_refusal(&by.name, "cancel", Uuid::nil(), &denied);
            return Err(denied);
        }
        if let Some(ended) = control::ended(&known) {
            return Err(ended);
        }
        let operation = match inner.ask_to_end(known, id, &by.name).await {
            Err(failure) => return Err(inner.name_who_locks(failure).await),
            Ok(operation) => operation,
        };
        let ended = async {
            loop {
                match inner.read(id).await {
                    Ok(Some(operation)) if control::ended(&operation).is_none() => {}
                    // Whoever asks goes on asking while the database is away.
                    Err(failure) if failure.reason.kind() == FailureKind::Unavailable => {}
                    ended => return ended,
                }
                tokio::time::sleep(POLL).await;
            }
        };
        match tokio::time::timeout(ENDED_WITHIN, ended).await {
            Ok(Ok(Some(ended))) => Ok(ended),
            Ok(Ok(None)) => Ok(OperationRow {
                state: ledger::OperationState::Cancelled.as_str().into(),
                ..operation
            }),
            Ok(Err(error)) => Err(error),
            Err(_) => Ok(operation),
        }
    }
}

impl OperationsInner {
    async fn read(&self, id: Uuid) -> Result<Option<OperationRow>, Failure> {
        let mut reader = self.pool.get().await?;
        Ok(ledger::history::get(&mut reader, id).await?)
    }

    /// Ends an operation that this daemon runs or queues, without a look into the ledger. `None`:
    /// it is not here.
    async fn cancel_here(&self, id: Uuid, by: &Principal) -> Option<Result<OperationRow, Failure>> {
        let (owner, log) = self.own(id)?;
        if by.role < Role::Admin && owner != by.name {
            return Some(Err(denied(id, &owner, by)));
        }
        if !self.halt(id, StopReason::Cancelled(by.name.clone())) {
            return None;
        }
        tracing::info!(event = "operation.cancel_requested", operation = %id, principal = by.name,
            "asked to cancel an operation");
        // However it ends, the answer says so.
        let _ = tokio::time::timeout(ENDED_WITHIN, log.follow().result()).await;
        let row = self.read(id).await.ok().flatten();
        Some(Ok(
            row.unwrap_or_else(|| log.as_row(id, &owner, &self.daemon))
        ))
    }

    /// Writes the wish, and ends what runs. Returns the operation as it is now.
    async fn ask_to_end(
        &self,
        known: OperationRow,
        id: Uuid,
        principal: &str,
    ) -> Result<OperationRow, Failure> {
        let Ok(_one_of_few) = self.cancels.acquire().await else {
            return Err(Failure::new(
                Reason::Internal,
                "nobody closes this semaphore",
            ));
        };
        let session = self.open_session().await?;
        let asked = match control::request_cancel(session.ledger(), id, principal).await {
            // The wish cannot be written; the daemon that runs the operation can do without.
            Err(error)
                if error.is_lock_timeout()
                    && self.halt(id, StopReason::Cancelled(principal.into())) =>
            {
                return Ok(known);
            }
            asked => asked?,
        };
        let (operation, backend) = asked.ok_or_else(|| control::unknown(id))?;
        if let Some(ended) = control::ended(&operation) {
            return Err(ended);
        }
        tracing::info!(event = "operation.cancel_requested", operation = %id, principal, "asked to \
            cancel an operation");
        if !self.halt(id, StopReason::Cancelled(principal.into()))
            && operation.state == "running"
            && let Err(error) = activity::cancel(session.client(), backend).await
        {
            // Its daemon sees the wish in the ledger, only later.
            tracing::warn!(event = "operation.cancel_unsent", operation = %id, cause = %error,
                "the running statement could not be cancelled from here");
        }
        if operation.state == "pending" {
            // Nobody is there to end it when its daemon is dead.
            claims::close_queued(session.ledger()).await?;
        }
        Ok(operation)
    }
}

fn denied(id: Uuid, owner: &str, by: &Principal) -> Failure {
    let message = format!(
        "operation {id} is {owner}'s; {} has the role {} and may cancel its own only",
        by.name, by.role
    );
    Failure::new(Reason::PermissionDenied, message).with("role", Role::Admin)
}
