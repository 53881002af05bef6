//! The operations that are open in this daemon: each runs in a task of its own, is known by its
//! request and by its id, and can be told to end.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use tokio::sync::{Semaphore, watch};
use uuid::Uuid;

use super::{
    LogFollower, OperationLog, OperationRequest, accept::reused, audit::RefusalAudit, cancel,
};
use crate::operation::lock_monitor::{self, SideSession};
use crate::{
    failure::{Failure, Reason},
    ledger::one_database::SameDatabaseCheck,
    migration::{set::MigrationSet, signature::SigningKeys},
    operation::{refresh::RefreshSignal, watchers::VersionWatchers},
    postgres::{logins::Logins, pool::ReadPool},
    runner::StopReason,
    runtime::shutdown::ShutdownPhase,
    telemetry::{metrics::Metrics, rate_limit::LogRateLimiter},
    transport::{quota::Quota, quota_counter::QuotaCounter},
};

/// Operations of this daemon that may be in preparation or queued; each has a database session.
/// What only an admin may begin always finds a fifth of it.
pub(super) const OPEN: Quota = Quota { each: 20, all: 20 };

/// Applies among them: whoever has a name has half at most, so that nobody's queue is everybody's.
pub(super) const APPLIES: Quota = Quota { each: 8, all: 16 };

/// Accepts and runs operations.
#[derive(Clone)]
pub(crate) struct Operations(pub(super) Arc<OperationsInner>);

pub(super) struct OperationsInner {
    pub catalog: Arc<MigrationSet>,
    pub logins: Logins,
    /// "host:pid" of this daemon.
    pub daemon: String,
    pub metrics: Arc<Metrics>,
    /// Asked after every operation, so that health has seen what the caller is told.
    pub refresh: Arc<RefreshSignal>,
    /// For reading what other daemons do.
    pub pool: ReadPool,
    /// Whether what is read is where migrations run.
    pub one_database: SameDatabaseCheck,
    /// The session beside the one that migrates.
    pub side: SideSession,
    /// Runs the migrations, where it is not the session's own role.
    pub role: Option<String>,
    /// Signs the downs that the ledger keeps, and verifies them.
    pub signing: Option<SigningKeys>,
    /// Apply only what was rehearsed well.
    pub require_rehearsed: bool,
    /// Who watches which version here.
    pub watchers: VersionWatchers,
    /// Which refusals are kept in the ledger.
    pub audit: RefusalAudit,
    /// Says when no new operation may begin, and when a running one has to end.
    pub phases: watch::Receiver<ShutdownPhase>,
    refusals_told: LogRateLimiter,
    pub open: QuotaCounter,
    pub applies: QuotaCounter,
    /// Who writes that an operation is to end.
    pub cancels: Semaphore,
    /// The open operations, by principal and request_id.
    logs: Mutex<HashMap<(String, Uuid), OpenOperation>>,
    /// The operations that this daemon itself runs or queues, and how each is told to end.
    halts: Mutex<HashMap<Uuid, watch::Sender<Option<StopReason>>>>,
    /// Operations that are watched here and are other daemons', or over.
    pub tails: Mutex<HashMap<Uuid, Weak<OperationLog>>>,
    running: watch::Sender<usize>,
}

/// An open operation: the hash of its request, and its log.
struct OpenOperation {
    hash: String,
    log: Arc<OperationLog>,
}

/// What operations need of the daemon around them.
pub(crate) struct OperationDeps {
    /// The embedded set.
    pub catalog: Arc<MigrationSet>,
    /// Where migrations run, and where the ledger is written.
    pub logins: Logins,
    /// For reading.
    pub pool: ReadPool,
    /// Whether what is read is where migrations run.
    pub one_database: SameDatabaseCheck,
    /// The session beside the one that migrates.
    pub side: SideSession,
    /// Runs the migrations, where it is not the session's own role.
    pub role: Option<String>,
    /// Signs the downs that the ledger keeps, and verifies them.
    pub signing: Option<SigningKeys>,
    /// Apply only what was rehearsed well, with exactly these scripts.
    pub require_rehearsed: bool,
    /// Who watches which version here.
    pub watchers: VersionWatchers,
    /// "host:pid" of this daemon.
    pub daemon: String,
    /// Counts them.
    pub metrics: Arc<Metrics>,
    /// Asked at each end.
    pub refresh: Arc<RefreshSignal>,
    /// Says when no new operation may begin and when a running one has to end.
    pub phases: watch::Receiver<ShutdownPhase>,
}

impl Operations {
    /// Accepts nothing before it is asked to.
    pub(crate) fn new(parts: OperationDeps) -> Self {
        let OperationDeps {
            catalog,
            logins,
            pool,
            one_database,
            side,
            role,
            signing,
            require_rehearsed,
            watchers,
            daemon,
            metrics,
            refresh,
            phases,
        } = parts;
        Self(Arc::new(OperationsInner {
            catalog,
            logins,
            daemon,
            metrics,
            refresh,
            pool,
            one_database,
            side,
            role,
            signing,
            require_rehearsed,
            watchers,
            audit: RefusalAudit::default(),
            phases,
            refusals_told: LogRateLimiter::new(20),
            open: QuotaCounter::default(),
            applies: QuotaCounter::default(),
            cancels: Semaphore::new(cancel::AT_ONCE),
            logs: Mutex::default(),
            halts: Mutex::default(),
            tails: Mutex::default(),
            running: watch::Sender::new(0),
        }))
    }

