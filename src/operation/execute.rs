//! Runs an operation that has begun, and records how it ended. After an error that is not the
//! database's, nobody knows what was committed until the lock is won again: the old backend holds
//! it until it is through.

use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;
use tokio_postgres::{Client, error::SqlState};
use tokio_util::task::AbortOnDropHandle;

use super::{
    OperationEvent,
    accept::{BeginError, BegunOperation, ClaimedRequest, RemainingSession},
    failed::{failure, unknown},
    prepare::{PreparedOperation, PreparedStep},
};

use crate::operation::{lock_monitor::LockMonitor, registry::OperationsInner};
use crate::{
    failure::{Failure, Reason},
    ledger::{
        FinishedOperation, OperationEnding, OperationState, claims, control,
        history::{self, StepChange},
        operations,
    },
    migration::Direction,
    postgres::{
        self, activity,
        lock::{LockOutcome, LockedSession},
    },
    runner::{self, LockWait, RunControl, StepError, StepObserver, StopReason},
    runtime::{blocking, shutdown::ShutdownPhase},
};

/// How long the daemon tries to record an end while a table of the ledger is locked. It keeps the
/// operation lock meanwhile: the next operation could not begin either.
const RECORDED_WITHIN: Duration = Duration::from_secs(30);

/// How long the daemon tries to find out what a lost session committed before it answers without
/// knowing.
const AFTER_LOSS: Duration = Duration::from_secs(30);

impl OperationsInner {
    /// Runs the steps and records the end. The result is the operation's.
    pub(super) async fn run(
        &self,
        begun: BegunOperation,
        candidate: &ClaimedRequest<'_>,
    ) -> Result<(), Failure> {
        let BegunOperation {
            mut locked,
            prepared,
        } = begun;
        let started = Instant::now();
        let request = candidate.request;
        let bytes = prepared
            .steps
            .iter()
            .map(|step| step.script.sql.len())
            .sum();
        let runnable = || -> Vec<runner::RunnableStep<'_>> {
            let steps = prepared.steps.iter();
            steps
                .map(|step| runner::RunnableStep {
                    id: step.id,
                    sql: &step.script.sql,
                    lock_wait: step.lock_wait(request),
                    lock_timeout: step.lock_timeout(request),
                    role: self.role.as_deref(),
                    earlier: step.earlier.as_ref(),
                    journaled: step.journaled(),
                })
                .collect()
        };
        let scripts = blocking::in_place(bytes, runnable);
        let (wait, version) = (
            watch::Sender::new(LockWait::default()),
            watch::Sender::new(String::new()),
        );
        let orders = RunControl {
            halt: candidate.halt.clone(),
            wait: wait.subscribe(),
        };
        let seen = orders.wait.clone();
        let onlooker = self.look_on(&locked, candidate, &version, wait).await;
        let observer = StepReporter {
            steps: &prepared.steps,
            candidate,
            inner: self,
            version,
            wait: seen.clone(),
        };
        let ran = runner::run(&mut locked, &scripts, orders, &observer).await;
        drop(onlooker);

