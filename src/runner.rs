//! Runs the steps of an operation: those that are one transaction as one message each, several in
//! flight (`window`), the others part by part with a journal (`journaled`). The guards in the
//! ledger let a step begin only when the one before it is applied and the lock is still ours.

pub(crate) mod catalog_evidence;
pub(crate) mod control;
mod explain;
mod journaled;
pub(crate) mod leftover_index;
pub(crate) mod message;
pub(crate) mod non_transactional;
pub(crate) mod response;
mod window;

use std::time::{Duration, Instant};

pub(crate) use control::StopReason;
pub use control::{LockWait, RunControl};
pub(crate) use explain::{explain, grant_on_the_ledger};
pub(crate) use journaled::JournaledScript;

use crate::{
    ledger::operations,
    planner::AbandonedIndex,
    postgres::{DatabaseError, SqlError, lock::LockedSession, session::ServerNotice},
};

/// The pause before a step is tried again, doubled each time up to the second.
const RETRY_DELAY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));

/// A step to run: its row's id and its script.
#[derive(Clone, Debug)]
pub(crate) struct RunnableStep<'a> {
    /// schemad.steps.id.
    pub id: i64,
    /// The script.
    pub sql: &'a str,
    /// How long it may go on retrying for its locks.
    pub lock_wait: Duration,
    /// One attempt may wait so long for a lock; 0 is without end.
    pub lock_timeout: Duration,
    /// Runs the script, when it is not the session's own user.
    pub role: Option<&'a str>,
    /// What failed in an earlier try, when the script has something else in its place now.
    pub earlier: Option<&'a AbandonedIndex>,
    /// For a script that is not one transaction: its parts, and where it goes on.
    pub journaled: Option<JournaledScript<'a>>,
}

impl RunnableStep<'_> {
    /// How long an attempt may wait for its locks, all in all, of which `left` is left. A script
    /// that sets its own lock_timeout does not wait longer. Without a lock_wait one attempt is all.
    fn patience(&self, left: Duration) -> Option<Duration> {
        match self.lock_wait {
            Duration::ZERO => Some(self.lock_timeout).filter(|timeout| !timeout.is_zero()),
            _ => Some(left),
        }
    }
}

/// Told what happens, in order. Must not block.
pub(crate) trait StepObserver {
    /// Step `index` begins.
    fn started(&self, index: usize);
    /// The statements from the first to the last of these (from 1) of step `index`, which is not
    /// one transaction, begin: one, or a block.
    fn statement_started(&self, index: usize, statements: (usize, usize));
    /// They are committed.
    fn statement(&self, index: usize, statements: (usize, usize), took: Duration);
    /// Step `index` is committed.
    fn done(&self, index: usize, took: Duration);
    /// The server, or schemad itself, said something while step `index` ran.
    fn notice(&self, index: usize, notice: ServerNotice);
    /// Step `index` could not get its locks, was undone and is tried again after `delay`.
    fn retrying(&self, index: usize, attempt: u32, error: &SqlError, delay: Duration);
}

/// The steps before `done` are committed, the rest are not (after [`StepError::Lost`] that is not
/// known).
#[derive(Debug)]
pub(crate) struct RunStopped {
    /// How many are committed.
    pub done: usize,
    /// Of the next, if it is not one transaction: parts that are committed.
    pub parts: usize,
    /// Why the next is not.
    pub broken: StepError,
    /// The session is gone. That it is says less than `broken`, which came before: the server
    /// itself ends a session after some errors.
    pub session_lost: bool,
}

/// Why a step was not committed.
#[derive(Debug)]
pub(crate) enum StepError {
    /// The server refused a statement.
    Sql(ScriptError),
    /// The server refused a statement that may have committed a part of its work before.
    Doubt(ScriptError),
    /// Its locks could not be had in time.
    Locks {
        /// The last refusal.
        error: SqlError,
        /// How long was tried.
        waited: Duration,
    },
    /// It was told to end.
    Halted(StopReason),
    /// It was told to end while a statement ran that may have committed a part of its work before.
    HaltedInDoubt(StopReason),
    /// The server refused BEGIN, or a guard found the ledger or Diesel's table changed by others:
    /// nothing of the script stays.
    Guard(SqlError),
    /// The session is gone.
    Lost(DatabaseError),
}

