//! From a request to an operation: repeats are recognised, the lock is won or waited for, the plan is made under the lock,
//! and only then is the operation accepted. Until then a refusal leaves nothing behind.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, Instant},
};

use tokio::sync::{Semaphore, watch};
use uuid::Uuid;

use super::{
    Event, Log, Request,
    onlooker::{self, Side},
    prepare::Prepared,
};
use crate::{
    catalog::Catalog,
    db::{DatabaseUrl, lock::Attempt, lock::LockedSession, pool::Pool, pooler, session::Session},
    failure::{Failure, Reason},
    ledger::{
        OperationRow, claims, control, install,
        upkeep::{self, Refused},
    },
    metrics::Metrics,
    refresh::Refresh,
    runner::Halt,
    shutdown::Phase,
    watchers::Watchers,
};

/// How often a waiting operation tries the lock. Short enough that nobody notices, long enough that a thousand waiters
/// are no load.
const POLL: Duration = Duration::from_millis(100);

/// Who holds the lock but runs no operation is starting one, ending one or making the ledger; that is over in no time.
const SHORT_HOLD: Duration = Duration::from_secs(2);

/// Refusals that are kept in the ledger within a second.
const REFUSALS: usize = 5;

/// Operations of this daemon that may be in preparation or queued; each has a database session.
const MAX_OPEN: usize = 16;

/// Accepts and runs operations.
#[derive(Clone)]
pub struct Operations(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub catalog: Arc<Catalog>,
    pub url: DatabaseUrl,
    /// "host:pid" of this daemon.
    pub daemon: String,
    pub metrics: Arc<Metrics>,
    /// Asked after every operation, so that health has seen what the caller is told.
    pub refresh: Arc<Refresh>,
    /// For reading what other daemons do.
    pub pool: Pool,
    /// The session beside the one that migrates.
    pub side: Side,
    /// Runs the migrations, where it is not the session's own role.
    pub role: Option<String>,
    /// Who watches which version here.
    pub watchers: Watchers,
    /// A few refusals a second are kept in the ledger.
    pub refusals: Semaphore,
    /// Says when no new operation may begin, and when a running one has to end.
    pub phases: watch::Receiver<Phase>,
    open: Semaphore,
    /// The open operations, by principal and request_id.
    logs: Mutex<HashMap<(String, Uuid), Open>>,
    /// The operations that this daemon itself runs or queues, and how each is told to end.
    halts: Mutex<HashMap<Uuid, watch::Sender<Option<Halt>>>>,
    /// Other daemons' operations that are watched here.
    pub tails: Mutex<HashMap<Uuid, Weak<Log>>>,
    running: watch::Sender<usize>,
}

/// An open operation: the hash of its request, and its log.
struct Open {
    hash: String,
    log: Arc<Log>,
}

/// What operations need of the daemon around them.
pub struct Parts {
    /// The embedded set.
    pub catalog: Arc<Catalog>,
    /// Where migrations run.
    pub url: DatabaseUrl,
    /// For reading.
    pub pool: Pool,
    /// The session beside the one that migrates.
    pub side: Side,
    /// Runs the migrations, where it is not the session's own role.
    pub role: Option<String>,
    /// Who watches which version here.
    pub watchers: Watchers,
    /// "host:pid" of this daemon.
    pub daemon: String,
    /// Counts them.
    pub metrics: Arc<Metrics>,
    /// Asked at each end.
    pub refresh: Arc<Refresh>,
    /// Says when no new operation may begin and when a running one has to end.
    pub phases: watch::Receiver<Phase>,
}

impl Operations {
    /// Accepts nothing before it is asked to.
    pub fn new(parts: Parts) -> Self {
        let Parts { catalog, url, pool, side, role, watchers, daemon, metrics, refresh, phases } = parts;
        Self(Arc::new(Inner {
            catalog,
            url,
            daemon,
            metrics,
            refresh,
            pool,
            side,
            role,
            watchers,
            refusals: Semaphore::new(REFUSALS),
            phases,
            open: Semaphore::new(MAX_OPEN),
            logs: Mutex::default(),
            halts: Mutex::default(),
            tails: Mutex::default(),
            running: watch::Sender::new(0),
        }))
    }

