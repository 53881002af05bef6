//! From a request to an operation: repeats are recognised, the lock is won or waited for, the plan
//! is made under the lock, and only then is the operation accepted. Until then a refusal leaves
//! nothing behind.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::watch;
use uuid::Uuid;

use super::{
    OperationAction, OperationEvent, OperationLog, OperationRequest, prepare::PreparedOperation,
};
use crate::operation::{
    lock_holder::{LockHolder, busy},
    registry::{APPLIES, OPEN, OperationsInner, RegistryGuard},
};
use crate::{
    access::ANONYMOUS,
    failure::{Failure, Reason},
    ledger::{
        FinishedOperation, OperationEnding, OperationState, claims, control, install, operations,
    },
    planner,
    postgres::{
        self,
        lock::{LockOutcome, LockedSession},
        session::MigrationSession,
    },
    runner::StopReason,
    runtime::shutdown::ShutdownPhase,
    transport::{
        quota::{Quota, QuotaKey},
        quota_counter::QuotaGuard,
    },
};

/// How often a waiting operation tries the lock. Short enough that nobody notices, long enough that
/// a thousand waiters are no load.
const POLL: Duration = Duration::from_millis(100);

/// Who holds the lock but runs no operation is starting one, ending one or making the ledger; that
/// is over in no time.
const SHORT_HOLD: Duration = Duration::from_secs(2);

impl OperationsInner {
    /// Runs a request to its end, or follows the operation that it began before.
    pub(super) async fn operate(
        self: &Arc<Self>,
        request: &OperationRequest,
        log: &Arc<OperationLog>,
    ) -> Result<(), Failure> {
        match self.claim_and_run(request, log).await {
            Ok(()) => Ok(()),
            Err(failure) => Err(self.name_who_locks(failure).await),
        }
    }

    async fn claim_and_run(
        self: &Arc<Self>,
        request: &OperationRequest,
        log: &Arc<OperationLog>,
    ) -> Result<(), Failure> {
        if *self.phases.borrow() > ShutdownPhase::Serving {
            return Err(Failure::new(
                Reason::ShuttingDown,
                "this daemon is shutting down; ask another, or again later",
            ));
        }
        let _place = self.place(request)?;
        let deadline = Instant::now() + request.queue_timeout;
        let session = self.usable_session(deadline).await?;
        loop {
            let new = claims::NewOperation {
                kind: request.action.kind(),
                principal: &request.principal,
                request_id: request.request_id,
                request_hash: &request.hash().to_string(),
                queue_timeout: request.queue_timeout,
                daemon: &self.daemon,
                reason: request.action.reason(),
            };
            match claims::claim(&session, &new).await? {
                claims::ClaimOutcome::Ours { id, created_at } => {
                    return self
                        .claimed(session, request, (id, created_at), deadline, log)
                        .await;
                }
                claims::ClaimOutcome::Existing(existing) => {
                    // None: it was refused before it was accepted, which binds nothing, so the id
                    // is free again.
                    if let Some(result) = self.attach(&session, request, existing, log).await? {
                        return result;
                    }
                }
            }
        }
    }

    /// A place among the operations that are open here.
    fn place(
        &self,
        request: &OperationRequest,
    ) -> Result<(Option<QuotaGuard>, QuotaGuard), Failure> {
        let who = QuotaKey::Principal(request.principal.clone());
        let full = |count: usize, whose: &str| {
            let message =
                format!("{count} {whose} are open in this daemon; cancel one, or ask again later");
            Failure::new(Reason::TooManyQueued, message)
        };
        let applies = match &request.action {
            OperationAction::Apply(_) => {
                let each = if request.principal == ANONYMOUS {
                    APPLIES.all
                } else {
                    APPLIES.each
                };
                let entered = self.applies.enter(who.clone(), Quota { each, ..APPLIES });
                let whose = format!(
                    "applies of {}, or {} of all,",
                    request.principal, APPLIES.all
                );
                Some(entered.ok_or_else(|| full(each, &whose))?)
            }
            OperationAction::Rollback(_)
            | OperationAction::Resolve(_)
            | OperationAction::Sign(_) => None,
        };
        Ok((
            applies,
            self.open
                .enter(who, OPEN)
                .ok_or_else(|| full(OPEN.all, "operations"))?,
        ))
    }

