//! Domain types into messages.

use std::time::{Duration, SystemTime};

use uuid::Uuid;

use crate::pb;
use crate::{
    failure::Failure,
    ledger::{LedgerSnapshot, OperationRow, OperationState, signatures::SigningRecord},
    migration::{
        Direction, Migration, MigrationRecord, MigrationRow, Script, ScriptMode, Version,
        run_mode::{PartsReason, RunMode},
        set::MigrationSet,
    },
    operation::{LogEntry, OperationEvent, PlannedStep, StepName},
    planner::{self, Assessment, ResolveOutcome},
    postgres::activity::{Blocker, LockWaiting},
};

/// Pending migrations and problems listed in a status; the counts are whole.
const MAX_PENDING: usize = 1000;
const MAX_PROBLEMS: usize = 100;
/// Steps listed in a plan: with names of 255 bytes still well below the 3 MiB of a message.
const MAX_PLANNED: usize = 5000;
/// Versions, of 50 characters at most, and what was not signed, with a sentence each.
const MAX_SIGNED: usize = 10_000;
const MAX_REFUSED: usize = 1_000;
/// Bytes of SQL in an answer.
const MAX_SQL: usize = 1 << 20;

/// The answer of GetStatus.
pub(crate) fn status(
    catalog: &MigrationSet,
    snapshot: &LedgerSnapshot,
    assessment: &Assessment,
    insecure: bool,
) -> pb::SchemaStatus {
    let name = |version: &Version| {
        catalog
            .get(version)
            .map_or_else(String::new, |m| m.name.clone())
    };
    pb::SchemaStatus {
        insecure,
        state: match assessment.state {
            planner::SchemaState::Empty => pb::SchemaState::Empty,
            planner::SchemaState::Current => pb::SchemaState::Current,
            planner::SchemaState::Behind => pb::SchemaState::Behind,
            planner::SchemaState::Ahead => pb::SchemaState::Ahead,
            planner::SchemaState::Diverged => pb::SchemaState::Diverged,
            planner::SchemaState::InDoubt => pb::SchemaState::InDoubt,
        }
        .into(),
        current_version: assessment
            .current
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        applied_count: count(assessment.applied),
        pending_count: count(assessment.pending.len()),
        unknown_count: count(assessment.unknown.len()),
        embedded_count: count(catalog.len()),
        pending: assessment
            .pending
            .iter()
            .take(MAX_PENDING)
            .map(|version| pb::MigrationRef {
                version: version.to_string(),
                name: name(version),
            })
            .collect(),
        problems: assessment
            .problems
            .iter()
            .take(MAX_PROBLEMS)
            .map(problem)
            .collect(),
        running_operation: snapshot.running.as_ref().map(operation),
        binary_version: env!("CARGO_PKG_VERSION").into(),
        embedded_set_digest: catalog.digest().to_string(),
        ledger: Some(
            snapshot
                .ledger
                .as_ref()
                .map_or_else(pb::Ledger::default, |ledger| pb::Ledger {
                    installed: true,
                    id: ledger.id.clone(),
                    version: ledger.version,
                    compatible_with: ledger.compatible_with,
                }),
        ),
        database: Some(pb::Database {
            name: snapshot.server.database.clone(),
            server_version: snapshot.server.version.clone(),
            read_only: snapshot.server.read_only,
            diesel_table: snapshot.diesel_table.clone().unwrap_or_default(),
        }),
        // Who asks for them reads them.
        last_operation: None,
        waiting: None,
    }
}

fn problem(problem: &planner::SchemaProblem) -> pb::Problem {
    pb::Problem {
        reason: problem.reason.into(),
        version: problem.version.clone(),
        message: problem.message.clone(),
        blocking: problem.blocking,
        outcomes: problem
            .outcomes
            .iter()
            .map(|outcome| self::outcome(*outcome).into())
            .collect(),
    }
}

/// The outcome of a message; `None` for UNSPECIFIED.
pub(crate) fn outcome_of(outcome: pb::ResolveOutcome) -> Option<ResolveOutcome> {
    ResolveOutcome::ALL
        .into_iter()
        .find(|known| self::outcome(*known) == outcome)
}

fn outcome(outcome: ResolveOutcome) -> pb::ResolveOutcome {
    match outcome {
        ResolveOutcome::Applied => pb::ResolveOutcome::Applied,
        ResolveOutcome::NotApplied => pb::ResolveOutcome::NotApplied,
        ResolveOutcome::Retry => pb::ResolveOutcome::Retry,
        ResolveOutcome::StartOver => pb::ResolveOutcome::StartOver,
        ResolveOutcome::Accept => pb::ResolveOutcome::Accept,
        ResolveOutcome::RestoreTable => pb::ResolveOutcome::RestoreDieselTable,
        ResolveOutcome::NothingApplied => pb::ResolveOutcome::NothingApplied,
    }
}

