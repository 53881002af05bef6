//! Writes the beginning, the steps and the end of an operation. A function that writes more than
//! one row does so in one transaction.

use std::time::Duration;

use tokio_postgres::{
    Client,
    types::{ToSql, Type},
};
use uuid::Uuid;

use super::{
    OperationEnding, OperationState, PlanRecord, install, journals,
    settle::Settlement,
    signatures,
    text::{self, held},
};
use crate::{
    migration::{Direction, Migration, MigrationRow, Script, ScriptMode},
    planner::{AbandonedIndex, LedgerResolution, ResumePoint},
    postgres::{
        DatabaseError,
        lock::{LockedSession, operation_lock},
        session::insist,
    },
};

/// A step that is to be inserted into `schemad.steps`.
pub(crate) struct NewStepRow<'a> {
    /// The migration's version.
    pub version: &'a str,
    /// The migration's name.
    pub name: &'a str,
    /// Up or down.
    pub direction: Direction,
    /// The script that the step runs.
    pub script: &'a Script,
    /// The down script that belongs to an up script.
    pub down: Option<&'a Script>,
    /// The signature of the down script, if a signing key is configured.
    pub down_mac: Option<Vec<u8>>,
    /// The longest that one attempt may wait for a lock. 0 means no limit.
    pub lock_timeout: Duration,
    /// The longest that one statement may run. 0 means no limit.
    pub statement_timeout: Duration,
    /// The parts of a script that is not one transaction. Each is its checksum, and how to
    /// determine after a crash whether it took effect.
    pub parts: &'a [(String, &'static str)],
    /// The part where a script that is not one transaction resumes.
    pub resume: ResumePoint,
    /// A statement for an index that failed in an earlier attempt and is no longer in the script.
    pub earlier: Option<&'a AbandonedIndex>,
    /// The role that runs the script, if it is not the session's own role.
    pub role: Option<&'a str>,
}

