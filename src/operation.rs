//! An operation is one Apply or Rollback. It belongs to the daemon: `submit` spawns it and hands out its log, and whoever
//! follows the log can go away and come back without changing anything.

mod accept;
mod attach;
mod log;
mod prepare;
mod request;
mod run;

pub use accept::Operations;
pub use log::{Entry, Event, Follower, Log, Next, StepName};
pub use prepare::validate;
pub use request::{Action, Request};
