//! Runs the steps of an operation, each as one message, several in flight. The guards in the ledger make that safe: a step
//! begins only when the one before it is applied and the lock is still ours, so whatever follows a failure is refused.

mod explain;
mod message;

use std::{
    collections::VecDeque,
    pin::Pin,
    time::{Duration, Instant},
};

use futures_util::StreamExt as _;
use tokio::sync::watch;
use tokio_postgres::{NoTls, SimpleQueryMessage, SimpleQueryStream, error::SqlState};

pub use explain::explain;

use crate::{
    db::{Error, SqlError, lock::LockedSession, session::Notice},
    shutdown::Phase,
};

/// Steps in flight. Measured over a 20 ms link, 1,000 steps take 4.5 s with 32 and 25 s with 1; more gains nothing.
const WINDOW: usize = 32;

/// Bytes in flight, so that large scripts are not all copied into the send buffer at once.
const WINDOW_BYTES: usize = 1 << 20;

/// The pause before a step is tried again, doubled each time up to the second.
const RETRY_DELAY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));

/// How often a running statement is asked to stop. A cancel can arrive between two statements and hit neither.
const CANCEL_AGAIN: Duration = Duration::from_millis(200);

/// A step to run: its row's id and its script.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// schemad.steps.id.
    pub id: i64,
    /// The script.
    pub sql: &'a str,
}

/// Told what happens, in order. Must not block.
pub trait Observer {
    /// Step `index` begins.
    fn started(&self, index: usize);
    /// Step `index` is committed.
    fn done(&self, index: usize, took: Duration);
    /// The server said something while step `index` ran.
    fn notice(&self, index: usize, notice: Notice);
    /// Step `index` could not get its locks, was undone and is tried again after `delay`.
    fn retrying(&self, index: usize, attempt: u32, error: &SqlError, delay: Duration);
}

/// The steps before `done` are committed, the rest are not (after [`Broken::Lost`] that is not known).
#[derive(Debug)]
pub struct Stopped {
    /// How many are committed.
    pub done: usize,
    /// Why the next is not.
    pub broken: Broken,
}

/// Why a step was not committed.
#[derive(Debug)]
pub enum Broken {
    /// The server refused a statement.
    Sql(ScriptError),
    /// Its locks could not be had in time.
    Locks {
        /// The last refusal.
        error: SqlError,
        /// How long was tried.
        waited: Duration,
    },
    /// It was told to stop.
    Stopped,
    /// The server refused BEGIN or the first guard: nothing of the script ran.
    Guard(SqlError),
    /// The session is gone.
    Lost(Error),
}

/// A refused statement and which one it was.
#[derive(Debug)]
pub struct ScriptError {
    /// What the server said.
    pub error: SqlError,
    /// Statements of the script that were through, as the server counted them.
    pub statements_done: usize,
    /// Characters of the message before the script.
    pub preamble: usize,
}

/// Runs `steps` in order; `lock_wait` is how long one may go on retrying for its locks. [`Phase::Stopping`] ends it at a commit boundary:
/// the running statement is cancelled and its step undone.
///
/// Dropping the future leaves up to a window of steps running on the server until the session is dropped too.
///
/// # Errors
/// [`Stopped`] says how many are committed and why the next is not. The session is clean again unless it is lost.
pub async fn run(
    session: &mut LockedSession,
    steps: &[Step<'_>],
    lock_wait: Duration,
    stop: watch::Receiver<Phase>,
    observer: &impl Observer,
) -> Result<(), Stopped> {
    let mut done = 0;
    let mut attempts = Attempts::default();
    while done < steps.len() {
        let error = match run_window(session, steps, &mut done, &mut attempts, &stop, observer).await {
            Ok(()) => return Ok(()),
            Err(broken) => broken,
        };
        let broken = match error {
            Broken::Lost(_) => return Err(Stopped { done, broken: error }),
            error => match session.clean().await {
                Ok(()) => error,
                Err(lost) => return Err(Stopped { done, broken: Broken::Lost(lost) }),
            },
        };
        match broken {
            Broken::Sql(failed) if failed.error.is_lock_conflict() => match attempts.next(done, lock_wait) {
                Ok(delay) => {
                    observer.retrying(done, attempts.count, &failed.error, delay);
                    pause(delay, stop.clone()).await;
                }
                Err(waited) => {
                    return Err(Stopped { done, broken: Broken::Locks { error: failed.error, waited } });
                }
            },
            broken => return Err(Stopped { done, broken }),
        }
    }
    Ok(())
}

/// The tries of one step.
#[derive(Default)]
struct Attempts {
    step: usize,
    count: u32,
    since: Option<Instant>,
}

impl Attempts {
    /// Step `step` begins, now unless it has begun before.
    fn begin(&mut self, step: usize) {
        if self.step != step || self.since.is_none() {
            *self = Self { step, count: 0, since: Some(Instant::now()) };
        }
    }

    /// The pause before the next try, or how long was tried when that would take it past `lock_wait`.
    fn next(&mut self, step: usize, lock_wait: Duration) -> Result<Duration, Duration> {
        self.begin(step);
        self.count += 1;
        let waited = self.since.map_or(Duration::ZERO, |since| since.elapsed());
        let ceiling = RETRY_DELAY.0.saturating_mul(1 << (self.count - 1).min(5)).min(RETRY_DELAY.1);
        // Between half and all of it, so that two who deadlocked do not meet again. The clock's digits are random enough.
        let digits = std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |t| t.subsec_nanos() / 100 % 1000);
        let delay = ceiling.mul_f64(0.5 + f64::from(digits) / 2000.0);
        if waited + delay < lock_wait { Ok(delay) } else { Err(waited) }
    }
}