    /// Begins an operation, or finds the one that this request began, and returns its log. Never waits.
    pub fn submit(&self, request: Request) -> Arc<Log> {
        let inner = &self.0;
        let (key, hash) = ((request.principal.clone(), request.request_id), request.hash().to_string());
        let mut logs = inner.logs.lock().unwrap_or_else(PoisonError::into_inner);
        match logs.get(&key) {
            Some(open) if open.hash == hash => return open.log.clone(),
            Some(_) => {
                let log = Log::new();
                log.close(Err(reused(request.request_id)));
                return log;
            }
            None => {}
        }
        let log = Log::new();
        logs.insert(key.clone(), Open { hash, log: log.clone() });
        inner.running.send_modify(|n| *n += 1);
        let (inner, result) = (inner.clone(), log.clone());
        tokio::spawn(async move {
            let (worker, log, asked) = (inner.clone(), result.clone(), request.clone());
            let work = tokio::spawn(async move { worker.operate(&asked, &log).await });
            let outcome = work.await.unwrap_or_else(|panic| {
                tracing::error!(event = "operation.panicked", cause = %panic, "a mistake in schemad");
                Err(Failure::new(Reason::Internal, "a mistake in schemad ended the operation; see the daemon's log"))
            });
            inner.logs.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
            let refused = outcome.as_ref().err().filter(|_| result.operation().is_none()).cloned();
            if result.operation().is_some() {
                inner.refresh.now().await;
            }
            result.close(outcome);
            if let Some(failure) = refused {
                inner.keep_refusal(&request, &failure).await;
            }
            inner.running.send_modify(|n| *n -= 1);
        });
        log
    }

    /// Returns when no operation is open in this daemon.
    pub async fn idle(&self) {
        // The sender lives as long as self, so this cannot fail.
        let _ = self.0.running.subscribe().wait_for(|n| *n == 0).await;
    }
}