    /// The request is ours: runs it, or takes the claim back when it cannot begin.
    async fn claimed(
        self: &Arc<Self>,
        session: MigrationSession,
        request: &OperationRequest,
        (id, created_at): (Uuid, SystemTime),
        deadline: Instant,
        log: &Arc<OperationLog>,
    ) -> Result<(), Failure> {
        let halt = watch::Sender::new(None);
        let mut candidate = ClaimedRequest {
            request,
            id,
            created_at,
            log,
            halt: halt.subscribe(),
            accepted: false,
        };
        let _registered = RegistryGuard::new(self, id, halt);
        match self.begin(session, &mut candidate, deadline).await {
            Ok(begun) => self.run(begun, &candidate).await,
            Err(BeginError { failure, left }) if candidate.accepted => {
                let failure = self.name_who_locks(failure).await;
                Err(self
                    .end_without_steps(&candidate, BeginError { failure, left })
                    .await)
            }
            Err(BeginError { failure, left }) => {
                let failure = self.name_who_locks(failure).await;
                self.take_back(id, left, &failure).await;
                Err(failure)
            }
        }
    }

    /// Takes back a claim that was not accepted. Best effort: one that stays behind is closed for
    /// want of a session.
    async fn take_back(&self, id: Uuid, left: RemainingSession, failure: &Failure) {
        let session = match left {
            RemainingSession::Locked(locked) => {
                // Before the lock goes, which is released in so many words: the next operation must
                // not find it held by a closing connection.
                let _ = give_up(locked.ledger(), id, failure).await;
                let _ = locked.release().await;
                return;
            }
            RemainingSession::Open(session) => Some(session),
            RemainingSession::Lost => self.logins.open_ledger().await.ok(),
        };
        if let Some(session) = session {
            let _ = give_up(session.ledger(), id, failure).await;
        }
    }

    /// Wins the lock, plans and writes the operation's rows. Dropped in the middle, the lock goes
    /// with the session.
    async fn begin(
        &self,
        session: MigrationSession,
        candidate: &mut ClaimedRequest<'_>,
        deadline: Instant,
    ) -> Result<BegunOperation, BeginError> {
        if let OperationAction::Apply(apply) = &candidate.request.action
            && let Err(refusal) = planner::expect_set(&self.catalog, apply)
        {
            // Whoever runs now, this daemon never could.
            return Err(BeginError {
                failure: refusal.into(),
                left: RemainingSession::Open(session),
            });
        }
        let mut locked = match LockedSession::try_lock(session).await? {
            LockOutcome::Won(locked) => locked,
            LockOutcome::Held(session) => {
                if !candidate.request.queue_timeout.is_zero() {
                    operations::accept(session.ledger(), candidate.id).await?;
                    candidate.accept();
                    candidate.log.push(OperationEvent::Queued(Box::new(
                        LockHolder::find(session.ledger()).await?,
                    )));
                }
                self.win(session, deadline, Some(candidate)).await?
            }
        };
        match self.prepare(&mut locked, candidate).await {
            Ok(prepared) => {
                candidate.accept();
                candidate.log.push(prepared.event());
                Ok(BegunOperation { locked, prepared })
            }
            Err(failure) => Err(BeginError {
                failure,
                left: RemainingSession::Locked(locked),
            }),
        }
    }

    /// A direct session to a database whose ledger this daemon can use; creates or upgrades it
    /// first where needed.
    async fn usable_session(&self, deadline: Instant) -> Result<MigrationSession, Failure> {
        let session = self.open_session().await?;
        if let Some(role) = &self.role {
            session.may_become(role).await?;
        }
        self.one_database.prove(session.client()).await?; // not proved is not disproved
        match install::check(&session).await? {
            install::LedgerState::Usable => Ok(session),
            install::LedgerState::ToBeCreated | install::LedgerState::ToBeUpgraded => {
                let locked = self
                    .win(session, deadline, None)
                    .await
                    .map_err(|stopped| stopped.failure)?;
                install::ensure(&locked).await?;
                Ok(locked.release().await?)
            }
        }
    }

    /// Opens a session and proves that it is a direct one.
    pub(super) async fn open_session(&self) -> Result<MigrationSession, Failure> {
        Ok(self.logins.open_direct().await?)
    }

