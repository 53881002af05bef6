//! Between who changes the schema and who knows it: an operation's result is told only after the
//! monitor has seen what the operation committed, so `schemad apply && schemad wait current` never
//! meets an old answer.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::sync::{Notify, watch};

/// As long as a probe may take. A database that is away shows in its own health name.
const WITHIN: Duration = Duration::from_millis(1500);

/// A counter of wishes and one of fulfilments.
#[derive(Debug, Default)]
pub(crate) struct RefreshSignal {
    asked: AtomicU64,
    ask: Notify,
    answered: watch::Sender<u64>,
}

impl RefreshSignal {
    /// Returns when the state as it is now has been seen, or after a probe's time.
    pub(crate) async fn now(&self) {
        let mine = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        self.ask.notify_one();
        let mut answered = self.answered.subscribe();
        let _ = tokio::time::timeout(WITHIN, answered.wait_for(|seen| *seen >= mine)).await;
    }

    /// For who looks: returns when somebody wants it to.
    pub(crate) async fn wanted(&self) {
        self.ask.notified().await;
    }

    /// For who looks, before it does: the wishes that the look will fulfil.
    pub(crate) fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }

    /// For who looked: what `asked` said before.
    pub(crate) fn answer(&self, asked: u64) {
        self.answered.send_replace(asked);
    }
}
