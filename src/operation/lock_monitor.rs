//! Beside a running operation: looks at its session from another one, so that followers see what it
//! waits for and how far it is; says in the ledger that the daemon lives; and hears there that
//! somebody cancels it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;
use uuid::Uuid;

use super::{OperationEvent, OperationLog};
use crate::{
    ledger::control,
    postgres::{
        DatabaseError,
        activity::{self, Backend, IndexProgress, SessionActivity},
        session::MigrationSession,
    },
    runner::{LockWait, StopReason},
    telemetry::rate_limit::LogRateLimiter,
};

/// How often it looks. Most operations are over before the first look.
const EVERY: Duration = Duration::from_millis(250);

/// Waits that are logged within a second, of one operation: on a busy table somebody else is in the
/// way at each look.
const LOGGED: u32 = 1;

/// The daemon's session beside the one that migrates; `None` while it is not connected.
pub(crate) type SideSession = watch::Receiver<Option<Arc<MigrationSession>>>;

/// What an onlooker needs.
pub(super) struct LockMonitor {
    pub side: SideSession,
    pub operation: Uuid,
    /// The session that runs the steps.
    pub backend: Backend,
    pub log: Arc<OperationLog>,
    /// Which version runs.
    pub version: watch::Receiver<String>,
    pub wait: watch::Sender<LockWait>,
    pub halt: watch::Sender<Option<StopReason>>,
}

/// What was told last, so that nothing is told twice.
struct ReportedWaits {
    /// The pids in the way.
    blockers: Vec<i32>,
    building: Option<IndexProgress>,
    /// The statement whose waits are added up.
    statement: Option<i64>,
    /// It waited when it was looked at last.
    waits: bool,
    /// How often waits are logged.
    logged: LogRateLimiter,
}

impl ReportedWaits {
    fn nothing() -> Self {
        Self {
            blockers: Vec::new(),
            building: None,
            statement: None,
            waits: false,
            logged: LogRateLimiter::new(LOGGED),
        }
    }
}

impl LockMonitor {
    /// Looks on until it is dropped. What it cannot see is no reason to end anything.
    pub(super) async fn run(self) {
        let (mut told, mut last, mut beat) =
            (ReportedWaits::nothing(), Instant::now(), None::<Instant>);
        loop {
            tokio::time::sleep(EVERY).await;
            let Some(session) = self.side.borrow().clone() else {
                continue;
            };
            // First what needs no table of the ledger, which may be what the step waits for.
            let seen = self.look(&session, &mut told, last.elapsed()).await;
            last = Instant::now();
            if let Err(error) = seen {
                tracing::debug!(operation = %self.operation, cause = %error, "cannot look at the \
                    migration session");
            }
            if beat.is_none_or(|at| at.elapsed() >= control::HEARTBEAT)
                && control::beat(session.ledger(), self.operation)
                    .await
                    .is_ok()
            {
                beat = Some(Instant::now());
            }
            match control::cancel_requested_by(session.ledger(), self.operation).await {
                Ok(Some(by)) => halt(&self.halt, StopReason::Cancelled(by)),
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(operation = %self.operation, cause = %error, "cannot hear who \
                        cancels")
                }
            }
        }
    }

    async fn look(
        &self,
        session: &MigrationSession,
        told: &mut ReportedWaits,
        passed: Duration,
    ) -> Result<(), DatabaseError> {
        let Some(activity) = activity::look(session.client(), self.backend.pid).await? else {
            return Ok(());
        };
        let version = self.version.borrow().clone();
        self.waits(&version, &activity, told, passed);
        if let Some(building) = activity
            .building
            .filter(|building| told.building.as_ref() != Some(building))
        {
            told.building = Some(building.clone());
            self.log
                .push(OperationEvent::Progress { version, building });
        }
        Ok(())
    }

    fn waits(
        &self,
        version: &str,
        activity: &SessionActivity,
        told: &mut ReportedWaits,
        passed: Duration,
    ) {
        let same_statement = told.statement == activity.query_start;
        told.statement = activity.query_start;
        if !same_statement {
            told.blockers.clear(); // another try, or another statement
        }
        let before = if same_statement {
            self.wait.borrow().waited
        } else {
            Duration::ZERO
        };
        // Rather too little than too much: a wait that has just begun is not yet as long as the
        // time since the last look.
        let passed = if same_statement && told.waits {
            passed
        } else {
            Duration::ZERO
        };
        told.waits = activity.waiting.is_some();
        let Some(waiting) = &activity.waiting else {
            told.blockers.clear();
            if !same_statement {
                // Who was in the way of the statement before is still of interest when that is
                // tried again in vain.
                self.wait.send_modify(|wait| wait.waited = Duration::ZERO);
            }
            return;
        };
        let waited = before + passed;
        self.wait.send_replace(LockWait {
            version: version.into(),
            waited,
            blockers: waiting.blockers.clone(),
        });
        let blockers: Vec<i32> = waiting.blockers.iter().map(|blocker| blocker.pid).collect();
        if told.blockers != blockers {
            told.blockers = blockers;
            if told.logged.allows() {
                tracing::info!(event = "operation.waiting", operation = %self.operation, version, kind = waiting.kind,
                    mode = waiting.mode, relation = waiting.relation.as_deref().unwrap_or_default(),
                    blocked_by = waiting.blocked_by(), waited_s = waited.as_secs_f64(), "the step \
                        waits for a lock");
            }
            let (version, waiting) = (version.to_owned(), waiting.clone());
            self.log.push(OperationEvent::Waiting {
                version,
                waiting,
                waited,
            });
        }
    }
}

/// Says once why the operation has to end.
pub(super) fn halt(sender: &watch::Sender<Option<StopReason>>, why: StopReason) {
    sender.send_if_modified(|halt| {
        let first = halt.is_none();
        if first {
            *halt = Some(why);
        }
        first
    });
}