impl Inner {
    /// Keeps a refusal in the ledger, as well as can be and no more than a few a second.
    async fn keep_refusal(self: &Arc<Self>, request: &Request, failure: &Failure) {
        let Ok(permit) = self.refusals.try_acquire() else { return };
        permit.forget();
        let inner = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            inner.refusals.add_permits(1);
        });
        let Some(session) = self.side.borrow().clone() else { return };
        let refused = Refused {
            daemon: &self.daemon,
            principal: &request.principal,
            kind: request.action.kind(),
            request_id: request.request_id,
            failure,
        };
        if let Err(error) = upkeep::refused(session.client(), &refused).await {
            tracing::debug!(cause = %error, "a refusal could not be kept");
        }
    }

    async fn operate(self: &Arc<Self>, request: &Request, log: &Arc<Log>) -> Result<(), Failure> {
        if *self.phases.borrow() > Phase::Serving {
            return Err(Failure::new(
                Reason::ShuttingDown,
                "this daemon is shutting down; ask another, or again later",
            ));
        }
        let _permit = self.open.try_acquire().map_err(|_| {
            Failure::new(
                Reason::TooManyQueued,
                format!("{MAX_OPEN} operations are open in this daemon; ask again later"),
            )
        })?;
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
            match claims::claim(session.client(), &new).await? {
                claims::Claim::Ours(id) => return self.claimed(session, request, id, deadline, log).await,
                claims::Claim::Existing(existing) => {
                    // None: it was refused before it was accepted, which binds nothing, so the id is free again.
                    if let Some(result) = self.attach(&session, request, existing, log).await? {
                        return result;
                    }
                }
            }
        }
    }

    /// The request is ours: runs it, or takes the claim back when it cannot begin.
    async fn claimed(
        self: &Arc<Self>,
        session: Session,
        request: &Request,
        id: Uuid,
        deadline: Instant,
        log: &Arc<Log>,
    ) -> Result<(), Failure> {
        let halt = watch::Sender::new(None);
        let mut candidate = Candidate { request, id, log, halt: halt.subscribe(), accepted: false };
        let _registered = Registered::new(self, id, halt);
        match self.begin(session, &mut candidate, deadline).await {
            Ok(begun) => self.run(begun, &candidate).await,
            Err(failure) if candidate.accepted => Err(self.end_without_steps(&candidate, failure).await),
            Err(failure) => {
                tracing::info!(event = "operation.refused", kind = request.action.kind(), reason = %failure.reason,
                    principal = request.principal, "operation refused: {}", failure.message);
                self.metrics.operation(request.action.kind(), "refused");
                if let Ok(session) = Session::open(&self.url).await {
                    // Best effort: a claim that stays behind expires by itself.
                    let _ = claims::abandon(session.client(), id).await;
                }
                Err(failure)
            }
        }
    }

    /// The log of an open operation of this daemon, its own or one that it follows for a repeat.
    pub(super) fn log_of(&self, id: Uuid) -> Option<Arc<Log>> {
        let logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        logs.values().find(|open| open.log.operation() == Some(id)).map(|open| open.log.clone())
    }

    /// Tells an operation of this daemon to end. False: it is not here.
    pub(super) fn halt(&self, id: Uuid, why: Halt) -> bool {
        let halts = self.halts.lock().unwrap_or_else(PoisonError::into_inner);
        halts.get(&id).map(|sender| onlooker::halt(sender, why)).is_some()
    }

    /// How an operation of this daemon is told to end.
    pub(super) fn halt_sender(&self, id: Uuid) -> Option<watch::Sender<Option<Halt>>> {
        self.halts.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    /// Wins the lock, plans and writes the operation's rows. Dropped in the middle, the lock goes with the session.
    async fn begin(
        &self,
        session: Session,
        candidate: &mut Candidate<'_>,
        deadline: Instant,
    ) -> Result<Begun, Failure> {
        let locked = match LockedSession::try_lock(session).await? {
            Attempt::Won(locked) => locked,
            Attempt::Held(session) => {
                if !candidate.request.queue_timeout.is_zero() {
                    candidate.accept();
                    candidate.log.push(Event::Queued(claims::running(session.client()).await?));
                }
                self.win(session, deadline, Some(candidate)).await?
            }
        };
        match self.prepare(&locked, candidate).await {
            Ok(prepared) => {
                candidate.accept();
                candidate.log.push(prepared.event());
                Ok(Begun { locked, prepared })
            }
            Err(failure) => {
                // Before the lock goes: whoever wins it next must not find a claim whose session is gone. And released in so
                // many words: the next operation must not find it held by a closing connection.
                if !candidate.accepted {
                    let _ = claims::abandon(locked.client(), candidate.id).await;
                }
                let _ = locked.release().await;
                Err(failure)
            }
        }
    }

    /// A direct session to a database whose ledger this daemon can use; creates or upgrades it first where needed.
    async fn usable_session(&self, deadline: Instant) -> Result<Session, Failure> {
        let session = self.open_session().await?;
        if let Some(role) = &self.role {
            session.may_become(role).await?;
        }
        match install::check(session.client()).await? {
            install::State::Usable => Ok(session),
            install::State::ToBeMade => {
                let locked = self.win(session, deadline, None).await?;
                install::ensure(&locked).await?;
                Ok(locked.release().await?)
            }
        }
    }

    /// Opens a session and proves that it is a direct one.
    pub(super) async fn open_session(&self) -> Result<Session, Failure> {
        let session = Session::open(&self.url).await?;
        pooler::prove_direct(&session, &self.url).await?;
        Ok(session)
    }

    /// Polls the lock until `deadline`, or a little longer while nobody who holds it runs an operation. A claim that was not
    /// accepted is taken back before it gives up; an accepted one can be cancelled meanwhile.
    pub(super) async fn win(
        &self,
        session: Session,
        deadline: Instant,
        candidate: Option<&Candidate<'_>>,
    ) -> Result<LockedSession, Failure> {
        let mut session = session;
        let mut phases = self.phases.clone();
        let patience = Instant::now() + SHORT_HOLD;
        loop {
            session = match LockedSession::try_lock(session).await? {
                Attempt::Won(locked) => return Ok(locked),
                Attempt::Held(session) => session,
            };
            let now = Instant::now();
            if now >= deadline {
                let running = claims::running(session.client()).await?;
                if running.is_some() || now >= patience {
                    if let Some(candidate) = candidate.filter(|candidate| !candidate.accepted) {
                        claims::abandon(session.client(), candidate.id).await?;
                    }
                    return Err(busy(running));
                }
            }
            if let Some(candidate) = candidate.filter(|candidate| candidate.accepted)
                && let Some(by) = control::cancel_requested_by(session.client(), candidate.id).await?
            {
                return Err(cancelled(&by, "it was still waiting for another operation, so nothing was done"));
            }
            tokio::select! {
                () = tokio::time::sleep(POLL) => {}
                _ = phases.wait_for(|phase| *phase > Phase::Serving) => {
                    return Err(Failure::new(Reason::Interrupted, "this daemon is shutting down; nothing was done"));
                }
            }
        }
    }
}

