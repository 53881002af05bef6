//! An operation's log as a response stream: its events, heartbeats between them, and its result as
//! the final status.

use std::{
    pin::Pin,
    time::{Duration, SystemTime},
};

use futures_util::stream::{self, Stream};
use tonic::Status;

use super::convert;
use crate::operation::{LogFollower, NextEvent, OperationEvent};
use crate::{failure::status, pb};

/// Proxies cut a stream that is silent for longer; Envoy's default for a route is 15 s to the first
/// byte.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(15);

/// What the streaming methods return, before it is wrapped into their own response types.
pub(super) type OperationEvents =
    Pin<Box<dyn Stream<Item = Result<pb::OperationEvent, Status>> + Send>>;

/// How a stream ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum StreamEnd {
    /// With the operation's result as its status.
    AsTheOperation,
    /// With OK: the result is in the last event.
    Well,
    /// With OK as soon as the operation is accepted.
    Accepted,
}

/// Follows a log to its end. Dropping the stream changes nothing for the operation.
pub(super) fn follow(follower: LogFollower, ends: StreamEnd) -> OperationEvents {
    Box::pin(stream::unfold(Some((follower, ends)), async |state| {
        let (mut follower, ends) = state?;
        match tokio::time::timeout(HEARTBEAT, follower.next()).await {
            Ok(NextEvent::Event(operation, entry)) => {
                let last = ends == StreamEnd::Accepted
                    && matches!(entry.event, OperationEvent::Accepted { .. });
                Some((
                    Ok(convert::event(operation, &entry)),
                    (!last).then_some((follower, ends)),
                ))
            }
            Ok(NextEvent::End(Ok(()))) => None,
            // An operation's own failure names it; any other is of the following.
            Ok(NextEvent::End(Err(failure)))
                if ends == StreamEnd::Well && failure.metadata.contains_key("operation") =>
            {
                None
            }
            Ok(NextEvent::End(Err(failure))) => {
                Some((Err(status::status_from_failure(&failure)), None))
            }
            Err(_) => {
                let beat = pb::operation_event::Event::Heartbeat(pb::Heartbeat {});
                Some((
                    Ok(convert::message(None, 0, SystemTime::now(), beat)),
                    Some((follower, ends)),
                ))
            }
        }
    }))
}
