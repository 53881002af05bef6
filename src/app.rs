//! Wires a daemon together. The listeners and the signal to end are arguments, so tests run whole daemons on port 0.

use std::{future::Future, io, net::SocketAddr, process::ExitCode, sync::Arc, time::Duration};

use axum::middleware;
use diesel::{migration::MigrationSource, pg::Pg};
use tokio::{net::TcpListener, sync::watch};
use tonic::{
    service::Routes,
    transport::{Server, server::TcpIncoming},
};
use tonic_health::pb::health_server::HealthServer;
use uuid::Uuid;

use crate::{
    admin::Admin,
    catalog::{Catalog, InvalidSet},
    cli,
    db::{
        DatabaseUrl,
        pool::{Pool, PoolSettings},
    },
    failure::Kind,
    grpc::{self, migrations::Migrations, own_words::own_words, pb, reads::Reads},
    health::Health,
    ledger::upkeep::Retention,
    metrics::Metrics,
    monitor::{Monitor, View},
    operation::{Action, LOCK_TIMEOUT, Operations, Parts, Request},
    planner::Apply,
    preflight::Preflight,
    refresh::Refresh,
    shutdown::{Phase, Shutdown},
    systemd,
    watchers::Watchers,
};

/// Notices a dead client. Half of the 60 s after which common load balancers forget an idle connection.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// What the running operation gets to undo its step and record its end, once it was told to stop.
const STOP_WITHIN: Duration = Duration::from_secs(5);

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
    /// Runs the migrations, where it is not the role that logs in: their owner, who needs no rights on the ledger.
    pub role: Option<String>,
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
    catalog: Arc<Catalog>,
    settings: Settings,
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
    /// Checks the set.
    ///
    /// # Errors
    /// [`InvalidSet`] with everything that is wrong with it: a bad set never serves.
    pub fn build(self, settings: Settings) -> Result<Daemon, InvalidSet> {
        Ok(Daemon { catalog: Arc::new(Catalog::load(&self.source)?), settings })
    }

    /// Runs the whole command line around the set: `serve`, `dev` and the clients.
    pub fn main(self) -> ExitCode {
        cli::main(&self.source)
    }
}

