//! Reads what the server answers to one message.

use std::{pin::Pin, time::Duration};

use futures_util::StreamExt as _;
use tokio_postgres::{SimpleQueryMessage, SimpleQueryRow, SimpleQueryStream, error::SqlState};

use super::{
    RunControl, ScriptError, StepError, StopReason,
    message::{self, MessagePreamble},
};
use crate::{
    failure::is_damage,
    postgres::{
        DatabaseError, SqlError,
        lock::LockedSession,
        session::{QueryCanceller, ServerNotice},
    },
};

/// How often a running statement is asked to stop. A cancel can arrive between two statements and
/// hit neither.
const CANCEL_AGAIN: Duration = Duration::from_millis(200);

/// An answer that was read to its end.
pub(super) struct ServerResponse {
    /// Statements that were through.
    pub statements: usize,
    /// Why the server was asked to cancel meanwhile, if it was.
    pub ended: Option<CancelCause>,
    pub result: Result<(), DatabaseError>,
    /// How long the step took that this message has finished, as the server sees it.
    pub took: Option<Duration>,
}

/// Why the server was asked to cancel.
pub(super) enum CancelCause {
    /// The operation has to end.
    Halted(StopReason),
    /// It waited too long for locks.
    Impatient(Duration),
}

/// Reads an answer to its end. Rows are dropped as they come, so memory stays flat. Which statement
/// of a message runs cannot be told meanwhile: the server keeps what it has to say until its buffer
/// is full or the message is through. `patience` is how long it may wait for locks; none: its
/// lock_timeout says so. What the server says meanwhile goes to `hear` at once.
pub(super) async fn receive(
    session: &mut LockedSession,
    mut answer: Pin<&mut SimpleQueryStream>,
    patience: Option<Duration>,
    mut orders: RunControl,
    hear: &mut impl FnMut(ServerNotice),
) -> ServerResponse {
    let mut impatient = orders.clone();
    impatient.wait.mark_unchanged();
    let canceller = session.canceller();
    let (mut statements, mut ended, mut took) = (0_usize, None, None);
    let result = loop {
        let message = tokio::select! {
            message = answer.next() => message,
            notice = session.next_notice() => {
                hear(notice);
                continue;
            }
            () = orders.until_halted(), if ended.is_none() => { ended = orders.halted().map(CancelCause::Halted); continue }
            () = impatient.until_impatient(patience), if ended.is_none() => {
                ended = Some(CancelCause::Impatient(impatient.wait.borrow().waited));
                continue
            }
            () = cancel(&canceller), if ended.is_some() => continue,
        };
        match message {
            Some(Ok(SimpleQueryMessage::CommandComplete(_))) => statements += 1,
            Some(Ok(SimpleQueryMessage::Row(row))) => took = duration(&row).or(took),
            Some(Ok(_)) => {}
            Some(Err(error)) => break Err(DatabaseError::from(error)),
            None => break Ok(()),
        }
    };
    session.take_notices().into_iter().for_each(hear);
    ServerResponse {
        statements,
        ended,
        result,
        took,
    }
}

/// What the row of a finished step says of the time that it took.
fn duration(row: &SimpleQueryRow) -> Option<Duration> {
    let last = row
        .columns()
        .last()
        .filter(|column| column.name() == message::TOOK)?;
    let seconds: f64 = row.try_get(last.name()).ok()??.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

/// What an error means that came after `statements` of a message whose script begins after
/// `preamble`.
pub(super) fn broken(
    error: DatabaseError,
    ended: Option<CancelCause>,
    statements: usize,
    preamble: MessagePreamble,
) -> StepError {
    match (error, ended) {
        (DatabaseError::Sql(error), Some(ended)) if error.is(&SqlState::QUERY_CANCELED) => {
            match ended {
                CancelCause::Impatient(waited) => StepError::Locks {
                    error: *error,
                    waited,
                },
                CancelCause::Halted(halt) => StepError::Halted(halt),
            }
        }
        // The ledger or Diesel's table is not as it was planned, or not as it was made; no script
        // does that.
        (DatabaseError::Sql(error), _) if is_of_a_guard(&error) => StepError::Guard(*error),
        // A syntax error anywhere comes before the first command, but it points into the script.
        (DatabaseError::Sql(error), _)
            if statements < preamble.statements
                && error.position.is_none_or(|at| at <= preamble.characters)
                && !error.sqlstate.starts_with("SCH") =>
        {
            StepError::Guard(*error)
        }
        (DatabaseError::Sql(error), _)
            if error.sqlstate == "SCH02"
                && error
                    .context
                    .as_deref()
                    .is_some_and(|c| c.contains(message::BEGIN_STEP)) =>
        {
            StepError::Lost(DatabaseError::Lost(error.to_string()))
        }
        (DatabaseError::Sql(error), _) => StepError::Sql(ScriptError {
            error: *error,
            statements_done: statements.saturating_sub(preamble.statements),
            preamble: preamble.characters,
            undone: None,
        }),
        (lost, _) => StepError::Lost(lost),
    }
}

/// One of the ledger's functions was refused, and not for what the script did: it may have dropped
/// or moved something, but it adds no constraint.
fn is_of_a_guard(error: &SqlError) -> bool {
    let is_in_a_guard = || {
        error
            .context
            .as_deref()
            .is_some_and(|context| context.contains("function schemad."))
    };
    match error.sqlstate.as_str() {
        "SCH07" | "SCH08" => true,
        "SCH01" => is_in_a_guard(),
        state => state.starts_with("23") && is_damage(error) && is_in_a_guard(),
    }
}

/// What schemad's own statements are refused with is no error of the script's.
pub(super) fn of_our_own(error: impl Into<DatabaseError>) -> StepError {
    broken(
        error.into(),
        None,
        0,
        MessagePreamble {
            statements: 1,
            characters: usize::MAX,
        },
    )
}

/// Asks the server to cancel what runs, and waits a little.
async fn cancel(canceller: &QueryCanceller) {
    canceller.cancel().await;
    tokio::time::sleep(CANCEL_AGAIN).await;
}
