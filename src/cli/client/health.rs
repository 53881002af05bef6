//! `schemad health`: grpc_health_probe's flags and exit codes, because that is what people have
//! scripted against.

use std::{ffi::OsString, path::PathBuf, process::ExitCode, time::Duration};

use clap::Args;
use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::credential::SecurityArgs;
use crate::cli::{
    client::connection::DaemonAddress, env_file, exit::CommandExit, file_name::FileNameParser,
    local::settings::DEFAULT_ADMIN_LISTEN, output::say,
};
use crate::postgres::error::chain;

/// Wrong arguments.
pub(crate) const USAGE: ExitCode = ExitCode::FAILURE;
const NO_CONNECTION: u8 = 2;
const RPC_FAILED: u8 = 3;
const UNHEALTHY: u8 = 4;
/// stdout could not be written, so nobody was told: to grpc_health_probe the call has failed.
pub(crate) const NOT_PRINTED: u8 = RPC_FAILED;

/// Flags that grpc_health_probe, a Go program, takes with one dash.
const GO_FLAGS: [&str; 9] = [
    "-addr",
    "-service",
    "-connect-timeout",
    "-rpc-timeout",
    "-tls",
    "-tls-ca-cert",
    "-tls-client-cert",
    "-tls-client-key",
    "-tls-server-name",
];

#[derive(Debug, Args)]
pub(crate) struct HealthArgs {
    /// The daemon, as host:port.
    #[arg(long = "addr", alias = "address", env = "SCHEMAD_ADDRESS", default_value = crate::cli::local::settings::DEFAULT_LISTEN)]
    addr: String,
    /// Ask the daemon that has the same environment where it speaks no TLS and wants no credential:
    /// at its admin listener. That is where SCHEMAD_ADMIN_LISTEN says, else SCHEMAD_ADDRESS, else
    /// 127.0.0.1:50052. For a container's own health check.
    #[arg(long)]
    admin: bool,
    /// What to ask for: nothing (the process), schemad.v1.MigrationService, schemad.database,
    /// schemad.schema.current or schemad.schema.applied.VERSION.
    #[arg(long, default_value = "", env = "SCHEMAD_SERVICE")]
    service: String,
    /// How long connecting may take.
    #[arg(long, default_value = "1s", value_parser = humantime::parse_duration, env = "SCHEMAD_CONNECT_TIMEOUT", value_name = "DURATION")]
    connect_timeout: Duration,
    /// How long the answer may take.
    #[arg(long, default_value = "1s", value_parser = humantime::parse_duration, env = "SCHEMAD_RPC_TIMEOUT", value_name = "DURATION")]
    rpc_timeout: Duration,
    /// Speak TLS.
    #[arg(long, env = "SCHEMAD_TLS")]
    tls: bool,
    /// The authorities to trust (PEM), instead of the machine's own.
    #[arg(long, alias = "tls-ca", env = "SCHEMAD_TLS_CA", value_name = "FILE", value_parser = FileNameParser)]
    tls_ca_cert: Option<PathBuf>,
    /// The certificate to show (PEM).
    #[arg(long, alias = "client-cert", env = "SCHEMAD_CLIENT_CERT", value_name = "FILE", requires = "tls_client_key", value_parser = FileNameParser)]
    tls_client_cert: Option<PathBuf>,
    /// Its key (PEM).
    #[arg(long, alias = "client-key", env = "SCHEMAD_CLIENT_KEY", value_name = "FILE", requires = "tls_client_cert", value_parser = FileNameParser)]
    tls_client_key: Option<PathBuf>,
    /// The name that the daemon's certificate has to be for, instead of the address's host.
    #[arg(long, env = "SCHEMAD_TLS_SERVER_NAME", value_name = "NAME")]
    tls_server_name: Option<String>,
}

/// `schemad health -addr=x` as `schemad health --addr=x`.
pub(crate) fn with_double_dashes(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut args: Vec<OsString> = args.collect();
    if args.get(1).is_some_and(|arg| arg == "health") {
        for arg in args.iter_mut().skip(2) {
            let go = arg
                .to_str()
                .filter(|text| GO_FLAGS.contains(&text.split('=').next().unwrap_or_default()));
            if let Some(text) = go {
                *arg = format!("-{text}").into();
            }
        }
    }
    args
}

