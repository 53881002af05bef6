//! `schemad history`, `schemad watch` and `schemad cancel`: operations, whoever began them.

use std::{
    collections::HashSet,
    time::{Duration, Instant, SystemTime},
};

use clap::{Args, ValueEnum};
use tonic::Status;

use super::operate::{self, ProgressDisplay, show};
use crate::cli::{
    client::connection::{ClientArgs, ReadArgs},
    exit::CommandExit,
    output::{self, OutputFormat, fitted_table, line, progress, say, tell_done},
};
use crate::pb::{self, operation_event::Event, operation_service_client::OperationServiceClient};

/// Between tries after a lost connection.
const RETRY: Duration = Duration::from_millis(300);

/// List operations, the newest first.
#[derive(Debug, Args)]
pub(crate) struct HistoryArgs {
    #[command(flatten)]
    read: ReadArgs,
    /// Only these.
    #[arg(long, value_enum)]
    kind: Option<KindFilter>,
    /// Only those in this state.
    #[arg(long, value_enum)]
    state: Option<StateFilter>,
    /// Only those that this principal asked for.
    #[arg(long, value_name = "NAME")]
    principal: Option<String>,
    /// Only those with a step of this migration.
    #[arg(long, value_name = "VERSION", value_parser = operate::version)]
    version: Option<String>,
    /// Only those of the last, for example, 2h or 7d.
    #[arg(long, value_parser = humantime::parse_duration, value_name = "DURATION")]
    since: Option<Duration>,
    /// At most so many.
    #[arg(long, default_value_t = 20, value_name = "N")]
    limit: usize,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum KindFilter {
    Apply,
    Rollback,
    Resolve,
    Sign,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum StateFilter {
    Pending,
    Running,
    Succeeded,
    Failed,
    Interrupted,
    Cancelled,
}

impl HistoryArgs {
    pub(crate) async fn run(self) -> CommandExit {
        self.print().await.err().unwrap_or(CommandExit::DONE)
    }

    /// As many pages as needed: one table, or one JSON object a page.
    async fn print(self) -> Result<(), CommandExit> {
        let mut request = pb::ListOperationsRequest {
            kind: self
                .kind
                .map_or(pb::OperationKind::Unspecified, kind)
                .into(),
            state: self
                .state
                .map_or(pb::OperationState::Unspecified, state)
                .into(),
            principal: self.principal.unwrap_or_default(),
            version: self.version.unwrap_or_default(),
            create_time_from: self
                .since
                .and_then(|since| SystemTime::now().checked_sub(since))
                .map(Into::into),
            ..Default::default()
        };
        let (mut rows, mut left) = (Vec::new(), self.limit);
        while left > 0 {
            request.page_size = i32::try_from(left.min(1000)).unwrap_or(1000);
            let call = request.clone();
            let page = self
                .read
                .call_on(OperationServiceClient::new, async |mut client| {
                    client.list_operations(call).await
                })
                .await?;
            if self.read.common.output == OutputFormat::Json {
                output::json(&page, "schemad.v1.ListOperationsResponse")?;
            }
            left -= page.operations.len().min(left);
            rows.extend(page.operations.iter().map(row));
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                break;
            }
        }
        if self.read.common.output == OutputFormat::Table {
            if output::is_narrow(HISTORY_WIDTH) {
                shorten_ids(&mut rows);
            }
            let header = [
                "OPERATION",
                "WHAT",
                "STATE",
                "STEPS",
                "BEGUN",
                "TOOK",
                "BY",
                "REASON",
            ];
            say(&fitted_table(
                &header,
                rows,
                &["BY", "TOOK", "STEPS"],
                "REASON",
            ));
        }
        Ok(())
    }
}

/// A terminal with less has no room for whole ids and the rest beside them.
const HISTORY_WIDTH: usize = 120;

/// Ids as short as `watch` and `cancel` take them, in the first column: so long that no two are the
/// same.
fn shorten_ids(rows: &mut [Vec<String>]) {
    const SHORTEST: usize = 13; // with the time in milliseconds
    let ids: Vec<String> = rows.iter().map(|row| row[0].clone()).collect();
    let longest = ids.iter().map(String::len).max().unwrap_or_default();
    let prefix = |length: usize| ids.iter().map(move |id| id.get(..length).unwrap_or(id));
    let is_enough = |length: &usize| prefix(*length).collect::<HashSet<_>>().len() == ids.len();
    let length = (SHORTEST..longest).find(is_enough).unwrap_or(longest);
    for row in rows {
        row[0] = row[0].get(..length).unwrap_or(&row[0]).to_owned();
    }
}

fn row(operation: &pb::Operation) -> Vec<String> {
    let word = |name: &str, prefix: &str| name.trim_start_matches(prefix).to_lowercase();
    let end = operation
        .end_time
        .and_then(|time| SystemTime::try_from(time).ok());
    let begin = operation
        .create_time
        .and_then(|time| SystemTime::try_from(time).ok());
    let took = begin
        .zip(end)
        .and_then(|(begin, end)| end.duration_since(begin).ok());
    vec![
        operation.id.clone(),
        word(operation.kind().as_str_name(), "OPERATION_KIND_"),
        word(operation.state().as_str_name(), "OPERATION_STATE_"),
        format!("{}/{}", operation.steps_done, operation.steps_total),
        output::time(operation.create_time.as_ref()),
        output::duration(
            took.and_then(|took| prost_types::Duration::try_from(took).ok())
                .as_ref(),
        ),
        operation.principal.clone(),
        why(operation),
    ]
}

/// Why it did not succeed; else what was said when it was asked for, as far as a line has room.
fn why(operation: &pb::Operation) -> String {
    const ROOM: usize = 60;
    if !operation.reason.is_empty() {
        return operation.reason.clone();
    }
    let message = line(&operation.message);
    match message.char_indices().nth(ROOM) {
        None => message,
        Some((end, _)) => format!("{}…", &message[..end]),
    }
}

fn kind(kind: KindFilter) -> pb::OperationKind {
    match kind {
        KindFilter::Apply => pb::OperationKind::Apply,
        KindFilter::Rollback => pb::OperationKind::Rollback,
        KindFilter::Resolve => pb::OperationKind::Resolve,
        KindFilter::Sign => pb::OperationKind::Sign,
    }
}

fn state(state: StateFilter) -> pb::OperationState {
    match state {
        StateFilter::Pending => pb::OperationState::Pending,
        StateFilter::Running => pb::OperationState::Running,
        StateFilter::Succeeded => pb::OperationState::Succeeded,
        StateFilter::Failed => pb::OperationState::Failed,
        StateFilter::Interrupted => pb::OperationState::Interrupted,
        StateFilter::Cancelled => pb::OperationState::Cancelled,
    }
}

/// Which operation.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct OperationSelector {
    /// The operation's id, or how it begins as `history` shows it.
    operation: Option<String>,
    /// The one that runs, or is the next to.
    #[arg(long)]
    running: bool,
}