/// Keeps an operation among those that can be told to end, as long as it lives.
struct Registered<'a> {
    inner: &'a Inner,
    id: Uuid,
    /// Passes on that the daemon's grace is over.
    shutdown: tokio::task::JoinHandle<()>,
}

impl<'a> Registered<'a> {
    fn new(inner: &'a Inner, id: Uuid, halt: watch::Sender<Option<Halt>>) -> Self {
        inner.halts.lock().unwrap_or_else(PoisonError::into_inner).insert(id, halt.clone());
        let mut phases = inner.phases.clone();
        let shutdown = tokio::spawn(async move {
            if phases.wait_for(|phase| *phase >= Phase::Stopping).await.is_ok() {
                onlooker::halt(&halt, Halt::Shutdown);
            }
        });
        Self { inner, id, shutdown }
    }
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.shutdown.abort();
        self.inner.halts.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

/// A claimed request that is not yet running.
pub(super) struct Candidate<'a> {
    pub request: &'a Request,
    pub id: Uuid,
    pub log: &'a Arc<Log>,
    /// Set when it has to end.
    pub halt: watch::Receiver<Option<Halt>>,
    pub accepted: bool,
}

impl Candidate<'_> {
    /// Says so, once.
    fn accept(&mut self) {
        if !std::mem::replace(&mut self.accepted, true) {
            let kind = self.request.action.kind();
            self.log.name(self.id);
            let request_id = self.request.request_id.to_string();
            self.log.push(Event::Accepted { kind: kind.into(), request_id, repeated: false });
            tracing::info!(event = "operation.accepted", operation = %self.id, kind,
                principal = self.request.principal, "operation accepted");
        }
    }
}

/// An operation that holds the lock and whose rows are written.
pub(super) struct Begun {
    pub locked: LockedSession,
    pub prepared: Prepared,
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
    Failure::new(Reason::Cancelled, format!("cancelled by {by}; {reached}")).with("cancelled_by", by)
}

/// The refusal that names who runs.
pub(super) fn busy(running: Option<OperationRow>) -> Failure {
    match running {
        Some(row) => Failure::new(
            Reason::Busy,
            format!(
                "operation {} ({}, {} of {} steps done) of {} is running; wait for it with queue_timeout, or ask again later",
                row.id, row.kind, row.steps_done, row.steps_total, row.daemon
            ),
        )
        .with("running_operation", row.id)
        .with("running_kind", &row.kind)
        .with("running_daemon", &row.daemon),
        None => Failure::new(
            Reason::Busy,
            "another session holds the operation lock without running an operation; ask again later",
        ),
    }
}
