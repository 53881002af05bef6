//! A script that is not one transaction, part by part. What can run in a transaction commits
//! together with its row in the journal; what cannot is announced before and recorded after
//! (`outside`). Every part begins with a fresh session and the file's own SET statements before it,
//! so going on later is no different from going on at once.

use std::time::{Duration, Instant};

use tokio_postgres::error::SqlState;

use super::{
    RunControl, RunnableStep, ScriptError, StepError, StepObserver, UndoneExtent,
    message::{self, MessagePreamble, PartEnding},
};
use crate::runner::{
    non_transactional,
    response::{self, ServerResponse},
};
use crate::{
    planner::ResumePoint,
    postgres::{DatabaseError, SqlError, lock::LockedSession, session::ServerNotice},
    runtime::blocking,
    sql::{self, NonTransactional, ScriptUnit, Statement, StatementKind, UnitWork},
};

/// The parts of a script that is not one transaction.
#[derive(Clone, Debug)]
pub(crate) struct JournaledScript<'a> {
    /// In order.
    pub units: Vec<ScriptUnit<'a>>,
    /// Where an earlier operation left off.
    pub resume: ResumePoint,
    /// One statement may take so long, outside a transaction.
    pub statement_timeout: Duration,
}

/// How far the step came that is being tried.
#[derive(Default)]
pub(super) struct StepProgress {
    step: Option<usize>,
    done: usize,
    interrupted: bool,
}

impl StepProgress {
    /// Parts done.
    pub(super) fn done(&self) -> usize {
        self.done
    }

    /// Parts done of step `index`.
    pub(super) fn done_of(&self, index: usize) -> usize {
        if self.step == Some(index) {
            self.done
        } else {
            0
        }
    }

    /// Step `index` begins, or is tried again.
    pub(super) fn begin(&mut self, index: usize, journaled: &JournaledScript<'_>) {
        if self.step != Some(index) {
            let ResumePoint {
                done, interrupted, ..
            } = journaled.resume;
            *self = Self {
                step: Some(index),
                done,
                interrupted,
            };
        }
    }
}

/// The part that runs.
pub(super) struct CurrentPart<'a> {
    /// Of this step.
    pub step: &'a RunnableStep<'a>,
    pub journaled: &'a JournaledScript<'a>,
    pub unit: &'a ScriptUnit<'a>,
    /// From 1.
    pub number: usize,
    /// The step's index.
    pub index: usize,
    /// What is left of its lock_wait.
    pub left: Duration,
}

impl CurrentPart<'_> {
    /// Its ordinal in the ledger.
    pub(super) fn ordinal(&self) -> i32 {
        i32::try_from(self.number).unwrap_or(i32::MAX)
    }
}

/// Runs the parts that are not done; `left` is left of the first one's lock_wait.
#[allow(clippy::too_many_arguments, reason = "each is another thing")]
pub(super) async fn run(
    session: &mut LockedSession,
    index: usize,
    step: &RunnableStep<'_>,
    journaled: &JournaledScript<'_>,
    left: Duration,
    progress: &mut StepProgress,
    orders: &RunControl,
    observer: &impl StepObserver,
) -> Result<(), StepError> {
    observer.started(index);
    let begun = Instant::now();
    let mut finished = false;
    let mut left = Some(left);
    for (n, unit) in journaled.units.iter().enumerate().skip(progress.done) {
        if let Some(halt) = orders.halted() {
            return Err(StepError::Halted(halt));
        }
        let left = left.take().unwrap_or(step.lock_wait);
        let part = CurrentPart {
            step,
            journaled,
            unit,
            number: n + 1,
            index,
            left,
        };
        let then = if part.number == journaled.units.len() {
            PartEnding::Finish
        } else {
            PartEnding::Note(part.number)
        };
        let begun = Instant::now();
        let statements = (
            unit.statements_before + 1,
            unit.statements_before + unit.statements,
        );
        observer.statement_started(index, statements);
        let ran = match unit.work {
            UnitWork::InTransaction { begin, modes } => {
                in_transaction(session, &part, (begin, modes), then, orders, observer).await
            }
            UnitWork::Outside(what) => {
                non_transactional::run(
                    session,
                    &part,
                    what,
                    progress.interrupted,
                    then,
                    orders,
                    observer,
                )
                .await
            }
        };
        match ran {
            Err(StepError::Sql(refused)) if needs_no_transaction(unit, &refused.error) => {
                session.clean().await.map_err(StepError::Lost)?;
                let what = if unit.body.repeats() {
                    NonTransactional::Repeatable
                } else {
                    NonTransactional::Unknown
                };
                non_transactional::run(session, &part, what, false, then, orders, observer).await?;
            }
            other => other?,
        }
        (progress.done, progress.interrupted) = (part.number, false);
        if matches!(then, PartEnding::Note(_)) {
            tell_what_is_lost(&part, observer);
        }
        finished = matches!(then, PartEnding::Finish);
        observer.statement(index, statements, begun.elapsed());
    }
    if !finished {
        // Nothing but settings, or an earlier operation did the last part and not this.
        record(
            session,
            step,
            sql::count(step.sql),
            PartEnding::Finish,
            orders,
        )
        .await?;
    }
    observer.done(index, begun.elapsed());
    Ok(())
}

