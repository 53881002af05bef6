//! Reads what the server answers to one message.

use std::{pin::Pin, time::Duration};

use futures_util::StreamExt as _;
use tokio::sync::watch;
use tokio_postgres::{SimpleQueryMessage, SimpleQueryStream, error::SqlState};

use super::{Broken, ScriptError, message, stopped};
use crate::{
    db::{Error, lock::LockedSession},
    shutdown::Phase,
};

/// How often a running statement is asked to stop. A cancel can arrive between two statements and hit neither.
const CANCEL_AGAIN: Duration = Duration::from_millis(200);

/// An answer that was read to its end.
pub(super) struct Received {
    /// Statements that were through.
    pub statements: usize,
    /// It was told to stop meanwhile.
    pub stopping: bool,
    pub result: Result<(), Error>,
}

/// Reads an answer to its end. Rows are dropped as they come, so memory stays flat. Which statement of a message runs cannot be
/// told meanwhile: the server keeps what it has to say until its buffer is full or the message is through.
pub(super) async fn receive(
    session: &LockedSession,
    mut answer: Pin<&mut SimpleQueryStream>,
    mut stop: watch::Receiver<Phase>,
) -> Received {
    let (mut statements, mut stopping) = (0_usize, false);
    let result = loop {
        let message = tokio::select! {
            message = answer.next() => message,
            () = stopped(&mut stop), if !stopping => { stopping = true; continue }
            () = cancel(session), if stopping => continue,
        };
        match message {
            Some(Ok(SimpleQueryMessage::CommandComplete(_))) => statements += 1,
            Some(Ok(_)) => {}
            Some(Err(error)) => break Err(Error::from(error)),
            None => break Ok(()),
        }
    };
    Received { statements, stopping, result }
}

/// What an error means that came after `statements` of a message whose script begins after `preamble` characters.
pub(super) fn broken(error: Error, stopping: bool, statements: usize, preamble: usize) -> Broken {
    match error {
        Error::Sql(error) if stopping && error.is(&SqlState::QUERY_CANCELED) => Broken::Stopped,
        // A syntax error anywhere comes before the first command, but it points into the script.
        Error::Sql(error)
            if statements < message::PREAMBLE_STATEMENTS
                && error.position.is_none_or(|at| at <= preamble)
                && !error.sqlstate.starts_with("SCH") =>
        {
            Broken::Guard(*error)
        }
        Error::Sql(error)
            if error.sqlstate == "SCH02" && error.context.as_deref().is_some_and(|c| c.contains("begin_step_v1")) =>
        {
            Broken::Lost(Error::Lost(error.to_string()))
        }
        Error::Sql(error) => Broken::Sql(ScriptError {
            error: *error,
            statements_done: statements.saturating_sub(message::PREAMBLE_STATEMENTS),
            preamble,
        }),
        lost => Broken::Lost(lost),
    }
}

/// What schemad's own statements are refused with is no error of the script's.
pub(super) fn of_our_own(error: impl Into<Error>) -> Broken {
    broken(error.into(), false, 0, usize::MAX)
}

/// Asks the server to cancel what runs, and waits a little.
async fn cancel(session: &LockedSession) {
    session.cancel().await;
    tokio::time::sleep(CANCEL_AGAIN).await;
}