/// How many of the newest operations the beginning of an id is looked for in.
const LOOKED_THROUGH: i32 = 1000;

/// Less of an id than this is a mistake rather than a choice.
const SHORTEST_BEGINNING: usize = 8;

impl OperationSelector {
    /// Its whole id.
    async fn id(&self, common: &ClientArgs) -> Result<String, CommandExit> {
        if let Some(id) = &self.operation
            && uuid::Uuid::try_parse(id).is_ok()
        {
            return Ok(id.clone());
        }
        // A variable that is empty must not be the only operation there is.
        if let Some(begins) = self
            .operation
            .as_ref()
            .filter(|begins| begins.len() < SHORTEST_BEGINNING)
        {
            return Err(CommandExit::usage(format!(
                "{begins:?} is too little of an operation's id: give at least {SHORTEST_BEGINNING} \
                 characters, or --running"
            )));
        }
        let request = pb::ListOperationsRequest {
            page_size: LOOKED_THROUGH,
            ..Default::default()
        };
        let read = ReadArgs::new(common.clone());
        let page = read
            .call_on(OperationServiceClient::new, async |mut client| {
                client.list_operations(request).await
            })
            .await?;
        let is_it = |operation: &&pb::Operation| match &self.operation {
            Some(begins) => operation.id.starts_with(&begins.to_ascii_lowercase()),
            None => matches!(
                operation.state(),
                pb::OperationState::Running | pb::OperationState::Pending
            ),
        };
        let mut found: Vec<&pb::Operation> = page.operations.iter().filter(is_it).collect();
        if self.running {
            // Under way before those that wait, and of those the oldest.
            found.sort_by_key(|operation| operation.state() != pb::OperationState::Running);
            let first = found
                .iter()
                .find(|operation| operation.state() == pb::OperationState::Running)
                .or(found.last());
            return first
                .map(|operation| operation.id.clone())
                .ok_or_else(|| CommandExit::usage("no operation is running"));
        }
        let begins = self.operation.as_deref().unwrap_or_default();
        match found[..] {
            [one] => Ok(one.id.clone()),
            [] => Err(CommandExit::usage(format!(
                "no operation's id begins with {begins:?} (`schemad history` lists them; the last \
                 {LOOKED_THROUGH} were looked at)"
            ))),
            [..] => Err(CommandExit::usage(format!(
                "the ids of {} operations begin with {begins:?}: give more of it",
                found.len()
            ))),
        }
    }
}

