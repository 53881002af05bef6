//! Wires a daemon together. The listeners and the signal to end are arguments, so tests run whole
//! daemons on port 0.

mod listeners;
pub(crate) mod systemd;

use std::{
    future::Future, io, net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc,
    time::Duration,
};

use diesel::{migration::MigrationSource, pg::Pg};
use tokio::net::TcpListener;
use uuid::Uuid;

use crate::{
    access::{self, Access},
    api::{gate::RequestGate, health::HealthService},
    cli,
    database::{Database, DatabaseDeps},
    failure::FailureKind,
    lease::{self, Leases},
    ledger::upkeep::Retention,
    migration::{
        set::{InvalidSet, MigrationSet},
        signature::SigningKeys,
    },
    operation::{LOCK_TIMEOUT, OperationAction, OperationRequest},
    planner::ApplyRequest,
    postgres::{DatabaseUrl, pool::PoolSettings},
    runtime::shutdown::{Shutdown, ShutdownPhase},
    telemetry::metrics::Metrics,
    transport::{Connections, Limits, ServerTls, TlsError, TlsFiles, reload::follow},
};

/// What the removal of leased databases gets; what is left is swept.
const LEASES_WITHIN: Duration = Duration::from_secs(10);

/// Streams end when the daemon does; a client that does not read is not waited for.
const DRAIN_WITHIN: Duration = Duration::from_secs(1);

/// How long --apply-on-start waits for another daemon's operation.
const START_QUEUE: Duration = Duration::from_secs(60 * 60);

/// How a daemon behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where it reads.
    pub database: DatabaseUrl,
    /// Where it migrates: direct, or through a session pooler. `None`: the same.
    pub migration_database: Option<DatabaseUrl>,
    /// Runs the migrations, where it is not the role that logs in: their owner, who needs no rights
    /// on the ledger.
    pub role: Option<String>,
    /// Signs the downs that the ledger keeps; with it, a rollback from the ledger runs only what
    /// was signed.
    pub signing: Option<SigningKeys>,
    /// Apply only what was rehearsed well, with exactly these scripts.
    pub require_rehearsed: bool,
    /// The reading pool.
    pub pool: PoolSettings,
    /// What a running operation gets to end by itself.
    pub shutdown_grace: Duration,
    /// Apply everything pending as soon as the database is there.
    pub apply_on_start: bool,
    /// How long ended operations and refusals are kept.
    pub retention: Retention,
    /// Serve reflection.
    pub reflection: bool,
    /// The main listener speaks TLS with these files. `None`: plaintext.
    pub tls: Option<TlsFiles>,
    /// Says who may do what. `None`: anybody may do everything.
    pub access: Option<PathBuf>,
    /// What one client may take, and all of them.
    pub limits: Limits,
    /// Where databases are leased from, for tests. `None`: there are none.
    pub leases: Option<lease::LeaseSettings>,
    /// It is known that others than this machine reach it without TLS or without saying who they
    /// are.
    pub insecure: bool,
}

