//! Knows how the database is, so that health can answer from memory: one connection of its own that
//! probes and reads the schema's state, and a preflight that proves that operations could run.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use crate::{
    database::{
        preflight::{Preflight, preflights},
        retention::prune,
    },
    failure::{Failure, Reason},
    ledger::{LedgerSnapshot, read, upkeep::Retention},
    migration::set::MigrationSet,
    operation::{SideSession, refresh::RefreshSignal},
    planner::{self, Assessment, assess},
    postgres::{
        DatabaseError, DatabaseUrl,
        pool::{LedgerOwner, PooledReader},
    },
    telemetry::metrics::Metrics,
};

/// Between two looks while nothing changes: one statement each. With `ANSWER_WITHIN` it keeps the
/// promise that what others change, and a stalled database, show within 2 s.
const EVERY: Duration = Duration::from_millis(900);

/// Between two looks while an operation runs.
const EVERY_RUNNING: Duration = Duration::from_millis(500);

/// The same state is read anew after so long, for what no row tells: rights, row security, settings
/// of the server.
const READ_AGAIN: Duration = Duration::from_secs(60);

/// A whole read is seven round trips, so this allows 150 ms each.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_millis(1050);

/// How long a migration may keep the ledger or the Diesel table locked before its readers are said
/// to be failing.
const LOCKED_FOR: Duration = Duration::from_secs(10);

/// The pause after a failed connect or preflight: doubled from the first to the second.
pub(crate) const BACKOFF: (Duration, Duration) =
    (Duration::from_millis(100), Duration::from_secs(1));

/// What is known about the database.
#[derive(Clone, Debug)]
pub(crate) struct DatabaseView {
    /// Whether the last probe was answered, and why not.
    pub database: Result<(), Failure>,
    /// Whether operations could run, and why not.
    pub preflight: Result<(), Failure>,
    /// What the last successful read found; kept while the database is away.
    pub seen: Option<Arc<Observation>>,
}

/// What a read found.
#[derive(Debug)]
pub(crate) struct Observation {
    /// The rows and the server.
    pub snapshot: LedgerSnapshot,
    /// What they mean.
    pub assessment: Assessment,
}

impl DatabaseView {
    /// Why operations cannot be accepted, if they cannot.
    ///
    /// # Errors
    /// The database's absence, or what the preflight found.
    pub(crate) fn ready(&self) -> Result<(), Failure> {
        self.database.clone().and(self.preflight.clone())
    }

    /// A statement's end is not known, as far as is known.
    pub(crate) fn in_doubt(&self) -> bool {
        self.seen
            .as_ref()
            .is_some_and(|seen| seen.assessment.state == planner::SchemaState::InDoubt)
    }
}

/// Watches one database. Its tasks end when it is dropped.
pub(crate) struct Monitor {
    views: watch::Receiver<Arc<DatabaseView>>,
    side: SideSession,
    tasks: [tokio::task::JoinHandle<()>; 3],
}

impl Monitor {
    /// Begins to watch. `reading` is probed, and `is_direct` when no pooler can be on the way to
    /// it; `preflight` proves that operations could run; `retention` says what is deleted.
    pub(crate) fn start(
        reading: DatabaseUrl,
        is_direct: bool,
        preflight: Preflight,
        retention: Retention,
        catalog: Arc<MigrationSet>,
        metrics: Arc<Metrics>,
        refresh: Arc<RefreshSignal>,
    ) -> Self {
        let not_yet = || {
            Err(Failure::new(
                Reason::DatabaseUnavailable,
                "the database has not answered yet",
            ))
        };
        let (sender, views) = watch::channel(Arc::new(DatabaseView {
            database: not_yet(),
            preflight: not_yet(),
            seen: None,
        }));
        let sender = Arc::new(sender);
        let whose = LedgerOwner::of(&reading, Some(preflight.logins.migrating()));
        let probe = StateProbe {
            url: reading,
            is_direct,
            whose,
            catalog,
            metrics,
            views: sender.clone(),
            refresh,
        };
        let (side_sender, side) = watch::channel(None);
        let tasks = [
            tokio::spawn(probe.run()),
            tokio::spawn(prune(preflight.logins.clone(), retention, views.clone())),
            tokio::spawn(preflights(preflight, sender, side_sender)),
        ];
        Self { views, side, tasks }
    }

    /// The session beside the one that migrates, for what has to be said and seen while that one is
    /// busy.
    pub(crate) fn side(&self) -> SideSession {
        self.side.clone()
    }

