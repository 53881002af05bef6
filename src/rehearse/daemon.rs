//! Rehearsals beside a daemon's database, one at a time: in scratch databases of the same server,
//! where others work, so nothing that reaches outside is run. It belongs to the call: whoever asked
//! goes away, and it ends.

use std::{collections::BTreeSet, sync::Arc};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio_util::task::AbortOnDropHandle;

use super::{OutsideEffects, RehearsalEvent, RehearsalSettings, RehearsedMigration, rehearse};

use crate::{
    failure::{Failure, Reason},
    ledger::rehearsals::{RehearsedScripts, VerdictRecorder},
    migration::{Version, set::MigrationSet},
    postgres::{logins::Logins, scratch::ScratchMaker},
    runner::{LockWait, RunControl, StopReason},
    runtime::shutdown::ShutdownPhase,
    schema::in_one_line,
};

/// Begins rehearsals.
#[derive(Clone)]
pub(crate) struct Rehearsals {
    inner: Arc<RehearsalsInner>,
    /// One at a time: it is a load that nobody waits for.
    turn: Arc<Semaphore>,
}

struct RehearsalsInner {
    catalog: Arc<MigrationSet>,
    logins: Logins,
    role: Option<String>,
    daemon: String,
    phases: watch::Receiver<ShutdownPhase>,
}

/// A rehearsal that was begun. Dropping it ends it.
pub(crate) struct RunningRehearsal {
    /// What happens.
    pub events: mpsc::UnboundedReceiver<RehearsalEvent>,
    /// How it ended, after the last event.
    pub result: oneshot::Receiver<Result<(), Failure>>,
}

impl Rehearsals {
    /// On the server where the logins are, where migrations run as `role`.
    pub(crate) fn new(
        catalog: Arc<MigrationSet>,
        logins: Logins,
        role: Option<String>,
        daemon: String,
        phases: watch::Receiver<ShutdownPhase>,
    ) -> Self {
        Self {
            inner: Arc::new(RehearsalsInner {
                catalog,
                logins,
                role,
                daemon,
                phases,
            }),
            turn: Arc::new(Semaphore::new(1)),
        }
    }

    /// Begins one.
    ///
    /// # Errors
    /// BUSY when one runs, SHUTTING_DOWN.
    pub(crate) fn begin(
        &self,
        selected: BTreeSet<Version>,
        principal: &str,
    ) -> Result<RunningRehearsal, Failure> {
        if *self.inner.phases.borrow() != ShutdownPhase::Serving {
            return Err(Failure::new(
                Reason::ShuttingDown,
                "the daemon is shutting down",
            ));
        }
        let Ok(turn) = self.turn.clone().try_acquire_owned() else {
            return Err(Failure::new(
                Reason::Busy,
                "another rehearsal runs in this daemon; ask again when it has ended",
            ));
        };
        let (sender, events) = mpsc::unbounded_channel();
        let (ended, result) = oneshot::channel();
        let (inner, principal) = (self.inner.clone(), principal.to_owned());
        tokio::spawn(async move {
            // Nobody waits any more.
            let _ = ended.send(inner.run(selected, &principal, sender, turn).await);
        });
        Ok(RunningRehearsal { events, result })
    }

    /// Returns when none runs.
    pub(crate) async fn idle(&self) {
        let _ = self.turn.acquire().await; // nobody closes it
    }
}

