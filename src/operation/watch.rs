//! Following an operation that another daemon runs, or that is over: what the ledger says of it
//! becomes the same events as those of a running one, with the same numbers.

use std::{
    collections::HashMap,
    sync::{Arc, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use uuid::Uuid;

use super::{LogFollower, OperationEvent, OperationLog, Operations, PlannedStep, StepName};
use crate::operation::{events::beyond, registry::OperationsInner};
use crate::{
    failure::{Failure, FailureKind, Reason},
    ledger::{
        FinishedOperation, OperationEnding, OperationState, control,
        history::{self, OperationChanges, StepChange},
        step_activity::{self, StepActivity},
    },
    postgres::activity::{IndexProgress, LockWaiting},
};

/// How often another daemon's operation is looked at, for all its watchers together.
const POLL: Duration = Duration::from_millis(250);

/// How often its session is looked at: what it waits for takes the server's list of all locks.
const LOOK: Duration = Duration::from_secs(1);

impl Operations {
    /// Follows an operation, here or elsewhere, after the state change with this sequence.
    ///
    /// # Errors
    /// UNKNOWN_OPERATION, INVALID_SEQUENCE for one beyond the end, or the database's.
    pub(crate) async fn watch(&self, id: Uuid, after: u64) -> Result<LogFollower, Failure> {
        let inner = &self.0;
        let log = match inner.log_of(id) {
            Some(log) => log,
            None => inner.tailed(id).await?,
        };
        match log.highest() {
            Some(highest) if after > highest => Err(beyond(after, highest)),
            _ => Ok(log.follow_after(after)),
        }
    }
}

impl OperationsInner {
    /// The log of an operation that is not this daemon's, shared by all its watchers; filled as far
    /// as the ledger is now.
    async fn tailed(self: &Arc<Self>, id: Uuid) -> Result<Arc<OperationLog>, Failure> {
        if let Some(log) = self.tails().get(&id).and_then(Weak::upgrade) {
            return Ok(log);
        }
        let log = OperationLog::new();
        let mut tail = LedgerReplay::default();
        let mut reader = self.pool.get().await?;
        let first = history::changes(&mut reader, id, 0)
            .await?
            .ok_or_else(|| control::unknown(id))?;
        drop(reader);
        log.name(id);
        let has_ended = tail.tell(first, &log).is_some();
        if has_ended {
            log.close(Ok(()));
        }
        {
            let mut tails = self.tails();
            // Somebody else may have read it meanwhile.
            if let Some(log) = tails.get(&id).and_then(Weak::upgrade) {
                return Ok(log);
            }
            tails.retain(|_, log| log.strong_count() > 0);
            tails.insert(id, Arc::downgrade(&log));
        }
        if has_ended {
            return Ok(log);
        }
        let (inner, weak) = (self.clone(), Arc::downgrade(&log));
        tokio::spawn(async move { inner.tail(id, tail, &weak).await });
        Ok(log)
    }

    fn tails(&self) -> MutexGuard<'_, HashMap<Uuid, Weak<OperationLog>>> {
        self.tails.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes on telling until the operation ends or nobody listens.
    async fn tail(&self, id: Uuid, mut tail: LedgerReplay, log: &Weak<OperationLog>) {
        loop {
            tokio::time::sleep(POLL).await;
            let Some(log) = log.upgrade() else { return };
            match tail.advance(self, id, &log).await {
                Ok(None) => {}
                Ok(Some(_)) => return log.close(Ok(())),
                // While the database is away nothing happens to the operation that could be told.
                Err(failure) if failure.reason.kind() == FailureKind::Unavailable => {}
                Err(failure) => return log.close(Err(failure)),
            }
        }
    }
}

/// What was told of an operation from the ledger.
#[derive(Default)]
pub(super) struct LedgerReplay {
    accepted: bool,
    planned: bool,
    steps: Vec<StepChange>,
    done: usize,
    /// A step that was said to have started.
    started: usize,
    /// When the session that runs it was looked at last.
    looked: Option<Instant>,
    /// What it waited for then.
    waiting: Option<LockWaiting>,
    /// And which index it built.
    building: Option<IndexProgress>,
}

impl LedgerReplay {
    /// Reads what changed and tells it. Returns how the operation ended, once it has.
    pub(super) async fn advance(
        &mut self,
        inner: &OperationsInner,
        id: Uuid,
        log: &OperationLog,
    ) -> Result<Option<OperationEnding>, Failure> {
        let mut reader = inner.pool.get().await?;
        let seen = if self.planned { self.done } else { 0 };
        let changes = history::changes(&mut reader, id, seen)
            .await?
            .ok_or_else(|| control::unknown(id))?;
        let ending = self.tell(changes, log);
        if ending.is_none() && self.planned && self.looked.is_none_or(|at| at.elapsed() >= LOOK) {
            self.looked = Some(Instant::now());
            match step_activity::of(&mut reader, id).await {
                Ok(activity) => self.tell_activity(activity.unwrap_or_default(), log),
                // Nothing that is worth the end of a watch: the state changes go on being told.
                Err(error) => {
                    tracing::debug!(operation = %id, cause = %error, "cannot look at the migration \
                        session")
                }
            }
        }
        Ok(ending)
    }

    /// Tells what the running step waits for, each time that somebody else is in the way, and how
    /// far an index build is.
    fn tell_activity(&mut self, activity: StepActivity, log: &OperationLog) {
        let StepActivity {
            version,
            waiting,
            waited,
            building,
        } = activity;
        if let Some(waiting) = &waiting
            && !self
                .waiting
                .as_ref()
                .is_some_and(|told| told.is_for_the_same(waiting))
        {
            log.push(OperationEvent::Waiting {
                version: version.clone(),
                waiting: waiting.clone(),
                waited,
            });
        }
        if let Some(building) = &building
            && self.building.as_ref() != Some(building)
        {
            log.push(OperationEvent::Progress {
                version,
                building: building.clone(),
            });
        }
        (self.waiting, self.building) = (waiting, building);
    }

    fn tell(&mut self, changes: OperationChanges, log: &OperationLog) -> Option<OperationEnding> {
        let OperationChanges {
            operation,
            steps,
            planned,
            ending,
        } = changes;
        if !std::mem::replace(&mut self.accepted, true) {
            let (kind, request_id) = (operation.kind.clone(), operation.request_id.clone());
            log.push_at(
                operation.created_at,
                OperationEvent::Accepted {
                    kind,
                    request_id,
                    repeated: false,
                },
            );
        }
        if let Some(at) = operation.started_at
            && !std::mem::replace(&mut self.planned, true)
        {
            self.steps.clone_from(&steps);
            let from_ledger = |s: &StepChange| {
                s.ordinal
                    .checked_sub(1)
                    .and_then(|n| planned.from_ledger.get(n).copied())
            };
            let plan = |s: &StepChange| PlannedStep {
                version: s.version.clone(),
                name: s.name.clone(),
                direction: s.direction,
                from_ledger: from_ledger(s),
                how: s
                    .ordinal
                    .checked_sub(1)
                    .and_then(|n| planned.how.get(n).copied()),
            };
            log.push_at(
                at,
                OperationEvent::Planned {
                    steps: steps.iter().map(plan).collect(),
                    warnings: planned.warnings,
                },
            );
        }
        for step in &steps {
            let Some((at, took)) = step.done else { break };
            self.done = step.ordinal;
            log.push_at(at, OperationEvent::StepDone(self.name(step), took));
        }
        let state = OperationState::parse(&operation.state).unwrap_or(OperationState::Failed);
        if matches!(state, OperationState::Pending | OperationState::Running) {
            if let Some(next) = self.steps.get(self.done)
                && self.started <= self.done
            {
                self.started = self.done + 1;
                log.push(OperationEvent::StepStarted(self.name(next)));
            }
            return None;
        }
        let ending = ending.unwrap_or_else(|| OperationEnding {
            finished: FinishedOperation::default(),
            failure: Some(
                Failure::new(
                    Reason::Internal,
                    "the ledger holds no result for this operation",
                )
                .with("operation", operation.id),
            ),
        });
        let failure = ending.failure.clone();
        let at = operation.finished_at.unwrap_or(operation.created_at);
        log.push_at(
            at,
            OperationEvent::Finished(state, ending.finished.clone(), failure),
        );
        Some(ending)
    }

    fn name(&self, step: &StepChange) -> StepName {
        let StepChange {
            ordinal,
            version,
            name,
            direction,
            ..
        } = step.clone();
        StepName {
            ordinal,
            total: self.steps.len(),
            version,
            name,
            direction,
        }
    }
}
