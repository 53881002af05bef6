//! `schemad lease`: a migrated database of one's own, for as long as the command runs.

mod child;
mod until;

use std::time::Duration;

use clap::Args;
use tonic::{Status, Streaming};

use crate::cli::{
    client::connection::{ClientArgs, DaemonAddress},
    exit::CommandExit,
    output::{self, DIM, OutputFormat, line, progress, say, styled},
};
use crate::pb::{self, lease_response::Event, lease_service_client::LeaseServiceClient};

const A_DAY: Duration = Duration::from_secs(86_400);

/// Lease a migrated database for a test: with a command, it runs with DATABASE_URL set; without
/// one, the URL is printed and the database is there until Ctrl-C, or until stdin ends where that
/// is a pipe. It is dropped afterwards.
#[derive(Debug, Args)]
pub(crate) struct LeaseArgs {
    #[command(flatten)]
    common: ClientArgs,
    /// How long it may last at most [default: as the daemon says].
    #[arg(long, env = "SCHEMAD_TTL", value_parser = humantime::parse_duration, value_name = "DURATION")]
    ttl: Option<Duration>,
    /// How long to wait for it: for room where as many databases are leased as may be, and for all
    /// migrations where it is the daemon's first lease.
    #[arg(long, env = "SCHEMAD_TIMEOUT", default_value = "2m", value_parser = humantime::parse_duration, value_name = "DURATION")]
    timeout: Duration,
    /// The command and its arguments, behind --. schemad exits as it does.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<std::ffi::OsString>,
}

impl LeaseArgs {
    pub(crate) async fn run(self) -> CommandExit {
        match self.hold().await {
            Ok(exit) | Err(exit) => exit,
        }
    }

    async fn hold(self) -> Result<CommandExit, CommandExit> {
        let address = &self.common.address;
        let client = LeaseServiceClient::new(address.channel()?);
        // The daemon gives up first, because it knows why.
        let queue_timeout = self.timeout.mul_f64(0.9);
        let asked = tokio::time::timeout(self.timeout, begin(client, self.ttl, queue_timeout));
        let (stream, database) = asked
            .await
            .map_err(|_| {
                CommandExit::unavailable(format!(
                    "no lease from {} within {:?}",
                    address.address, self.timeout
                ))
            })?
            .map_err(|status| address.explain(&status))?;
        let ended = ended(stream, address);
        if let Some((program, arguments)) = self.command.split_first() {
            return child::run(program, arguments, &database.url, ended).await;
        }
        self.show(&database)?;
        if !output::is_printed() {
            return Ok(CommandExit::DONE); // nobody has the URL
        }
        tokio::select! {
            exit = ended => Ok(exit),
            exit = until::told() => exit,
        }
    }

    fn show(&self, database: &pb::LeasedDatabase) -> Result<(), CommandExit> {
        if self.common.output == OutputFormat::Json {
            let response = pb::LeaseResponse {
                event: Some(Event::Database(database.clone())),
            };
            return output::json(&response, "schemad.v1.LeaseResponse");
        }
        say(&line(&database.url));
        let until = output::time(database.expire_time.as_ref());
        progress(&styled(
            DIM,
            &format!("leased until {until}, Ctrl-C, or the end of a piped stdin"),
        ));
        Ok(())
    }
}

/// Asks, and waits for the database.
async fn begin(
    mut client: LeaseServiceClient<super::credential::AuthenticatedChannel>,
    ttl: Option<Duration>,
    queue_timeout: Duration,
) -> Result<(Streaming<pb::LeaseResponse>, pb::LeasedDatabase), Status> {
    // A day is the longest that the daemon takes.
    let queue_timeout = super::operate::wire(queue_timeout.min(A_DAY));
    let request = pb::LeaseRequest {
        ttl: ttl.map(super::operate::wire),
        queue_timeout: Some(queue_timeout),
        ..Default::default()
    };
    let mut stream = client.lease(request).await?.into_inner();
    match stream.message().await?.and_then(|response| response.event) {
        Some(Event::Database(database)) => Ok((stream, database)),
        _ => Err(Status::unavailable("the answer ended before it began")),
    }
}

/// How to exit once the lease has ended.
async fn ended(mut stream: Streaming<pb::LeaseResponse>, address: &DaemonAddress) -> CommandExit {
    loop {
        match stream.message().await {
            Ok(Some(_)) => {}
            Ok(None) => {
                return CommandExit::unavailable(
                    "something between here and the daemon ended the lease",
                );
            }
            Err(status) => return address.explain(&status),
        }
    }
}
