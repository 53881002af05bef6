//! What happened to an operation, kept while it runs so that any number of followers can read it
//! from the beginning at their own pace. A follower never slows the operation: it reads, the
//! operation appends. State changes are kept to the end; of what is told live only, the latest is,
//! and a follower who is too slow for that is told how much it missed.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use tokio::sync::watch;
use uuid::Uuid;

use super::{LogEntry, OperationEvent};
use crate::{
    failure::{Failure, Reason},
    ledger::{OperationRow, OperationState},
};

/// Live-only events that are kept for slow followers; at most 8 KiB each.
const LIVE_KEPT: usize = 1_000;

/// The log of one operation.
#[derive(Debug)]
pub(crate) struct OperationLog {
    content: Mutex<LogContent>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct LogContent {
    operation: Option<Uuid>,
    /// The request that made this log was a repeat: another one had begun the operation.
    is_of_repeat: bool,
    /// State changes, each with its place among all events.
    durable: Vec<(u64, Arc<LogEntry>)>,
    /// The latest of the others.
    live: VecDeque<(u64, Arc<LogEntry>)>,
    /// How many of the others are gone, which is the number of the first that is not.
    dropped: u64,
    /// All events so far.
    count: u64,
    result: Option<Result<(), Failure>>,
}

impl LogContent {
    fn push(&mut self, time: SystemTime, event: OperationEvent) {
        let place = self.count;
        self.count += 1;
        if event.is_durable() {
            let sequence = self.durable.len() as u64 + 1;
            self.durable.push((
                place,
                Arc::new(LogEntry {
                    sequence,
                    time,
                    event,
                }),
            ));
            return;
        }
        self.live.push_back((
            place,
            Arc::new(LogEntry {
                sequence: 0,
                time,
                event,
            }),
        ));
        if self.live.len() > LIVE_KEPT {
            self.live.pop_front();
            self.dropped += 1;
        }
    }

    /// The first event at `place` or later, and its place.
    fn at(&self, place: u64) -> Option<(u64, Arc<LogEntry>)> {
        let durable = self
            .durable
            .get(self.durable.partition_point(|(at, _)| *at < place));
        let live = self
            .live
            .get(self.live.partition_point(|(at, _)| *at < place));
        [durable, live]
            .into_iter()
            .flatten()
            .min_by_key(|(at, _)| *at)
            .cloned()
    }
}

impl OperationLog {
    /// An empty log.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            content: Mutex::default(),
            changed: watch::Sender::new(()),
        })
    }

    /// Names the operation, once it has an id.
    pub(crate) fn name(&self, operation: Uuid) {
        self.change(|content| content.operation = Some(operation));
    }

    /// The request that made this log repeats one that had begun the operation.
    pub(crate) fn mark_as_repeat(&self) {
        self.change(|content| content.is_of_repeat = true);
    }

    /// The operation's id, once it has one.
    pub(crate) fn operation(&self) -> Option<Uuid> {
        self.content
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .operation
    }

    /// Appends.
    pub(crate) fn push(&self, event: OperationEvent) {
        self.push_at(SystemTime::now(), event);
    }

    /// Appends what happened then.
    pub(crate) fn push_at(&self, time: SystemTime, event: OperationEvent) {
        self.change(|content| content.push(time, event));
    }

    /// The highest number that a state change of it has or can come to have; `None`: not yet
    /// planned.
    pub(crate) fn highest(&self) -> Option<u64> {
        let content = self.content.lock().unwrap_or_else(PoisonError::into_inner);
        let last = content.durable.len() as u64;
        let steps = content
            .durable
            .iter()
            .find_map(|(_, entry)| match &entry.event {
                OperationEvent::Planned { steps, .. } => Some(steps.len() as u64),
                _ => None,
            });
        match content.result {
            Some(_) => Some(last),
            // Accepted, planned, the steps, finished.
            None => steps.map(|steps| steps + 3),
        }
    }

    /// How many steps it says are done.
    pub(crate) fn steps_done(&self) -> usize {
        let content = self.content.lock().unwrap_or_else(PoisonError::into_inner);
        content
            .durable
            .iter()
            .filter(|(_, entry)| matches!(entry.event, OperationEvent::StepDone(..)))
            .count()
    }

    /// The operation as far as this log tells, for a caller who asks while the ledger cannot be
    /// read. Somebody has asked to cancel it.
    pub(super) fn as_row(&self, id: Uuid, principal: &str, daemon: &str) -> OperationRow {
        let mut row = OperationRow {
            id,
            kind: String::new(),
            state: OperationState::Pending.as_str().into(),
            principal: principal.into(),
            daemon: daemon.into(),
            created_at: SystemTime::UNIX_EPOCH,
            started_at: None,
            finished_at: None,
            steps_total: 0,
            steps_done: 0,
            request_id: String::new(),
            reason: None,
            message: None,
            cancel_requested: true,
        };
        let content = self.content.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, entry) in &content.durable {
            match &entry.event {
                OperationEvent::Accepted {
                    kind, request_id, ..
                } => {
                    row.kind.clone_from(kind);
                    row.request_id.clone_from(request_id);
                    row.created_at = entry.time;
                }
                OperationEvent::Planned { steps, .. } => {
                    row.state = OperationState::Running.as_str().into();
                    row.started_at = Some(entry.time);
                    row.steps_total = i32::try_from(steps.len()).unwrap_or(i32::MAX);
                }
                OperationEvent::StepDone(..) => row.steps_done = row.steps_done.saturating_add(1),
                OperationEvent::Finished(state, _, failure) => {
                    row.state = state.as_str().into();
                    row.finished_at = Some(entry.time);
                    row.reason = failure.as_ref().map(|failure| failure.reason.to_string());
                    row.message = failure.as_ref().map(|failure| failure.message.clone());
                }
                _ => {}
            }
        }
        row
    }

    /// Closes the log with the operation's result.
    pub(crate) fn close(&self, result: Result<(), Failure>) {
        self.change(|content| content.result = Some(result));
    }

    /// Reads it from the beginning.
    pub(crate) fn follow(self: &Arc<Self>) -> LogFollower {
        self.follow_after(0)
    }

    /// Reads what came after the state change with this sequence. What was dropped before this
    /// follower came is not missed.
    pub(crate) fn follow_after(self: &Arc<Self>, sequence: u64) -> LogFollower {
        let content = self.content.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = usize::try_from(sequence)
            .unwrap_or(usize::MAX)
            .min(content.durable.len());
        let next = content.durable[..seen]
            .last()
            .map_or(0, |(place, _)| place + 1);
        let next_live = content.dropped + content.live.partition_point(|(at, _)| *at < next) as u64;
        drop(content);
        LogFollower {
            log: self.clone(),
            changed: self.changed.subscribe(),
            next,
            after: sequence,
            next_live,
            on_behalf: OnBehalf::Watcher,
        }
    }

    fn change(&self, change: impl FnOnce(&mut LogContent)) {
        change(&mut self.content.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.send_replace(());
    }
}