    /// The latest view, and every change of it.
    pub(crate) fn views(&self) -> watch::Receiver<Arc<DatabaseView>> {
        self.views.clone()
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

/// The state that was read last.
struct CachedState {
    fingerprint: String,
    read_at: Instant,
}

struct StateProbe {
    url: DatabaseUrl,
    is_direct: bool,
    whose: LedgerOwner,
    catalog: Arc<MigrationSet>,
    metrics: Arc<Metrics>,
    views: Arc<watch::Sender<Arc<DatabaseView>>>,
    refresh: Arc<RefreshSignal>,
}

impl StateProbe {
    async fn run(self) {
        let mut backoff = BACKOFF.0;
        loop {
            let connecting = tokio::time::timeout(ANSWER_WITHIN, self.connect());
            let error = match connecting.await {
                Ok(Ok(reader)) => {
                    backoff = BACKOFF.0;
                    self.watch(reader).await
                }
                Ok(Err(error)) => error,
                Err(_) => DatabaseError::Timeout(ANSWER_WITHIN),
            };
            self.lost(&error);
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF.1);
        }
    }

    async fn connect(&self) -> Result<PooledReader, DatabaseError> {
        let mut reader =
            PooledReader::connect(&self.url, "schemad probe", self.whose.clone()).await?;
        if self.is_direct {
            reader.keep_settings().await?;
        }
        Ok(reader)
    }

    /// Probes one connection until it fails; returns why it did.
    async fn watch(&self, mut reader: PooledReader) -> DatabaseError {
        let mut first = true;
        let mut failing_since = None;
        let mut known = None;
        let mut is_wanted = false;
        loop {
            let asked = Instant::now();
            let asked_until_now = self.refresh.asked();
            let answer =
                tokio::time::timeout(ANSWER_WITHIN, self.look(&mut reader, &mut known, is_wanted))
                    .await;
            match answer {
                Ok(Ok(snapshot)) => {
                    failing_since = None;
                    if let Some(snapshot) = snapshot {
                        self.answered(snapshot);
                    }
                    self.refresh.answer(asked_until_now);
                }
                // The server answers, only not this. A migration that holds a lock is no reason for
                // alarm.
                Ok(Err(error @ DatabaseError::Sql(_))) if !reader.is_closed() => {
                    let since = *failing_since.get_or_insert(asked);
                    if since.elapsed() > LOCKED_FOR || self.views.borrow().seen.is_none() {
                        self.unreadable(error.into());
                    }
                }
                Ok(Err(
                    error @ (DatabaseError::MissingRight { .. }
                    | DatabaseError::RowSecurity { .. }
                    | DatabaseError::UnsafeTable { .. }
                    | DatabaseError::ForeignLedger(_)
                    | DatabaseError::Damaged(_)),
                )) => self.unreadable(error.into()),
                Ok(Err(error)) => return error,
                Err(_) => return DatabaseError::Timeout(ANSWER_WITHIN),
            }
            self.metrics.probe(true, asked.elapsed());
            if std::mem::take(&mut first) {
                tracing::info!(
                    event = "database.connected",
                    database = self.url.target(),
                    "connected to the database"
                );
            }
            let is_running = self
                .views
                .borrow()
                .seen
                .as_ref()
                .is_some_and(|seen| seen.snapshot.running.is_some());
            let pause = if is_running { EVERY_RUNNING } else { EVERY };
            is_wanted = tokio::select! {
                () = tokio::time::sleep(pause) => false,
                () = self.refresh.wanted() => true,
            };
        }
    }

    /// Reads the database, or only makes sure that it is as it was read last, which is `None`.
    async fn look(
        &self,
        reader: &mut PooledReader,
        known: &mut Option<CachedState>,
        is_wanted: bool,
    ) -> Result<Option<LedgerSnapshot>, DatabaseError> {
        let seen = self.views.borrow().seen.clone();
        let fingerprint = match &seen {
            Some(seen) if seen.snapshot.running.is_none() => {
                match read::fingerprint(reader, &seen.snapshot).await {
                    Ok(fingerprint) => fingerprint,
                    Err(DatabaseError::Sql(_)) if !reader.is_broken() => None,
                    Err(error) => return Err(error),
                }
            }
            _ => None,
        };
        let is_the_same = known.as_ref().is_some_and(|known| {
            Some(&known.fingerprint) == fingerprint.as_ref() && known.read_at.elapsed() < READ_AGAIN
        });
        if is_the_same && !is_wanted {
            return Ok(None);
        }
        *known = None;
        let snapshot = read::snapshot(reader).await?;
        // Taken before the snapshot: what changes in between shows at the next look.
        *known = fingerprint.map(|fingerprint| CachedState {
            fingerprint,
            read_at: Instant::now(),
        });
        Ok(Some(snapshot))
    }

    fn answered(&self, snapshot: LedgerSnapshot) {
        let assessment = assess(&self.catalog, &snapshot.rows);
        self.metrics.schema(&assessment);
        let was_in_doubt = self.views.borrow().in_doubt();
        let seen = Arc::new(Observation {
            snapshot,
            assessment,
        });
        self.views.send_modify(|view| {
            let view = Arc::make_mut(view);
            (view.database, view.seen) = (Ok(()), Some(seen));
        });
        match (was_in_doubt, self.views.borrow().in_doubt()) {
            (false, true) => tracing::warn!(
                event = "schema.in_doubt",
                "a statement's end is not known; `schemad status` names it, and `schemad resolve` \
                 settles it"
            ),
            (true, false) => {
                tracing::warn!(event = "schema.settled", "the schema is no longer in doubt")
            }
            _ => {}
        }
    }

    fn unreadable(&self, failure: Failure) {
        self.views
            .send_modify(|view| Arc::make_mut(view).database = Err(failure));
    }

    fn lost(&self, error: &DatabaseError) {
        self.metrics.probe(false, Duration::ZERO);
        let failure = Failure::from(error.clone());
        let was_there = self.views.borrow().database.is_ok();
        if was_there {
            tracing::warn!(event = "database.lost", cause = %error, "lost the database: {error}");
        } else if self
            .views
            .borrow()
            .database
            .as_ref()
            .err()
            .map(|f| &f.message)
            != Some(&failure.message)
        {
            tracing::warn!(event = "database.unreachable", cause = %error, "the database is not \
                there yet: {error}");
        }
        self.views.send_modify(|view| {
            let view = Arc::make_mut(view);
            view.database = Err(failure);
        });
    }
}
