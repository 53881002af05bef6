//! An operation's log as a response stream: its events, heartbeats between them, and its result as the final status.

use std::{
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::stream::{self, Stream};
use tonic::Status;

use super::{convert, pb, status};
use crate::operation::{Log, Next};

/// Proxies cut a stream that is silent for longer; Envoy's default for a route is 15 s to the first byte.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// What Apply and Rollback return, before it is wrapped into their own response types.
pub type Events = Pin<Box<dyn Stream<Item = Result<pb::OperationEvent, Status>> + Send>>;

/// Follows a log to its end. Dropping the stream changes nothing for the operation.
pub fn follow(log: &Arc<Log>) -> Events {
    let follower = log.follow();
    Box::pin(stream::unfold(Some(follower), async |state| {
        let mut follower = state?;
        match tokio::time::timeout(HEARTBEAT, follower.next()).await {
            Ok(Next::Event(operation, entry)) => Some((Ok(convert::event(operation, &entry)), Some(follower))),
            Ok(Next::End(Ok(()))) => None,
            Ok(Next::End(Err(failure))) => Some((Err(status::from_failure(&failure)), None)),
            Err(_) => {
                let beat = pb::operation_event::Event::Heartbeat(pb::Heartbeat {});
                Some((Ok(convert::message(None, 0, SystemTime::now(), beat)), Some(follower)))
            }
        }
    }))
}
