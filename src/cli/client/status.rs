//! `schemad status`.

use clap::Args;

use super::operate::show::blocker as blocker_text;
use crate::cli::{
    client::{connection::ReadArgs, remedies},
    exit::CommandExit,
    output::{self, BAD, BOLD, DIM, GOOD, OutputFormat, WARN, line, say, styled, table},
};
use crate::pb;

/// The column at which a line's text begins, behind its label.
const LABEL: usize = 10;

/// Pending migrations that the table lists.
const SHOWN: usize = 20;

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    read: ReadArgs,
}

impl StatusArgs {
    pub(crate) async fn run(self) -> CommandExit {
        self.print().await.err().unwrap_or(CommandExit::DONE)
    }

    async fn print(self) -> Result<(), CommandExit> {
        let status = fetch(&self.read).await?;
        match self.read.common.output {
            OutputFormat::Json => {
                let response = pb::GetStatusResponse {
                    status: Some(status),
                };
                output::json(&response, "schemad.v1.GetStatusResponse")
            }
            OutputFormat::Table => {
                say(&show(&status));
                Ok(())
            }
        }
    }
}

/// Asks for the status.
pub(crate) async fn fetch(read: &ReadArgs) -> Result<pb::SchemaStatus, CommandExit> {
    let response = read
        .call(async |mut client| {
            client
                .get_status(pb::GetStatusRequest {
                    ..Default::default()
                })
                .await
        })
        .await?;
    response
        .status
        .ok_or_else(|| CommandExit::unknown("the daemon sent an empty status"))
}

/// The status for people.
pub(crate) fn show(status: &pb::SchemaStatus) -> String {
    let database = status.database.clone().unwrap_or_default();
    let ledger = status.ledger.clone().unwrap_or_default();
    let read_only = if database.read_only {
        ", read-only"
    } else {
        ""
    };
    let ledger = if ledger.installed {
        format!("version {}, {}", ledger.version, ledger.id)
    } else {
        "not made yet".into()
    };
    let mut lines = vec![
        format!("Schema    {}", state(status)),
        format!("Current   {}", or_dash(&status.current_version)),
        format!(
            "Database  {} on PostgreSQL {}{read_only}",
            line(&database.name),
            database.server_version
        ),
        format!("Ledger    {ledger}"),
        format!(
            "Set       {} migrations, {}",
            status.embedded_count, status.embedded_set_digest
        ),
        format!("schemad   {}", status.binary_version),
    ];
    if status.insecure {
        let open = "INSECURE  started with --insecure: whoever reaches the daemon needs no \
            credential, or can be read on the way";
        lines.push(styled(BAD, open));
    }
    if let Some(operation) = &status.running_operation {
        lines.push(format!(
            "Running   {} {}, {} of {} steps done, by {}",
            kind(operation),
            line(&operation.id),
            operation.steps_done,
            operation.steps_total,
            line(&operation.daemon)
        ));
    }
    if let Some(waiting) = &status.waiting {
        lines.extend(waits(waiting));
    }
    if let Some(operation) = &status.last_operation {
        lines.push(format!(
            "Last      {}",
            output::hanging(&ended(operation), LABEL)
        ));
        let is_failure =
            operation.state() != pb::OperationState::Succeeded && !operation.message.is_empty();
        lines.extend(is_failure.then(|| {
            format!(
                "          {}",
                output::hanging(&remedies::without_methods(&line(&operation.message)), LABEL)
            )
        }));
    }
    if !status.pending.is_empty() {
        lines.push(format!("\n{}", styled(BOLD, "Pending")));
        let rows = status
            .pending
            .iter()
            .take(SHOWN)
            .map(|m| vec![m.version.clone(), m.name.clone()]);
        lines.push(table(&["VERSION", "NAME"], rows));
        let more = usize::try_from(status.pending_count)
            .unwrap_or(0)
            .saturating_sub(SHOWN);
        if more > 0 {
            lines.push(styled(
                DIM,
                &format!("and {more} more; `schemad list` shows all"),
            ));
        }
    }
    if !status.problems.is_empty() {
        lines.push(format!("\n{}", styled(BOLD, "Problems")));
        lines.extend(problems(&status.problems));
    }
    lines.join("\n")
}

/// Each problem with what answers it. What several migrations have is shown of the first, with the
/// versions of the others.
fn problems(problems: &[pb::Problem]) -> Vec<String> {
    let mut lines = Vec::new();
    for (at, problem) in problems.iter().enumerate() {
        let is_alike =
            |other: &&pb::Problem| other.reason == problem.reason && !other.version.is_empty();
        if problems[..at].iter().any(|earlier| is_alike(&earlier)) {
            continue;
        }
        let style = if problem.blocking { BAD } else { WARN };
        lines.push(styled(style, &problem.reason));
        lines.push(format!(
            "  {}",
            output::hanging(&remedies::without_methods(&line(&problem.message)), 2)
        ));
        let others: Vec<_> = problems[at + 1..]
            .iter()
            .filter(is_alike)
            .map(|other| line(&other.version))
            .collect();
        if !others.is_empty() {
            let more = if others.len() > SHOWN { ", …" } else { "" };
            let named = others
                .iter()
                .take(SHOWN)
                .cloned()
                .collect::<Vec<_>>()
                .join(", ");
            let text = format!("The same is true of {} more: {named}{more}", others.len());
            lines.push(format!("  {}", output::hanging(&text, 2)));
        }
        lines.extend(
            remedies::of_problem(problem)
                .iter()
                .map(|way| format!("    {way}")),
        );
    }
    lines
}