/// Follow an operation to its end, on whichever daemon it runs, and exit as it ended.
#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    #[command(flatten)]
    which: OperationSelector,
    /// Begin after the state change with this number.
    #[arg(long, default_value_t = 0, value_name = "N")]
    after: i64,
    /// How long to go on asking when the connection is lost.
    #[arg(long, env = "SCHEMAD_RECONNECT", default_value = "60s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    reconnect: Duration,
    #[command(flatten)]
    common: ClientArgs,
}

impl WatchArgs {
    pub(crate) async fn run(self) -> CommandExit {
        let operation = match self.which.id(&self.common).await {
            Ok(id) => id,
            Err(exit) => return exit,
        };
        let following = OperationWatch {
            operation,
            after: self.after,
            reconnect: self.reconnect,
            common: self.common,
        };
        following.say_what_was_asked().await;
        following.run().await
    }
}

/// A watch of one operation.
struct OperationWatch {
    operation: String,
    after: i64,
    reconnect: Duration,
    common: ClientArgs,
}

impl OperationWatch {
    /// Of an operation without steps: what was resolved or signed, and why. Its events do not say.
    async fn say_what_was_asked(&self) {
        let request = pb::GetOperationRequest {
            id: self.operation.clone(),
            ..Default::default()
        };
        let read = ReadArgs::new(self.common.clone());
        let found = read
            .call_on(OperationServiceClient::new, async |mut client| {
                client.get_operation(request).await
            })
            .await;
        let Ok(pb::GetOperationResponse {
            operation: Some(operation),
        }) = found
        else {
            return;
        };
        let is_without_steps = matches!(
            operation.kind(),
            pb::OperationKind::Resolve | pb::OperationKind::Sign
        );
        if is_without_steps
            && operation.reason.is_empty()
            && self.common.output == OutputFormat::Table
        {
            let word = operation
                .kind()
                .as_str_name()
                .trim_start_matches("OPERATION_KIND_")
                .to_lowercase();
            progress(&format!(
                "{}, asked for by {}: {}",
                word.replace('_', " "),
                line(&operation.principal),
                line(&operation.message)
            ));
        }
    }

    async fn run(self) -> CommandExit {
        let mut live = ProgressDisplay::new();
        let exit = tokio::select! {
            exit = self.to_the_end(&mut live) => exit,
            _ = tokio::signal::ctrl_c() => {
                live.interrupted();
                show::left(&self.operation);
                return CommandExit::interrupted("");
            }
        };
        live.clear();
        exit
    }