        let parts = ran.as_ref().err().map_or(0, |stopped| stopped.parts);
        let (locked, done, broken) = match ran {
            Ok(()) => (Some(locked), prepared.steps.len(), None),
            Err(runner::RunStopped {
                done: answered,
                broken,
                session_lost: true,
                ..
            }) => {
                tracing::warn!(event = "operation.session_lost", operation = %candidate.id, cause = broken.cause(),
                    "the migration session was lost; finding out what was committed");
                drop(locked);
                let (locked, done) = self.find_out(candidate, answered).await;
                self.tell_done(&prepared.steps, done, candidate).await;
                // Everything may have been committed and only the answer lost.
                let broken = (done < prepared.steps.len()).then(|| match broken {
                    StepError::Lost(error) => StepError::Lost(if locked.is_some() {
                        error
                    } else {
                        unknown(&error)
                    }),
                    // What the server said before it ended the session is of the first step that is
                    // not done.
                    said if done == answered => said,
                    said => StepError::Lost(postgres::DatabaseError::Lost(said.cause())),
                });
                (locked, done, broken)
            }
            Err(runner::RunStopped { done, broken, .. }) => (Some(locked), done, Some(broken)),
        };
        let broken = match broken {
            Some(broken) => Some(self.cancelled_elsewhere(broken, candidate).await),
            None => None,
        };
        let blockers = seen.borrow().blockers.clone();
        let login = self.logins.migrating().role();
        let role = self
            .role
            .as_deref()
            .map_or_else(|| login.clone(), crate::sql::ident);
        let failure = broken.map(|broken| {
            failure(
                broken,
                (done, parts),
                &prepared.steps,
                (&role, &login),
                &blockers,
            )
            .with("operation", candidate.id)
        });
        let finished = finished(&prepared, done);
        self.record(
            locked.map_or(RemainingSession::Lost, RemainingSession::Locked),
            candidate,
            started,
            finished,
            failure,
        )
        .await
    }

    /// Tells that steps are done whose answers were lost.
    async fn tell_done(&self, steps: &[PreparedStep], done: usize, candidate: &ClaimedRequest<'_>) {
        let told = candidate.log.steps_done();
        let recorded = async {
            let mut reader = self.pool.get().await.ok()?;
            history::changes(&mut reader, candidate.id, told)
                .await
                .ok()
                .flatten()
        };
        let recorded = if done > told { recorded.await } else { None };
        for step in steps.iter().take(done).skip(told) {
            let of_step =
                |change: &StepChange| change.done.filter(|_| change.ordinal == step.name.ordinal);
            let (at, took) = recorded
                .iter()
                .find_map(|changes| changes.steps.iter().find_map(of_step))
                .unwrap_or((SystemTime::now(), Duration::ZERO));
            candidate
                .log
                .push_at(at, OperationEvent::StepDone(step.name.clone(), took));
        }
    }

    /// Looks at the session from beside it, until the task is dropped.
    async fn look_on(
        &self,
        locked: &LockedSession,
        candidate: &ClaimedRequest<'_>,
        version: &watch::Sender<String>,
        wait: watch::Sender<LockWait>,
    ) -> Option<AbortOnDropHandle<()>> {
        let onlooker = LockMonitor {
            side: self.side.clone(),
            operation: candidate.id,
            backend: activity::own(locked.client()).await.ok()?,
            log: candidate.log.clone(),
            version: version.subscribe(),
            wait,
            halt: self.halt_sender(candidate.id)?,
        };
        Some(AbortOnDropHandle::new(tokio::spawn(onlooker.run())))
    }

    /// Another daemon cancels a statement before this one has heard that the operation is to end.
    async fn cancelled_elsewhere(
        &self,
        broken: StepError,
        candidate: &ClaimedRequest<'_>,
    ) -> StepError {
        let (is_cancel, halted): (bool, fn(StopReason) -> StepError) = match &broken {
            StepError::Sql(failed) => (
                failed.error.is(&SqlState::QUERY_CANCELED),
                StepError::Halted,
            ),
            StepError::Guard(error) => (error.is(&SqlState::QUERY_CANCELED), StepError::Halted),
            StepError::Doubt(failed) => (
                failed.error.is(&SqlState::QUERY_CANCELED),
                StepError::HaltedInDoubt,
            ),
            _ => return broken,
        };
        let side = self.side.borrow().clone();
        match side {
            Some(session) if is_cancel => {
                match control::cancel_requested_by(session.ledger(), candidate.id)
                    .await
                    .ok()
                    .flatten()
                {
                    Some(by) => halted(StopReason::Cancelled(by)),
                    None => broken,
                }
            }
            _ => broken,
        }
    }

    /// An accepted operation that could not begin: it waited in vain, or its plan was refused under
    /// the lock.
    pub(super) async fn end_without_steps(
        &self,
        candidate: &ClaimedRequest<'_>,
        stopped: BeginError,
    ) -> Failure {
        let failure = stopped.failure.with("operation", candidate.id);
        // Best effort: it changed nothing, so this is only for whoever reads it.
        let side = self.side.borrow().clone();
        let current = match side {
            Some(session) => operations::current_version(session.ledger())
                .await
                .ok()
                .flatten(),
            None => None,
        };
        let finished = FinishedOperation {
            current,
            ..FinishedOperation::default()
        };
        let recorded = self
            .record(
                stopped.left,
                candidate,
                Instant::now(),
                finished,
                Some(failure.clone()),
            )
            .await;
        recorded.err().unwrap_or(failure)
    }

    /// Writes the end into the ledger, the log and the metrics, and gives the lock back before
    /// anybody is told.
    async fn record(
        &self,
        left: RemainingSession,
        candidate: &ClaimedRequest<'_>,
        started: Instant,
        finished: FinishedOperation,
        failure: Option<Failure>,
    ) -> Result<(), Failure> {
        let state = match &failure {
            None => OperationState::Succeeded,
            Some(failure) if failure.reason == Reason::Interrupted => OperationState::Interrupted,
            Some(failure) if failure.reason == Reason::Cancelled => OperationState::Cancelled,
            Some(_) => OperationState::Failed,
        };
        let mut ending = OperationEnding { finished, failure };
        let (state, OperationEnding { finished, failure }) = match self
            .write_end(left, candidate, state, &ending)
            .await
        {
            Ok(None) => (state, ending),
            // What the ledger says is what everybody else is told.
            Ok(Some(recorded)) => recorded,
            Err(error) => {
                // The row stays 'running' without a holder of the lock; whoever wins it next closes
                // it.
                tracing::error!(event = "operation.not_recorded", operation = %candidate.id, cause = %error,
                    "the operation's end could not be recorded");
                ending.finished.warnings.push(format!(
                    "this result could not be recorded ({}). Until the next operation begins, the \
                     history says that this one runs; then it is closed as succeeded if every step \
                     is committed, else as interrupted",
                    error.message
                ));
                (state, ending)
            }
        };
        let kind = candidate.request.action.kind();
        self.metrics.operation(kind, state.as_str());
        let (steps_done, steps_total) = (finished.steps_done, finished.steps_total);
        candidate
            .log
            .push(OperationEvent::Finished(state, finished, failure.clone()));
        let seconds = started.elapsed().as_secs_f64();
        match failure {
            None => {
                tracing::info!(event = "operation.finished", operation = %candidate.id, kind, state = state.as_str(),
                    steps_done, steps_total, seconds, "operation finished");
                Ok(())
            }
            Some(failure) => {
                tracing::warn!(event = "operation.finished", operation = %candidate.id, kind, state = state.as_str(),
                    steps_done, steps_total, seconds, reason = %failure.reason, "operation ended: \
                        {}", failure.message);
                Err(failure)
            }
        }
    }

    /// Records the end. Returns the one that another daemon has recorded meanwhile, which took this
    /// one for dead.
    async fn write_end(
        &self,
        left: RemainingSession,
        candidate: &ClaimedRequest<'_>,
        state: OperationState,
        ending: &OperationEnding,
    ) -> Result<Option<(OperationState, OperationEnding)>, Failure> {
        let session = match left {
            RemainingSession::Locked(locked) => {
                let written = match self
                    .insist_on_the_end(locked.ledger(), candidate, state, ending)
                    .await
                {
                    // The session that keeps the ledger is gone, and the one that ran the steps is
                    // not.
                    Err(postgres::DatabaseError::Lost(_)) if locked.keeper().is_some() => {
                        self.end_elsewhere(candidate, state, ending).await?
                    }
                    written => written?,
                };
                let session = locked.release().await?;
                if written {
                    return Ok(None);
                }
                session
            }
            left => {
                let session = match left {
                    RemainingSession::Open(session) => session,
                    _ => self.open_session().await?,
                };
                if self
                    .insist_on_the_end(session.ledger(), candidate, state, ending)
                    .await?
                {
                    return Ok(None);
                }
                session
            }
        };
        let recorded = claims::find(session.ledger(), candidate.id).await?;
        Ok(recorded.and_then(|recorded| Some((recorded.state, recorded.result?))))
    }

    /// Writes the end on another session that keeps the ledger, as soon as there is one.
    async fn end_elsewhere(
        &self,
        candidate: &ClaimedRequest<'_>,
        state: OperationState,
        ending: &OperationEnding,
    ) -> Result<bool, postgres::DatabaseError> {
        let deadline = Instant::now() + RECORDED_WITHIN;
        loop {
            let written = async {
                let session = self.logins.open_ledger().await?;
                self.insist_on_the_end(session.client(), candidate, state, ending)
                    .await
            };
            match written.await {
                Err(error) if error.sql().is_none() && Instant::now() < deadline => {
                    tracing::debug!(operation = %candidate.id, cause = %error, "the operation's \
                        end cannot be recorded yet");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                written => return written,
            }
        }
    }

    /// Writes the end, for a while also when somebody has locked the ledger, which followers are
    /// told. False: another daemon has written another.
    async fn insist_on_the_end(
        &self,
        client: &Client,
        candidate: &ClaimedRequest<'_>,
        state: OperationState,
        ending: &OperationEnding,
    ) -> Result<bool, postgres::DatabaseError> {
        let (deadline, mut told) = (Instant::now() + RECORDED_WITHIN, false);
        loop {
            match operations::end(client, candidate.id, state, ending).await {
                Err(error) if error.is_lock_timeout() && Instant::now() < deadline => {
                    if !std::mem::replace(&mut told, true) {
                        let blocked_by = activity::blocked_by(&self.who_locks_the_ledger().await);
                        let message = "the operation's end cannot be recorded yet, because another \
                            session has locked the ledger";
                        tracing::warn!(event = "ledger.locked", operation = %candidate.id, blocked_by, "{message}");
                        candidate.log.push(OperationEvent::warning(format!(
                            "{message} (in the way: {}); trying for {}",
                            if blocked_by.is_empty() {
                                "not known; see pg_locks"
                            } else {
                                &blocked_by
                            },
                            humantime::format_duration(RECORDED_WITHIN)
                        )));
                    }
                }
                ended => return ended,
            }
        }
    }

    /// After a loss: wins the lock on a new session, which the old backend holds until it is
    /// through, and only then reads what was committed. Gives up after a while and reports the
    /// steps known to be done.
    async fn find_out(
        &self,
        candidate: &ClaimedRequest<'_>,
        known: usize,
    ) -> (Option<LockedSession>, usize) {
        let deadline = Instant::now() + AFTER_LOSS;
        while Instant::now() < deadline && *self.phases.borrow() < ShutdownPhase::Stopping {
            match self.try_to_find_out(candidate).await {
                Ok(Some((locked, done))) => return (Some(locked), done),
                Ok(None) => {}
                Err(error) => tracing::debug!(cause = %error, "not yet"),
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        (None, known)
    }

    async fn try_to_find_out(
        &self,
        candidate: &ClaimedRequest<'_>,
    ) -> Result<Option<(LockedSession, usize)>, Failure> {
        match LockedSession::try_lock(self.open_session().await?).await? {
            LockOutcome::Held(_) => Ok(None),
            LockOutcome::Won(locked) => {
                let done = operations::steps_done(locked.ledger(), candidate.id).await?;
                Ok(Some((locked, done)))
            }
        }
    }
}

/// Turns what the runner sees into events and metrics.
struct StepReporter<'a> {
    steps: &'a [PreparedStep],
    candidate: &'a ClaimedRequest<'a>,
    inner: &'a OperationsInner,
    /// Which version runs.
    version: watch::Sender<String>,
    /// What it was seen to wait for.
    wait: watch::Receiver<LockWait>,
}

impl StepObserver for StepReporter<'_> {
    fn started(&self, index: usize) {
        let name = self.steps[index].name.clone();
        self.version.send_replace(name.version.clone());
        self.candidate.log.push(OperationEvent::StepStarted(name));
    }

    fn done(&self, index: usize, took: Duration) {
        let name = self.steps[index].name.clone();
        self.inner.metrics.step(name.direction, took);
        self.candidate
            .log
            .push(OperationEvent::StepDone(name, took));
    }

    fn statement_started(&self, index: usize, (first, last): (usize, usize)) {
        let step = &self.steps[index];
        if let Some(summary) = step.summaries.get(first - 1).cloned() {
            let (version, statements) = (step.name.version.clone(), step.summaries.len());
            self.candidate.log.push(OperationEvent::StatementStarted {
                version,
                first,
                last,
                statements,
                summary,
            });
        }
    }

    fn statement(&self, index: usize, (first, last): (usize, usize), took: Duration) {
        let step = &self.steps[index];
        if let Some(summary) = step.summaries.get(first - 1).cloned() {
            let (version, statements) = (step.name.version.clone(), step.summaries.len());
            self.candidate.log.push(OperationEvent::StatementDone {
                version,
                first,
                last,
                statements,
                summary,
                took,
            });
        }
    }

    fn notice(&self, index: usize, notice: postgres::session::ServerNotice) {
        self.candidate.log.push(OperationEvent::Notice {
            version: self.steps[index].name.version.clone(),
            severity: notice.severity,
            message: notice.message,
            detail: notice.detail,
            hint: notice.hint,
        });
    }

    fn retrying(&self, index: usize, attempt: u32, error: &postgres::SqlError, delay: Duration) {
        let version = self.steps[index].name.version.clone();
        // Empty where the wait was too short to be seen.
        let blocked_by = Some(self.wait.borrow()).filter(|wait| wait.version == version);
        let blocked_by = blocked_by
            .map(|wait| activity::blocked_by(&wait.blockers))
            .unwrap_or_default();
        tracing::info!(event = "operation.retrying", operation = %self.candidate.id, version, attempt,
            sqlstate = error.sqlstate, blocked_by, "the step could not get its locks; trying \
                again");
        self.candidate.log.push(OperationEvent::Retrying {
            version,
            attempt,
            sqlstate: error.sqlstate.clone(),
            message: error.message.clone(),
            delay,
        });
    }
}

fn finished(prepared: &PreparedOperation, done: usize) -> FinishedOperation {
    let mut applied = prepared.applied.clone();
    for step in &prepared.steps[..done] {
        match step.name.direction {
            Direction::Up => applied.insert(step.version.clone()),
            Direction::Down => applied.remove(&step.version),
        };
    }
    FinishedOperation {
        nothing_to_do: prepared.nothing_to_do,
        steps_done: done,
        steps_total: prepared.steps.len(),
        current: applied.last().map(ToString::to_string),
        warnings: prepared.warnings.clone(),
    }
}
