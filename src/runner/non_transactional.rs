//! A statement that cannot run in a transaction: announced in the ledger, sent, recorded. After a
//! crash between the two, the catalog tells whether it took effect, or doing it again does no harm;
//! what neither can tell was refused when it was planned.

use std::time::Duration;

use tokio_postgres::{error::SqlState, types::Type};

use super::{
    RunControl, ScriptError, StepError, StepObserver, UndoneExtent,
    journaled::{CurrentPart, in_statement, left_out, record, send, statement_at, undone, write},
    message::{self, MessagePreamble, PartEnding},
};
use crate::runner::{
    catalog_evidence::{self, CatalogEvidence},
    response::{self, ServerResponse},
};
use crate::{
    ledger::journals,
    postgres::{
        DatabaseError, SqlError,
        lock::LockedSession,
        session::{CONFIGURED_PATH, ServerNotice, insist},
    },
    runtime::blocking,
    sql::{NonTransactional, Statement},
};

/// What the removal of an invalid index may take right after its build failed; later the next try
/// removes it.
const CLEAN_UP_WITHIN: Duration = Duration::from_secs(2);

/// The same when somebody waits for the end: a cancel is answered within 500 ms.
const CLEAN_UP_AFTER_CANCEL: Duration = Duration::from_millis(200);

/// Runs one statement outside a transaction and records that it is done. `interrupted`: an earlier
/// try was announced and not recorded.
pub(super) async fn run(
    session: &mut LockedSession,
    part: &CurrentPart<'_>,
    what: NonTransactional<'_>,
    interrupted: bool,
    then: PartEnding,
    orders: &RunControl,
    observer: &impl StepObserver,
) -> Result<(), StepError> {
    let before = catalog_evidence::recorded(session, part)
        .await
        .map_err(response::of_our_own)?;
    // Before anything of the file is sent outside of schemad's transactions, which to look means
    // too: its settings come first.
    note_by_keeper(session, part, "running").await?;
    let found = match look(session, part, what, before).await {
        Ok(found) => found,
        Err(StepError::Lost(lost)) => return Err(StepError::Lost(lost)),
        Err(broken) if interrupted => return Err(broken), // it is announced since an earlier try
        Err(broken) => {
            session.clean().await.map_err(StepError::Lost)?;
            note_by_keeper(session, part, "pending").await?;
            return Err(broken);
        }
    };
    if !(interrupted && found.took_effect) {
        announce(session, part, what, &found).await?;
        let ran = announced(session, part, what, &found, orders, observer).await;
        left_out(session, part, observer);
        match ran {
            // Nobody knows; the next try finds out.
            Err(StepError::Lost(lost)) => return Err(StepError::Lost(lost)),
            Ok(()) => reset(session).await?,
            Err(broken) => {
                if session.clean().await.is_err() {
                    // The server ended the session with its error. The announcement stays, and the
                    // next try finds out.
                    return Err(unsettled(part, what, broken));
                }
                session.take_notices(); // that there was no transaction to end
                return Err(refused(session, part, what, found, broken, orders, observer).await);
            }
        }
    }
    let through = part.unit.statements_before + part.unit.statements;
    match (note_by_keeper(session, part, "done").await?, then) {
        // The guards take nothing from the script's session while its statement counts as running.
        (true, PartEnding::Note(_)) => Ok(()),
        _ => record(session, part.step, through, then, orders).await,
    }
}

/// Writes the statement's state on the session of whoever keeps the ledger, where that is another
/// login. False: nobody does.
async fn note_by_keeper(
    session: &LockedSession,
    part: &CurrentPart<'_>,
    state: &'static str,
) -> Result<bool, StepError> {
    let Some(keeper) = session.keeper() else {
        return Ok(false);
    };
    match journals::note(
        session.ledger(),
        (part.step.id, part.ordinal()),
        state,
        keeper.of.pid,
    )
    .await
    {
        Ok(true) => Ok(true),
        Ok(false) => Err(StepError::Lost(DatabaseError::Lost(
            "this session does not hold the operation lock any more".into(),
        ))),
        Err(error) => Err(response::of_our_own(error)),
    }
}