/// Why a daemon cannot be made of its settings.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The migrations.
    #[error(transparent)]
    Set(#[from] InvalidSet),
    /// The certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The access file.
    #[error(transparent)]
    Access(#[from] access::AccessFileError),
}

/// A daemon that is ready to serve.
///
/// ```no_run
/// use diesel_migrations::{EmbeddedMigrations, embed_migrations};
///
/// const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations");
///
/// fn main() -> std::process::ExitCode {
///     schemad::Daemon::builder().migrations(MIGRATIONS).main()
/// }
/// ```
#[derive(Debug)]
pub struct Daemon {
    catalog: Arc<MigrationSet>,
    settings: Settings,
    tls: Option<ServerTls>,
    access: Option<Access>,
}

/// Builds a [`Daemon`] around a set of migrations.
#[derive(Debug)]
pub struct Builder<S> {
    source: S,
}

impl Daemon {
    /// Begins to build one; give it migrations next.
    pub fn builder() -> Builder<()> {
        Builder { source: () }
    }
}

impl Builder<()> {
    /// The migrations: embedded, from a folder, or any other Diesel source. They are read once.
    pub fn migrations<S: MigrationSource<Pg>>(self, source: S) -> Builder<S> {
        Builder { source }
    }
}

impl<S: MigrationSource<Pg>> Builder<S> {
    /// Checks the set, and reads the certificates and the access file.
    ///
    /// # Errors
    /// [`BuildError`] with everything that is wrong: a bad set never serves, and neither does a
    /// daemon that would let in others than it should.
    pub fn build(self, settings: Settings) -> Result<Daemon, BuildError> {
        Daemon::around(MigrationSet::load(&self.source)?, settings)
    }

    /// Runs the whole command line around the set: `serve`, `dev` and the clients.
    pub fn main(self) -> ExitCode {
        cli::main(&self.source)
    }
}

impl Daemon {
    /// A daemon around a set that was loaded.
    pub(crate) fn around(catalog: MigrationSet, settings: Settings) -> Result<Self, BuildError> {
        let tls = settings.tls.clone().map(ServerTls::open).transpose()?;
        let access = settings.access.as_deref().map(Access::open).transpose()?;
        if let Some(access) = &access
            && tls.as_ref().is_none_or(|tls| !tls.asks_clients())
        {
            access.without_certificates()?;
        }
        Ok(Self {
            catalog: Arc::new(catalog),
            settings,
            tls,
            access,
        })
    }

    /// Serves until `end` resolves, then ends in order: new operations are refused, the running one
    /// gets its grace, the streams end. Listens at once, whether the database is there or not.
    ///
    /// # Errors
    /// When a listener fails; when others than this machine can reach the main one, and it has no
    /// TLS or no access file, unless that is insisted on with `insecure`.
    pub async fn serve(
        self,
        main: TcpListener,
        admin: TcpListener,
        end: impl Future<Output = ()>,
    ) -> io::Result<()> {
        let Self {
            catalog,
            settings,
            tls,
            access,
        } = self;
        let (main_address, admin_address) = (main.local_addr()?, admin.local_addr()?);
        let main_ip = main_address.ip().to_canonical();
        if !settings.insecure && !main_ip.is_loopback() && (tls.is_none() || access.is_none()) {
            return Err(io::Error::other(format!(
                "{main_ip} can be reached from other machines, and there is no TLS or no access \
                 file: give both, or set `insecure`"
            )));
        }
        // Both listen already. Said before anything begins that has events of its own.
        start_event(&settings, &catalog, main_address, admin_address);
        let shutdown = Shutdown::new();
        let metrics = Arc::new(Metrics::new());
        let database = Arc::new(Database::start(DatabaseDeps {
            url: settings.database.clone(),
            migration_url: settings.migration_database.clone(),
            role: settings.role.clone(),
            signing: settings.signing.clone(),
            require_rehearsed: settings.require_rehearsed,
            pool: settings.pool.clone(),
            retention: settings.retention,
            set: catalog.clone(),
            daemon: daemon_name(),
            metrics: metrics.clone(),
            phases: shutdown.phases(),
        }));
        if let Some(tls) = &tls {
            tokio::spawn(follow(tls.clone()));
        }
        if let Some(access) = &access {
            tokio::spawn(follow(access.clone()));
        }
        let leases = Leases::new(
            settings.leases.clone(),
            catalog.clone(),
            metrics.clone(),
            shutdown.phases(),
        );
        let (keeping, kept) = (leases.clone(), leases.clone());
        tokio::spawn(async move { keeping.keep().await });
        let (limits, phases) = (settings.limits.clone().within_files(), shutdown.phases());
        let (connections, admin_connections) = (
            Connections::new(limits.clone()),
            Connections::new(limits.of_admin()),
        );
        let has_strangers = access.is_some();
        let parts = listeners::ListenerParts {
            database: database.clone(),
            health: HealthService::new(
                database.views(),
                shutdown.phases(),
                database.watchers.clone(),
                limits.names(),
            ),
            metrics,
            leases,
            gates: [
                RequestGate::new(
                    access,
                    tls.clone(),
                    limits.clone(),
                    database.operations.clone(),
                ),
                RequestGate::of_admin(limits.of_admin(), has_strangers),
            ],
            connections: connections.clone(),
            tls: tls.clone(),
            limits,
            reflection: settings.reflection,
            insecure: settings.insecure,
            phases: shutdown.phases(),
        };
        let (main_routes, admin_routes) = parts.routes()?;
        let mut servers = [
            tokio::spawn(listeners::main(
                main,
                tls,
                connections,
                main_routes,
                settings.limits.clone(),
                admin_address.port(),
                phases.clone(),
            )),
            tokio::spawn(listeners::admin(
                admin,
                admin_connections,
                admin_routes,
                settings.limits.of_admin(),
                phases,
            )),
        ];
        if settings.apply_on_start {
            tokio::spawn(apply_on_start(database.clone()));
        }

        let [main_server, admin_server] = &mut servers;
        systemd::ready();
        tokio::select! {
            () = end => {}
            () = systemd::watchdog() => {} // never returns
            ended = main_server => return ended?,
            ended = admin_server => return ended?,
        }
        systemd::stopping();
        shutdown.advance(ShutdownPhase::Draining);
        let closing = tokio::spawn(async move { kept.close().await });
        database
            .stop(settings.shutdown_grace, || {
                shutdown.advance(ShutdownPhase::Stopping);
            })
            .await;
        if tokio::time::timeout(LEASES_WITHIN, closing).await.is_err() {
            tracing::warn!(
                event = "lease.not_removed",
                "leased databases are left for the next start to sweep"
            );
        }
        shutdown.advance(ShutdownPhase::Ended);
        for mut server in servers {
            if tokio::time::timeout(DRAIN_WITHIN, &mut server)
                .await
                .is_err()
            {
                server.abort();
            }
        }
        tracing::info!(event = "daemon.stop", "stopped");
        Ok(())
    }
}

/// "host:pid", which says where to look for an operation's log.
fn daemon_name() -> String {
    let host = nix::unistd::gethostname()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    format!("{host}:{}", std::process::id())
}

fn start_event(settings: &Settings, catalog: &MigrationSet, main: SocketAddr, admin: SocketAddr) {
    tracing::info!(
        event = "daemon.start",
        version = env!("CARGO_PKG_VERSION"),
        listen = %main,
        admin_listen = %admin,
        database = settings.database.target(),
        migrations = catalog.len(),
        set_digest = %catalog.digest(),
        "serving on {main}"
    );
    if settings.insecure {
        tracing::warn!(event = "daemon.insecure", listen = %main, tls = settings.tls.is_some(), access = settings.access.is_some(),
            "INSECURE: --insecure lets whoever can reach {main} in without TLS or without a \
             credential");
    }
    if catalog.is_empty() {
        tracing::warn!(
            event = "daemon.empty_set",
            "this daemon carries no migrations"
        );
    }
}

/// Applies everything pending, again after whatever passes by itself.
async fn apply_on_start(database: Arc<Database>) {
    let mut views = database.views();
    loop {
        if views.wait_for(|view| view.ready().is_ok()).await.is_err() {
            return; // the daemon ended first
        }
        let request = OperationRequest {
            action: OperationAction::Apply(ApplyRequest::default()),
            principal: "apply-on-start".into(),
            request_id: Uuid::new_v4(),
            queue_timeout: START_QUEUE,
            lock_wait: START_QUEUE,
            lock_timeout: LOCK_TIMEOUT,
        };
        match database.operations.submit(request).result().await {
            Err(failure)
                if matches!(
                    failure.reason.kind(),
                    FailureKind::Unavailable | FailureKind::Interrupted | FailureKind::Busy
                ) =>
            {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Err(failure) => {
                tracing::error!(event = "daemon.apply_on_start_failed", reason = %failure.reason, "{}", failure.message);
                return;
            }
            Ok(()) => return,
        }
    }
}
