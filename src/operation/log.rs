//! What happened to an operation, kept while it runs so that any number of followers can read it from the beginning at
//! their own pace. A follower never slows the operation: it reads, the operation appends.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::sync::watch;
use uuid::Uuid;

use crate::{
    failure::Failure,
    ledger::{Finished, OperationRow, State},
    migration::Direction,
};

/// One thing that happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// The operation is recorded and will run or has run.
    Accepted {
        /// `apply` or `rollback`.
        kind: &'static str,
        /// The caller's id.
        request_id: Uuid,
        /// It had been accepted before.
        repeated: bool,
    },
    /// Another operation holds the lock.
    Queued(Option<OperationRow>),
    /// The steps that will run: version, name, direction, true when the script comes from the ledger.
    Planned {
        /// In order.
        steps: Vec<(String, String, Direction, bool)>,
        /// For the caller.
        warnings: Vec<String>,
    },
    /// A step begins.
    StepStarted(StepName),
    /// The server said something.
    Notice {
        /// While this version ran.
        version: String,
        /// NOTICE, WARNING and so on.
        severity: String,
        /// What.
        message: String,
    },
    /// The step could not get its locks and was undone.
    Retrying {
        /// Which.
        version: String,
        /// From 1.
        attempt: u32,
        /// 55P03 or 40P01.
        sqlstate: String,
        /// The server's words.
        message: String,
        /// Until the next try.
        delay: Duration,
    },
    /// A statement of a step that is not one transaction is committed.
    StatementDone {
        /// Of this version.
        version: String,
        /// From 1.
        statement: usize,
        /// Of so many.
        statements: usize,
        /// How it begins.
        summary: String,
        /// How long it took.
        took: Duration,
    },
    /// A step is committed.
    StepDone(StepName, Duration),
    /// The end.
    Finished(State, Finished),
}

/// Which step of how many.
#[derive(Clone, Debug)]
pub struct StepName {
    /// From 1.
    pub ordinal: usize,
    /// Of so many.
    pub total: usize,
    /// The migration's version.
    pub version: String,
    /// Its name.
    pub name: String,
    /// Up or down.
    pub direction: Direction,
}

/// An event with its number and time.
#[derive(Clone, Debug)]
pub struct Entry {
    /// From 1.
    pub sequence: u64,
    /// When.
    pub time: SystemTime,
    /// What.
    pub event: Event,
}

/// The log of one operation.
#[derive(Debug)]
pub struct Log {
    content: Mutex<Content>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Content {
    operation: Option<Uuid>,
    entries: Vec<Arc<Entry>>,
    result: Option<Result<(), Failure>>,
}

impl Log {
    /// An empty log.
    pub fn new() -> Arc<Self> {
        Arc::new(Self { content: Mutex::default(), changed: watch::Sender::new(()) })
    }

    /// Names the operation, once it has an id.
    pub fn name(&self, operation: Uuid) {
        self.change(|content| content.operation = Some(operation));
    }

    /// True once the operation has an id: it was accepted.
    pub fn is_named(&self) -> bool {
        self.content.lock().unwrap_or_else(PoisonError::into_inner).operation.is_some()
    }

    /// Appends.
    pub fn push(&self, event: Event) {
        self.change(|content| {
            let sequence = content.entries.len() as u64 + 1;
            content.entries.push(Arc::new(Entry { sequence, time: SystemTime::now(), event }));
        });
    }

    /// Closes the log with the operation's result.
    pub fn close(&self, result: Result<(), Failure>) {
        self.change(|content| content.result = Some(result));
    }

    /// Reads it from the beginning.
    pub fn follow(self: &Arc<Self>) -> Follower {
        Follower { log: self.clone(), changed: self.changed.subscribe(), next: 0 }
    }

    fn change(&self, change: impl FnOnce(&mut Content)) {
        change(&mut self.content.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.send_replace(());
    }
}

/// Reads a log.
#[derive(Debug)]
pub struct Follower {
    log: Arc<Log>,
    changed: watch::Receiver<()>,
    next: usize,
}

/// What a follower gets.
#[derive(Debug)]
pub enum Next {
    /// An event of this operation.
    Event(Option<Uuid>, Arc<Entry>),
    /// The operation's result.
    End(Result<(), Failure>),
}

impl Follower {
    /// The next event, or after the last one the result, again and again. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Next {
        loop {
            self.changed.mark_unchanged();
            {
                let content = self.log.content.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(entry) = content.entries.get(self.next) {
                    self.next += 1;
                    return Next::Event(content.operation, entry.clone());
                }
                if let Some(result) = &content.result {
                    return Next::End(result.clone());
                }
            }
            // The sender lives in the log that this follower holds, so this cannot fail.
            let _ = self.changed.changed().await;
        }
    }

    /// The operation's result, passing over the events.
    ///
    /// # Errors
    /// The operation's failure.
    pub async fn result(mut self) -> Result<(), Failure> {
        loop {
            if let Next::End(result) = self.next().await {
                return result;
            }
        }
    }
}
