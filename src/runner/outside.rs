//! A statement that cannot run in a transaction: announced in the ledger, sent, recorded. After a crash between the two, the
//! catalog tells whether it took effect, or doing it again does no harm; what neither can tell was refused when it was planned.

use std::time::Duration;

use tokio::sync::watch;
use tokio_postgres::types::Type;

use super::{
    Broken, Observer, ScriptError,
    answer::{self, Received},
    journaled::{Part, notices, record, send, statement_at},
    message::{self, Then},
};
use crate::{
    db::{Error, lock::LockedSession, session::Notice},
    shutdown::Phase,
    sql::Outside,
};

/// Runs one statement outside a transaction and records that it is done. `interrupted`: an earlier try was announced and not
/// recorded.
pub(super) async fn run(
    session: &mut LockedSession,
    part: &Part<'_>,
    what: Outside<'_>,
    interrupted: bool,
    then: Then,
    stop: &watch::Receiver<Phase>,
    observer: &impl Observer,
) -> Result<(), Broken> {
    let statement = match what {
        Outside::CreateIndex { .. } | Outside::DropIndex { .. } => {
            let indexes = recorded(session, part).await.map_err(answer::of_our_own)?;
            // The file's search_path says which table is meant, and perhaps its role who may not read the ledger.
            set(session, part, Duration::ZERO, Duration::ZERO).await?;
            let found = find(session, what, indexes).await.map_err(|error| unnamed(part, error))?;
            reset(session).await?;
            found
        }
        Outside::Repeatable | Outside::Unknown => Found::default(),
    };
    if !(interrupted && statement.took_effect) {
        announce(session, part, what, &statement).await?;
        let ran = announced(session, part, statement.invalid.as_deref(), stop, observer).await;
        notices(session, part.index, observer);
        if let Err(Broken::Lost(lost)) = ran {
            return Err(Broken::Lost(lost)); // nobody knows; the next try finds out
        }
        reset(session).await?;
        match ran {
            Ok(()) => {}
            // The announcement stays, and with it the doubt.
            Err(Broken::Sql(failed)) if may_commit(part) => return Err(Broken::Doubt(failed)),
            Err(broken) => {
                // The server refused it, so it is not done, and there is no doubt.
                let take_back = message::take_back(part.step.id, part.number);
                session.client().batch_execute(&take_back).await.map_err(answer::of_our_own)?;
                return Err(broken);
            }
        }
    }
    record(session, part.step.id, then).await
}

async fn announced(
    session: &LockedSession,
    part: &Part<'_>,
    invalid: Option<&str>,
    stop: &watch::Receiver<Phase>,
    observer: &impl Observer,
) -> Result<(), Broken> {
    // A timeout would end the wait for old snapshots too, and leave an invalid index or a half detached partition behind.
    let concurrently = part.unit.body.tokens().any(|token| token.eq_ignore_ascii_case("concurrently"));
    let (lock_timeout, statement_timeout) = match concurrently {
        true => (Duration::ZERO, Duration::ZERO),
        false => (part.journaled.lock_timeout, part.journaled.statement_timeout),
    };
    set(session, part, lock_timeout, statement_timeout).await?;
    if let Some(index) = invalid {
        observer.notice(part.index, note(format!("dropping the invalid index {index}, which an earlier try left")));
        // The name was quoted by the server.
        sent(session, part, &format!("DROP INDEX CONCURRENTLY {index}"), stop).await?;
    }
    sent(session, part, part.unit.body.sql, stop).await
}

/// A procedure or a block may have committed before it failed.
fn may_commit(part: &Part<'_>) -> bool {
    let first = part.unit.body.tokens().next().unwrap_or_default();
    ["call", "do"].iter().any(|word| first.eq_ignore_ascii_case(word))
}

async fn sent(
    session: &LockedSession,
    part: &Part<'_>,
    statement: &str,
    stop: &watch::Receiver<Phase>,
) -> Result<(), Broken> {
    let Received { stopping, result, .. } = send(session, statement, stop).await?;
    let Err(error) = result else { return Ok(()) };
    Err(match answer::broken(error, stopping, message::PREAMBLE_STATEMENTS, 0) {
        Broken::Sql(failed) => Broken::Sql(in_the_file(part, failed)),
        other => other,
    })
}

/// What the catalog says before the statement, or after a crash in it.
#[derive(Default)]
struct Found {
    /// The index is there and valid, or gone.
    took_effect: bool,
    /// An invalid index that an earlier try left, as the server quotes it.
    invalid: Option<String>,
    /// The table's indexes before the first try.
    indexes_before: Option<Vec<u32>>,
}

/// The indexes of $1 that a try of this statement made: valid ones that were not there before, under its name if it has one;
/// invalid ones under its name, or without one that were not there before, unless somebody is building them just now.
const MADE: &str = "SELECT c.oid::regclass::text, i.indisvalid FROM pg_catalog.pg_index i \
    JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = to_regclass($1) \
    AND ($2::text IS NULL OR c.relname = (parse_ident($2))[1]::name) \
    AND (NOT c.oid = ANY ($3::oid[]) OR $2::text IS NOT NULL AND NOT i.indisvalid) \
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_progress_create_index p WHERE p.index_relid = c.oid)";

