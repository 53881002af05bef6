//! An operation is one Apply or Rollback. It belongs to the daemon: `submit` spawns it and hands out its log, and whoever
//! follows the log can go away and come back without changing anything.

mod accept;
mod attach;
mod cancel;
mod log;
mod onlooker;
mod prepare;
mod request;
mod run;
mod watch;

pub use accept::{Operations, Parts};
pub use log::{Entry, Event, Follower, Log, Next, StepName};
pub use onlooker::Side;
pub use request::{Action, LOCK_TIMEOUT, Request};
