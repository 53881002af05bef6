//! Follows an operation to its result. Only a status that schemad made is a result; anything else
//! (a proxy's deadline, a lost connection) says nothing, and the same request is sent again.

use std::time::{Duration, Instant};

use tonic::{Code, Status};

use super::{OperateArgs, RepeatableCall, show};
use crate::cli::client::operate::progress::ProgressDisplay;
use crate::{
    cli::{
        exit::{self, CommandExit},
        output::{self, OutputFormat, line, progress},
    },
    failure::Reason,
    pb::{self, operation_event::Event},
};

/// Between tries.
const RETRY: Duration = Duration::from_millis(300);

/// How long to try an address at which nobody has answered yet: a daemon that restarts, not a wrong
/// address.
const FIRST_CONTACT: Duration = Duration::from_secs(5);

/// What is known of the operation so far.
struct OperationProgress {
    operation: Option<String>,
    /// Of the state changes that were shown.
    last_sequence: i64,
    reached: bool,
    /// The request was named, and is that of an operation which was accepted before.
    is_repeated: bool,
    /// It was interrupted and asked for anew.
    renewed: bool,
    live: ProgressDisplay,
}

/// Sends the request until its result is known, shows what happens, and returns how to exit.
pub(crate) async fn follow(operate: &OperateArgs, mut call: RepeatableCall) -> CommandExit {
    let mut known = OperationProgress {
        operation: None,
        last_sequence: 0,
        reached: false,
        is_repeated: false,
        renewed: false,
        live: ProgressDisplay::new(),
    };
    let exit = tokio::select! {
        exit = until_known(operate, &mut call, &mut known) => {
            known.live.clear();
            return exit;
        }
        signal = tokio::signal::ctrl_c() => signal.err().map_or_else(
            || CommandExit::interrupted(""),
            |error| CommandExit::unknown(format!("cannot wait for Ctrl-C: {error}")),
        ),
    };
    known.live.interrupted();
    if let Some(operation) = &known.operation {
        show::left(operation);
    }
    exit
}

async fn until_known(
    operate: &OperateArgs,
    call: &mut RepeatableCall,
    known: &mut OperationProgress,
) -> CommandExit {
    let address = &operate.common.address;
    let mut lost_since: Option<Instant> = None;
    loop {
        let status = match once(operate, call, known, &mut lost_since).await {
            Ok(exit) => return exit,
            Err(status) => status,
        };
        if is_result(&status, known) {
            let interrupted =
                exit::reason(&status).as_deref() == Some(Reason::Interrupted.as_str());
            if interrupted
                && known.operation.is_some()
                && !known.renewed
                && !operate.reconnect.is_zero()
            {
                call.renew();
                known.renewed = true;
                (known.operation, known.last_sequence) = (None, 0);
                known.live.above(|| {
                    progress(&format!(
                        "{}; asking once more, as request {}",
                        line(status.message()),
                        call.request_id()
                    ));
                });
                continue;
            }
            if operate.common.output == OutputFormat::Json {
                return exit::json_error(&status);
            }
            let exit = address.explain(&status);
            if known.is_repeated {
                return exit.adding(
                    "\n  The operation of this request id was accepted before, and the same id \
                     never begins another: leave --request-id out, or give another, to try again",
                );
            }
            let is_busy = exit::reason(&status).as_deref() == Some(Reason::Busy.as_str());
            return if is_busy && operate.queue_timeout.is_none() {
                exit.adding("; --queue-timeout 10m waits for it")
            } else {
                exit
            };
        }
        let since = *lost_since.get_or_insert_with(Instant::now);
        let patience = if known.reached {
            operate.reconnect
        } else {
            FIRST_CONTACT.min(operate.reconnect)
        };
        if since.elapsed() >= patience {
            let Some(operation) = &known.operation else {
                return address.explain(&status);
            };
            return CommandExit::unknown(format!(
                "lost the daemon at {} and could not reach it for {patience:?} ({}). Operation \
                 {operation} may have ended either way: `schemad watch {operation}` tells, and \
                 --request-id {} repeats the question",
                address.address,
                status.message(),
                call.request_id()
            ));
        }
        if since.elapsed() < RETRY && known.reached {
            let why = match exit::reason(&status) {
                Some(_) => line(status.message()),
                None => format!("lost the connection ({})", line(status.message())),
            };
            known
                .live
                .above(|| progress(&format!("{why}; asking again")));
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Sends the request once and follows the answer.
async fn once(
    operate: &OperateArgs,
    call: &RepeatableCall,
    known: &mut OperationProgress,
    lost_since: &mut Option<Instant>,
) -> Result<CommandExit, Status> {
    let mut client = match operate.common.address.client() {
        Ok(client) => client,
        Err(exit) => return Ok(exit),
    };
    let mut events = call.send(&mut client).await?;
    known.reached = true;
    let (mut finished, mut behind) = (false, known.last_sequence > 0);
    while let Some(event) = events.next().await? {
        let detached = operate.detach && matches!(event.event, Some(Event::Accepted(_)));
        if detached || matches!(event.event, Some(Event::Finished(_) | Event::Planned(_))) {
            finished = true;
        }
        if matches!(event.event, Some(Event::Heartbeat(_))) {
            *lost_since = None;
            continue;
        }
        if let Some(Event::Accepted(accepted)) = &event.event {
            known.is_repeated |=
                known.operation.is_none() && accepted.repeated && operate.request_id.is_some();
        }
        if !event.operation.is_empty() {
            known.operation = Some(event.operation.clone());
        }
        // After a lost connection everything comes again from the beginning: what was shown, and
        // what was live before it.
        if behind {
            behind = event.sequence < known.last_sequence;
            continue;
        }
        *lost_since = None;
        known.last_sequence = event.sequence.max(known.last_sequence);
        match operate.common.output {
            OutputFormat::Table => {
                known.live.event(&event);
                known.live.above(|| show::event(&event));
            }
            OutputFormat::Json => {
                let name = events.message_name();
                let shown = match call {
                    RepeatableCall::Apply(_) => output::json(
                        &pb::ApplyResponse {
                            event: Some(event.clone()),
                        },
                        name,
                    ),
                    RepeatableCall::Rollback(_) => output::json(
                        &pb::RollbackResponse {
                            event: Some(event.clone()),
                        },
                        name,
                    ),
                };
                if let Err(exit) = shown {
                    return Ok(exit);
                }
                // It has been done, whether a program could read so or not.
                if matches!(event.event, Some(Event::Finished(_))) && !output::is_printed() {
                    show::event(&event);
                }
            }
        }
    }
    // A stream that ends well without its last event was cut by something in between.
    if finished {
        Ok(CommandExit::DONE)
    } else {
        Err(Status::unavailable("the stream ended early"))
    }
}

/// Does this status say how the request ended?
fn is_result(status: &Status, known: &OperationProgress) -> bool {
    match exit::reason(status) {
        // The operation's own result.
        Some(_) if exit::operation(status).is_some() => true,
        // Another daemon, or the next at this address, will answer.
        Some(reason) if reason == Reason::ShuttingDown.as_str() => false,
        // Once the operation was accepted, whatever does not name one says nothing of it.
        _ if known.operation.is_some() => false,
        // schemad refused.
        Some(_) => true,
        // Something in between.
        None => !matches!(
            status.code(),
            Code::Unavailable
                | Code::DeadlineExceeded
                | Code::Unknown
                | Code::Cancelled
                | Code::Internal
                | Code::Aborted
        ),
    }
}
