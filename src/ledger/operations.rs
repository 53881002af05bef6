//! Writing operations and their steps. Every function that writes more than one row is one transaction.

use std::time::Duration;

use tokio_postgres::{Client, types::Type};
use uuid::Uuid;

use super::{Ending, OperationRow, State, read::micros, settle::Settlement};
use crate::{
    db::{Error, lock::LockedSession},
    migration::{Direction, Script},
};

/// lock_timeout of a step: what users wait behind a migration that waits. Short of the 15 s after which proxies give up.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// What a pending operation gets beyond its queue_timeout; later its daemon is dead, whatever its session says.
const QUEUE_SLACK: Duration = Duration::from_secs(60);

/// True for a pending operation `o` whose daemon can still be waiting: its session is there, and its time is not over. Another
/// role's session does not show when it began.
macro_rules! pending_alive {
    () => {
        "(o.queue_until > clock_timestamp() AND EXISTS (SELECT FROM pg_stat_activity a \
          WHERE a.pid = o.backend_pid AND (a.backend_start IS NULL OR a.backend_start = o.backend_start)))"
    };
}

const EXISTING: &str = concat!(
    "SELECT o.id, o.request_hash, o.state, o.result::text, \
     CASE o.state WHEN 'running' THEN EXISTS (SELECT FROM pg_locks k WHERE k.locktype = 'advisory' AND k.granted \
         AND k.classid = 7562088 AND k.objid = 1701667172 AND k.objsubid = 1 \
         AND k.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())) ELSE ",
    pending_alive!(),
    " END FROM schemad.operations o"
);

/// An operation to be claimed.
#[derive(Debug)]
pub struct NewOperation<'a> {
    /// `apply` or `rollback`.
    pub kind: &'a str,
    /// Who asks.
    pub principal: &'a str,
    /// The caller's id for the request.
    pub request_id: Uuid,
    /// What tells one request from another.
    pub request_hash: &'a str,
    /// How long it may wait for the lock.
    pub queue_timeout: Duration,
    /// host:pid.
    pub daemon: &'a str,
}

/// What became of a claim.
pub enum Claim {
    /// The request is new, and this is its operation.
    Ours(Uuid),
    /// The request_id is taken.
    Existing(Existing),
}

/// An operation that was there before.
pub struct Existing {
    /// Its id.
    pub id: Uuid,
    /// The hash of the request that began it.
    pub request_hash: String,
    /// Where it stands.
    pub state: State,
    /// How it ended.
    pub result: Option<Ending>,
    /// False for one that can only have been left by a dead daemon: open, but nobody holds the lock or waits for it.
    pub is_alive: bool,
}

/// A step to be recorded.
pub struct StepRow<'a> {
    /// The migration's version.
    pub version: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Up or down.
    pub direction: Direction,
    /// What runs.
    pub script: &'a Script,
    /// For an up: the down that belongs to it.
    pub down: Option<&'a Script>,
}

/// Claims a request_id for a new operation: one INSERT decides between any number of daemons.
///
/// # Errors
/// The database's, or its loss.
pub async fn claim(client: &Client, new: &NewOperation<'_>) -> Result<Claim, Error> {
    loop {
        let id = Uuid::now_v7();
        let wait = new.queue_timeout.saturating_add(QUEUE_SLACK).as_secs_f64();
        let inserted = client
            .query_typed(
                "INSERT INTO schemad.operations (id, kind, principal, request_id, request_hash, state, daemon, \
                     backend_pid, backend_start, queue_until) \
                 SELECT $1, $2, $3, $4, $5, 'pending', $6, a.pid, a.backend_start, \
                     clock_timestamp() + make_interval(secs => $7) FROM pg_stat_activity a WHERE a.pid = pg_backend_pid() \
                 ON CONFLICT (principal, request_id) DO NOTHING RETURNING true",
                &[
                    (&id, Type::UUID),
                    (&new.kind, Type::TEXT),
                    (&new.principal, Type::TEXT),
                    (&new.request_id, Type::UUID),
                    (&new.request_hash, Type::TEXT),
                    (&new.daemon, Type::TEXT),
                    (&wait, Type::FLOAT8),
                ],
            )
            .await?;
        if !inserted.is_empty() {
            return Ok(Claim::Ours(id));
        }
        let found = format!("{EXISTING} WHERE o.principal = $1 AND o.request_id = $2");
        let rows = client.query_typed(&found, &[(&new.principal, Type::TEXT), (&new.request_id, Type::UUID)]).await?;
        if let Some(row) = rows.first() {
            return Ok(Claim::Existing(existing(row)));
        } // else it was refused and taken back meanwhile
    }
}