fn state(status: &pb::SchemaStatus) -> String {
    let word = status
        .state()
        .as_str_name()
        .trim_start_matches("SCHEMA_STATE_");
    let (style, note) = match status.state() {
        pb::SchemaState::Current => (
            GOOD,
            match status.applied_count {
                1 => "the only migration is applied".to_owned(),
                all => format!("all {all} migrations are applied"),
            },
        ),
        pb::SchemaState::Empty => (WARN, format!("{} pending", status.pending_count)),
        pb::SchemaState::Behind => {
            let foreign = match status.unknown_count {
                0 => String::new(),
                n => format!("; {n} of the applied are not in this daemon's set"),
            };
            (
                WARN,
                format!(
                    "{} applied, {} pending{foreign}",
                    status.applied_count, status.pending_count
                ),
            )
        }
        pb::SchemaState::Ahead => (
            WARN,
            format!(
                "{} applied that this daemon does not carry: its set is an older one",
                status.unknown_count
            ),
        ),
        _ => (BAD, "apply would be refused; see the problems".into()),
    };
    format!(
        "{}  {}",
        styled(style, word),
        output::hanging(&note, LABEL + word.len() + 2)
    )
}

/// What the running operation waits for, and behind whom.
fn waits(waiting: &pb::Waiting) -> Vec<String> {
    let relation = if waiting.relation.is_empty() {
        String::new()
    } else {
        format!(" on {}", line(&waiting.relation))
    };
    let (version, mode) = (line(&waiting.version), line(&waiting.mode));
    let waited = output::duration(waiting.waited.as_ref());
    // Without a version all steps are through, and the end is being recorded.
    let during = if version.is_empty() {
        "to record the operation's end".into()
    } else {
        format!("migration {version}")
    };
    let what = format!("Waiting   {waited} for {mode}{relation}, {during}");
    let behind = |blocker| format!("          behind {}", line(&blocker_text(blocker)));
    std::iter::once(what)
        .chain(waiting.blockers.iter().map(behind))
        .collect()
}

/// How an operation ended, and when.
fn ended(operation: &pb::Operation) -> String {
    let state = operation.state();
    let word = state
        .as_str_name()
        .trim_start_matches("OPERATION_STATE_")
        .to_lowercase();
    let style = if state == pb::OperationState::Succeeded {
        GOOD
    } else {
        BAD
    };
    let why = if operation.reason.is_empty() {
        String::new()
    } else {
        format!(": {}", line(&operation.reason))
    };
    format!(
        "{} {}, {} {}, {} of {} steps done{why}",
        kind(operation),
        line(&operation.id),
        styled(style, &word),
        output::time(operation.end_time.as_ref()),
        operation.steps_done,
        operation.steps_total,
    )
}

fn kind(operation: &pb::Operation) -> String {
    operation
        .kind()
        .as_str_name()
        .trim_start_matches("OPERATION_KIND_")
        .to_lowercase()
}

fn or_dash(text: &str) -> String {
    if text.is_empty() {
        "–".into()
    } else {
        line(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(state: pb::SchemaState) -> pb::SchemaStatus {
        pb::SchemaStatus {
            state: state.into(),
            current_version: "20260101".into(),
            applied_count: 1,
            pending_count: 22,
            embedded_count: 23,
            embedded_set_digest: "sha256:ab".into(),
            binary_version: "0.1.0".into(),
            pending: (0..22)
                .map(|n| pb::MigrationRef {
                    version: format!("{n}"),
                    name: format!("{n}_x\u{1b}"),
                })
                .collect(),
            problems: vec![pb::Problem {
                reason: "EDITED".into(),
                version: "20260101".into(),
                message: "changed".into(),
                blocking: true,
                outcomes: vec![pb::ResolveOutcome::Accept.into()],
            }],
            running_operation: Some(pb::Operation {
                id: "0190".into(),
                kind: pb::OperationKind::Apply.into(),
                steps_done: 1,
                steps_total: 3,
                daemon: "host:1".into(),
                ..Default::default()
            }),
            waiting: Some(pb::Waiting {
                version: "20260102".into(),
                mode: "AccessExclusiveLock".into(),
                relation: "public.t\u{1b}".into(),
                waited: Some(prost_types::Duration {
                    seconds: 12,
                    nanos: 0,
                }),
                blockers: vec![pb::Blocker {
                    pid: 4711,
                    user: "alice\u{1b}".into(),
                    application_name: "psql".into(),
                    state: "idle in transaction".into(),
                    age: Some(prost_types::Duration {
                        seconds: 93,
                        nanos: 0,
                    }),
                    ..Default::default()
                }],
            }),
            last_operation: Some(pb::Operation {
                id: "0189".into(),
                kind: pb::OperationKind::Rollback.into(),
                state: pb::OperationState::Failed.into(),
                steps_total: 2,
                reason: "LOCK_TIMEOUT".into(),
                message: "0001_a/down.sql could not get its locks".into(),
                end_time: Some(prost_types::Timestamp {
                    seconds: 1_769_817_600,
                    nanos: 0,
                }),
                ..Default::default()
            }),
            database: Some(pb::Database {
                name: "app".into(),
                server_version: "15.18".into(),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn a_status_reads_well() {
        let shown =
            anstream::adapter::strip_str(&show(&status(pb::SchemaState::Diverged))).to_string();
        insta::assert_snapshot!(shown);
    }
}
