//! The two listeners and what each of them serves.

use std::{io, sync::Arc, time::Duration};

use axum::{Router, middleware};
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tokio::{net::TcpListener, sync::watch};
use tonic::{service::Routes, transport::Server};
use tonic_health::pb::health_server::HealthServer;

use crate::{
    api::{
        self,
        admin::AdminState,
        deadline::DeadlineLayer,
        error_details::own_words,
        gate::{self, RequestGate},
        health::HealthService,
        leases::LeaseService,
        migrations::MigrationHandlers,
        schemas::SchemaHandlers,
    },
    database::Database,
    lease::Leases,
    pb,
    runtime::shutdown::ShutdownPhase,
    telemetry::metrics::Metrics,
    transport::{Connections, Http1Policy, Limits, ServerTls, incoming},
};

/// Notices a dead client. Half of the 60 s after which common load balancers forget an idle
/// connection.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// What a client may send before it is read, of a request and of all: HTTP/2's own default, for
/// requests are small.
const WINDOW: u32 = 65_535;

/// HTTP/2 itself allows headers to be this many times larger than the limit, so that a request over
/// it is refused with a status; larger ones are cut off.
const HEADER_HEADROOM: usize = 4;

/// What is served.
pub(super) struct ListenerParts {
    pub database: Arc<Database>,
    pub health: HealthService,
    pub metrics: Arc<Metrics>,
    pub leases: Leases,
    /// The main listener's and the admin's.
    pub gates: [RequestGate; 2],
    /// Of the main listener, for the metrics.
    pub connections: Connections,
    pub tls: Option<ServerTls>,
    pub limits: Limits,
    pub reflection: bool,
    pub insecure: bool,
    pub phases: watch::Receiver<ShutdownPhase>,
}

impl ListenerParts {
    /// The main listener's routes and the admin's.
    pub(super) fn routes(self) -> io::Result<(Routes, Routes)> {
        let Self {
            database,
            health,
            metrics,
            leases,
            gates,
            connections,
            limits,
            ..
        } = self;
        let (health, most) = (HealthServer::new(health), limits.message_bytes);
        let admin = AdminState {
            views: database.views(),
            phases: self.phases,
            pool: database.reads.pool.clone(),
            metrics,
            connections,
            tls: self.tls,
            insecure: self.insecure,
        };
        let history = api::operations::OperationHandlers {
            database: database.clone(),
        };
        let schemas = SchemaHandlers::new(database.clone());
        let migrations = MigrationHandlers {
            database: database.clone(),
            insecure: self.insecure,
        };
        let migrations = pb::migration_service_server::MigrationServiceServer::new(migrations);
        let history = pb::operation_service_server::OperationServiceServer::new(history);
        let schemas = pb::schema_service_server::SchemaServiceServer::new(schemas);
        let leases = pb::lease_service_server::LeaseServiceServer::new(LeaseService::new(
            leases,
            database.clone(),
        ));
        let mut routes = Routes::new(migrations.max_decoding_message_size(most))
            .add_service(history.max_decoding_message_size(most))
            .add_service(schemas.max_decoding_message_size(most))
            .add_service(leases.max_decoding_message_size(most))
            .add_service(health.clone());
        if self.reflection {
            routes = with_reflection(routes)?;
        }
        let [main_gate, admin_gate] = gates;
        let main = gated(routes.into_axum_router(), main_gate);
        let admin = admin
            .router()
            // A route, not tonic's Routes: those answer 200 to every path, and a mistyped probe
            // would always pass.
            .route_service("/grpc.health.v1.Health/{method}", health);
        Ok((
            Routes::from(main.layer(middleware::from_fn(own_words))),
            Routes::from(gated(admin, admin_gate)),
        ))
    }
}

fn gated(router: Router, gate: RequestGate) -> Router {
    router.layer(middleware::from_fn_with_state(gate, gate::pass))
}

fn with_reflection(routes: Routes) -> io::Result<Routes> {
    let details = error_details().map_err(io::Error::other)?;
    let builder = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(pb::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .register_file_descriptor_set(details.clone())
    };
    // grpcurl asks for v1 and falls back to v1alpha.
    let v1 = builder().build_v1().map_err(io::Error::other)?;
    Ok(routes
        .add_service(v1)
        .add_service(builder().build_v1alpha().map_err(io::Error::other)?))
}

/// The descriptors of the messages in an error's details. Without them grpcurl and buf print them
/// as base64. tonic-types has the files without the folder under which everybody imports them.
fn error_details() -> Result<FileDescriptorSet, prost::DecodeError> {
    let mut files = FileDescriptorSet::decode(tonic_types::pb::FILE_DESCRIPTOR_SET)?;
    for file in &mut files.file {
        for name in file
            .name
            .iter_mut()
            .chain(&mut file.dependency)
            .filter(|name| !name.contains('/'))
        {
            *name = format!("google/rpc/{name}");
        }
    }
    Ok(files)
}

/// Serves gRPC until the daemon ends.
pub(super) async fn main(
    listener: TcpListener,
    tls: Option<ServerTls>,
    connections: Connections,
    routes: Routes,
    limits: Limits,
    admin_port: u16,
    phases: watch::Receiver<ShutdownPhase>,
) -> io::Result<()> {
    let headers =
        u32::try_from(limits.header_bytes.saturating_mul(HEADER_HEADROOM)).unwrap_or(u32::MAX);
    let server = server(&limits)
        .http2_max_header_list_size(headers)
        .layer(DeadlineLayer)
        .add_routes(routes);
    let sockets = incoming(
        listener,
        tls,
        connections,
        Http1Policy::IsServedOn(admin_port),
    );
    server
        .serve_with_incoming_shutdown(sockets, ended(phases))
        .await
        .map_err(io::Error::other)
}

/// Serves probes, gRPC and HTTP alike, until the daemon ends.
pub(super) async fn admin(
    listener: TcpListener,
    connections: Connections,
    routes: Routes,
    limits: Limits,
    phases: watch::Receiver<ShutdownPhase>,
) -> io::Result<()> {
    let server = server(&limits)
        .accept_http1(true)
        .layer(DeadlineLayer)
        .add_routes(routes);
    let sockets = incoming(listener, None, connections, Http1Policy::IsServed);
    server
        .serve_with_incoming_shutdown(sockets, ended(phases))
        .await
        .map_err(io::Error::other)
}

/// As many streams are advertised as are allowed: a client that multiplexes opens no more, and
/// waits where another would be refused.
fn server(limits: &Limits) -> Server {
    Server::builder()
        .max_concurrent_streams(u32::try_from(limits.streams_per_connection).unwrap_or(u32::MAX))
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
}

async fn ended(mut phases: watch::Receiver<ShutdownPhase>) {
    // Its sender gone means ended too.
    let _ = phases
        .wait_for(|phase| *phase == ShutdownPhase::Ended)
        .await;
}