/// An operation by its id.
///
/// # Errors
/// The database's, or its loss.
pub async fn find(client: &Client, id: Uuid) -> Result<Option<Existing>, Error> {
    let rows = client.query_typed(&format!("{EXISTING} WHERE o.id = $1"), &[(&id, Type::UUID)]).await?;
    Ok(rows.first().map(existing))
}

/// Takes back a claim that was not accepted: a refusal binds no request_id.
///
/// # Errors
/// The database's, or its loss.
pub async fn abandon(client: &Client, id: Uuid) -> Result<(), Error> {
    let delete = "DELETE FROM schemad.operations WHERE id = $1 AND state = 'pending'";
    client.query_typed(delete, &[(&id, Type::UUID)]).await?;
    Ok(())
}

/// The operation that is running, as far as the ledger knows.
///
/// # Errors
/// The database's, or its loss.
pub async fn running(client: &Client) -> Result<Option<OperationRow>, Error> {
    // Whoever holds the lock may be making the ledger just now.
    let ledger = client.query_typed("SELECT to_regclass('schemad.operations') IS NOT NULL", &[]).await?;
    if !ledger.first().is_some_and(|row| row.get(0)) {
        return Ok(None);
    }
    let query = "SELECT o.id, o.kind, o.state, o.principal, o.daemon, \
        (extract(epoch FROM o.created_at) * 1000000)::bigint, (extract(epoch FROM o.started_at) * 1000000)::bigint, \
        o.steps_total, (SELECT count(*)::integer FROM schemad.steps s WHERE s.operation = o.id AND s.state = 'applied') \
        FROM schemad.operations o WHERE o.state = 'running' ORDER BY o.started_at DESC LIMIT 1";
    let rows = client.query_typed(query, &[]).await?;
    Ok(rows.first().map(|row| OperationRow {
        id: row.get(0),
        kind: row.get(1),
        state: row.get(2),
        principal: row.get(3),
        daemon: row.get(4),
        created_at: micros(row.get(5)),
        started_at: row.get::<_, Option<i64>>(6).map(micros),
        finished_at: None,
        steps_total: row.get(7),
        steps_done: row.get(8),
    }))
}

/// Closes what dead daemons left: under the lock nobody else runs, so whatever is 'running' is not. Its committed steps
/// stay and say what it reached. Pending ones are closed when their session is gone or their time is over.
///
/// # Errors
/// The database's, or its loss.
pub async fn close_abandoned(locked: &LockedSession, own: Uuid) -> Result<(), Error> {
    let close = concat!(
        "WITH dead AS ( \
            SELECT o.id, o.daemon, count(s.id) FILTER (WHERE s.state = 'applied') AS done, o.steps_total \
            FROM schemad.operations o LEFT JOIN schemad.steps s ON s.operation = o.id \
            WHERE o.id <> $1 AND (o.state = 'running' OR o.state = 'pending' AND NOT ",
        pending_alive!(),
        ") GROUP BY o.id), \
        closed AS ( \
            UPDATE schemad.operations o SET state = 'interrupted', finished_at = clock_timestamp(), \
                result = jsonb_build_object('finished', jsonb_build_object('nothing_to_do', false, 'steps_done', d.done, \
                    'steps_total', d.steps_total, 'current', NULL, 'warnings', '[]'::jsonb), \
                'failure', jsonb_build_object('reason', 'INTERRUPTED', 'message', format('the daemon %s went away; %s of %s \
steps are done and stay, the rest was not run. Ask again', d.daemon, d.done, d.steps_total), \
                    'metadata', jsonb_build_object('operation', o.id::text))) \
            FROM dead d WHERE o.id = d.id RETURNING o.id), \
        noted AS (INSERT INTO schemad.events (operation, sequence, kind) \
            SELECT c.id, 1 + coalesce(max(e.sequence), 0), 'interrupted' \
            FROM closed c LEFT JOIN schemad.events e ON e.operation = c.id GROUP BY c.id) \
        SELECT id::text FROM closed"
    );
    for row in locked.client().query_typed(close, &[(&own, Type::UUID)]).await? {
        tracing::warn!(
            event = "operation.interrupted",
            operation = row.get::<_, String>(0),
            "closed an operation that a dead daemon had left"
        );
    }
    Ok(())
}