/// The server refused it, so it is not done, and there is no doubt; what it left is removed, if
/// that can be had quickly.
async fn refused(
    session: &mut LockedSession,
    part: &CurrentPart<'_>,
    what: NonTransactional<'_>,
    found: CatalogEvidence,
    broken: StepError,
    orders: &RunControl,
    observer: &impl StepObserver,
) -> StepError {
    let broken = match broken {
        // The announcement stays, and with it the doubt.
        StepError::Sql(_) | StepError::Halted(_) if may_commit(part) => {
            let noted = journals::note_failed(session.ledger(), part.step.id, part.ordinal()).await;
            if let Err(error) = noted {
                tracing::debug!(cause = %error, "that a statement has failed is not noted");
            }
            return match broken {
                StepError::Sql(failed) => StepError::Doubt(failed),
                StepError::Halted(halt) => StepError::HaltedInDoubt(halt),
                broken => broken,
            };
        }
        broken => broken,
    };
    let within = clean_up_within(&broken);
    let mut leaves_nothing = false;
    if let Ok(left) = look(session, part, what, found.before).await {
        leaves_nothing = left.is_nothing();
        if !left.invalid.is_empty()
            && set(session, part, StatementTimeouts::within(within))
                .await
                .is_ok()
        {
            leaves_nothing = left.half_dropped.is_empty();
            for index in &left.invalid {
                let dropped = session
                    .client()
                    .batch_execute(&format!("DROP INDEX CONCURRENTLY {index}"))
                    .await
                    .is_ok();
                leaves_nothing &= dropped;
                let what = if dropped {
                    "removed"
                } else {
                    "the next try will remove"
                };
                let told =
                    format!("{what} the invalid index {index}, which the failed statement left");
                observer.notice(part.index, note(told));
            }
        }
    }
    // A cancel of the statement may come so late that it hits this.
    let take_back = message::take_back(part.step.id, part.number);
    let taken_back = match note_by_keeper(session, part, "pending").await {
        Err(lost) => return lost,
        Ok(true) => insist!(session.clean()),
        Ok(false) => insist!(async {
            session.clean().await?;
            write(session, &take_back, part.step.lock_wait, orders).await
        }),
    };
    session.take_notices(); // that there was no transaction to end
    let forgotten = match taken_back {
        Ok(()) if leaves_nothing => {
            journals::forget_try(session.ledger(), part.step.id, part.ordinal()).await
        }
        taken_back => taken_back,
    };
    match forgotten {
        Ok(()) => broken,
        Err(error) => response::of_our_own(error),
    }
}

/// The server refused it and ended the session, so what it did is not recorded. Where nobody but a
/// person knows, it is in doubt.
fn unsettled(part: &CurrentPart<'_>, what: NonTransactional<'_>, broken: StepError) -> StepError {
    let is_in_doubt = may_commit(part) || matches!(what, NonTransactional::Unknown);
    match broken {
        StepError::Sql(failed) if is_in_doubt => StepError::Doubt(failed),
        StepError::Halted(halt) if is_in_doubt => StepError::HaltedInDoubt(halt),
        StepError::Sql(failed) => {
            let undone = failed.undone.map(|undone| UndoneExtent {
                stays: true,
                ..undone
            });
            StepError::Sql(ScriptError { undone, ..failed })
        }
        broken => broken,
    }
}

/// A cancel from another daemon arrives before the reason for it does.
fn clean_up_within(broken: &StepError) -> Duration {
    match broken {
        StepError::Halted(_) => CLEAN_UP_AFTER_CANCEL,
        StepError::Sql(failed) if failed.error.is(&SqlState::QUERY_CANCELED) => {
            CLEAN_UP_AFTER_CANCEL
        }
        _ => CLEAN_UP_WITHIN,
    }
}

/// Reads from the catalog how far the statement came. The file's own search_path and role say which
/// table its names mean; the catalog itself is read in the session's own settings.
pub(super) async fn look(
    session: &LockedSession,
    part: &CurrentPart<'_>,
    what: NonTransactional<'_>,
    before: Option<Vec<u32>>,
) -> Result<CatalogEvidence, StepError> {
    if matches!(
        what,
        NonTransactional::Repeatable | NonTransactional::ReadOnlyBlock | NonTransactional::Unknown
    ) {
        return Ok(CatalogEvidence::default());
    }
    set(session, part, StatementTimeouts::NONE).await?;
    let named = catalog_evidence::named(session, what)
        .await
        .map_err(|error| unnamed(part, error))?;
    reset(session).await?;
    catalog_evidence::find(session, what, &named, before)
        .await
        .map_err(|error| unnamed(part, error))
}