/// A setting that the next part does not begin with.
fn tell_what_is_lost(part: &CurrentPart<'_>, observer: &impl StepObserver) {
    if let Some(sets) = part.unit.sets_otherwise {
        let message = format!(
            "what this sets does not hold for the statements after it, which begin with the file's \
             SET statements only: {}",
            sets.summary()
        );
        observer.notice(
            part.index,
            ServerNotice {
                severity: "WARNING".into(),
                message,
                ..ServerNotice::default()
            },
        );
    }
}

/// Runs a part with its row in the journal, or with the step's own rows when it is the last.
async fn in_transaction(
    session: &mut LockedSession,
    part: &CurrentPart<'_>,
    begin: (Option<&str>, Option<&str>),
    then: PartEnding,
    orders: &RunControl,
    observer: &impl StepObserver,
) -> Result<(), StepError> {
    let text: String = part
        .unit
        .settings
        .iter()
        .map(|s| format!("{}\n;\n", s.sql))
        .chain([part.unit.body.sql.into()])
        .collect();
    let (message, preamble) = message::of_part(
        part.step.id,
        session.table_to_lock(),
        begin,
        &text,
        then,
        session.reset_sql(),
    );
    let patience = part.step.patience(part.left);
    let received = send(session, &message, patience, orders, &mut |notice| {
        observer.notice(part.index, notice)
    })
    .await?;
    left_out(session, part, observer);
    let ServerResponse {
        statements,
        ended,
        result,
        ..
    } = received;
    result.map_err(
        |error| match response::broken(error, ended, statements, preamble) {
            StepError::Sql(failed) => {
                StepError::Sql(blocking::in_place(part.step.sql.len(), || {
                    in_the_file(part, failed)
                }))
            }
            other => other,
        },
    )
}

/// Sends one message and reads its answer; what is said meanwhile goes to `hear`.
pub(super) async fn send(
    session: &mut LockedSession,
    message: &str,
    patience: Option<Duration>,
    orders: &RunControl,
    hear: &mut impl FnMut(ServerNotice),
) -> Result<ServerResponse, StepError> {
    let answer = session
        .client()
        .simple_query_raw(message)
        .await
        .map_err(|e| StepError::Lost(e.into()))?;
    let received = response::receive(
        session,
        std::pin::pin!(answer),
        patience,
        orders.clone(),
        hear,
    )
    .await;
    if received.ended.is_some() && received.result.is_ok() {
        session.await_cancel().await;
    }
    Ok(received)
}

/// Records a part, or the step, in a transaction of its own. `through`: statements of the file, the
/// part's among them.
pub(super) async fn record(
    session: &LockedSession,
    step: &RunnableStep<'_>,
    through: usize,
    then: PartEnding,
    orders: &RunControl,
) -> Result<(), StepError> {
    let recorded = write(
        session,
        &message::record(step.id, then),
        step.lock_wait,
        orders,
    )
    .await;
    recorded.map_err(
        |error| match response::broken(error, None, 0, MessagePreamble::default()) {
            // The file's statements are what may keep the ledger from being written.
            StepError::Sql(mut failed) => {
                failed.error.position = None;
                let undone = UndoneExtent {
                    first: through,
                    through: true,
                    stays: true,
                };
                StepError::Sql(ScriptError {
                    statements_done: through.saturating_sub(1),
                    undone: Some(undone),
                    ..failed
                })
            }
            other => other,
        },
    )
}

/// Writes into the journal what has happened by now. While a table of the ledger is locked it is
/// tried again, for as long as the step may wait for its locks: what ran would be in doubt
/// otherwise.
pub(super) async fn write(
    session: &LockedSession,
    message: &str,
    within: Duration,
    orders: &RunControl,
) -> Result<(), DatabaseError> {
    let begun = Instant::now();
    loop {
        match session
            .client()
            .batch_execute(message)
            .await
            .map_err(DatabaseError::from)
        {
            Err(error)
                if error.is_lock_timeout()
                    && begun.elapsed() < within
                    && orders.halted().is_none() =>
            {
                session.clean().await?;
            }
            done => return done,
        }
    }
}

