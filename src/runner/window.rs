//! Steps that are one transaction each, several in flight. The first guard makes that safe:
//! whatever follows a failure is refused.

use std::{
    collections::VecDeque,
    pin::Pin,
    time::{Duration, Instant},
};

use futures_util::StreamExt as _;
use tokio_postgres::{SimpleQueryStream, error::SqlState};

use super::{
    RunControl, RunnableStep, StepAttempts, StepError, StepObserver,
    message::{self, MessagePreamble},
};
use crate::postgres::{lock::LockedSession, session::ServerNotice};
use crate::runner::response::{self, ServerResponse};

/// Steps in flight. Measured over a 20 ms link, 1,000 steps take 4.5 s with 32 and 25 s with 1;
/// more gains nothing.
const WINDOW: usize = 32;

/// Bytes in flight, so that large scripts are not all copied into the send buffer at once.
const WINDOW_BYTES: usize = 1 << 20;

/// A step that was sent and whose answer is awaited.
struct InFlightStep {
    index: usize,
    bytes: usize,
    /// What stands before its script.
    preamble: MessagePreamble,
    answer: Pin<Box<SimpleQueryStream>>,
}

/// Keeps a window of steps in flight from `done` on, until all are done or one fails; then nothing
/// is in flight any more.
pub(super) async fn run(
    session: &mut LockedSession,
    steps: &[RunnableStep<'_>],
    done: &mut usize,
    attempts: &mut StepAttempts,
    orders: &RunControl,
    observer: &impl StepObserver,
) -> Result<(), StepError> {
    let mut flight: VecDeque<InFlightStep> = VecDeque::new();
    let mut early = Vec::new();
    let mut next = *done;
    // A step was through before it could be cancelled, and so the cancel may meet another.
    let mut has_stray = false;
    loop {
        while let Some(step) = steps.get(next)
            && orders.halted().is_none()
            && (flight.is_empty() || flight.len() < WINDOW && in_flight(&flight) < WINDOW_BYTES)
        {
            let (message, preamble) =
                message::of(step, session.table_to_lock(), session.reset_sql());
            let answer = session
                .client()
                .simple_query_raw(&message)
                .await
                .map_err(|e| StepError::Lost(e.into()))?;
            flight.push_back(InFlightStep {
                index: next,
                bytes: message.len(),
                preamble,
                answer: Box::pin(answer),
            });
            next += 1;
        }
        let Some(sent) = flight.pop_front() else {
            return match orders.halted() {
                Some(halt) if *done < steps.len() => Err(StepError::Halted(halt)),
                _ => Ok(()),
            };
        };
        observer.started(sent.index);
        attempts.begin(sent.index);
        let begun = Instant::now();
        let patience = steps[sent.index].patience(attempts.left(steps[sent.index].lock_wait));
        match settle(
            session,
            sent,
            patience,
            orders.clone(),
            steps,
            &mut early,
            observer,
        )
        .await
        {
            Ok(CompletedStep {
                has_stray: is_late,
                took,
            }) => {
                has_stray |= is_late;
                *done += 1;
                observer.done(*done - 1, took.unwrap_or_else(|| begun.elapsed()));
            }
            Err(broken) => {
                // The rest is refused by the aborted transaction or by the first guard; nothing of
                // it runs. Only up to its first error: a lost connection's answers repeat that for
                // ever.
                for mut sent in flight {
                    while let Some(Ok(_)) = sent.answer.next().await {}
                }
                if has_stray && orders.halted().is_none() && is_cancel(&broken) {
                    return session.clean().await.map_err(StepError::Lost); // it is tried again
                }
                return Err(broken);
            }
        }
    }
}

/// Runs one step and leaves its transaction open.
pub(super) async fn open(
    session: &mut LockedSession,
    step: &RunnableStep<'_>,
    orders: &RunControl,
    observer: &impl StepObserver,
) -> Result<(), StepError> {
    let (message, preamble) = message::open(step, session.table_to_lock(), session.reset_sql());
    let answer = session
        .client()
        .simple_query_raw(&message)
        .await
        .map_err(|e| StepError::Lost(e.into()))?;
    let sent = InFlightStep {
        index: 0,
        bytes: message.len(),
        preamble,
        answer: Box::pin(answer),
    };
    let (patience, steps) = (step.patience(step.lock_wait), std::slice::from_ref(step));
    settle(
        session,
        sent,
        patience,
        orders.clone(),
        steps,
        &mut Vec::new(),
        observer,
    )
    .await
    .map(|_| ())
}

fn in_flight(flight: &VecDeque<InFlightStep>) -> usize {
    flight.iter().map(|sent| sent.bytes).sum()
}

fn is_cancel(broken: &StepError) -> bool {
    match broken {
        StepError::Sql(failed) => failed.error.is(&SqlState::QUERY_CANCELED),
        StepError::Guard(error) => error.is(&SqlState::QUERY_CANCELED),
        _ => false,
    }
}

/// A step that is through.
struct CompletedStep {
    /// A cancel that was meant for it is under way.
    has_stray: bool,
    /// How long it took, as the server sees it.
    took: Option<Duration>,
}

/// Reads one step's answer to its end, and tells what it means.
async fn settle(
    session: &mut LockedSession,
    mut sent: InFlightStep,
    patience: Option<Duration>,
    orders: RunControl,
    steps: &[RunnableStep<'_>],
    early: &mut Vec<ServerNotice>,
    observer: &impl StepObserver,
) -> Result<CompletedStep, StepError> {
    let index = sent.index;
    // What a later step has already said waits for its turn.
    let said_before = std::mem::take(early);
    let in_flight = steps.iter().skip(index + 1).take(WINDOW);
    let mut hear = |notice: ServerNotice| {
        if in_flight.clone().any(|later| notice.step == Some(later.id)) {
            early.push(notice)
        } else {
            observer.notice(index, notice)
        }
    };
    said_before.into_iter().for_each(&mut hear);
    let received =
        response::receive(session, sent.answer.as_mut(), patience, orders, &mut hear).await;
    if let Some(notice) = session.take_left_out(steps[index].id) {
        observer.notice(index, notice);
    }
    let ServerResponse {
        statements,
        ended,
        result,
        took,
    } = received;
    match result {
        Ok(()) => Ok(CompletedStep {
            has_stray: ended.is_some(),
            took,
        }),
        Err(error) => Err(response::broken(error, ended, statements, sent.preamble)),
    }
}
