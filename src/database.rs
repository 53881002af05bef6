//! One managed database: its connections, its state as health reports it, and the operations and
//! rehearsals that run on it.

pub(crate) mod monitor;
mod preflight;
pub(crate) mod reads;
mod retention;

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

use self::{
    monitor::{DatabaseView, Monitor},
    preflight::Preflight,
    reads::ReadHandle,
};
use crate::{
    failure::{Failure, Reason},
    ledger::{one_database::SameDatabaseCheck, upkeep::Retention},
    migration::{set::MigrationSet, signature::SigningKeys},
    operation::{OperationDeps, Operations, refresh::RefreshSignal, watchers::VersionWatchers},
    postgres::{
        DatabaseUrl,
        logins::Logins,
        pool::{LedgerOwner, PoolSettings, ReadPool},
    },
    rehearse::Rehearsals,
    runtime::shutdown::ShutdownPhase,
    telemetry::metrics::Metrics,
};

/// The time for a running operation to undo its step and record its end after it was told to stop.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// A database that one daemon manages. Its background tasks end when it is dropped.
pub(crate) struct Database {
    /// The address that reads use.
    pub url: DatabaseUrl,
    /// The migrations that belong to it.
    pub set: Arc<MigrationSet>,
    /// Reads for requests.
    pub reads: ReadHandle,
    /// The operations that change it.
    pub operations: Operations,
    /// Rehearsals beside it, on the same server.
    pub rehearsals: Rehearsals,
    /// The versions that clients of this daemon watch.
    pub watchers: VersionWatchers,
    /// Keeps `reads.views` current.
    _monitor: Monitor,
}

/// The settings of a [`Database`], and what it shares with the rest of the process.
pub(crate) struct DatabaseDeps {
    /// The address that reads use.
    pub url: DatabaseUrl,
    /// The address for migrations: direct, or through a session pooler. `None`: the same.
    pub migration_url: Option<DatabaseUrl>,
    /// The role that migrations run as, if it is not the role that logs in.
    pub role: Option<String>,
    /// The keys that sign the down scripts in the ledger.
    pub signing: Option<SigningKeys>,
    /// Whether an Apply requires a good rehearsal of exactly its scripts.
    pub require_rehearsed: bool,
    /// The settings of the pool for reads.
    pub pool: PoolSettings,
    /// How long ended operations and refusals are kept.
    pub retention: Retention,
    /// The migrations that belong to it.
    pub set: Arc<MigrationSet>,
    /// "host:pid" of the daemon.
    pub daemon: String,
    /// The daemon's metrics.
    pub metrics: Arc<Metrics>,
    /// The daemon's shutdown phase.
    pub phases: watch::Receiver<ShutdownPhase>,
}

impl Database {
    /// Starts to manage a database. It connects in the background, so the database may be away.
    pub(crate) fn start(deps: DatabaseDeps) -> Self {
        let DatabaseDeps {
            url,
            migration_url,
            role,
            signing,
            require_rehearsed,
            pool,
            retention,
            set,
            daemon,
            metrics,
            phases,
        } = deps;
        let is_direct = migration_url.is_none();
        let pool = ReadPool::new(
            url.clone(),
            LedgerOwner::of(&url, migration_url.as_ref()),
            &pool,
        );
        let one_database = SameDatabaseCheck::new((!is_direct).then(|| pool.clone()));
        let logins = match migration_url {
            Some(migrating) => Logins::new(migrating, Some(url.clone())),
            None => url.clone().into(),
        };
        let watchers = VersionWatchers::new(&daemon);
        let refresh = Arc::new(RefreshSignal::default());
        let monitor = Monitor::start(
            url.clone(),
            is_direct,
            Preflight {
                logins: logins.clone(),
                one_database: one_database.clone(),
                role: role.clone(),
                watchers: watchers.clone(),
            },
            retention,
            set.clone(),
            metrics.clone(),
            refresh.clone(),
        );
        let rehearsals = Rehearsals::new(
            set.clone(),
            logins.clone(),
            role.clone(),
            daemon.clone(),
            phases.clone(),
        );
        let operations = Operations::new(OperationDeps {
            catalog: set.clone(),
            logins,
            pool: pool.clone(),
            one_database,
            side: monitor.side(),
            role,
            signing,
            require_rehearsed,
            watchers: watchers.clone(),
            daemon,
            metrics,
            refresh,
            phases,
        });
        Self {
            url,
            set,
            reads: ReadHandle {
                pool,
                views: monitor.views(),
            },
            operations,
            rehearsals,
            watchers,
            _monitor: monitor,
        }
    }

    /// Returns this database if a request's field `database` means it: by its name, or by none.
    ///
    /// # Errors
    /// UNKNOWN_DATABASE for any other name.
    pub(crate) fn named(&self, name: &str) -> Result<&Self, Failure> {
        if name.is_empty() || name == self.url.database() {
            return Ok(self);
        }
        Err(Failure::new(
            Reason::UnknownDatabase,
            format!(
                "this daemon manages the database {:?} and no database {name:?}: name that one, or \
                 leave the field empty",
                self.url.database()
            ),
        ))
    }

    /// The state that the monitor read last, and every change of it.
    pub(crate) fn views(&self) -> watch::Receiver<Arc<DatabaseView>> {
        self.reads.views.clone()
    }

    /// Waits until nothing runs: for `grace` while what runs may go on, and then, after
    /// `request_stop` has told it to end, a little longer. New work has to be refused already.
    pub(crate) async fn stop(&self, grace: Duration, request_stop: impl FnOnce()) {
        if tokio::time::timeout(grace, self.operations.idle())
            .await
            .is_err()
        {
            request_stop();
            if tokio::time::timeout(STOP_WITHIN, self.operations.idle())
                .await
                .is_err()
            {
                tracing::error!(
                    event = "operation.abandoned",
                    "an operation did not end in time; its session is closed"
                );
            }
        }
        // A scratch database that a rehearsal leaves behind is swept later.
        let _ = tokio::time::timeout(STOP_WITHIN, self.rehearsals.idle()).await;
    }
}