    /// Begins an operation, or finds the one that this request began, and follows its log. Never
    /// waits.
    pub(crate) fn submit(&self, request: OperationRequest) -> LogFollower {
        let inner = &self.0;
        let (key, hash) = (
            (request.principal.clone(), request.request_id),
            request.hash().to_string(),
        );
        let mut logs = inner.logs.lock().unwrap_or_else(PoisonError::into_inner);
        match logs.get(&key) {
            Some(open) if open.hash == hash => return open.log.follow().for_repeat(),
            Some(_) => {
                let (log, failure) = (OperationLog::new(), reused(request.request_id));
                log.close(Err(failure.clone()));
                let inner = inner.clone();
                tokio::spawn(async move { inner.refused(&request, &failure).await });
                return log.follow();
            }
            None => {}
        }
        let log = OperationLog::new();
        logs.insert(
            key.clone(),
            OpenOperation {
                hash,
                log: log.clone(),
            },
        );
        inner.running.send_modify(|n| *n += 1);
        let (inner, result) = (inner.clone(), log.clone());
        tokio::spawn(async move {
            let (worker, log, asked) = (inner.clone(), result.clone(), request.clone());
            let work = tokio::spawn(async move { worker.operate(&asked, &log).await });
            let outcome = work.await.unwrap_or_else(|panic| {
                tracing::error!(event = "operation.panicked", cause = %panic, "a mistake in \
                    schemad");
                Err(Failure::new(
                    Reason::Internal,
                    "a mistake in schemad ended the operation; see \
                    the daemon's log",
                ))
            });
            inner
                .logs
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&key);
            let refused = outcome
                .as_ref()
                .err()
                .filter(|_| result.operation().is_none())
                .cloned();
            if result.operation().is_some() {
                inner.refresh.now().await;
            }
            result.close(outcome);
            if let Some(failure) = refused {
                inner.refused(&request, &failure).await;
            }
            inner.running.send_modify(|n| *n -= 1);
        });
        log.follow().for_request()
    }

    /// Returns when no operation is open in this daemon.
    pub(crate) async fn idle(&self) {
        // The sender lives as long as self, so this cannot fail.
        let _ = self.0.running.subscribe().wait_for(|n| *n == 0).await;
    }
}

impl OperationsInner {
    /// Says in the log, the metrics and the ledger that a request was refused.
    async fn refused(self: &Arc<Self>, request: &OperationRequest, failure: &Failure) {
        let kind = request.action.kind();
        if self.refusals_told.allows() {
            tracing::info!(event = "operation.refused", kind, reason = %failure.reason, principal = request.principal,
                request_id = %request.request_id, "operation refused: {}", failure.message);
        }
        self.metrics.operation(kind, "refused");
        self.keep_refusal(&request.principal, kind, request.request_id, failure)
            .await;
    }

    /// The log of an open operation of this daemon, its own or one that it follows for a repeat.
    pub(super) fn log_of(&self, id: Uuid) -> Option<Arc<OperationLog>> {
        let logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        logs.values()
            .find(|open| open.log.operation() == Some(id))
            .map(|open| open.log.clone())
    }

    /// Who asked for an operation that is open here, and its log.
    pub(super) fn own(&self, id: Uuid) -> Option<(String, Arc<OperationLog>)> {
        let logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        let found = logs
            .iter()
            .find(|(_, open)| open.log.operation() == Some(id));
        found.map(|((principal, _), open)| (principal.clone(), open.log.clone()))
    }

    /// Tells an operation of this daemon to end. False: it is not here.
    pub(super) fn halt(&self, id: Uuid, why: StopReason) -> bool {
        let halts = self.halts.lock().unwrap_or_else(PoisonError::into_inner);
        halts
            .get(&id)
            .map(|sender| lock_monitor::halt(sender, why))
            .is_some()
    }

    /// How an operation of this daemon is told to end.
    pub(super) fn halt_sender(&self, id: Uuid) -> Option<watch::Sender<Option<StopReason>>> {
        self.halts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&id)
            .cloned()
    }
}

/// Keeps an operation among those that can be told to end, as long as it lives.
pub(super) struct RegistryGuard<'a> {
    inner: &'a OperationsInner,
    id: Uuid,
    /// Passes on that the daemon's grace is over.
    shutdown: tokio::task::JoinHandle<()>,
}

impl<'a> RegistryGuard<'a> {
    pub(super) fn new(
        inner: &'a OperationsInner,
        id: Uuid,
        halt: watch::Sender<Option<StopReason>>,
    ) -> Self {
        inner
            .halts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id, halt.clone());
        let mut phases = inner.phases.clone();
        let shutdown = tokio::spawn(async move {
            if phases
                .wait_for(|phase| *phase >= ShutdownPhase::Stopping)
                .await
                .is_ok()
            {
                lock_monitor::halt(&halt, StopReason::Shutdown);
            }
        });
        Self {
            inner,
            id,
            shutdown,
        }
    }
}

impl Drop for RegistryGuard<'_> {
    fn drop(&mut self) {
        self.shutdown.abort();
        self.inner
            .halts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.id);
    }
}