async fn announced(
    session: &mut LockedSession,
    part: &CurrentPart<'_>,
    what: NonTransactional<'_>,
    found: &CatalogEvidence,
    orders: &RunControl,
    observer: &impl StepObserver,
) -> Result<(), StepError> {
    // A timeout would end the wait for old snapshots too, and leave an invalid index or a half
    // detached partition behind.
    let body = &part.unit.body;
    let concurrently = blocking::in_place(body.sql.len(), || body.has(&["concurrently"]));
    let (timeouts, patience) = if concurrently {
        (StatementTimeouts::NONE, Some(part.left))
    } else {
        let (lock, statement) = (part.step.lock_timeout, part.journaled.statement_timeout);
        (
            StatementTimeouts {
                lock,
                statement,
                insist: false,
            },
            part.step.patience(part.left),
        )
    };
    set(session, part, timeouts).await?;
    for index in &found.invalid {
        observer.notice(
            part.index,
            note(format!(
                "dropping the invalid index {index}, which an earlier try left"
            )),
        );
        // The name was quoted by the server.
        sent(
            session,
            part,
            &format!("DROP INDEX CONCURRENTLY {index}"),
            patience,
            orders,
            observer,
        )
        .await?;
    }
    if let Some(instead) = &found.instead {
        observer.notice(
            part.index,
            note(format!(
                "an earlier try did half of it; going on with {instead}"
            )),
        );
    }
    sent(
        session,
        part,
        found.instead.as_deref().unwrap_or(part.unit.body.sql),
        patience,
        orders,
        observer,
    )
    .await?;
    built(session, part, what).await
}

/// Refuses an index that pg_index marks invalid: it counts as not created, although the server
/// reported success.
async fn built(
    session: &LockedSession,
    part: &CurrentPart<'_>,
    what: NonTransactional<'_>,
) -> Result<(), StepError> {
    let NonTransactional::CreateIndex {
        index: Some(index), ..
    } = what
    else {
        return Ok(());
    };
    let named = catalog_evidence::named(session, what)
        .await
        .map_err(|error| unnamed(part, error))?;
    reset(session).await?;
    match catalog_evidence::invalid(session, index, &named).await.map_err(|error| unnamed(part, error))? {
        None => Ok(()),
        Some(invalid) => Err(unnamed(
            part,
            DatabaseError::from(SqlError {
                sqlstate: SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE.code().into(),
                message: format!("the index {invalid} is there and invalid, and IF NOT EXISTS kept \
                    it"),
                hint: Some(
                    "Another table has it, or somebody builds it just now; DROP INDEX CONCURRENTLY \
                     removes it".into(),
                ),
                ..SqlError::default()
            }),
        )),
    }
}

/// A procedure or a block may have committed before it failed.
fn may_commit(part: &CurrentPart<'_>) -> bool {
    let first = part.unit.body.tokens().next().unwrap_or_default();
    ["call", "do"]
        .iter()
        .any(|word| first.eq_ignore_ascii_case(word))
}

/// Sends the statement, or one that belongs to it.
pub(super) async fn sent(
    session: &mut LockedSession,
    part: &CurrentPart<'_>,
    statement: &str,
    patience: Option<Duration>,
    orders: &RunControl,
    observer: &impl StepObserver,
) -> Result<(), StepError> {
    let mut hear = |notice| observer.notice(part.index, notice);
    let ServerResponse { ended, result, .. } =
        send(session, statement, patience, orders, &mut hear).await?;
    let Err(error) = result else { return Ok(()) };
    Err(
        match response::broken(error, ended, 0, MessagePreamble::default()) {
            StepError::Sql(mut failed) => {
                if statement != part.unit.body.sql {
                    failed.error.position = None; // it points into a statement of schemad's
                }
                StepError::Sql(blocking::in_place(part.step.sql.len(), || {
                    in_the_file(part, failed)
                }))
            }
            other => other,
        },
    )
}

/// Writes that the statement is sent next, and how it can be told afterwards whether it took
/// effect.
async fn announce(
    session: &LockedSession,
    part: &CurrentPart<'_>,
    what: NonTransactional<'_>,
    found: &CatalogEvidence,
) -> Result<(), StepError> {
    // Before the announcement: of a statement that is not announced, nobody asks how it is told
    // whether it took effect.
    let how = "UPDATE schemad.statements SET settles_by = $3, indexes_before = $4 WHERE step = $1 \
        AND ordinal = $2";
    session
        .ledger()
        .query_typed(
            how,
            &[
                (&part.step.id, Type::INT8),
                (&part.ordinal(), Type::INT4),
                (&what.settles_by(), Type::TEXT),
                (&found.before, Type::OID_ARRAY),
            ],
        )
        .await
        .map_err(response::of_our_own)?;
    if note_by_keeper(session, part, "running").await? {
        return Ok(());
    }
    session
        .client()
        .batch_execute(&message::announce(part.step.id, part.number))
        .await
        .map_err(response::of_our_own)
}