    /// Polls the lock until `deadline`, or a little longer while nobody who holds it runs an
    /// operation. An accepted operation can be cancelled meanwhile.
    pub(super) async fn win(
        &self,
        session: MigrationSession,
        deadline: Instant,
        candidate: Option<&ClaimedRequest<'_>>,
    ) -> Result<LockedSession, BeginError> {
        let mut session = session;
        let mut phases = self.phases.clone();
        let patience = Instant::now() + SHORT_HOLD;
        let failure = loop {
            session = match LockedSession::try_lock(session).await? {
                LockOutcome::Won(locked) => return Ok(locked),
                LockOutcome::Held(session) => session,
            };
            let now = Instant::now();
            if now >= deadline
                && (now >= patience || claims::running(session.ledger()).await?.is_some())
            {
                break busy(&LockHolder::find(session.ledger()).await?);
            }
            // This daemon knows it first, and whatever keeps it from reading the ledger.
            if let Some(StopReason::Cancelled(by)) =
                candidate.and_then(|candidate| candidate.halt.borrow().clone())
            {
                break cancelled(
                    &by,
                    "it was still waiting for another operation, so nothing was done",
                );
            }
            if let Some(candidate) = candidate.filter(|candidate| candidate.accepted) {
                match control::cancel_requested_by(session.ledger(), candidate.id).await {
                    Ok(None) => {}
                    Ok(Some(by)) => {
                        break cancelled(
                            &by,
                            "it was still waiting for another operation, so nothing was done",
                        );
                    }
                    // Whoever has locked the ledger is gone before the lock is won, or is named
                    // then.
                    Err(error) if error.is_lock_timeout() => {}
                    Err(lost) => return Err(lost.into()),
                }
            }
            tokio::select! {
                () = tokio::time::sleep(POLL) => {}
                _ = phases.wait_for(|phase| *phase > ShutdownPhase::Serving) => {
                    break Failure::new(Reason::Interrupted, "this daemon is shutting down; nothing \
                        was done");
                }
            }
        };
        Err(BeginError {
            failure,
            left: RemainingSession::Open(session),
        })
    }
}

/// Deletes a claim, or ends it where the ledger is locked: the row's steps could not be deleted
/// with it, and it would be taken for what a dead daemon left.
async fn give_up(
    client: &tokio_postgres::Client,
    id: Uuid,
    failure: &Failure,
) -> Result<(), postgres::DatabaseError> {
    if failure.reason != Reason::LedgerLocked {
        return claims::abandon(client, id).await;
    }
    let failure = Some(failure.clone().with("operation", id));
    let ending = OperationEnding {
        finished: FinishedOperation::default(),
        failure,
    };
    operations::end(client, id, OperationState::Failed, &ending)
        .await
        .map(drop)
}

/// Why an operation could not begin. Its end is recorded on the session that is left, because
/// others close what has none.
pub(super) struct BeginError {
    pub failure: Failure,
    pub left: RemainingSession,
}

/// What is left of an operation's session.
pub(super) enum RemainingSession {
    /// It still holds the lock.
    Locked(LockedSession),
    /// It does not.
    Open(MigrationSession),
    /// Nothing.
    Lost,
}

impl From<Failure> for BeginError {
    fn from(failure: Failure) -> Self {
        Self {
            failure,
            left: RemainingSession::Lost,
        }
    }
}

impl From<postgres::DatabaseError> for BeginError {
    fn from(error: postgres::DatabaseError) -> Self {
        Failure::from(error).into()
    }
}

/// A claimed request that is not yet running.
pub(super) struct ClaimedRequest<'a> {
    pub request: &'a OperationRequest,
    pub id: Uuid,
    /// When it was claimed, by the server's clock.
    pub created_at: SystemTime,
    pub log: &'a Arc<OperationLog>,
    /// Set when it has to end.
    pub halt: watch::Receiver<Option<StopReason>>,
    pub accepted: bool,
}

impl ClaimedRequest<'_> {
    /// Says so, once.
    fn accept(&mut self) {
        if !std::mem::replace(&mut self.accepted, true) {
            let kind = self.request.action.kind();
            self.log.name(self.id);
            let request_id = self.request.request_id.to_string();
            self.log.push_at(
                self.created_at,
                OperationEvent::Accepted {
                    kind: kind.into(),
                    request_id,
                    repeated: false,
                },
            );
            tracing::info!(event = "operation.accepted", operation = %self.id, kind,
                principal = self.request.principal, "operation accepted");
        }
    }
}

/// An operation that holds the lock and whose rows are written.
pub(super) struct BegunOperation {
    pub locked: LockedSession,
    pub prepared: PreparedOperation,
}

pub(super) fn reused(request_id: Uuid) -> Failure {
    Failure::invalid(
        Reason::RequestIdReused,
        "request_id",
        format!("request_id {request_id} was used before for another request; use a new one"),
    )
}

/// Why an operation ended that somebody cancelled.
pub(super) fn cancelled(by: &str, reached: &str) -> Failure {
    Failure::new(Reason::Cancelled, format!("cancelled by {by}; {reached}"))
        .with("cancelled_by", by)
}
