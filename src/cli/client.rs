//! The way to a daemon.

use std::time::Duration;

use clap::Args;
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

use super::{exit::Exit, output::Output};
use crate::{db::error::chain, grpc::pb::migration_service_client::MigrationServiceClient};

/// Long enough for a far datacentre, short enough to notice a wrong address.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Where the daemon is.
#[derive(Clone, Debug, Args)]
pub(super) struct Address {
    /// The daemon, as host:port.
    #[arg(long, env = "SCHEMAD_ADDRESS", default_value = super::settings::DEFAULT_LISTEN, value_name = "HOST:PORT", global = true)]
    pub address: String,
}

/// Options of every client command.
#[derive(Clone, Debug, Args)]
pub(super) struct Common {
    #[command(flatten)]
    pub address: Address,
    /// How to answer.
    #[arg(long, env = "SCHEMAD_OUTPUT", value_enum, default_value_t)]
    pub output: Output,
}

/// Options of a read.
#[derive(Clone, Debug, Args)]
pub(super) struct Read {
    #[command(flatten)]
    pub common: Common,
    /// How long to wait for the answer.
    #[arg(long, env = "SCHEMAD_TIMEOUT", default_value = "15s", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

impl Address {
    /// A channel that connects on first use.
    pub(super) fn channel(&self) -> Result<Channel, Exit> {
        Ok(self.endpoint()?.connect_lazy())
    }

    /// The endpoint, with timeouts.
    pub(super) fn endpoint(&self) -> Result<Endpoint, Exit> {
        let address = self.address.strip_prefix("http://").unwrap_or(&self.address);
        if address.contains('@') {
            return Err(Exit::usage("--address is not host:port; it names no user, and holds no password"));
        }
        // ":50051" is this machine, as in Go.
        let host = if address.starts_with(':') { "127.0.0.1" } else { "" };
        let endpoint = Endpoint::from_shared(format!("http://{host}{address}"))
            .map_err(|_| Exit::usage(format!("--address {address:?} is not host:port")))?;
        // A dead network is noticed although the stream is silent.
        let alive = Duration::from_secs(20);
        Ok(endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(alive)
            .keep_alive_timeout(alive)
            .keep_alive_while_idle(true))
    }

    /// A client of MigrationService.
    pub(super) fn client(&self) -> Result<MigrationServiceClient<Channel>, Exit> {
        Ok(MigrationServiceClient::new(self.channel()?))
    }

    /// A failed call in words: tonic's own are "transport error".
    pub(super) fn explain(&self, status: &Status) -> Exit {
        match std::error::Error::source(status) {
            Some(cause) => Exit::unavailable(format!("no answer from {}: {}", self.address, chain(cause))),
            None => Exit::from_status(status),
        }
    }
}

impl Read {
    /// A read with the usual patience.
    pub(super) fn new(common: Common) -> Self {
        Self { common, timeout: Duration::from_secs(15) }
    }

    /// A read that may take so long.
    pub(super) fn with_timeout(common: Common, timeout: Duration) -> Self {
        Self { common, timeout }
    }

    /// Makes one call to MigrationService within the timeout.
    pub(super) async fn call<T>(
        &self,
        call: impl AsyncFnOnce(MigrationServiceClient<Channel>) -> Result<tonic::Response<T>, Status>,
    ) -> Result<T, Exit> {
        self.call_on(MigrationServiceClient::new, call).await
    }

    /// Makes one call within the timeout to the service whose client `client` makes.
    pub(super) async fn call_on<C, T>(
        &self,
        client: impl FnOnce(Channel) -> C,
        call: impl AsyncFnOnce(C) -> Result<tonic::Response<T>, Status>,
    ) -> Result<T, Exit> {
        let address = &self.common.address;
        match tokio::time::timeout(self.timeout, call(client(address.channel()?))).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(address.explain(&status)),
            Err(_) => Err(Exit::unavailable(format!("no answer from {} within {:?}", address.address, self.timeout))),
        }
    }
}
