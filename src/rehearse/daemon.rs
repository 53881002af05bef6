//! Rehearsals beside a daemon's database, one at a time: in scratch databases of the same server,
//! where others work, so nothing that reaches outside is run. It belongs to the call: whoever asked
//! goes away, and it ends.

use std::{collections::BTreeSet, sync::Arc};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch},
    task::JoinHandle,
};

use super::{Event, Outside, Rehearsed, Settings, rehearse};
use crate::{
    failure::{Failure, Reason},
    ledger::rehearsals::{Keeper, Scripts},
    migration::{Version, set::Catalog},
    postgres::{logins::Logins, scratch::Scratch},
    runner::{Halt, Orders, Wait},
    runtime::shutdown::Phase,
    schema::in_one_line,
};

/// Begins rehearsals.
#[derive(Clone)]
pub(crate) struct Rehearsals {
    inner: Arc<Inner>,
    /// One at a time: it is a load that nobody waits for.
    turn: Arc<Semaphore>,
}

struct Inner {
    catalog: Arc<Catalog>,
    logins: Logins,
    role: Option<String>,
    daemon: String,
    phases: watch::Receiver<Phase>,
}

/// A rehearsal that was begun. Dropping it ends it.
pub(crate) struct Begun {
    /// What happens.
    pub events: mpsc::UnboundedReceiver<Event>,
    /// How it ended, after the last event.
    pub result: oneshot::Receiver<Result<(), Failure>>,
}

impl Rehearsals {
    /// On the server where the logins are, where migrations run as `role`.
    pub(crate) fn new(
        catalog: Arc<Catalog>,
        logins: Logins,
        role: Option<String>,
        daemon: String,
        phases: watch::Receiver<Phase>,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
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
    ) -> Result<Begun, Failure> {
        if *self.inner.phases.borrow() != Phase::Serving {
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
        Ok(Begun { events, result })
    }

    /// Returns when none runs.
    pub(crate) async fn idle(&self) {
        let _ = self.turn.acquire().await; // nobody closes it
    }
}

impl Inner {
    async fn run(
        &self,
        selected: BTreeSet<Version>,
        principal: &str,
        sender: mpsc::UnboundedSender<Event>,
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
            watch::Sender::new(Wait::default()),
        );
        let orders = Orders {
            halt: halt.subscribe(),
            wait: wait.subscribe(),
        };
        let _ender = AbortOnDrop(tokio::spawn(end_with(
            sender.clone(),
            self.phases.clone(),
            halt,
        )));
        let mut scratch = Scratch::open(self.logins.migrating()).await?;
        let settings = Settings {
            outside: Outside::Refused,
            role: self.role.clone(),
        };
        let (verdicts, to_be_kept) = mpsc::unbounded_channel();
        let keeper = Keeper::new(self.logins.clone(), principal, &self.daemon);
        let kept = tokio::spawn(keep(keeper, to_be_kept));
        let mut rehearsed_so_far = 0;
        let mut tell = |event: Event| {
            if let Event::Ended(rehearsed) = &event {
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
    mut keeper: Keeper,
    mut verdicts: mpsc::UnboundedReceiver<Box<Rehearsed>>,
) -> Result<(), Failure> {
    let (mut lost, mut first) = (0, None);
    while let Some(rehearsed) = verdicts.recv().await {
        let of = Scripts {
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
    sender: mpsc::UnboundedSender<Event>,
    mut phases: watch::Receiver<Phase>,
    halt: watch::Sender<Option<Halt>>,
) {
    let why = tokio::select! {
        () = sender.closed() => Halt::Cancelled("the end of the call".into()),
        _ = phases.wait_for(|phase| *phase != Phase::Serving) => Halt::Shutdown,
    };
    halt.send_replace(Some(why));
    // The orders stay in force as long as their sender lives.
    std::future::pending::<()>().await;
}

/// A task that ends with its owner.
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