/// The table's indexes before the first try, if there was one.
async fn recorded(session: &LockedSession, part: &Part<'_>) -> Result<Option<Vec<u32>>, Error> {
    let before = "SELECT indexes_before FROM schemad.statements WHERE step = $1 AND ordinal = $2";
    let rows =
        session.client().query_typed(before, &[(&part.step.id, Type::INT8), (&part.ordinal(), Type::INT4)]).await?;
    Ok(rows.first().and_then(|row| row.get(0)))
}

async fn find(session: &LockedSession, what: Outside<'_>, before: Option<Vec<u32>>) -> Result<Found, Error> {
    let client = session.client();
    match what {
        Outside::DropIndex { index } => {
            // By its oid: after a crash, another index may have the name.
            let indexes_before: Vec<u32> = match before {
                Some(before) => before,
                None => {
                    let named = "SELECT to_regclass($1)::oid WHERE to_regclass($1) IS NOT NULL";
                    client.query_typed(named, &[(&index, Type::TEXT)]).await?.iter().map(|row| row.get(0)).collect()
                }
            };
            let there = "SELECT EXISTS (SELECT FROM pg_catalog.pg_class WHERE oid = ANY ($1))";
            let there = client.query_typed(there, &[(&indexes_before, Type::OID_ARRAY)]).await?;
            let took_effect = !there.first().is_some_and(|row| row.get(0));
            Ok(Found { took_effect, invalid: None, indexes_before: Some(indexes_before) })
        }
        Outside::CreateIndex { index, table } => {
            let indexes_before: Vec<u32> = match before {
                Some(before) => before,
                None => {
                    let now = "SELECT i.indexrelid FROM pg_catalog.pg_index i WHERE i.indrelid = to_regclass($1)";
                    client.query_typed(now, &[(&table, Type::TEXT)]).await?.iter().map(|row| row.get(0)).collect()
                }
            };
            let made = client
                .query_typed(MADE, &[(&table, Type::TEXT), (&index, Type::TEXT), (&indexes_before, Type::OID_ARRAY)])
                .await?;
            Ok(Found {
                took_effect: made.iter().any(|row| row.get(1)),
                invalid: made.iter().find(|row| !row.get::<_, bool>(1)).map(|row| row.get(0)),
                indexes_before: Some(indexes_before),
            })
        }
        Outside::Repeatable | Outside::Unknown => Ok(Found::default()),
    }
}

/// Writes that the statement is sent next, and how it can be told afterwards whether it took effect.
async fn announce(session: &LockedSession, part: &Part<'_>, what: Outside<'_>, found: &Found) -> Result<(), Broken> {
    let client = session.client();
    let how = "UPDATE schemad.statements SET settles_by = $3, indexes_before = $4 WHERE step = $1 AND ordinal = $2";
    client.batch_execute(&message::announce(part.step.id, part.number)).await.map_err(answer::of_our_own)?;
    client
        .query_typed(
            how,
            &[
                (&part.step.id, Type::INT8),
                (&part.ordinal(), Type::INT4),
                (&what.settles_by(), Type::TEXT),
                (&found.indexes_before, Type::OID_ARRAY),
            ],
        )
        .await
        .map_err(answer::of_our_own)?;
    client.batch_execute("COMMIT").await.map_err(answer::of_our_own)
}

/// The timeouts, then the file's own settings up to here.
async fn set(
    session: &LockedSession,
    part: &Part<'_>,
    lock_timeout: Duration,
    statement_timeout: Duration,
) -> Result<(), Broken> {
    let (lock, statement) = (lock_timeout.as_millis(), statement_timeout.as_millis());
    let client = session.client();
    client
        .batch_execute(&format!("SET lock_timeout={lock};SET statement_timeout={statement}"))
        .await
        .map_err(answer::of_our_own)?;
    for setting in &part.unit.settings {
        if let Err(error) = client.batch_execute(setting.sql).await {
            let broken = answer::broken(error.into(), false, message::PREAMBLE_STATEMENTS, 0);
            return Err(match broken {
                Broken::Sql(failed) => {
                    let statements_done = statement_at(part.step.sql, setting.start);
                    Broken::Sql(ScriptError { statements_done, ..offset(part, failed, setting.start) })
                }
                other => other,
            });
        }
    }
    Ok(())
}

async fn reset(session: &LockedSession) -> Result<(), Broken> {
    session.reset().await.map_err(Broken::Lost)
}

fn in_the_file(part: &Part<'_>, failed: ScriptError) -> ScriptError {
    ScriptError { statements_done: part.unit.statements_before, ..offset(part, failed, part.unit.body.start) }
}

/// A position in a statement that begins at byte `start` of the file becomes one in the file.
fn offset(part: &Part<'_>, failed: ScriptError, start: usize) -> ScriptError {
    let mut error = failed.error;
    error.position = error.position.map(|at| crate::sql::nth_character(part.step.sql, start) + at - 1);
    ScriptError { error, ..failed }
}

/// A name that the server cannot read is the file's mistake.
fn unnamed(part: &Part<'_>, error: Error) -> Broken {
    match answer::broken(error, false, message::PREAMBLE_STATEMENTS, 0) {
        Broken::Sql(mut failed) => {
            failed.error.position = None;
            Broken::Sql(ScriptError { statements_done: part.unit.statements_before, ..failed })
        }
        other => other,
    }
}

fn note(message: String) -> Notice {
    Notice { step: None, severity: "NOTICE".into(), message }
}