impl Daemon {
    /// Serves until `end` resolves, then ends in order: new operations are refused, the running one gets its grace, the
    /// streams end. Listens at once, whether the database is there or not.
    ///
    /// # Errors
    /// When a listener fails.
    pub async fn serve(self, main: TcpListener, admin: TcpListener, end: impl Future<Output = ()>) -> io::Result<()> {
        let Self { catalog, settings } = self;
        let shutdown = Shutdown::new();
        let (refresh, metrics) = (Arc::new(Refresh::default()), Arc::new(Metrics::new()));
        let watchers = Watchers::new(&daemon_name());
        let migrating = settings.migration_database.clone().unwrap_or_else(|| settings.database.clone());
        let pool = Pool::new(settings.database.clone(), &settings.pool);
        let monitor = Monitor::start(
            settings.database.clone(),
            Preflight { url: migrating.clone(), role: settings.role.clone(), watchers: watchers.clone() },
            settings.retention,
            catalog.clone(),
            metrics.clone(),
            refresh.clone(),
        );
        let operations = Operations::new(Parts {
            catalog: catalog.clone(),
            url: migrating,
            pool: pool.clone(),
            side: monitor.side(),
            role: settings.role.clone(),
            watchers: watchers.clone(),
            daemon: daemon_name(),
            metrics: metrics.clone(),
            refresh,
            phases: shutdown.phases(),
        });
        let health = HealthServer::new(Health::new(monitor.views(), shutdown.phases(), watchers));
        let (main_address, admin_address) = (main.local_addr()?, admin.local_addr()?);
        let reads = Reads { pool: pool.clone(), views: monitor.views() };
        let service = Migrations { catalog: catalog.clone(), reads: reads.clone(), operations: operations.clone() };
        let history = grpc::operations::Operations { reads, operations: operations.clone() };
        let mut main_routes = Routes::new(pb::migration_service_server::MigrationServiceServer::new(service))
            .add_service(pb::operation_service_server::OperationServiceServer::new(history))
            .add_service(health.clone());
        if settings.reflection {
            main_routes = with_reflection(main_routes)?;
        }
        let main_routes = main_routes.into_axum_router().layer(middleware::from_fn(own_words));
        let admin_router = Admin { views: monitor.views(), phases: shutdown.phases(), pool, metrics }
            .router()
            // A route, not tonic's Routes: those answer 200 to every path, and a mistyped probe would always pass.
            .route_service("/grpc.health.v1.Health/{method}", health);
        let mut servers = [
            tokio::spawn(listen(main, Routes::from(main_routes), Protocols::Http2, shutdown.phases())),
            tokio::spawn(listen(admin, Routes::from(admin_router), Protocols::Both, shutdown.phases())),
        ];
        start_event(&settings, &catalog, main_address, admin_address);
        if settings.apply_on_start {
            tokio::spawn(apply_on_start(operations.clone(), monitor.views()));
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
        shutdown.advance(Phase::Draining);
        if tokio::time::timeout(settings.shutdown_grace, operations.idle()).await.is_err() {
            shutdown.advance(Phase::Stopping);
            if tokio::time::timeout(STOP_WITHIN, operations.idle()).await.is_err() {
                tracing::error!(
                    event = "operation.abandoned",
                    "an operation did not end in time; its session is closed"
                );
            }
        }
        shutdown.advance(Phase::Ended);
        for mut server in servers {
            if tokio::time::timeout(DRAIN_WITHIN, &mut server).await.is_err() {
                server.abort();
            }
        }
        tracing::info!(event = "daemon.stop", "stopped");
        Ok(())
    }
}

/// "host:pid", which says where to look for an operation's log.
fn daemon_name() -> String {
    let host = nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    format!("{host}:{}", std::process::id())
}

fn start_event(settings: &Settings, catalog: &Catalog, main: SocketAddr, admin: SocketAddr) {
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
    if catalog.is_empty() {
        tracing::warn!(event = "daemon.empty_set", "this binary carries no migrations");
    }
}

fn with_reflection(routes: Routes) -> io::Result<Routes> {
    let builder = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(pb::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    // grpcurl asks for v1 and falls back to v1alpha.
    let v1 = builder().build_v1().map_err(io::Error::other)?;
    Ok(routes.add_service(v1).add_service(builder().build_v1alpha().map_err(io::Error::other)?))
}

#[derive(PartialEq, Eq)]
enum Protocols {
    Http2,
    Both,
}

async fn listen(
    listener: TcpListener,
    routes: Routes,
    protocols: Protocols,
    mut phases: watch::Receiver<Phase>,
) -> io::Result<()> {
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true)).with_keepalive(Some(KEEPALIVE));
    Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .accept_http1(protocols == Protocols::Both)
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming, async move {
            let _ = phases.wait_for(|phase| *phase == Phase::Ended).await; // its sender gone means ended too
        })
        .await
        .map_err(io::Error::other)
}

/// Applies everything pending, again after whatever passes by itself.
async fn apply_on_start(operations: Operations, mut views: watch::Receiver<Arc<View>>) {
    loop {
        if views.wait_for(|view| view.ready().is_ok()).await.is_err() {
            return; // the daemon ended first
        }
        let request = Request {
            action: Action::Apply(Apply::default()),
            principal: "apply-on-start".into(),
            request_id: Uuid::new_v4(),
            queue_timeout: START_QUEUE,
            lock_wait: START_QUEUE,
            lock_timeout: LOCK_TIMEOUT,
        };
        match operations.submit(request).follow().result().await {
            Err(failure) if matches!(failure.reason.kind(), Kind::Unavailable | Kind::Interrupted | Kind::Busy) => {
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
