//! `schemad apply` and `schemad rollback`: one request, repeated under the same id until its result
//! is known.

mod follow;
pub(crate) mod progress;
pub(crate) mod show;

pub(crate) use progress::ProgressDisplay;

use std::time::Duration;

use clap::{Args, ValueEnum};
use tonic::{Status, Streaming};
use uuid::Uuid;

use super::credential::AuthenticatedChannel;
use crate::cli::{client::connection::ClientArgs, exit::CommandExit};
use crate::{
    migration::folder,
    pb::{self, migration_service_client::MigrationServiceClient},
};

/// Options of both. What to do is said in arguments only: a variable that somebody left behind must
/// not choose a target.
#[derive(Clone, Debug, Args)]
struct OperateArgs {
    #[command(flatten)]
    common: ClientArgs,
    /// UUID of the request: the same id is the same operation, so a pipeline that is started again
    /// does not ask twice.
    #[arg(long, env = "SCHEMAD_REQUEST_ID", value_name = "UUID")]
    request_id: Option<Uuid>,
    /// Only say what would happen, and end as the real call would.
    #[arg(long)]
    validate_only: bool,
    /// How long to wait for another operation to end [default: not at all].
    #[arg(long, env = "SCHEMAD_QUEUE_TIMEOUT", value_parser = humantime::parse_duration, value_name = "DURATION")]
    queue_timeout: Option<Duration>,
    /// How long a step may go on retrying for its locks [default: 2m].
    #[arg(long, env = "SCHEMAD_LOCK_WAIT", value_parser = humantime::parse_duration, value_name = "DURATION")]
    lock_wait: Option<Duration>,
    /// How long one attempt of a step may wait for a lock, and users behind it [default: 5s].
    #[arg(long, env = "SCHEMAD_LOCK_TIMEOUT", value_parser = humantime::parse_duration, value_name = "DURATION")]
    lock_timeout: Option<Duration>,
    /// How long to go on asking when the connection is lost.
    #[arg(long, env = "SCHEMAD_RECONNECT", default_value = "60s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    reconnect: Duration,
    /// End when the operation is accepted, without waiting for it; `schemad watch` follows it.
    #[arg(long, conflicts_with = "validate_only")]
    detach: bool,
}

/// Apply pending migrations, in version order, all of them without --to or --steps.
#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    /// Only those up to and including this version.
    #[arg(long, value_name = "VERSION", value_parser = version, conflicts_with = "steps")]
    to: Option<String>,
    /// At most so many.
    #[arg(long, value_name = "N")]
    steps: Option<i32>,
    /// Also those that are older than one already applied, or of a set that has nothing of what is
    /// applied.
    #[arg(long)]
    allow_out_of_order: bool,
    /// Refuse unless the daemon carries exactly this set (as `schemad status` shows it).
    #[arg(long, value_name = "DIGEST", env = "SCHEMAD_EXPECTED_SET_DIGEST")]
    expected_set_digest: Option<String>,
    #[command(flatten)]
    operate: OperateArgs,
}

/// Roll back applied migrations, the last applied first.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("target").required(true).args(["steps", "to", "all"]))]
pub(crate) struct RollbackArgs {
    /// So many.
    #[arg(long, value_name = "N")]
    steps: Option<i32>,
    /// Everything applied after this version, which stays.
    #[arg(long, value_name = "VERSION", value_parser = version)]
    to: Option<String>,
    /// Everything.
    #[arg(long)]
    all: bool,
    /// Which down script to run where the ledger's and the daemon's differ.
    #[arg(long, value_name = "WHERE", value_enum)]
    down_from: Option<DownSourceArg>,
    /// Also what clients watch (schemad.schema.applied.<version>), which is refused otherwise.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    operate: OperateArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum DownSourceArg {
    /// What belonged to the migration when it was applied.
    Ledger,
    /// What the daemon carries.
    #[value(alias = "binary")]
    Daemon,
}

