//! An operation is one Apply, Rollback, Resolve or SignLedger. It belongs to the daemon: `submit`
//! spawns it and hands out its log, and whoever follows the log can go away and come back without
//! changing anything.

mod accept;
mod attach;
mod audit;
mod cancel;
mod encoding;
mod event;
mod failed;
mod holder;
mod locked;
mod log;
mod onlooker;
mod open;
mod prepare;
mod rehearsed;
mod request;
mod run;
mod signed;
mod watch;

pub use encoding::{holds_everything, unfit_pending};
pub use event::{Entry, Event, PlannedStep, StepName};
pub use holder::Holder;
pub use log::{Follower, Log, Next};
pub use onlooker::Side;
pub use open::{Operations, Parts};
pub use request::{Action, LOCK_TIMEOUT, Request};
pub use signed::{signed_texts, unverified};