impl StepError {
    /// The server's words, or why there are none.
    pub(crate) fn cause(&self) -> String {
        match self {
            Self::Sql(failed) | Self::Doubt(failed) => failed.error.to_string(),
            Self::Locks { error, .. } | Self::Guard(error) => error.to_string(),
            Self::Halted(_) | Self::HaltedInDoubt(_) => "the operation was told to end".into(),
            Self::Lost(error) => error.to_string(),
        }
    }
}

/// A refused statement and which one it was.
#[derive(Debug)]
pub(crate) struct ScriptError {
    /// What the server said.
    pub error: SqlError,
    /// Statements of the script that were through, as the server counted them.
    pub statements_done: usize,
    /// Characters of the message before the script.
    pub preamble: usize,
    /// Of a script that is not one transaction: what was undone.
    pub undone: Option<UndoneExtent>,
}

/// The part of a script that was undone when it failed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UndoneExtent {
    /// Its first statement, from 0; of a block its BEGIN.
    pub first: usize,
    /// All its statements were through, and what is checked at its end failed.
    pub through: bool,
    /// It was no transaction: what ran stays, and could not be recorded.
    pub stays: bool,
}

/// Runs `steps` in order. A [`StopReason`] ends it at a commit boundary: the running statement is
/// cancelled and its step undone.
///
/// Dropping the future leaves up to a window of steps running on the server until the session is
/// dropped too.
///
/// # Errors
/// [`RunStopped`] says how many are committed and why the next is not. The session is clean again
/// unless it is lost.
pub(crate) async fn run(
    session: &mut LockedSession,
    steps: &[RunnableStep<'_>],
    orders: RunControl,
    observer: &impl StepObserver,
) -> Result<(), RunStopped> {
    let mut done = 0;
    let mut attempts = StepAttempts::default();
    let mut progress = journaled::StepProgress::default();
    let mut cleared = None;
    while done < steps.len() {
        let step = &steps[done];
        if let Some(journaled) = &step.journaled {
            progress.begin(done, journaled);
        }
        let ran = match (
            step.earlier.filter(|_| cleared != Some(done)),
            &step.journaled,
        ) {
            (Some(earlier), _) => {
                observer.started(done);
                let ran =
                    leftover_index::clear_away(session, step, earlier, done, &orders, observer)
                        .await;
                cleared = ran.is_ok().then_some(done);
                ran
            }
            (None, Some(journaled)) => {
                attempts.begin(done);
                let (before, left) = (progress.done(), attempts.left(step.lock_wait));
                let ran = journaled::run(
                    session,
                    done,
                    step,
                    journaled,
                    left,
                    &mut progress,
                    &orders,
                    observer,
                )
                .await;
                if progress.done() != before {
                    attempts = StepAttempts::default(); // another part has its own patience
                }
                done += usize::from(ran.is_ok());
                ran
            }
            (None, None) => {
                let end = steps
                    .iter()
                    .skip(done + 1)
                    .position(|s| s.journaled.is_some() || s.earlier.is_some());
                let plain = &steps[..end.map_or(steps.len(), |n| done + 1 + n)];
                window::run(session, plain, &mut done, &mut attempts, &orders, observer).await
            }
        };
        let Err(broken) = ran else { continue };
        let session_lost = is_lost(session, &broken).await;
        let parts = progress.done_of(done);
        let conflict = match broken {
            broken if session_lost => {
                return Err(RunStopped {
                    done,
                    parts,
                    broken,
                    session_lost,
                });
            }
            // What ran outside a transaction and could not be recorded must not run again.
            StepError::Sql(ScriptError {
                undone: Some(UndoneExtent { stays: true, .. }),
                ..
            }) => {
                return Err(RunStopped {
                    done,
                    parts,
                    broken,
                    session_lost,
                });
            }
            // The script's locks, or a table of the ledger that a guard needs: the step was undone
            // either way.
            StepError::Sql(ScriptError { error, .. }) | StepError::Guard(error)
                if error.is_lock_conflict() =>
            {
                error
            }
            broken => {
                return Err(RunStopped {
                    done,
                    parts,
                    broken,
                    session_lost,
                });
            }
        };
        match attempts.next(done, steps[done].lock_wait) {
            Ok(delay) => {
                observer.retrying(done, attempts.count, &conflict, delay);
                pause(delay, orders.clone()).await;
                let left = attempts.left(steps[done].lock_wait);
                match operations::shorten_wait(session.ledger(), steps[done].id, left).await {
                    // The ledger is what is locked, or is locked as well: the next try says so.
                    Err(error) if error.is_lock_timeout() => {}
                    Err(error) => {
                        let broken = response::of_our_own(error);
                        let session_lost = matches!(broken, StepError::Lost(_));
                        return Err(RunStopped {
                            done,
                            parts,
                            broken,
                            session_lost,
                        });
                    }
                    Ok(()) => {}
                }
            }
            Err(waited) => {
                let broken = StepError::Locks {
                    error: conflict,
                    waited,
                };
                return Err(RunStopped {
                    done,
                    parts,
                    broken,
                    session_lost,
                });
            }
        }
    }
    Ok(())
}

/// Ends what a failed step left in its session. True: there is no session any more.
async fn is_lost(session: &LockedSession, broken: &StepError) -> bool {
    matches!(broken, StepError::Lost(_)) || session.clean().await.is_err()
}

/// Runs one step that is a transaction, once, and leaves that open: nothing of it is committed
/// before the caller does.
///
/// # Errors
/// Why it failed. The session is clean again unless it is lost.
pub(crate) async fn run_open(
    session: &mut LockedSession,
    step: &RunnableStep<'_>,
    orders: &RunControl,
    observer: &impl StepObserver,
) -> Result<(), RunStopped> {
    let begun = Instant::now();
    let Err(broken) = window::open(session, step, orders, observer).await else {
        return Ok(());
    };
    let session_lost = is_lost(session, &broken).await;
    let broken = match broken {
        StepError::Sql(failed) if failed.error.is_lock_conflict() => StepError::Locks {
            error: failed.error,
            waited: begun.elapsed(),
        },
        broken => broken,
    };
    Err(RunStopped {
        done: 0,
        parts: 0,
        broken,
        session_lost,
    })
}

/// The tries of one step.
#[derive(Default)]
struct StepAttempts {
    step: usize,
    count: u32,
    since: Option<Instant>,
}

impl StepAttempts {
    /// Step `step` begins, now unless it has begun before.
    fn begin(&mut self, step: usize) {
        if self.step != step || self.since.is_none() {
            *self = Self {
                step,
                count: 0,
                since: Some(Instant::now()),
            };
        }
    }

    /// The pause before the next try, or how long was tried when that would take it past
    /// `lock_wait`.
    fn next(&mut self, step: usize, lock_wait: Duration) -> Result<Duration, Duration> {
        self.begin(step);
        self.count += 1;
        let waited = self.since.map_or(Duration::ZERO, |since| since.elapsed());
        let ceiling = RETRY_DELAY
            .0
            .saturating_mul(1 << (self.count - 1).min(5))
            .min(RETRY_DELAY.1);
        // Between half and all of it, so that two who deadlocked do not meet again. The clock's
        // digits are random enough.
        let digits = std::time::SystemTime::UNIX_EPOCH
            .elapsed()
            .map_or(0, |t| t.subsec_nanos() / 100 % 1000);
        let delay = ceiling.mul_f64(0.5 + f64::from(digits) / 2000.0);
        if waited + delay < lock_wait {
            Ok(delay)
        } else {
            Err(waited)
        }
    }
}

impl StepAttempts {
    /// What is left of `lock_wait`.
    fn left(&self, lock_wait: Duration) -> Duration {
        lock_wait.saturating_sub(self.since.map_or(Duration::ZERO, |since| since.elapsed()))
    }
}

async fn pause(delay: Duration, mut orders: RunControl) {
    tokio::select! {
        () = tokio::time::sleep(delay) => {}
        () = orders.until_halted() => {}
    }
}