impl RehearsalsInner {
    async fn run(
        &self,
        selected: BTreeSet<Version>,
        principal: &str,
        sender: mpsc::UnboundedSender<RehearsalEvent>,
        _turn: OwnedSemaphorePermit,
    ) -> Result<(), Failure> {
        if selected.is_empty() {
            return Ok(());
        }
        tracing::info!(
            event = "rehearsal.started",
            principal,
            migrations = selected.len(),
            "rehearsal started"
        );
        let (halt, wait) = (
            watch::Sender::new(None),
            watch::Sender::new(LockWait::default()),
        );
        let orders = RunControl {
            halt: halt.subscribe(),
            wait: wait.subscribe(),
        };
        let _ender = AbortOnDropHandle::new(tokio::spawn(end_with(
            sender.clone(),
            self.phases.clone(),
            halt,
        )));
        let mut scratch = ScratchMaker::open(self.logins.migrating()).await?;
        let settings = RehearsalSettings {
            outside: OutsideEffects::Refused,
            role: self.role.clone(),
        };
        let (verdicts, to_be_kept) = mpsc::unbounded_channel();
        let keeper = VerdictRecorder::new(self.logins.clone(), principal, &self.daemon);
        let kept = tokio::spawn(keep(keeper, to_be_kept));
        let mut rehearsed_so_far = 0;
        let mut tell = |event: RehearsalEvent| {
            if let RehearsalEvent::Ended(rehearsed) = &event {
                let found = match &rehearsed.failure {
                    Some(failure) => failure.reason.to_string(),
                    None => in_one_line(
                        rehearsed
                            .differences
                            .iter()
                            .chain(&rehearsed.up_differences),
                    ),
                };
                tracing::info!(event = "rehearsal.verdict", version = %rehearsed.version, verdict = rehearsed.verdict.as_str(),
                    "{}: {found}", rehearsed.name);
                rehearsed_so_far += 1;
                // Who keeps them has failed, and says so at the end.
                let _ = verdicts.send(rehearsed.clone());
            }
            let _ = sender.send(event); // nobody listens: it is being ended
        };
        let result = rehearse(
            &mut scratch,
            &self.catalog,
            &selected,
            &settings,
            &orders,
            &mut tell,
        )
        .await;
        drop(verdicts);
        let (closed, kept) = tokio::join!(scratch.close(), kept);
        if let Err(error) = closed {
            tracing::warn!(event = "scratch.left", cause = %error, "a scratch database could not \
                be dropped; it is swept later");
        }
        let kept =
            kept.unwrap_or_else(|_| Err(Failure::new(Reason::Internal, "a mistake in schemad")));
        let outcome = result
            .as_ref()
            .map_or_else(|failure| failure.reason.as_str(), |()| "done");
        tracing::info!(
            event = "rehearsal.ended",
            principal,
            outcome,
            rehearsed = rehearsed_so_far,
            "rehearsal ended"
        );
        result.and(kept)
    }
}

/// Keeps each verdict as it comes: whatever ends the rehearsal, what it has found is not found in
/// vain.
async fn keep(
    mut keeper: VerdictRecorder,
    mut verdicts: mpsc::UnboundedReceiver<Box<RehearsedMigration>>,
) -> Result<(), Failure> {
    let (mut lost, mut first) = (0, None);
    while let Some(rehearsed) = verdicts.recv().await {
        let of = RehearsedScripts {
            version: &rehearsed.version,
            up: rehearsed.up,
            down: rehearsed.down,
        };
        if let Err(failure) = keeper.keep(of, rehearsed.verdict.as_str()).await {
            tracing::warn!(event = "rehearsal.not_kept", version = %rehearsed.version, cause = %failure, "a \
                verdict is not kept");
            lost += 1;
            first.get_or_insert(failure);
        }
    }
    match first {
        None => Ok(()),
        Some(failure) => {
            let message = format!(
                "{lost} of the verdicts are not in the ledger: {}",
                failure.message
            );
            Err(Failure { message, ..failure })
        }
    }
}

/// Tells the rehearsal to end when nobody listens to it, or the daemon ends.
async fn end_with(
    sender: mpsc::UnboundedSender<RehearsalEvent>,
    mut phases: watch::Receiver<ShutdownPhase>,
    halt: watch::Sender<Option<StopReason>>,
) {
    let why = tokio::select! {
        () = sender.closed() => StopReason::Cancelled("the end of the call".into()),
        _ = phases.wait_for(|phase| *phase != ShutdownPhase::Serving) => StopReason::Shutdown,
    };
    halt.send_replace(Some(why));
    // The orders stay in force as long as their sender lives.
    std::future::pending::<()>().await;
}