/// Tells how much more was said than is passed on.
pub(super) fn left_out(
    session: &mut LockedSession,
    part: &CurrentPart<'_>,
    observer: &impl StepObserver,
) {
    if let Some(notice) = session.take_left_out(part.step.id) {
        observer.notice(part.index, notice);
    }
}

/// A statement that nobody knew to need this, found out by the server's refusal, before it did
/// anything. (25001 is also what SET TRANSACTION says when it comes too late, and that is another
/// mistake.)
fn needs_no_transaction(unit: &ScriptUnit<'_>, error: &SqlError) -> bool {
    let alone = matches!(unit.work, UnitWork::InTransaction { begin: None, .. })
        && unit.body.kind() == StatementKind::Plain;
    let is_set = unit
        .body
        .tokens()
        .next()
        .is_some_and(|word| word.eq_ignore_ascii_case("set"));
    // What stands inside of a function is inside of a transaction wherever the statement is.
    // REINDEX of what is partitioned has a context too, and none of a function's.
    let is_inner = error.sqlstate == "25001" && error.context.is_some() && !unit.body.repeats();
    alone && !is_set && !is_inner && matches!(error.sqlstate.as_str(), "25001" | "2D000")
}

/// Translates a place in a part with its settings before it into one in the file. The result's
/// preamble is 0.
fn in_the_file(part: &CurrentPart<'_>, failed: ScriptError) -> ScriptError {
    let ScriptError {
        mut error,
        statements_done,
        preamble,
        ..
    } = failed;
    let (unit, sql) = (part.unit, part.step.sql);
    let is_syntax = error.is(&SqlState::SYNTAX_ERROR);
    error.position = error
        .position
        .and_then(|at| at.checked_sub(preamble))
        .and_then(|at| position(sql, unit, at, is_syntax));
    let body = unit.settings.len()..unit.settings.len() + unit.statements;
    let statement = match unit.settings.get(statements_done) {
        Some(setting) => statement_at(sql, setting.start),
        // Behind its last statement the part is checked, and that is the part's matter.
        None => {
            unit.statements_before + statements_done.min(body.end.max(body.start + 1) - 1)
                - body.start
        }
    };
    let undone = undone(unit, statements_done >= body.end);
    ScriptError {
        error,
        statements_done: statement,
        preamble: 0,
        undone: Some(undone),
    }
}

/// What is undone when `unit` fails.
pub(super) fn undone(unit: &ScriptUnit<'_>, through: bool) -> UndoneExtent {
    let begin = matches!(unit.work, UnitWork::InTransaction { begin: Some(_), .. });
    UndoneExtent {
        first: unit.statements_before - usize::from(begin),
        through,
        stays: false,
    }
}

/// The character of the file for the `at`th (from 1) of a part, which is sent with the settings
/// before it.
fn position(sql: &str, unit: &ScriptUnit<'_>, mut at: usize, is_syntax: bool) -> Option<usize> {
    for setting in unit.settings.iter() {
        let length = setting.sql.chars().count() + "\n;".len();
        if at <= length {
            return in_statement(sql, setting, at, is_syntax);
        }
        at -= length + "\n".len();
    }
    in_statement(sql, &unit.body, at, is_syntax)
}

/// The character of the file for the `at`th (from 1) of a statement that is sent alone. Behind it
/// the server sees schemad's semicolon, where syntax may fail; the file has its own there, or ends.
/// What fails otherwise behind it is schemad's.
pub(super) fn in_statement(
    sql: &str,
    statement: &Statement<'_>,
    at: usize,
    is_syntax: bool,
) -> Option<usize> {
    let within = at <= statement.sql.chars().count();
    let after =
        || sql::semicolon_after(sql, statement.end()).map(|byte| sql::nth_character(sql, byte));
    match at.checked_sub(1)? {
        before if within => Some(sql::nth_character(sql, statement.start) + before),
        _ if !is_syntax => None,
        _ => Some(after().unwrap_or_else(|| sql.chars().count() + 1)),
    }
}

/// Which statement (from 0) begins at byte `start`.
pub(super) fn statement_at(sql: &str, start: usize) -> usize {
    sql::statements(sql)
        .take_while(|statement| statement.start < start)
        .count()
}
