//! `schemad wait`: for init containers and scripts. It follows the health service's Watch, so it
//! costs the database nothing.

use std::time::Duration;

use clap::{Args, Subcommand};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::operate;
use crate::cli::{
    client::connection::DaemonAddress,
    exit::{self, CommandExit},
    output::progress,
};
use crate::{
    api::health,
    migration::{InvalidVersion, Version},
    pb,
};

/// A migration's version, or the name of its folder.
fn version(text: &str) -> Result<Version, InvalidVersion> {
    operate::version(text)
        .unwrap_or_else(|never| match never {})
        .parse()
}

/// Between tries while nobody answers.
const RETRY: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
pub(crate) struct WaitArgs {
    #[command(subcommand)]
    condition: WaitCondition,
    #[command(flatten)]
    address: DaemonAddress,
    /// How long to wait.
    #[arg(long, env = "SCHEMAD_TIMEOUT", default_value = "60s", value_parser = humantime::parse_duration, global = true, value_name = "DURATION")]
    timeout: Duration,
}

#[derive(Debug, Subcommand)]
enum WaitCondition {
    /// Operations can be accepted.
    Ready,
    /// The database answers.
    Database,
    /// Everything that the daemon carries is applied.
    Current,
    /// This version is applied.
    Applied {
        /// The migration: its folder's name, or its version.
        #[arg(value_parser = version)]
        version: Version,
    },
}

impl WaitCondition {
    fn service(&self) -> String {
        match self {
            Self::Ready => health::READY.into(),
            Self::Database => health::DATABASE.into(),
            Self::Current => health::CURRENT.into(),
            Self::Applied { version } => format!("{}{version}", health::APPLIED),
        }
    }
}

impl WaitArgs {
    pub(crate) async fn run(self) -> CommandExit {
        let service = self.condition.service();
        match tokio::time::timeout(
            self.timeout,
            until_serving(&self.address, &service, progress),
        )
        .await
        {
            Ok(Ok(())) => CommandExit::DONE,
            Ok(Err(exit)) => exit,
            Err(_) => CommandExit::unavailable(format!(
                "{service} of {} was not SERVING within {:?}{}",
                self.address.address,
                self.timeout,
                self.why()
                    .await
                    .map_or(String::new(), |why| format!(": {why}"))
            )),
        }
    }

    /// What the daemon says of the database, which health has no words for.
    async fn why(&self) -> Option<String> {
        let mut client = self.address.client().ok()?;
        let asked = client.get_status(pb::GetStatusRequest {
            ..Default::default()
        });
        match tokio::time::timeout(RETRY * 4, asked).await.ok()? {
            Err(status) => {
                exit::reason(&status).map(|reason| format!("{reason}: {}", status.message()))
            }
            Ok(answer) => {
                let problem = answer
                    .into_inner()
                    .status?
                    .problems
                    .into_iter()
                    .find(|problem| problem.blocking)?;
                Some(format!("{}: {}", problem.reason, problem.message))
            }
        }
    }
}

/// Waits until everything is applied, without a word.
pub(crate) async fn quietly_until_current(address: &DaemonAddress) -> Result<(), CommandExit> {
    until_serving(address, health::CURRENT, |_| {}).await?;
    // At a restart everything is applied before it is proved that operations could run.
    until_serving(address, health::READY, |_| {}).await
}

/// Watches again and again until the answer is SERVING.
async fn until_serving(
    address: &DaemonAddress,
    service: &str,
    tell: impl Fn(&str),
) -> Result<(), CommandExit> {
    let mut told = None;
    loop {
        let answer = watch(address, service, &tell).await?;
        match answer {
            Ok(()) => return Ok(()),
            Err(why) => {
                if told.as_ref() != Some(&why) {
                    tell(&why);
                    told = Some(why);
                }
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// One Watch, to SERVING or to its end.
async fn watch(
    address: &DaemonAddress,
    service: &str,
    tell: &impl Fn(&str),
) -> Result<Result<(), String>, CommandExit> {
    let mut client = HealthClient::new(address.channel()?);
    let request = HealthCheckRequest {
        service: service.to_owned(),
    };
    let mut statuses = match client.watch(request).await {
        Ok(response) => response.into_inner(),
        Err(status) => {
            return Ok(Err(format!(
                "waiting for {}: {}",
                address.address,
                status.message()
            )));
        }
    };
    loop {
        match statuses.message().await {
            Ok(Some(response)) => match response.status() {
                ServingStatus::Serving => return Ok(Ok(())),
                ServingStatus::ServiceUnknown => {
                    return Err(CommandExit::usage(format!(
                        "{} does not know {service}",
                        address.address
                    )));
                }
                _ => tell(&format!("{service} is not SERVING yet")),
            },
            Ok(None) => {
                return Ok(Err(format!(
                    "{} ended the stream; waiting for it to come back",
                    address.address
                )));
            }
            Err(status) => {
                return Ok(Err(format!(
                    "waiting for {}: {}",
                    address.address,
                    status.message()
                )));
            }
        }
    }
}