/// An operation.
pub(crate) fn operation(row: &OperationRow) -> pb::Operation {
    pb::Operation {
        id: row.id.to_string(),
        kind: kind(&row.kind).into(),
        state: OperationState::parse(&row.state)
            .map_or(pb::OperationState::Unspecified, state)
            .into(),
        principal: row.principal.clone(),
        daemon: row.daemon.clone(),
        create_time: Some(row.created_at.into()),
        start_time: row.started_at.map(Into::into),
        end_time: row.finished_at.map(Into::into),
        steps_total: row.steps_total,
        steps_done: row.steps_done,
        request_id: row.request_id.clone(),
        reason: row.reason.clone().unwrap_or_default(),
        message: row.message.clone().unwrap_or_default(),
        cancel_requested: row.cancel_requested,
    }
}

/// The answer of SignLedger.
pub(crate) fn signed(row: &OperationRow, signed: SigningRecord) -> pb::SignLedgerResponse {
    let refused = |(version, message)| pb::UnsignedDown { version, message };
    pb::SignLedgerResponse {
        operation: Some(operation(row)),
        signed: signed.signed.into_iter().take(MAX_SIGNED).collect(),
        refused: signed
            .refused
            .into_iter()
            .take(MAX_REFUSED)
            .map(refused)
            .collect(),
    }
}

/// One migration, as far as the binary and the database know it; without SQL.
pub(crate) fn migration(
    version: &Version,
    embedded: Option<&Migration>,
    row: Option<&MigrationRow>,
) -> pb::Migration {
    let recorded = row.and_then(|row| row.recorded.as_ref());
    let applied = row.is_some_and(MigrationRow::is_applied);
    let checksum =
        |script: Option<&Script>| script.map(|s| s.checksum.to_string()).unwrap_or_default();
    let state = match (applied, recorded) {
        _ if row.is_some_and(|row| row.journal.is_some()) => pb::MigrationState::HalfDone,
        (true, Some(MigrationRecord { adopted: false, .. })) => pb::MigrationState::Applied,
        (true, _) => pb::MigrationState::Adopted,
        (false, Some(_)) => pb::MigrationState::RevertedElsewhere,
        (false, None) => pb::MigrationState::Pending,
    };
    let (up_how, down_how) = (
        embedded.map(|m| RunMode::counted(&m.up)),
        embedded.and_then(|m| m.down.as_ref()).map(RunMode::counted),
    );
    let (ledger_up, ledger_down) = recorded.map_or((None, None), |r| (r.up, r.down));
    let embedded_up = embedded.map(|m| &m.up);
    let embedded_down = embedded.and_then(|m| m.down.as_ref());
    let sources = [
        (ledger_down.is_some() && applied, pb::ScriptSource::Ledger),
        (embedded_down.is_some(), pb::ScriptSource::Binary),
    ];
    pb::Migration {
        version: version.to_string(),
        name: embedded
            .map(|m| m.name.clone())
            .or_else(|| recorded.map(|r| r.name.clone()))
            .unwrap_or_else(|| version.to_string()),
        state: state.into(),
        embedded: embedded.is_some(),
        edited: applied
            && ledger_up
                .zip(embedded_up)
                .is_some_and(|((sum, _), up)| sum != up.checksum),
        up_mode: mode(
            embedded_up
                .map(|s| s.mode)
                .or(ledger_up.map(|(_, mode)| mode)),
        )
        .into(),
        down_mode: mode(
            embedded_down
                .map(|s| s.mode)
                .or(ledger_down.map(|(_, mode)| mode)),
        )
        .into(),
        up_mode_reason: mode_reason(up_how).into(),
        down_mode_reason: mode_reason(down_how).into(),
        up_parts: up_how.map_or(0, |how| count(how.parts)),
        down_parts: down_how.map_or(0, |how| count(how.parts)),
        embedded_up_checksum: checksum(embedded_up),
        embedded_down_checksum: checksum(embedded_down),
        recorded_up_checksum: ledger_up
            .map(|(sum, _)| sum.to_string())
            .unwrap_or_default(),
        recorded_down_checksum: ledger_down
            .map(|(sum, _)| sum.to_string())
            .unwrap_or_default(),
        reversible_from: sources
            .into_iter()
            .filter(|(has, _)| *has)
            .map(|(_, source)| source.into())
            .collect(),
        apply_time: recorded
            .map(|r| r.applied_at)
            .or(row.and_then(|r| r.run_on))
            .map(Into::into),
        apply_duration: recorded.and_then(|r| r.duration).map(duration),
        operation: recorded
            .and_then(|r| r.operation.clone())
            .map(|(id, _)| id)
            .unwrap_or_default(),
        principal: recorded
            .and_then(|r| r.operation.clone())
            .map(|(_, who)| who)
            .unwrap_or_default(),
        ..pb::Migration::default()
    }
}

