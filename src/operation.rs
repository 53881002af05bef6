//! An operation is one Apply, Rollback, Resolve or SignLedger. It belongs to the daemon: `submit`
//! spawns it and hands out its log, and whoever follows the log can go away and come back without
//! changing anything.

mod accept;
mod attach;
mod audit;
mod cancel;
mod event;
pub(crate) mod events;
pub(crate) mod execute;
mod failed;
pub(crate) mod lock_holder;
pub(crate) mod lock_monitor;
mod locked;
mod prepare;
pub(crate) mod refresh;
pub(crate) mod registry;
mod rehearsed;
mod request;
mod signed;
pub(crate) mod text_encoding;
mod watch;
pub(crate) mod watchers;

pub(crate) use event::{LogEntry, OperationEvent, PlannedStep, StepName};
pub(crate) use events::{LogFollower, NextEvent, OperationLog};
pub(crate) use lock_holder::LockHolder;
pub(crate) use lock_monitor::SideSession;
pub(crate) use registry::{OperationDeps, Operations};
pub use request::OperationRequest;
pub(crate) use request::{LOCK_TIMEOUT, OperationAction};
pub(crate) use signed::{signed_texts, unverified};
pub(crate) use text_encoding::{holds_everything, unfit_pending};