    async fn to_the_end(&self, live: &mut ProgressDisplay) -> CommandExit {
        let (mut after, mut ended, mut lost_since) = (self.after, None, None::<Instant>);
        loop {
            let status = match self
                .once(&mut after, &mut ended, &mut lost_since, live)
                .await
            {
                Ok(()) => match ended {
                    Some(exit) => return exit,
                    None => match self.recorded_end().await {
                        Ok(Some(exit)) => return exit,
                        Ok(None) => Status::unavailable("the stream ended early"),
                        Err(status) => status,
                    },
                },
                Err(StreamCut::Status(status)) => status,
                Err(StreamCut::Exit(exit)) => return exit,
            };
            if crate::cli::exit::reason(&status).is_some() {
                return self.common.address.explain(&status);
            }
            let since = *lost_since.get_or_insert_with(Instant::now);
            if since.elapsed() >= self.reconnect {
                return self.common.address.explain(&status);
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// How it ended, as it is recorded, for whoever has seen all of its events. `None`: it has not
    /// ended.
    async fn recorded_end(&self) -> Result<Option<CommandExit>, Status> {
        let channel = self
            .common
            .address
            .channel()
            .map_err(|_| Status::unavailable("the daemon cannot be reached"))?;
        let request = pb::GetOperationRequest {
            id: self.operation.clone(),
            ..Default::default()
        };
        let response = OperationServiceClient::new(channel)
            .get_operation(request)
            .await?
            .into_inner();
        let Some(operation) = response.operation else {
            return Ok(None);
        };
        Ok(match operation.state() {
            pb::OperationState::Unspecified
            | pb::OperationState::Pending
            | pb::OperationState::Running => None,
            pb::OperationState::Succeeded => Some(CommandExit::DONE),
            _ => {
                let failure = pb::Failure {
                    reason: operation.reason,
                    message: operation.message,
                    ..Default::default()
                };
                Some(CommandExit::from_failure(Some(&failure)))
            }
        })
    }

    async fn once(
        &self,
        after: &mut i64,
        ended: &mut Option<CommandExit>,
        lost_since: &mut Option<Instant>,
        live: &mut ProgressDisplay,
    ) -> Result<(), StreamCut> {
        let mut client =
            OperationServiceClient::new(self.common.address.channel().map_err(StreamCut::Exit)?);
        let request = pb::WatchOperationRequest {
            id: self.operation.clone(),
            after_sequence: *after,
            ..Default::default()
        };
        let mut events = client
            .watch_operation(request)
            .await
            .map_err(StreamCut::Status)?
            .into_inner();
        while let Some(response) = events.message().await.map_err(StreamCut::Status)? {
            let Some(event) = &response.event else {
                continue;
            };
            *lost_since = None;
            *after = event.sequence.max(*after);
            if let Some(Event::Finished(finished)) = &event.event {
                *ended = Some(CommandExit::from_failure(finished.failure.as_ref()));
            }
            match self.common.output {
                OutputFormat::Json => output::json(&response, "schemad.v1.WatchOperationResponse")
                    .map_err(StreamCut::Exit)?,
                OutputFormat::Table => {
                    live.event(event);
                    live.above(|| show::event(event));
                }
            }
            // Nobody reads what follows.
            if !output::is_printed() && ended.is_none() {
                live.above(|| show::left(&self.operation));
                return Err(StreamCut::Exit(CommandExit::DONE));
            }
        }
        Ok(())
    }
}

/// Why a stream was cut.
enum StreamCut {
    Status(Status),
    Exit(CommandExit),
}

/// Cancel an operation: its running step is undone, what was committed before stays.
#[derive(Debug, Args)]
pub(crate) struct CancelArgs {
    #[command(flatten)]
    which: OperationSelector,
    #[command(flatten)]
    common: ClientArgs,
}

impl CancelArgs {
    pub(crate) async fn run(self) -> CommandExit {
        let id = match self.which.id(&self.common).await {
            Ok(id) => id,
            Err(exit) => return exit,
        };
        let request = pb::CancelOperationRequest {
            id,
            ..Default::default()
        };
        // It answers when the operation has ended.
        let read = ReadArgs::with_timeout(self.common.clone(), Duration::from_secs(60));
        let answer = read
            .call_on(OperationServiceClient::new, async |mut client| {
                client.cancel_operation(request).await
            })
            .await;
        let response = match answer {
            Ok(response) => response,
            Err(exit) => return exit,
        };
        if self.common.output == OutputFormat::Json {
            let exit = output::json(&response, "schemad.v1.CancelOperationResponse")
                .err()
                .unwrap_or(CommandExit::DONE);
            if output::is_printed() {
                return exit;
            }
        }
        let operation = response.operation.unwrap_or_default();
        let reached = format!(
            "{} of {} steps are done and stay",
            operation.steps_done, operation.steps_total
        );
        match operation.state() {
            pb::OperationState::Cancelled => tell_done(&format!("Cancelled; {reached}.")),
            pb::OperationState::Pending | pb::OperationState::Running => {
                progress("It was told to end and has not yet; `schemad watch` follows it.");
            }
            other => {
                let word = other
                    .as_str_name()
                    .trim_start_matches("OPERATION_STATE_")
                    .to_lowercase();
                tell_done(&format!(
                    "It ended by itself before that: {}; {reached}.",
                    line(&word)
                ));
            }
        }
        CommandExit::DONE
    }
}