/// Writes everything that an operation needs before its first step: the changes made by other
/// tools, the scripts, and the steps. Sets the operation's state to running. Returns the ids of the
/// steps in order. Returns `None` if another daemon has closed the operation or the session has
/// lost the operation lock.
///
/// # Errors
/// Returns an error if a statement fails or the connection is lost. Nothing is written then.
pub(crate) async fn begin(
    locked: &LockedSession,
    operation: Uuid,
    steps: &[NewStepRow<'_>],
    settlement: &Settlement<'_>,
    planned: &PlanRecord,
) -> Result<Option<Vec<i64>>, DatabaseError> {
    let client = locked.ledger();
    client.batch_execute("BEGIN").await?;
    let written = write_begin(locked, operation, steps, settlement, planned).await;
    // Every other statement of the session is a transaction of its own. So ending the transaction
    // here covers every return path.
    client
        .batch_execute(if matches!(written, Ok(Some(_))) {
            "COMMIT"
        } else {
            "ROLLBACK"
        })
        .await?;
    written
}

async fn write_begin(
    locked: &LockedSession,
    operation: Uuid,
    steps: &[NewStepRow<'_>],
    settlement: &Settlement<'_>,
    planned: &PlanRecord,
) -> Result<Option<Vec<i64>>, DatabaseError> {
    let client = locked.ledger();
    if let Some(keeper) = locked.keeper()
        && !still_holds(client, operation, keeper.of.pid).await?
    {
        return Ok(None);
    }
    let adopted = settlement
        .adopted
        .iter()
        .filter_map(|(_, migration)| *migration);
    // The journal keeps only the checksum of the failed statement until what it left is removed.
    // This operation may end before it does that, so the statement's text is stored as a script.
    let tried =
        |earlier: &AbandonedIndex| Script::new(earlier.sql.as_str(), ScriptMode::NonTransactional);
    let tried: Vec<Script> = steps
        .iter()
        .filter_map(|step| step.earlier)
        .map(tried)
        .collect();
    let scripts: Vec<&Script> = steps
        .iter()
        .flat_map(|step| std::iter::once(step.script).chain(step.down))
        .chain(&tried)
        .chain(
            adopted
                .flat_map(|m| std::iter::once(&m.up).chain(&m.down))
                .filter(|script| settlement.holds(&script.sql)),
        )
        .collect();
    store_scripts(client, &scripts).await?;
    write_settlement(client, operation, settlement).await?;
    if let Some(resolution) = &settlement.resolution {
        write_resolution(client, operation, resolution).await?;
    }
    if let Some(signatures) = &settlement.signatures {
        signatures::write(client, operation, signatures).await?;
    }
    let ours = client
        .query_typed(
            "UPDATE schemad.operations SET state = 'running', started_at = clock_timestamp(), \
             heartbeat_at = clock_timestamp(), steps_total = $2 \
             WHERE id = $1 AND state = 'pending' RETURNING true",
            &[
                (&operation, Type::UUID),
                (&(steps.len() as i32), Type::INT4),
            ],
        )
        .await?;
    if ours.is_empty() {
        return Ok(None);
    }
    let planned = serde_json::to_string(planned).map_err(|e| DatabaseError::Lost(e.to_string()))?;
    note(client, operation, "started", &planned).await?;
    let ids = insert_steps(locked, operation, steps).await?;
    journals::write(client, steps, &ids, settlement).await?;
    Ok(Some(ids))
}

/// Returns whether the session for migrations still holds the operation lock. The query runs on the
/// session that writes the ledger. The operation's row is locked first, so that another daemon that
/// acquires the operation lock from now on waits for this transaction before it closes the
/// operation and plans its own.
async fn still_holds(client: &Client, operation: Uuid, pid: i32) -> Result<bool, DatabaseError> {
    let row = "SELECT FROM schemad.operations o WHERE o.id = $1 AND o.state = 'pending' FOR \
        UPDATE";
    let holds = concat!(
        "SELECT FROM pg_locks k WHERE k.pid = $1 AND ",
        operation_lock!()
    );
    Ok(!client
        .query_typed(row, &[(&operation, Type::UUID)])
        .await?
        .is_empty()
        && !client
            .query_typed(holds, &[(&pid, Type::INT4)])
            .await?
            .is_empty())
}

async fn store_scripts(client: &Client, scripts: &[&Script]) -> Result<(), DatabaseError> {
    let checksums: Vec<String> = scripts.iter().map(|s| s.checksum.to_string()).collect();
    let texts: Vec<&str> = scripts.iter().map(|s| &*s.sql).collect();
    client
        .query_typed(
            "INSERT INTO schemad.scripts (checksum, sql) SELECT DISTINCT ON (1) * FROM \
             unnest($1::text[], $2::text[]) ON CONFLICT DO NOTHING",
            &[(&checksums, Type::TEXT_ARRAY), (&texts, Type::TEXT_ARRAY)],
        )
        .await?;
    Ok(())
}

async fn insert_steps(
    locked: &LockedSession,
    operation: Uuid,
    steps: &[NewStepRow<'_>],
) -> Result<Vec<i64>, DatabaseError> {
    let column =
        |of: &dyn Fn(&NewStepRow<'_>) -> Option<String>| steps.iter().map(of).collect::<Vec<_>>();
    // `sql::settings` keeps the values within PostgreSQL's own range.
    let millis = |of: &dyn Fn(&NewStepRow<'_>) -> Duration| {
        steps
            .iter()
            .map(|s| i32::try_from(of(s).as_millis()).unwrap_or(i32::MAX))
            .collect::<Vec<i32>>()
    };
    let macs: Vec<Option<&[u8]>> = steps.iter().map(|s| s.down_mac.as_deref()).collect();
    let of = locked.keeper().map(|keeper| &keeper.of);
    let (user, login) = (
        of.map(|of| of.user.as_str()),
        of.map(|of| of.login.as_str()),
    );
    let rows = locked
        .ledger()
        .query_typed(
            "WITH new AS (INSERT INTO schemad.steps (operation, ordinal, version, name, direction, \
                 script, mode, up_script, up_mode, down_script, down_mode, lock_timeout_ms, \
                 statement_timeout_ms, role, down_mac, planned_as, planned_in_session_of) SELECT \
                 $1, n, version, name, direction, script, mode, CASE direction WHEN 'up' THEN \
                 script END, CASE direction WHEN 'up' THEN mode END, down, down_mode, \
                 lock_timeout, statement_timeout, role, mac, coalesce($13, current_user), \
                 coalesce($14, session_user) FROM unnest($2::text[], $3::text[], $4::text[], \
                 $5::text[], $6::text[], $7::text[], $8::text[], $9::int[], $10::int[], \
                 $11::text[], $12::bytea[]) WITH ORDINALITY s (version, name, direction, script, \
                 mode, down, down_mode, lock_timeout, statement_timeout, role, mac, n) RETURNING \
                 id, ordinal) SELECT id FROM new ORDER BY ordinal",
            &[
                (&operation, Type::UUID),
                (&column(&|s| Some(s.version.into())), Type::TEXT_ARRAY),
                (&column(&|s| Some(s.name.into())), Type::TEXT_ARRAY),
                (
                    &column(&|s| Some(s.direction.as_str().into())),
                    Type::TEXT_ARRAY,
                ),
                (
                    &column(&|s| Some(s.script.checksum.to_string())),
                    Type::TEXT_ARRAY,
                ),
                (
                    &column(&|s| Some(s.script.mode.as_str().into())),
                    Type::TEXT_ARRAY,
                ),
                (
                    &column(&|s| s.down.map(|d| d.checksum.to_string())),
                    Type::TEXT_ARRAY,
                ),
                (
                    &column(&|s| s.down.map(|d| d.mode.as_str().into())),
                    Type::TEXT_ARRAY,
                ),
                (&millis(&|s| s.lock_timeout), Type::INT4_ARRAY),
                (&millis(&|s| s.statement_timeout), Type::INT4_ARRAY),
                (&column(&|s| s.role.map(Into::into)), Type::TEXT_ARRAY),
                (&macs, Type::BYTEA_ARRAY),
                (&user, Type::NAME),
                (&login, Type::NAME),
            ],
        )
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

async fn write_settlement(
    client: &Client,
    operation: Uuid,
    settlement: &Settlement<'_>,
) -> Result<(), DatabaseError> {
    let adopted = &settlement.adopted;
    let column = |of: &dyn Fn(&Script) -> String, down: bool| -> Vec<Option<String>> {
        let script = |(_, migration): &(_, Option<&'_ Migration>)| {
            migration.and_then(|m| {
                if down {
                    m.down.as_ref().map(of)
                } else {
                    Some(of(&m.up))
                }
            })
        };
        adopted.iter().map(script).collect()
    };
    let versions: Vec<&str> = adopted
        .iter()
        .map(|(row, _)| row.version.as_str())
        .collect();
    if !adopted.is_empty() {
        let names: Vec<&str> = adopted
            .iter()
            .map(|(row, migration)| migration.map_or(row.version.as_str(), |m| &m.name))
            .collect();
        let names: Vec<String> = names
            .iter()
            .map(|name| {
                if settlement.holds(name) {
                    (*name).to_owned()
                } else {
                    text::plain(name)
                }
            })
            .collect();
        let times: Vec<f64> = adopted.iter().map(|(row, _)| seconds(row.run_on)).collect();
        let mac = |(row, migration): &(&MigrationRow, Option<&Migration>)| {
            settlement
                .signer
                .zip(migration.as_ref()?.down.as_ref())
                .map(|(signer, down)| signer.sign(&row.version, down))
        };
        let macs: Vec<Option<Vec<u8>>> = adopted.iter().map(mac).collect();
        let (checksum, mode) = (
            |s: &Script| s.checksum.to_string(),
            |s: &Script| s.mode.as_str().to_owned(),
        );
        client
            .query_typed(
                "INSERT INTO schemad.migrations (version, name, up_script, up_mode, down_script, \
                 down_mode, applied_at, adopted, mac) SELECT version, name, up, up_mode, down, \
                 down_mode, to_timestamp(at), true, mac FROM unnest($1::text[], $2::text[], \
                 $3::text[], $4::text[], $5::text[], $6::text[], $7::float8[], $8::bytea[]) WITH \
                 ORDINALITY a (version, name, up, up_mode, down, down_mode, at, mac, n) ORDER BY \
                 n",
                &[
                    (&versions, Type::TEXT_ARRAY),
                    (&names, Type::TEXT_ARRAY),
                    (&column(&checksum, false), Type::TEXT_ARRAY),
                    (&column(&mode, false), Type::TEXT_ARRAY),
                    (&column(&checksum, true), Type::TEXT_ARRAY),
                    (&column(&mode, true), Type::TEXT_ARRAY),
                    (&times, Type::FLOAT8_ARRAY),
                    (&macs, Type::BYTEA_ARRAY),
                ],
            )
            .await?;
        note(
            client,
            operation,
            "adopted",
            &serde_json::json!({ "versions": versions }).to_string(),
        )
        .await?;
    }
    let forgotten: Vec<&str> = settlement
        .forgotten
        .iter()
        .map(|row| row.version.as_str())
        .collect();
    if !forgotten.is_empty() {
        let delete = "DELETE FROM schemad.migrations WHERE version = ANY ($1)";
        client
            .query_typed(delete, &[(&forgotten, Type::TEXT_ARRAY)])
            .await?;
        note(
            client,
            operation,
            "reverted_elsewhere",
            &serde_json::json!({ "versions": forgotten }).to_string(),
        )
        .await?;
    }
    Ok(())
}

async fn write_resolution(
    client: &Client,
    operation: Uuid,
    resolution: &LedgerResolution,
) -> Result<(), DatabaseError> {
    let settled = match resolution {
        LedgerResolution::Statement { step, done } => {
            let change = "UPDATE schemad.statements SET state = CASE WHEN $2 THEN 'done' ELSE \
                'pending' END, finished_at = CASE WHEN $2 THEN clock_timestamp() END WHERE step = \
                $1 AND state = 'running'";
            client
                .query_typed(change, &[(step, Type::INT8), (done, Type::BOOL)])
                .await?;
            serde_json::json!({ "step": step, "done": done })
        }
        LedgerResolution::StartOver { step } => {
            client
                .query_typed(
                    "DELETE FROM schemad.statements WHERE step = $1",
                    &[(step, Type::INT8)],
                )
                .await?;
            serde_json::json!({ "step": step, "start_over": true })
        }
        LedgerResolution::Accept(migration) => {
            store_scripts(client, &[&migration.up]).await?;
            let (version, checksum) = (
                migration.version.as_str(),
                migration.up.checksum.to_string(),
            );
            let change =
                "UPDATE schemad.migrations SET up_script = $2, up_mode = $3 WHERE version = $1";
            let mode = migration.up.mode.as_str();
            let values: [(&(dyn ToSql + Sync), Type); 3] = [
                (&version, Type::TEXT),
                (&checksum, Type::TEXT),
                (&mode, Type::TEXT),
            ];
            client.query_typed(change, &values).await?;
            serde_json::json!({ "version": version, "up": checksum })
        }
        LedgerResolution::RestoreTable => {
            let table = journals::diesel_table(client).await?;
            install::prepare_diesel_table(client, &table).await?;
            let restore = format!(
                "INSERT INTO {table} (version, run_on) SELECT m.version, m.applied_at AT TIME ZONE \
                 'UTC' FROM schemad.migrations m ORDER BY m.position ON CONFLICT DO NOTHING \
                 RETURNING version"
            );
            let versions = client.query_typed(&restore, &[]).await?;
            let versions: Vec<String> = versions.iter().map(|row| row.get(0)).collect();
            serde_json::json!({ "restored_in_diesel_table": versions })
        }
        // `write_settlement` deletes the rows, together with those that other tools reverted.
        LedgerResolution::NothingApplied => serde_json::json!({ "nothing_applied": true }),
    };
    note(client, operation, "resolved", &settled.to_string()).await
}

fn seconds(at: Option<std::time::SystemTime>) -> f64 {
    at.and_then(|at| at.duration_since(std::time::SystemTime::UNIX_EPOCH).ok())
        .map_or(0.0, |d| d.as_secs_f64())
}

/// Records the end of an operation. Returns false if another daemon closed it, in which case the
/// row is left unchanged. The exception is the state interrupted, the only one that another daemon
/// can record. The operation's own daemon replaces it with the actual outcome.
///
/// # Errors
/// Returns an error if a statement fails or the connection is lost.
pub(crate) async fn end(
    client: &Client,
    id: Uuid,
    state: OperationState,
    ending: &OperationEnding,
) -> Result<bool, DatabaseError> {
    let result = serde_json::to_string(ending).map_err(|e| DatabaseError::Lost(e.to_string()))?;
    held!(write_end(client, id, state, &result), or write_end(client, id, state, &text::plain(&result)))
}

async fn write_end(
    client: &Client,
    id: Uuid,
    state: OperationState,
    result: &str,
) -> Result<bool, DatabaseError> {
    let update = "WITH ended AS (UPDATE schemad.operations SET state = $2, finished_at = \
            clock_timestamp(), result = $3::text::jsonb WHERE id = $1 AND (state IN ('pending', \
            'running') OR state = 'interrupted' AND $2 <> 'interrupted') RETURNING id) INSERT INTO \
            schemad.events (operation, sequence, kind) SELECT e.id, 1 + (SELECT \
            coalesce(max(x.sequence), 0) FROM schemad.events x WHERE x.operation = e.id), $2 FROM \
            ended e RETURNING true";
    let values: [(&(dyn ToSql + Sync), Type); 3] = [
        (&id, Type::UUID),
        (&state.as_str(), Type::TEXT),
        (&result, Type::TEXT),
    ];
    let ended = insist!(client.query_typed(update, &values))?;
    Ok(!ended.is_empty())
}

/// Records that an operation was accepted although it has to wait. From then on every daemon
/// answers a repeated request with that operation.
///
/// # Errors
/// Returns an error if the statement fails or the connection is lost.
pub(crate) async fn accept(client: &Client, id: Uuid) -> Result<(), DatabaseError> {
    note(client, id, "accepted", "{}").await
}

/// Limits the lock timeout of a step's next attempt to `left`, if the step's own is longer.
///
/// # Errors
/// Returns an error if the statement fails or the connection is lost.
pub(crate) async fn shorten_wait(
    client: &Client,
    step: i64,
    left: Duration,
) -> Result<(), DatabaseError> {
    // 0 would mean no limit.
    let millis = i32::try_from(left.as_millis()).unwrap_or(i32::MAX).max(1);
    let update = "UPDATE schemad.steps SET lock_timeout_ms = $2 WHERE id = $1 AND state = \
        'pending' AND lock_timeout_ms > $2";
    insist!(client.query_typed(update, &[(&step, Type::INT8), (&millis, Type::INT4)]))?;
    Ok(())
}

/// Returns the highest applied version in the ledger.
///
/// # Errors
/// Returns an error if the query fails or the connection is lost.
pub(crate) async fn current_version(client: &Client) -> Result<Option<String>, DatabaseError> {
    let highest =
        "SELECT m.version FROM schemad.migrations m ORDER BY m.version COLLATE \"C\" DESC LIMIT 1";
    Ok(client
        .query_typed(highest, &[])
        .await?
        .first()
        .map(|row| row.get(0)))
}

/// Returns the number of committed steps of an operation.
///
/// # Errors
/// Returns an error if the query fails or the connection is lost.
pub(crate) async fn steps_done(client: &Client, id: Uuid) -> Result<usize, DatabaseError> {
    let count = "SELECT count(*) FROM schemad.steps WHERE operation = $1 AND state = 'applied'";
    let rows = client.query_typed(count, &[(&id, Type::UUID)]).await?;
    Ok(rows.first().map_or(0, |row| {
        usize::try_from(row.get::<_, i64>(0)).unwrap_or_default()
    }))
}

/// Inserts an event. It has to run in the transaction of the change that the event records.
pub(super) async fn note(
    client: &Client,
    operation: Uuid,
    kind: &str,
    data: &str,
) -> Result<(), DatabaseError> {
    if data.is_ascii() {
        return insert_event(client, operation, kind, data).await;
    }
    client.batch_execute("SAVEPOINT plain").await?;
    match insert_event(client, operation, kind, data).await {
        Err(error) if text::is_not_held(&error) => {
            client.batch_execute("ROLLBACK TO SAVEPOINT plain").await?;
            insert_event(client, operation, kind, &text::plain(data)).await
        }
        noted => noted,
    }
}

async fn insert_event(
    client: &Client,
    operation: Uuid,
    kind: &str,
    data: &str,
) -> Result<(), DatabaseError> {
    client
        .query_typed(
            "INSERT INTO schemad.events (operation, sequence, kind, data) VALUES ($1, 1 + (SELECT \
             coalesce(max(e.sequence), 0) FROM schemad.events e WHERE e.operation = $1), $2, \
             $3::text::jsonb)",
            &[
                (&operation, Type::UUID),
                (&kind, Type::TEXT),
                (&data, Type::TEXT),
            ],
        )
        .await?;
    Ok(())
}