impl HealthArgs {
    pub(crate) async fn run(self) -> CommandExit {
        let unhealthy = |code, message: String| CommandExit::with_code(code, Some(message));
        let security = SecurityArgs::new(
            self.tls,
            self.tls_ca_cert.clone(),
            self.tls_server_name.clone(),
            self.tls_client_cert
                .clone()
                .zip(self.tls_client_key.clone()),
        );
        if self.admin && env_file::is_flag("SCHEMAD_ADDRESS") {
            return CommandExit::usage("--admin says where to ask, and so does --addr: give one")
                .with(1);
        }
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let address = match variable("SCHEMAD_ADMIN_LISTEN") {
            Some(listen) if self.admin => DaemonAddress::plain(reachable(&listen)),
            None if self.admin && variable("SCHEMAD_ADDRESS").is_none() => {
                DaemonAddress::plain(DEFAULT_ADMIN_LISTEN.into())
            }
            _ => DaemonAddress {
                address: self.addr.clone(),
                security,
            },
        };
        let shown = address.address.clone();
        let endpoint = match address.endpoint() {
            Ok(endpoint) => endpoint,
            Err(exit) => return exit.with(1),
        };
        let channel = match tokio::time::timeout(self.connect_timeout, endpoint.connect()).await {
            Ok(Ok(channel)) => channel,
            Ok(Err(error)) => {
                let cause = chain(&error);
                let hint = address.hint(&cause).unwrap_or_default();
                return unhealthy(
                    NO_CONNECTION,
                    format!("failed to connect to {shown}: {cause}{hint}"),
                );
            }
            Err(_) => {
                let message = format!(
                    "timeout: failed to connect to {shown} within {:?}",
                    self.connect_timeout
                );
                return unhealthy(NO_CONNECTION, message);
            }
        };
        let request = HealthCheckRequest {
            service: self.service.clone(),
        };
        let status =
            match tokio::time::timeout(self.rpc_timeout, HealthClient::new(channel).check(request))
                .await
            {
                Ok(Ok(response)) => response.into_inner().status(),
                Ok(Err(status)) if status.code() == Code::Unimplemented => {
                    let message = "this server does not implement the grpc health protocol \
                    (grpc.health.v1.Health)";
                    return unhealthy(RPC_FAILED, message.into());
                }
                Ok(Err(status)) => {
                    let cause = std::error::Error::source(&status).map(chain);
                    let hint = cause
                        .as_deref()
                        .and_then(|cause| address.hint(cause))
                        .unwrap_or_default();
                    let words = cause.as_deref().unwrap_or(status.message());
                    return unhealthy(
                        RPC_FAILED,
                        format!("health rpc failed: {:?}: {words}{hint}", status.code()),
                    );
                }
                Err(_) => {
                    let message = format!(
                        "timeout: health rpc did not complete within {:?}",
                        self.rpc_timeout
                    );
                    return unhealthy(RPC_FAILED, message);
                }
            };
        let word = status.as_str_name();
        if status == ServingStatus::Serving {
            say(&format!("status: {word}"));
            CommandExit::DONE
        } else {
            unhealthy(
                UNHEALTHY,
                format!("service unhealthy (responded with {word:?})"),
            )
        }
    }
}

/// Where a listener on this machine is reached: one on every address, at the loopback address.
fn reachable(listen: &str) -> String {
    match listen.rsplit_once(':') {
        Some(("0.0.0.0", port)) => format!("127.0.0.1:{port}"),
        Some(("[::]", port)) => format!("[::1]:{port}"),
        _ => listen.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_every_address_is_asked_at_the_loopback_address() {
        for (listen, asked) in [
            ("0.0.0.0:50052", "127.0.0.1:50052"),
            ("[::]:7", "[::1]:7"),
            (":50052", ":50052"),
            ("10.0.0.1:1", "10.0.0.1:1"),
        ] {
            assert_eq!(reachable(listen), asked);
        }
    }

    #[test]
    fn single_dashes_are_understood_for_health_only() {
        let convert = |args: &[&str]| with_double_dashes(args.iter().map(OsString::from));
        assert_eq!(
            convert(&[
                "schemad",
                "health",
                "-addr=a:1",
                "-service",
                "-x",
                "--addr",
                "b"
            ]),
            [
                "schemad",
                "health",
                "--addr=a:1",
                "--service",
                "-x",
                "--addr",
                "b"
            ]
        );
        assert_eq!(
            convert(&["schemad", "status", "-addr"]),
            ["schemad", "status", "-addr"]
        );
    }
}