impl ApplyArgs {
    pub(crate) async fn run(self) -> CommandExit {
        let Self {
            to, steps, operate, ..
        } = self;
        let request = pb::ApplyRequest {
            target: to
                .map(pb::apply_request::Target::To)
                .or(steps.map(pb::apply_request::Target::Steps)),
            allow_out_of_order: self.allow_out_of_order,
            expected_set_digest: self.expected_set_digest.unwrap_or_default(),
            request_id: operate.request_id.unwrap_or_else(Uuid::new_v4).to_string(),
            validate_only: operate.validate_only,
            queue_timeout: operate.queue_timeout.map(wire),
            lock_wait: operate.lock_wait.map(wire),
            lock_timeout: operate.lock_timeout.map(wire),
            detach: operate.detach,
            ..Default::default()
        };
        follow::follow(&operate, RepeatableCall::Apply(request)).await
    }
}

impl RollbackArgs {
    pub(crate) async fn run(self) -> CommandExit {
        use pb::rollback_request::Target;
        let Self {
            to,
            steps,
            all,
            down_from,
            force,
            operate,
        } = self;
        let request = pb::RollbackRequest {
            target: to
                .map(Target::To)
                .or(steps.map(Target::Steps))
                .or(all.then_some(Target::All(true))),
            down_from: match down_from {
                None => pb::ScriptSource::Unspecified,
                Some(DownSourceArg::Ledger) => pb::ScriptSource::Ledger,
                Some(DownSourceArg::Daemon) => pb::ScriptSource::Binary,
            }
            .into(),
            request_id: operate.request_id.unwrap_or_else(Uuid::new_v4).to_string(),
            validate_only: operate.validate_only,
            queue_timeout: operate.queue_timeout.map(wire),
            lock_wait: operate.lock_wait.map(wire),
            lock_timeout: operate.lock_timeout.map(wire),
            force,
            detach: operate.detach,
            ..Default::default()
        };
        follow::follow(&operate, RepeatableCall::Rollback(request)).await
    }
}

/// The daemon refuses what is too long; here it need only fit the message.
pub(crate) fn wire(duration: Duration) -> prost_types::Duration {
    prost_types::Duration::try_from(duration).unwrap_or(prost_types::Duration {
        seconds: 315_576_000_000,
        nanos: 0,
    })
}

/// The request, to be sent as often as needed.
enum RepeatableCall {
    Apply(pb::ApplyRequest),
    Rollback(pb::RollbackRequest),
}

/// The answer's stream.
enum EventStream {
    Apply(Streaming<pb::ApplyResponse>),
    Rollback(Streaming<pb::RollbackResponse>),
}

impl RepeatableCall {
    fn request_id(&self) -> &str {
        match self {
            Self::Apply(request) => &request.request_id,
            Self::Rollback(request) => &request.request_id,
        }
    }

    /// Asks for the same as a new operation.
    fn renew(&mut self) {
        let id = Uuid::new_v4().to_string();
        match self {
            Self::Apply(request) => request.request_id = id,
            Self::Rollback(request) => request.request_id = id,
        }
    }

    async fn send(
        &self,
        client: &mut MigrationServiceClient<AuthenticatedChannel>,
    ) -> Result<EventStream, Status> {
        Ok(match self {
            Self::Apply(request) => {
                EventStream::Apply(client.apply(request.clone()).await?.into_inner())
            }
            Self::Rollback(request) => {
                EventStream::Rollback(client.rollback(request.clone()).await?.into_inner())
            }
        })
    }
}

impl EventStream {
    async fn next(&mut self) -> Result<Option<pb::OperationEvent>, Status> {
        Ok(match self {
            Self::Apply(stream) => stream.message().await?.and_then(|response| response.event),
            Self::Rollback(stream) => stream.message().await?.and_then(|response| response.event),
        })
    }

    /// The full name of the response message.
    fn message_name(&self) -> &'static str {
        match self {
            Self::Apply(_) => "schemad.v1.ApplyResponse",
            Self::Rollback(_) => "schemad.v1.RollbackResponse",
        }
    }
}

/// A migration's version, or the name of its folder, from which Diesel reads the version.
#[expect(clippy::unnecessary_wraps, reason = "clap asks for a result")]
pub(crate) fn version(text: &str) -> Result<String, std::convert::Infallible> {
    let version = folder::version_of(text);
    let is_number = !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_digit());
    Ok(if is_number { version } else { text.to_owned() })
}