/// Whoever says that it has a state change which there never is.
pub(super) fn beyond(after: u64, highest: u64) -> Failure {
    let message = format!(
        "after_sequence is {after}, and the operation's last state change is at most {highest}"
    );
    Failure::invalid(Reason::InvalidSequence, "after_sequence", message)
}

/// Reads a log.
#[derive(Debug)]
pub(crate) struct LogFollower {
    log: Arc<OperationLog>,
    changed: watch::Receiver<()>,
    /// The place of the next event.
    next: u64,
    /// State changes up to this one are known to the follower.
    after: u64,
    /// How many live-only events came before the next that it has to read; those it was told were
    /// dropped are among them.
    next_live: u64,
    on_behalf: OnBehalf,
}

/// For whom an operation is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OnBehalf {
    /// Somebody who watches it.
    Watcher,
    /// The request that made the log.
    Request,
    /// A repeat of that request.
    Repeat,
}

/// What a follower gets.
#[derive(Debug)]
pub(crate) enum NextEvent {
    /// An event of this operation.
    Event(Option<Uuid>, Arc<LogEntry>),
    /// The operation's result.
    End(Result<(), Failure>),
}

impl LogFollower {
    /// What it reads.
    pub(crate) fn log(&self) -> Arc<OperationLog> {
        self.log.clone()
    }

    /// The same for the request that made the log.
    #[must_use]
    pub(super) fn for_request(self) -> Self {
        Self {
            on_behalf: OnBehalf::Request,
            ..self
        }
    }

    /// The same for a repeat of that request.
    #[must_use]
    pub(super) fn for_repeat(self) -> Self {
        Self {
            on_behalf: OnBehalf::Repeat,
            ..self
        }
    }

    /// The event as this follower is told it: a repeat hears that it is one.
    fn told(&self, content: &LogContent, entry: Arc<LogEntry>) -> Arc<LogEntry> {
        let is_repeat = match self.on_behalf {
            OnBehalf::Watcher => false,
            OnBehalf::Request => content.is_of_repeat,
            OnBehalf::Repeat => true,
        };
        match &entry.event {
            OperationEvent::Accepted {
                kind, request_id, ..
            } if is_repeat => {
                let (kind, request_id) = (kind.clone(), request_id.clone());
                let event = OperationEvent::Accepted {
                    kind,
                    request_id,
                    repeated: true,
                };
                Arc::new(LogEntry {
                    sequence: entry.sequence,
                    time: entry.time,
                    event,
                })
            }
            _ => entry,
        }
    }