/// Writes everything an operation needs before its first step: what others changed, the scripts, the steps; and makes it
/// the running one. Returns the steps' ids in order; `None` when another daemon has closed the operation meanwhile.
///
/// # Errors
/// The database's, or its loss; nothing is written then.
pub async fn begin(
    locked: &LockedSession,
    operation: Uuid,
    steps: &[StepRow<'_>],
    settlement: &Settlement<'_>,
) -> Result<Option<Vec<i64>>, Error> {
    let client = locked.client();
    client.batch_execute("BEGIN").await?;
    let written = write_begin(client, operation, steps, settlement).await;
    // Every other statement of the session is a message of its own, so ending it here covers every way out.
    client.batch_execute(if matches!(written, Ok(Some(_))) { "COMMIT" } else { "ROLLBACK" }).await?;
    written
}

async fn write_begin(
    client: &Client,
    operation: Uuid,
    steps: &[StepRow<'_>],
    settlement: &Settlement<'_>,
) -> Result<Option<Vec<i64>>, Error> {
    let adopted = settlement.adopted.iter().filter_map(|(_, migration)| *migration);
    let scripts: Vec<&Script> = steps
        .iter()
        .flat_map(|step| std::iter::once(step.script).chain(step.down))
        .chain(adopted.flat_map(|m| std::iter::once(&m.up).chain(&m.down)))
        .collect();
    store_scripts(client, &scripts).await?;
    write_settlement(client, operation, settlement).await?;
    let ours = client
        .query_typed(
            "UPDATE schemad.operations SET state = 'running', started_at = clock_timestamp(), steps_total = $2 \
             WHERE id = $1 AND state = 'pending' RETURNING true",
            &[(&operation, Type::UUID), (&(steps.len() as i32), Type::INT4)],
        )
        .await?;
    if ours.is_empty() {
        return Ok(None);
    }
    note(client, operation, "started", "{}").await?;
    insert_steps(client, operation, steps).await.map(Some)
}

async fn store_scripts(client: &Client, scripts: &[&Script]) -> Result<(), Error> {
    let checksums: Vec<String> = scripts.iter().map(|s| s.checksum.to_string()).collect();
    let texts: Vec<&str> = scripts.iter().map(|s| &*s.sql).collect();
    client
        .query_typed(
            "INSERT INTO schemad.scripts (checksum, sql) SELECT DISTINCT ON (1) * FROM unnest($1::text[], $2::text[]) \
             ON CONFLICT DO NOTHING",
            &[(&checksums, Type::TEXT_ARRAY), (&texts, Type::TEXT_ARRAY)],
        )
        .await?;
    Ok(())
}

async fn insert_steps(client: &Client, operation: Uuid, steps: &[StepRow<'_>]) -> Result<Vec<i64>, Error> {
    let column = |of: &dyn Fn(&StepRow<'_>) -> Option<String>| steps.iter().map(of).collect::<Vec<_>>();
    let rows = client
        .query_typed(
            "WITH new AS (INSERT INTO schemad.steps (operation, ordinal, version, name, direction, script, mode, up_script, \
                 up_mode, down_script, down_mode, lock_timeout_ms, statement_timeout_ms) \
             SELECT $1, n, version, name, direction, script, mode, CASE direction WHEN 'up' THEN script END, \
                 CASE direction WHEN 'up' THEN mode END, down, down_mode, $2, 0 \
             FROM unnest($3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[]) \
                 WITH ORDINALITY s (version, name, direction, script, mode, down, down_mode, n) RETURNING id, ordinal) \
             SELECT id FROM new ORDER BY ordinal",
            &[
                (&operation, Type::UUID),
                (&(LOCK_TIMEOUT.as_millis() as i32), Type::INT4),
                (&column(&|s| Some(s.version.into())), Type::TEXT_ARRAY),
                (&column(&|s| Some(s.name.into())), Type::TEXT_ARRAY),
                (&column(&|s| Some(s.direction.as_str().into())), Type::TEXT_ARRAY),
                (&column(&|s| Some(s.script.checksum.to_string())), Type::TEXT_ARRAY),
                (&column(&|s| Some(s.script.mode.as_str().into())), Type::TEXT_ARRAY),
                (&column(&|s| s.down.map(|d| d.checksum.to_string())), Type::TEXT_ARRAY),
                (&column(&|s| s.down.map(|d| d.mode.as_str().into())), Type::TEXT_ARRAY),
            ],
        )
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

async fn write_settlement(client: &Client, operation: Uuid, settlement: &Settlement<'_>) -> Result<(), Error> {
    let adopted = &settlement.adopted;
    let column = |of: &dyn Fn(&Script) -> String, down: bool| -> Vec<Option<String>> {
        let script = |(_, migration): &(_, Option<&'_ crate::migration::Migration>)| {
            migration.and_then(|m| if down { m.down.as_ref().map(of) } else { Some(of(&m.up)) })
        };
        adopted.iter().map(script).collect()
    };
    let versions: Vec<&str> = adopted.iter().map(|(row, _)| row.version.as_str()).collect();
    if !adopted.is_empty() {
        let names: Vec<&str> =
            adopted.iter().map(|(row, migration)| migration.map_or(row.version.as_str(), |m| &m.name)).collect();
        let times: Vec<f64> = adopted.iter().map(|(row, _)| seconds(row.run_on)).collect();
        let (checksum, mode) = (|s: &Script| s.checksum.to_string(), |s: &Script| s.mode.as_str().to_owned());
        client
            .query_typed(
                "INSERT INTO schemad.migrations (version, name, up_script, up_mode, down_script, down_mode, applied_at, adopted) \
                 SELECT version, name, up, up_mode, down, down_mode, to_timestamp(at), true \
                 FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::float8[]) \
                     WITH ORDINALITY a (version, name, up, up_mode, down, down_mode, at, n) ORDER BY n",
                &[
                    (&versions, Type::TEXT_ARRAY),
                    (&names, Type::TEXT_ARRAY),
                    (&column(&checksum, false), Type::TEXT_ARRAY),
                    (&column(&mode, false), Type::TEXT_ARRAY),
                    (&column(&checksum, true), Type::TEXT_ARRAY),
                    (&column(&mode, true), Type::TEXT_ARRAY),
                    (&times, Type::FLOAT8_ARRAY),
                ],
            )
            .await?;
        note(client, operation, "adopted", &serde_json::json!({ "versions": versions }).to_string()).await?;
    }
    let forgotten: Vec<&str> = settlement.forgotten.iter().map(|row| row.version.as_str()).collect();
    if !forgotten.is_empty() {
        let delete = "DELETE FROM schemad.migrations WHERE version = ANY ($1)";
        client.query_typed(delete, &[(&forgotten, Type::TEXT_ARRAY)]).await?;
        note(client, operation, "reverted_elsewhere", &serde_json::json!({ "versions": forgotten }).to_string())
            .await?;
    }
    Ok(())
}

fn seconds(at: Option<std::time::SystemTime>) -> f64 {
    at.and_then(|at| at.duration_since(std::time::SystemTime::UNIX_EPOCH).ok()).map_or(0.0, |d| d.as_secs_f64())
}

/// Records how an operation ended. One that was closed by another daemon stays as that daemon left it.
///
/// # Errors
/// The database's, or its loss.
pub async fn end(client: &Client, id: Uuid, state: State, ending: &Ending) -> Result<(), Error> {
    let result = serde_json::to_string(ending).map_err(|e| Error::Lost(e.to_string()))?;
    client
        .query_typed(
            "WITH ended AS (UPDATE schemad.operations SET state = $2, finished_at = clock_timestamp(), result = $3::text::jsonb \
                 WHERE id = $1 AND state IN ('pending', 'running') RETURNING id) \
             INSERT INTO schemad.events (operation, sequence, kind) SELECT e.id, \
                 1 + (SELECT coalesce(max(x.sequence), 0) FROM schemad.events x WHERE x.operation = e.id), $2 FROM ended e",
            &[(&id, Type::UUID), (&state.as_str(), Type::TEXT), (&result, Type::TEXT)],
        )
        .await?;
    Ok(())
}

/// How many steps of an operation are committed.
///
/// # Errors
/// The database's, or its loss.
pub async fn steps_done(client: &Client, id: Uuid) -> Result<usize, Error> {
    let count = "SELECT count(*) FROM schemad.steps WHERE operation = $1 AND state = 'applied'";
    let rows = client.query_typed(count, &[(&id, Type::UUID)]).await?;
    Ok(rows.first().map_or(0, |row| usize::try_from(row.get::<_, i64>(0)).unwrap_or_default()))
}

/// A change of state, in the transaction that makes it.
async fn note(client: &Client, operation: Uuid, kind: &str, data: &str) -> Result<(), Error> {
    client
        .query_typed(
            "INSERT INTO schemad.events (operation, sequence, kind, data) VALUES ($1, \
             1 + (SELECT coalesce(max(e.sequence), 0) FROM schemad.events e WHERE e.operation = $1), $2, $3::text::jsonb)",
            &[(&operation, Type::UUID), (&kind, Type::TEXT), (&data, Type::TEXT)],
        )
        .await?;
    Ok(())
}

fn existing(row: &tokio_postgres::Row) -> Existing {
    Existing {
        id: row.get(0),
        request_hash: row.get(1),
        // A newer daemon's state that this one does not know is at least not over.
        state: State::parse(row.get(2)).unwrap_or(State::Running),
        result: row.get::<_, Option<&str>>(3).and_then(|json| serde_json::from_str(json).ok()),
        is_alive: row.get(4),
    }
}