/// How long what follows may wait for a lock, and run.
#[derive(Clone, Copy)]
pub(super) struct StatementTimeouts {
    lock: Duration,
    statement: Duration,
    /// Whatever the file's own settings say.
    insist: bool,
}

impl StatementTimeouts {
    /// None at all, whatever the file says.
    pub(super) const NONE: Self = Self::within(Duration::ZERO);

    /// For what schemad does itself.
    const fn within(time: Duration) -> Self {
        Self {
            lock: time,
            statement: time,
            insist: true,
        }
    }
}

/// Makes the timeouts, the role, the configured search_path and the file's own settings up to here.
pub(super) async fn set(
    session: &LockedSession,
    part: &CurrentPart<'_>,
    timeouts: StatementTimeouts,
) -> Result<(), StepError> {
    let StatementTimeouts {
        lock,
        statement,
        insist,
    } = timeouts;
    let mut made = format!(
        "SET lock_timeout={};SET statement_timeout={}",
        lock.as_millis(),
        statement.as_millis()
    );
    if session.server_major() >= 17 {
        made += ";SET transaction_timeout=0";
    }
    let client = session.client();
    client
        .batch_execute(&made)
        .await
        .map_err(response::of_our_own)?;
    if let Some(role) = part.step.role {
        let set = "SELECT pg_catalog.set_config('role', $1, false)";
        client
            .query_typed(set, &[(&role, Type::TEXT)])
            .await
            .map_err(response::of_our_own)?;
    }
    client
        .batch_execute(CONFIGURED_PATH)
        .await
        .map_err(response::of_our_own)?;
    for setting in part.unit.settings.iter() {
        // How the next message is read is not for the file to say: it was split as these two are.
        let read = "SET standard_conforming_strings=on;SET client_encoding='UTF8'";
        if let Err(error) = client
            .batch_execute(&format!("{}\n;{read}", setting.sql))
            .await
        {
            let broken = response::broken(error.into(), None, 0, MessagePreamble::default());
            return Err(match broken {
                StepError::Sql(failed) => {
                    StepError::Sql(blocking::in_place(part.step.sql.len(), || {
                        let statements_done = statement_at(part.step.sql, setting.start);
                        ScriptError {
                            statements_done,
                            ..placed(part, failed, setting)
                        }
                    }))
                }
                other => other,
            });
        }
    }
    if insist && !part.unit.settings.is_empty() {
        client
            .batch_execute(&made)
            .await
            .map_err(response::of_our_own)
    } else {
        Ok(())
    }
}

pub(super) async fn reset(session: &LockedSession) -> Result<(), StepError> {
    session.reset().await.map_err(StepError::Lost)
}

fn in_the_file(part: &CurrentPart<'_>, failed: ScriptError) -> ScriptError {
    ScriptError {
        statements_done: part.unit.statements_before,
        ..placed(part, failed, &part.unit.body)
    }
}

/// A position in a statement of the part becomes one in the file.
fn placed(part: &CurrentPart<'_>, failed: ScriptError, statement: &Statement<'_>) -> ScriptError {
    let mut error = failed.error;
    let is_syntax = error.is(&SqlState::SYNTAX_ERROR);
    error.position = error
        .position
        .and_then(|at| in_statement(part.step.sql, statement, at, is_syntax));
    ScriptError {
        error,
        undone: Some(undone(part.unit, false)),
        ..failed
    }
}

/// A name that the server cannot read is the file's mistake.
fn unnamed(part: &CurrentPart<'_>, error: DatabaseError) -> StepError {
    match response::broken(error, None, 0, MessagePreamble::default()) {
        StepError::Sql(mut failed) => {
            failed.error.position = None;
            StepError::Sql(in_the_file(part, failed))
        }
        other => other,
    }
}

pub(super) fn note(message: String) -> ServerNotice {
    ServerNotice {
        severity: "NOTICE".into(),
        message,
        ..ServerNotice::default()
    }
}