    /// The next event, or after the last one the result, again and again. Dropping the future loses
    /// nothing.
    pub(crate) async fn next(&mut self) -> NextEvent {
        loop {
            self.changed.mark_unchanged();
            {
                let content = self
                    .log
                    .content
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                if let Some((place, entry)) = content.at(self.next) {
                    if let Some(missed @ 1..) = content.dropped.checked_sub(self.next_live) {
                        self.next_live = content.dropped;
                        let event = OperationEvent::Dropped(missed);
                        let entry = LogEntry {
                            sequence: 0,
                            time: SystemTime::now(),
                            event,
                        };
                        return NextEvent::Event(content.operation, Arc::new(entry));
                    }
                    self.next = place + 1;
                    self.next_live += u64::from(entry.sequence == 0);
                    if entry.sequence == 0 || entry.sequence > self.after {
                        return NextEvent::Event(content.operation, self.told(&content, entry));
                    }
                    continue;
                }
                if let Some(result) = &content.result {
                    let last = content.durable.len() as u64;
                    return NextEvent::End(if self.after > last {
                        Err(beyond(self.after, last))
                    } else {
                        result.clone()
                    });
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
    pub(crate) async fn result(mut self) -> Result<(), Failure> {
        loop {
            if let NextEvent::End(result) = self.next().await {
                return result;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use crate::{
        migration::Direction,
        operation::{PlannedStep, StepName},
    };

    fn notice(n: usize) -> OperationEvent {
        let (version, severity, detail, hint) =
            ("1".into(), "NOTICE".into(), String::new(), String::new());
        OperationEvent::Notice {
            version,
            severity,
            message: n.to_string(),
            detail,
            hint,
        }
    }

    fn done(ordinal: usize) -> OperationEvent {
        let (version, name) = (ordinal.to_string(), format!("{ordinal}_t"));
        OperationEvent::StepDone(
            StepName {
                ordinal,
                total: 2,
                version,
                name,
                direction: Direction::Up,
            },
            Duration::ZERO,
        )
    }

    async fn sequences(mut follower: LogFollower) -> Vec<u64> {
        let mut seen = Vec::new();
        while let NextEvent::Event(_, entry) = follower.next().await {
            seen.push(entry.sequence);
        }
        seen
    }

    #[tokio::test]
    async fn only_state_changes_count_and_a_follower_can_begin_after_one() {
        let log = OperationLog::new();
        for event in [done(1), notice(1), notice(2), done(2)] {
            log.push(event);
        }
        log.close(Ok(()));
        assert_eq!(sequences(log.follow()).await, [1, 0, 0, 2]);
        assert_eq!(sequences(log.follow_after(1)).await, [0, 0, 2]);
        assert_eq!(sequences(log.follow_after(2)).await, [0; 0]);
    }

    #[test]
    fn the_operation_is_told_from_its_log_while_the_ledger_cannot_be_read() {
        let (log, id) = (OperationLog::new(), Uuid::nil());
        assert_eq!(log.as_row(id, "p", "d").state, "pending");
        log.push(OperationEvent::Accepted {
            kind: "apply".into(),
            request_id: "r".into(),
            repeated: false,
        });
        let step = PlannedStep {
            version: "1".into(),
            name: "1_t".into(),
            direction: Direction::Up,
            from_ledger: None,
            how: None,
        };
        let steps = vec![step; 2];
        log.push(OperationEvent::Planned {
            steps,
            warnings: Vec::new(),
        });
        log.push(done(1));
        let row = log.as_row(id, "p", "d");
        assert_eq!(
            (row.state.as_str(), row.steps_done, row.steps_total),
            ("running", 1, 2)
        );
        let failure = Failure::new(Reason::Cancelled, "m");
        log.push(OperationEvent::Finished(
            OperationState::Cancelled,
            crate::ledger::FinishedOperation::default(),
            Some(failure),
        ));
        let row = log.as_row(id, "p", "d");
        assert_eq!(
            (row.kind.as_str(), row.state.as_str(), row.reason.as_deref()),
            ("apply", "cancelled", Some("CANCELLED"))
        );
        assert!(row.finished_at.is_some() && row.cancel_requested);
    }

    #[tokio::test]
    async fn a_slow_follower_loses_no_state_change_and_is_told_what_it_lost() {
        let log = OperationLog::new();
        let mut slow = log.follow();
        log.push(done(1));
        (0..LIVE_KEPT + 7).for_each(|n| log.push(notice(n)));
        log.push(done(2));
        log.close(Ok(()));
        let (mut durable, mut live, mut dropped) = (0, 0, 0);
        while let NextEvent::Event(_, entry) = slow.next().await {
            match entry.event {
                OperationEvent::StepDone(..) => durable += 1,
                OperationEvent::Dropped(n) => dropped += n,
                _ => live += 1,
            }
        }
        assert_eq!((durable, live, dropped), (2, LIVE_KEPT, 7));
    }

    #[tokio::test]
    async fn what_a_follower_has_read_is_not_dropped_for_it() {
        let log = OperationLog::new();
        (0..LIVE_KEPT).for_each(|n| log.push(notice(n)));
        let (mut quick, mut slow) = (log.follow(), log.follow());
        for _ in 0..LIVE_KEPT - 1 {
            quick.next().await;
        }
        (0..10).for_each(|n| log.push(notice(n)));
        log.close(Ok(()));
        let mut told = Vec::new();
        for follower in [&mut quick, &mut slow] {
            let mut counts = (0, 0);
            while let NextEvent::Event(_, entry) = follower.next().await {
                match entry.event {
                    OperationEvent::Dropped(n) => counts.1 += n,
                    _ => counts.0 += 1,
                }
            }
            told.push(counts);
        }
        assert_eq!(told, [(11, 0), (LIVE_KEPT, 10)]);
    }
}
