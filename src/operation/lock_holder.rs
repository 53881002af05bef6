//! Who holds the operation lock, for those who wait for it and those who are refused.

use tokio_postgres::Client;

use crate::{
    failure::{Failure, Reason},
    ledger::{OperationRow, claims},
    postgres::{
        DatabaseError,
        activity::{self, Blocker, LockWaiting},
        lock,
    },
};

/// Who holds the operation lock.
#[derive(Clone, Debug, Default)]
pub(crate) struct LockHolder {
    /// The running operation, or the one that is about to begin. `None`: somebody makes the ledger,
    /// or no daemon holds the lock.
    pub operation: Option<OperationRow>,
    /// The session.
    pub session: Option<Blocker>,
    /// What it waits for itself: whoever is in its way is in the way of all who wait for it.
    pub waits: Option<LockWaiting>,
}

impl LockHolder {
    /// Looks who it is.
    ///
    /// # Errors
    /// The database's, or its loss.
    pub(super) async fn find(client: &Client) -> Result<Self, DatabaseError> {
        let session = lock::holder(client).await?;
        let operation =
            claims::of_the_lock(client, session.as_ref().map(|session| session.pid)).await?;
        let waits = match &session {
            Some(session) => activity::look(client, session.pid)
                .await?
                .and_then(|activity| activity.waiting),
            None => None,
        };
        Ok(Self {
            operation,
            session,
            waits,
        })
    }
}

/// The refusal that names who it is.
pub(super) fn busy(holder: &LockHolder) -> Failure {
    let blocked_by = holder
        .waits
        .as_ref()
        .map(LockWaiting::blocked_by)
        .filter(|who| !who.is_empty());
    let failure = of_the_holder(holder, blocked_by.as_deref());
    match blocked_by {
        Some(who) => failure.with("blocked_by", who),
        None => failure,
    }
}

fn of_the_holder(holder: &LockHolder, blocked_by: Option<&str>) -> Failure {
    let waits = blocked_by
        .map(|who| format!(", and waits for {who}"))
        .unwrap_or_default();
    let session = holder.session.as_ref().map(ToString::to_string);
    let Some(row) = &holder.operation else {
        let who = session.unwrap_or_else(|| "another session".to_owned());
        let message = match blocked_by {
            Some(_) => format!(
                "{who} holds the operation lock without running an operation{waits}; end that, or \
                 ask again later"
            ),
            None => format!(
                "{who} holds the operation lock without running an operation; end it, or ask again \
                 later"
            ),
        };
        return Failure::new(Reason::Busy, message).with("holder", who);
    };
    let does = match row.started_at {
        Some(_) => format!(
            "operation {} ({}, {} of {} steps done) of {} is running",
            row.id, row.kind, row.steps_done, row.steps_total, row.daemon
        ),
        None => format!(
            "operation {} ({}) of {} holds the operation lock and is about to begin",
            row.id, row.kind, row.daemon
        ),
    };
    let failure = Failure::new(
        Reason::Busy,
        format!("{does}{waits}; wait for it with queue_timeout, or ask again later"),
    )
    .with("running_operation", row.id)
    .with("running_kind", &row.kind)
    .with("running_daemon", &row.daemon);
    match session {
        Some(session) if row.started_at.is_none() => failure.with("holder", session),
        _ => failure,
    }
}