fn planned_step(step: &PlannedStep) -> pb::PlannedStep {
    let source = match step.from_ledger {
        Some(true) => pb::ScriptSource::Ledger,
        Some(false) => pb::ScriptSource::Binary,
        None => pb::ScriptSource::Unspecified,
    };
    pb::PlannedStep {
        version: step.version.clone(),
        name: step.name.clone(),
        direction: direction(step.direction).into(),
        source: source.into(),
        mode: match step.how {
            None => pb::MigrationMode::Unspecified,
            Some(RunMode { in_parts: None, .. }) => pb::MigrationMode::Transactional,
            Some(RunMode {
                in_parts: Some(_), ..
            }) => pb::MigrationMode::NonTransactional,
        }
        .into(),
        mode_reason: mode_reason(step.how).into(),
        parts: step.how.map_or(0, |how| count(how.parts)),
    }
}

fn mode_reason(how: Option<RunMode>) -> pb::ModeReason {
    match how.and_then(|how| how.in_parts) {
        None => pb::ModeReason::Unspecified,
        Some(PartsReason::Metadata) => pb::ModeReason::Metadata,
        Some(PartsReason::OwnTransactions) => pb::ModeReason::OwnTransactions,
    }
}

/// SQL for an answer, and whether it was cut.
pub(crate) fn sql(text: &str) -> (String, bool) {
    if text.len() <= MAX_SQL {
        return (text.into(), false);
    }
    let end = (0..=MAX_SQL)
        .rev()
        .find(|i| text.is_char_boundary(*i))
        .unwrap_or(0);
    (text[..end].into(), true)
}

/// An event of a running operation.
pub(crate) fn event(operation: Option<Uuid>, entry: &LogEntry) -> pb::OperationEvent {
    use pb::operation_event::Event as Pb;
    let event = match &entry.event {
        OperationEvent::Accepted {
            kind: word,
            request_id,
            repeated,
        } => Pb::Accepted(pb::Accepted {
            kind: kind(word).into(),
            request_id: request_id.clone(),
            repeated: *repeated,
        }),
        OperationEvent::Queued(holder) => Pb::Queued(pb::Queued {
            running: holder.operation.as_ref().map(self::operation),
            holder: holder.session.as_ref().map(blocker),
        }),
        OperationEvent::Planned { steps, warnings } => Pb::Planned(pb::Planned {
            steps: steps.iter().take(MAX_PLANNED).map(planned_step).collect(),
            warnings: warnings.clone(),
        }),
        OperationEvent::StepStarted(StepName {
            ordinal,
            total,
            version,
            name,
            direction: way,
        }) => Pb::StepStarted(pb::StepStarted {
            ordinal: count(*ordinal),
            total: count(*total),
            version: version.clone(),
            name: name.clone(),
            direction: direction(*way).into(),
        }),
        OperationEvent::Notice {
            version,
            severity,
            message,
            detail,
            hint,
        } => {
            let [version, severity, message, detail, hint] =
                [version, severity, message, detail, hint].map(String::clone);
            Pb::Notice(pb::Notice {
                version,
                severity,
                message,
                detail,
                hint,
            })
        }
        OperationEvent::Retrying {
            version,
            attempt,
            sqlstate,
            message,
            delay,
        } => Pb::Retrying(pb::Retrying {
            version: version.clone(),
            attempt: i32::try_from(*attempt).unwrap_or(i32::MAX),
            sqlstate: sqlstate.clone(),
            message: message.clone(),
            delay: Some(duration(*delay)),
        }),
        OperationEvent::StatementStarted {
            version,
            first,
            last,
            statements,
            summary,
        } => Pb::StatementStarted(pb::StatementStarted {
            version: version.clone(),
            statement: count(*first),
            last_statement: count(*last),
            statements: count(*statements),
            summary: summary.clone(),
        }),
        OperationEvent::StatementDone {
            version,
            first,
            last,
            statements,
            summary,
            took,
        } => Pb::StatementDone(pb::StatementDone {
            version: version.clone(),
            first_statement: count(*first),
            statement: count(*last),
            statements: count(*statements),
            summary: summary.clone(),
            duration: Some(duration(*took)),
        }),
        OperationEvent::StepDone(
            StepName {
                ordinal,
                total,
                version,
                name,
                direction: way,
            },
            took,
        ) => Pb::StepDone(pb::StepDone {
            ordinal: count(*ordinal),
            total: count(*total),
            version: version.clone(),
            name: name.clone(),
            direction: direction(*way).into(),
            duration: Some(duration(*took)),
        }),
        OperationEvent::Finished(ended, finished, failure) => Pb::Finished(pb::Finished {
            state: state(*ended).into(),
            nothing_to_do: finished.nothing_to_do,
            steps_done: count(finished.steps_done),
            steps_total: count(finished.steps_total),
            current_version: finished.current.clone().unwrap_or_default(),
            warnings: finished.warnings.clone(),
            failure: failure.as_ref().map(self::failure),
        }),
        OperationEvent::Waiting {
            version,
            waiting,
            waited,
        } => Pb::Waiting(self::waiting(version, waiting, *waited)),
        OperationEvent::Progress { version, building } => Pb::Progress(pb::Progress {
            version: version.clone(),
            relation: building.relation.clone().unwrap_or_default(),
            index: building.index.clone().unwrap_or_default(),
            phase: building.phase.clone(),
            done: building.done,
            total: building.total,
            percent: if building.total > 0 {
                100.0 * building.done as f64 / building.total as f64
            } else {
                0.0
            },
        }),
        OperationEvent::Dropped(events) => Pb::Dropped(pb::Dropped {
            events: i64::try_from(*events).unwrap_or(i64::MAX),
        }),
    };
    message(operation, entry.sequence, entry.time, event)
}

