//! The way to a daemon.

use std::{net::IpAddr, time::Duration};

use clap::Args;
use http::Uri;
use tonic::{Status, service::interceptor::InterceptedService, transport::Endpoint};

use super::credential::{AuthenticatedChannel, SecurityArgs};
use crate::cli::{
    env_file,
    exit::{self, CommandExit},
    output::OutputFormat,
};
use crate::{pb::migration_service_client::MigrationServiceClient, postgres::error::chain};

/// Long enough for a far datacentre, short enough to notice a wrong address.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The error that a plaintext client gets from a server that speaks TLS.
const CUT_OFF: [&str; 5] = [
    "connection closed",
    "frame with invalid size",
    "broken pipe",
    "onnection reset",
    "operation was canceled",
];

/// Where the daemon is.
#[derive(Clone, Debug, Args)]
pub(crate) struct DaemonAddress {
    /// The daemon, as host:port, or https://host:port for TLS.
    #[arg(long, env = "SCHEMAD_ADDRESS", default_value = crate::cli::local::settings::DEFAULT_LISTEN, value_name = "HOST:PORT", global = true)]
    pub address: String,
    #[command(flatten)]
    pub security: SecurityArgs,
}

/// Options of every client command.
#[derive(Clone, Debug, Args)]
pub(crate) struct ClientArgs {
    #[command(flatten)]
    pub address: DaemonAddress,
    /// How to answer.
    #[arg(long, env = "SCHEMAD_OUTPUT", value_enum, default_value_t)]
    pub output: OutputFormat,
}

/// Options of a read.
#[derive(Clone, Debug, Args)]
pub(crate) struct ReadArgs {
    #[command(flatten)]
    pub common: ClientArgs,
    /// How long to wait for the answer.
    #[arg(long, env = "SCHEMAD_TIMEOUT", default_value = "15s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    timeout: Duration,
}

impl DaemonAddress {
    /// In plaintext, without a credential.
    pub(crate) fn plain(address: String) -> Self {
        Self {
            address,
            security: SecurityArgs::default(),
        }
    }

    /// A channel that connects on first use.
    pub(crate) fn channel(&self) -> Result<AuthenticatedChannel, CommandExit> {
        self.check_origin(self.security.foreign_token())?;
        let credential = self
            .security
            .credential(self.encrypted() || self.is_here())?;
        Ok(InterceptedService::new(
            self.endpoint()?.connect_lazy(),
            credential,
        ))
    }

    /// Refuses to show a credential that is `foreign` to `.env` to a daemon that only that file
    /// chose.
    fn check_origin(&self, foreign: Option<&str>) -> Result<(), CommandExit> {
        // A command's own address, such as that of `dev`, is not the variable's.
        let is_the_files = env_file::decides("SCHEMAD_ADDRESS")
            && std::env::var("SCHEMAD_ADDRESS").is_ok_and(|address| address == self.address);
        let chosen_by = match is_the_files {
            true => Some("SCHEMAD_ADDRESS"),
            // Whoever is believed to be the daemon gets the credential. On the way to this machine
            // itself nobody stands.
            false if self.is_here() => None,
            false => ["SCHEMAD_TLS_CA", "SCHEMAD_TLS_SERVER_NAME"]
                .into_iter()
                .find(|name| env_file::decides(name)),
        };
        let (Some(setting), Some(credential)) = (chosen_by, foreign) else {
            return Ok(());
        };
        let flag = setting
            .trim_start_matches("SCHEMAD_")
            .to_lowercase()
            .replace('_', "-");
        Err(CommandExit::usage(format!(
            "{setting} stands in .env, which may have come with a checkout, and {credential} \
             neither stands there nor lies in a file beside it: it is not shown to {}. Give \
             --{flag}, or set {setting} in the environment",
            self.address,
        )))
    }

    /// The endpoint, with timeouts.
    pub(crate) fn endpoint(&self) -> Result<Endpoint, CommandExit> {
        self.check_origin(self.security.foreign_certificate())?;
        let endpoint = Endpoint::from(self.uri()?);
        // A dead network is noticed although the stream is silent.
        let alive = Duration::from_secs(20);
        let endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(alive)
            .keep_alive_timeout(alive)
            .keep_alive_while_idle(true);
        if self.encrypted() {
            endpoint
                .tls_config(self.security.tls()?)
                .map_err(|e| CommandExit::usage(format!("TLS: {}", chain(&e))))
        } else {
            Ok(endpoint)
        }
    }

    /// What is called.
    fn uri(&self) -> Result<Uri, CommandExit> {
        let address = &self.address;
        let bare = address
            .strip_prefix("https://")
            .or_else(|| address.strip_prefix("http://"))
            .unwrap_or(address);
        // Not repeated: a database's has a password.
        if bare.contains("://") || bare.contains(['@', '=', ' ', '\n']) {
            return Err(CommandExit::usage(
                "--address is not host:port; it is no database's URL or DSN, names no user and \
                 holds no password",
            ));
        }
        let scheme = if self.encrypted() { "https" } else { "http" };
        // ":50051" is this machine, as in Go.
        let host = if bare.starts_with(':') {
            "127.0.0.1"
        } else {
            ""
        };
        let uri = format!("{scheme}://{host}{bare}")
            .parse::<Uri>()
            .ok()
            .filter(|uri| uri.host().is_some());
        uri.ok_or_else(|| {
            CommandExit::usage(format!("--address {:?} is not host:port", self.address))
        })
    }

