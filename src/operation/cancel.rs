//! Ends an operation from any daemon: the wish is written into the ledger, where the daemon that runs it sees it, and the
//! running statement is cancelled at once.

use std::time::Duration;

use uuid::Uuid;

use super::Operations;
use crate::{
    access::{Principal, Role},
    db::activity,
    failure::{Failure, Reason},
    ledger::{self, OperationRow, claims, control},
    runner::Halt,
};

/// How long the answer waits for the end.
const ENDED_WITHIN: Duration = Duration::from_secs(30);

/// How often the end of another daemon's operation is looked for.
const POLL: Duration = Duration::from_millis(100);

impl Operations {
    /// Cancels an operation and returns it as it ended, or as it is when it does not end in time. Anybody may cancel their own,
    /// an admin any.
    ///
    /// # Errors
    /// UNKNOWN_OPERATION, OPERATION_ENDED, PERMISSION_DENIED, or the database's.
    pub async fn cancel(&self, id: Uuid, by: &Principal) -> Result<OperationRow, Failure> {
        let inner = &self.0;
        let session = inner.open_session().await?;
        if by.role < Role::Admin {
            let owner = control::principal_of(session.client(), id).await?.ok_or_else(|| control::unknown(id))?;
            if owner != by.name {
                let denied = denied(id, &owner, by);
                self.note_refusal(&by.name, "cancel", Uuid::nil(), &denied).await;
                return Err(denied);
            }
        }
        let principal = by.name.as_str();
        let (operation, backend) =
            control::request_cancel(session.client(), id, principal).await?.ok_or_else(|| control::unknown(id))?;
        if let Some(ended) = control::ended(&operation) {
            return Err(ended);
        }
        tracing::info!(event = "operation.cancel_requested", operation = %id, principal, "asked to cancel an operation");
        if !inner.halt(id, Halt::Cancelled(principal.into()))
            && operation.state == "running"
            && let Err(error) = activity::cancel(session.client(), backend).await
        {
            // Its daemon sees the wish in the ledger, only later.
            tracing::warn!(event = "operation.cancel_unsent", operation = %id, cause = %error,
                "the running statement could not be cancelled from here");
        }
        if operation.state == "pending" {
            // Nobody is there to end it when its daemon is dead.
            claims::close_queued(session.client()).await?;
        }
        let mut reader = inner.pool.get().await?;
        let ended = async {
            loop {
                match ledger::history::get(&mut reader, id).await? {
                    Some(operation) if control::ended(&operation).is_none() => {}
                    ended => return Ok(ended),
                }
                tokio::time::sleep(POLL).await;
            }
        };
        match tokio::time::timeout(ENDED_WITHIN, ended).await {
            Ok(Ok(Some(ended))) => Ok(ended),
            Ok(Ok(None)) => Ok(OperationRow { state: ledger::State::Cancelled.as_str().into(), ..operation }),
            Ok(Err(error)) => Err(error),
            Err(_) => Ok(operation),
        }
    }
}

fn denied(id: Uuid, owner: &str, by: &Principal) -> Failure {
    let message =
        format!("operation {id} is {owner}'s; {} has the role {} and may cancel its own only", by.name, by.role);
    Failure::new(Reason::PermissionDenied, message).with("role", Role::Admin)
}