/// What a step waits for.
pub(crate) fn waiting(version: &str, waiting: &LockWaiting, waited: Duration) -> pb::Waiting {
    pb::Waiting {
        version: version.into(),
        mode: waiting.mode.clone(),
        relation: waiting.relation.clone().unwrap_or_default(),
        blockers: waiting.blockers.iter().map(blocker).collect(),
        waited: Some(duration(waited)),
    }
}

fn blocker(blocker: &Blocker) -> pb::Blocker {
    pb::Blocker {
        pid: blocker.pid,
        user: blocker.user.clone().unwrap_or_default(),
        application_name: blocker.application.clone().unwrap_or_default(),
        state: blocker.state.clone().unwrap_or_default(),
        age: blocker.age.map(duration),
        relation: blocker.relation.clone().unwrap_or_default(),
        mode: blocker.mode.clone().unwrap_or_default(),
    }
}

fn failure(failure: &Failure) -> pb::Failure {
    pb::Failure {
        reason: failure.reason.to_string(),
        message: failure.message.clone(),
        metadata: failure.metadata.clone().into_iter().collect(),
    }
}

/// An event with its frame.
pub(crate) fn message(
    operation: Option<Uuid>,
    sequence: u64,
    time: SystemTime,
    event: pb::operation_event::Event,
) -> pb::OperationEvent {
    pb::OperationEvent {
        operation: operation.map(|id| id.to_string()).unwrap_or_default(),
        sequence: i64::try_from(sequence).unwrap_or(i64::MAX),
        time: Some(time.into()),
        event: Some(event),
    }
}

fn kind(word: &str) -> pb::OperationKind {
    match word {
        "apply" => pb::OperationKind::Apply,
        "rollback" => pb::OperationKind::Rollback,
        "resolve" => pb::OperationKind::Resolve,
        "sign" => pb::OperationKind::Sign,
        _ => pb::OperationKind::Unspecified,
    }
}

fn state(state: OperationState) -> pb::OperationState {
    match state {
        OperationState::Pending => pb::OperationState::Pending,
        OperationState::Running => pb::OperationState::Running,
        OperationState::Succeeded => pb::OperationState::Succeeded,
        OperationState::Failed => pb::OperationState::Failed,
        OperationState::Interrupted => pb::OperationState::Interrupted,
        OperationState::Cancelled => pb::OperationState::Cancelled,
    }
}

fn direction(direction: Direction) -> pb::Direction {
    match direction {
        Direction::Up => pb::Direction::Up,
        Direction::Down => pb::Direction::Down,
    }
}

fn mode(mode: Option<ScriptMode>) -> pb::MigrationMode {
    match mode {
        None => pb::MigrationMode::Unspecified,
        Some(ScriptMode::Transactional) => pb::MigrationMode::Transactional,
        Some(ScriptMode::NonTransactional) => pb::MigrationMode::NonTransactional,
    }
}

/// A duration of ours is never too long for the message.
fn duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration::try_from(duration).unwrap_or_default()
}

fn count(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}
