//! What a running operation is told from outside: that it has to end, and what its session waits
//! for.

use std::time::Duration;

use tokio::sync::watch;

use crate::postgres::activity::Blocker;

/// Why a running operation has to end at the next commit boundary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// Its daemon shuts down, and the grace is over.
    Shutdown,
    /// Somebody cancelled it: who.
    Cancelled(String),
}

/// What a second connection saw the session wait for.
#[derive(Clone, Debug, Default)]
pub struct LockWait {
    /// Of the migration that waits, or waited last.
    pub version: String,
    /// How long the running statement has waited for locks, all in all.
    pub waited: Duration,
    /// Whom it waits for, or waited for last.
    pub blockers: Vec<Blocker>,
}

/// The orders for one operation.
#[derive(Clone, Debug)]
pub struct RunControl {
    /// Set once, when it has to end.
    pub halt: watch::Receiver<Option<StopReason>>,
    /// What its session waits for.
    pub wait: watch::Receiver<LockWait>,
}

impl RunControl {
    /// Why it has to end, if it has to.
    pub fn halted(&self) -> Option<StopReason> {
        self.halt.borrow().clone()
    }

    /// Returns when the operation has to end. A sender that is gone will not say so any more: then
    /// never.
    pub async fn until_halted(&mut self) {
        if self.halt.wait_for(Option::is_some).await.is_err() {
            std::future::pending().await
        }
    }

    /// Returns when the running statement has waited for locks longer than `patience`. What is seen
    /// first may be of the statement before.
    pub async fn until_impatient(&mut self, patience: Option<Duration>) {
        let Some(patience) = patience else {
            return std::future::pending().await;
        };
        let mut seen = 0;
        while seen < 2 {
            if self.wait.changed().await.is_err() {
                return std::future::pending().await;
            }
            seen = if self.wait.borrow_and_update().waited > patience {
                seen + 1
            } else {
                0
            };
        }
    }
}