async fn pause(delay: Duration, mut stop: watch::Receiver<Phase>) {
    tokio::select! {
        () = tokio::time::sleep(delay) => {}
        () = stopped(&mut stop) => {}
    }
}

fn must_stop(phases: &watch::Receiver<Phase>) -> bool {
    *phases.borrow() >= Phase::Stopping
}

/// Returns when the operation has to end. A sender that is gone will not say so any more: then never.
async fn stopped(stop: &mut watch::Receiver<Phase>) {
    if stop.wait_for(|phase| *phase >= Phase::Stopping).await.is_err() {
        std::future::pending().await
    }
}

/// A step that was sent and whose answer is awaited.
struct Sent {
    index: usize,
    bytes: usize,
    answer: Pin<Box<SimpleQueryStream>>,
}

/// Keeps a window of steps in flight from `done` on, until all are done or one fails; then nothing is in flight any more.
async fn run_window(
    session: &mut LockedSession,
    steps: &[Step<'_>],
    done: &mut usize,
    attempts: &mut Attempts,
    stop: &watch::Receiver<Phase>,
    observer: &impl Observer,
) -> Result<(), Broken> {
    let mut flight: VecDeque<Sent> = VecDeque::new();
    let mut early = Vec::new();
    let mut next = *done;
    loop {
        while let Some(step) = steps.get(next)
            && !must_stop(stop)
            && (flight.is_empty() || flight.len() < WINDOW && in_flight(&flight) < WINDOW_BYTES)
        {
            let message = message::of(step, session.server_major());
            let answer = session.client().simple_query_raw(&message).await.map_err(|e| Broken::Lost(e.into()))?;
            flight.push_back(Sent { index: next, bytes: message.len(), answer: Box::pin(answer) });
            next += 1;
        }
        let Some(sent) = flight.pop_front() else {
            return if must_stop(stop) && *done < steps.len() { Err(Broken::Stopped) } else { Ok(()) };
        };
        observer.started(sent.index);
        attempts.begin(sent.index);
        let begun = Instant::now();
        match answer(session, sent, stop.clone(), steps, &mut early, observer).await {
            Ok(()) => {
                *done += 1;
                observer.done(*done - 1, begun.elapsed());
            }
            Err(broken) => {
                // The rest is refused by the aborted transaction or by the first guard; nothing of it runs.
                for sent in flight {
                    let _ = sent.answer.count().await;
                }
                return Err(broken);
            }
        }
    }
}

fn in_flight(flight: &VecDeque<Sent>) -> usize {
    flight.iter().map(|sent| sent.bytes).sum()
}

/// Reads one step's answer to its end. Rows are dropped as they come, so memory stays flat.
async fn answer(
    session: &mut LockedSession,
    mut sent: Sent,
    mut stop: watch::Receiver<Phase>,
    steps: &[Step<'_>],
    early: &mut Vec<Notice>,
    observer: &impl Observer,
) -> Result<(), Broken> {
    let mut commands = 0_usize;
    let mut stopping = false;
    let result = loop {
        let message = tokio::select! {
            message = sent.answer.next() => message,
            () = stopped(&mut stop), if !stopping => { stopping = true; continue }
            () = cancel(session), if stopping => continue,
        };
        match message {
            Some(Ok(SimpleQueryMessage::CommandComplete(_))) => commands += 1,
            Some(Ok(_)) => {}
            Some(Err(error)) => break Err(Error::from(error)),
            None => break Ok(()),
        }
    };
    early.extend(session.take_notices());
    // What a later step has already said waits for its turn.
    for notice in std::mem::take(early) {
        match steps[sent.index + 1..].iter().any(|later| notice.step == Some(later.id)) {
            true => early.push(notice),
            false => observer.notice(sent.index, notice),
        }
    }
    match result {
        Ok(()) => Ok(()),
        Err(Error::Sql(error)) if stopping && error.is(&SqlState::QUERY_CANCELED) => Err(Broken::Stopped),
        // A syntax error anywhere comes before the first command, but it points into the script.
        Err(Error::Sql(error))
            if commands < message::PREAMBLE_STATEMENTS
                && error.position.is_none_or(|at| at <= message::preamble_length())
                && !error.sqlstate.starts_with("SCH") =>
        {
            Err(Broken::Guard(*error))
        }
        Err(Error::Sql(error)) if error.sqlstate == "SCH02" => Err(Broken::Lost(Error::Lost(error.to_string()))),
        Err(Error::Sql(error)) => Err(Broken::Sql(ScriptError {
            error: *error,
            statements_done: commands.saturating_sub(message::PREAMBLE_STATEMENTS),
            preamble: message::preamble_length(),
        })),
        Err(lost) => Err(Broken::Lost(lost)),
    }
}

/// Asks the server to cancel what runs, and waits a little.
async fn cancel(session: &LockedSession) {
    // A cancel that does not arrive is sent again; a server that is gone shows in the answer.
    let _ = session.client().cancel_token().cancel_query(NoTls).await;
    tokio::time::sleep(CANCEL_AGAIN).await;
}