    fn encrypted(&self) -> bool {
        self.address.starts_with("https://") || self.security.wants_tls()
    }

    /// A loopback address: what goes there leaves no machine.
    fn is_here(&self) -> bool {
        let is_here = |host: &str| {
            host == "localhost"
                || host
                    .trim_matches(['[', ']'])
                    .parse()
                    .is_ok_and(|ip: IpAddr| ip.is_loopback())
        };
        self.uri().is_ok_and(|uri| uri.host().is_some_and(is_here))
    }

    /// What a failed handshake means most often.
    pub(crate) fn hint(&self, cause: &str) -> Option<&'static str> {
        Some(match cause {
            _ if cause.contains("CaUsedAsEndEntity") => {
                "; the daemon shows an authority's certificate: give it one that such an authority \
                 has signed, or make the self-signed one with basicConstraints=CA:FALSE"
            }
            _ if cause.contains("UnknownIssuer") => {
                "; name the authority that signed it with --tls-ca"
            }
            _ if cause.contains("NotValidForName") => {
                "; the certificate is for another name: use that as the address, or \
                 --tls-server-name"
            }
            _ if cause.contains("InvalidContentType") || cause.contains("corrupt message") => {
                "; it does not speak TLS: use http:// or no scheme"
            }
            _ if cause.contains("CertificateRequired") => {
                "; it wants a certificate: --client-cert and --client-key"
            }
            _ if self.encrypted() && cause.contains("connection closed") => {
                "; perhaps it wants a certificate (--client-cert, --client-key), or another one"
            }
            // It depends on who is first: the server with its refusal, or the client with what it
            // writes next.
            _ if !self.encrypted() && CUT_OFF.iter().any(|words| cause.contains(words)) => {
                "; if it speaks TLS, use https://"
            }
            _ => return None,
        })
    }

    /// A client of MigrationService.
    pub(crate) fn client(
        &self,
    ) -> Result<MigrationServiceClient<AuthenticatedChannel>, CommandExit> {
        Ok(MigrationServiceClient::new(self.channel()?))
    }

    /// A failed call in words: tonic's own are "transport error".
    pub(crate) fn explain(&self, status: &Status) -> CommandExit {
        match std::error::Error::source(status) {
            Some(cause) => {
                let cause = chain(cause);
                let hint = self.hint(&cause).unwrap_or_default();
                CommandExit::unavailable(format!("no answer from {}: {cause}{hint}", self.address))
            }
            None => CommandExit::from_status(status),
        }
    }
}

impl ReadArgs {
    /// A read with the usual patience.
    pub(crate) fn new(common: ClientArgs) -> Self {
        Self {
            common,
            timeout: Duration::from_secs(15),
        }
    }

    /// A read that may take so long.
    pub(crate) fn with_timeout(common: ClientArgs, timeout: Duration) -> Self {
        Self { common, timeout }
    }

    /// Makes one call to MigrationService within the timeout.
    pub(crate) async fn call<T>(
        &self,
        call: impl AsyncFnOnce(
            MigrationServiceClient<AuthenticatedChannel>,
        ) -> Result<tonic::Response<T>, Status>,
    ) -> Result<T, CommandExit> {
        self.call_on(MigrationServiceClient::new, call).await
    }

    /// Makes one call within the timeout to the service whose client `client` makes.
    pub(crate) async fn call_on<C, T>(
        &self,
        client: impl FnOnce(AuthenticatedChannel) -> C,
        call: impl AsyncFnOnce(C) -> Result<tonic::Response<T>, Status>,
    ) -> Result<T, CommandExit> {
        let address = &self.common.address;
        match tokio::time::timeout(self.timeout, call(client(address.channel()?))).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status))
                if self.common.output == OutputFormat::Json && exit::reason(&status).is_some() =>
            {
                Err(exit::json_error(&status))
            }
            Ok(Err(status)) => Err(address.explain(&status)),
            Err(_) => Err(CommandExit::unavailable(format!(
                "no answer from {} within {:?}",
                address.address, self.timeout
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_loopback_address_is_here_with_and_without_a_port() {
        let is_here = |address: &str| DaemonAddress::plain(address.into()).is_here();
        for here in [
            ":50051",
            "localhost",
            "localhost:1",
            "127.0.0.1:1",
            "127.9.9.9",
            "[::1]:1",
            "http://[::1]",
            "http://localhost",
        ] {
            assert!(is_here(here), "{here}");
        }
        for there in [
            "schemad.internal",
            "http://schemad.internal",
            "10.0.0.1",
            "h:1",
            "localhost.evil:1",
            "",
            "127.0.0.1.evil",
        ] {
            assert!(!is_here(there), "{there}");
        }
    }
}
