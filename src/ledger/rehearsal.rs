//! The steps of a rehearsal, in the ledger of a scratch database. Only the rows that the runner's
//! guards require are written. Each step is an operation of its own, so a failed one does not block
//! the next.

use tokio_postgres::types::{ToSql, Type};

use super::operations::NewStepRow;
use crate::postgres::{DatabaseError, lock::LockedSession};

const STEP: &str = "WITH operation AS (INSERT INTO schemad.operations (id, kind, principal, \
         request_id, request_hash, state, daemon, backend_pid, queue_until, started_at, \
         steps_total) SELECT id, 'rehearse', 'rehearsal', id, '', 'running', '', pg_backend_pid(), \
         now(), now(), 1 FROM gen_random_uuid() id RETURNING id), step AS (INSERT INTO \
         schemad.steps (operation, ordinal, version, name, direction, script, mode, up_script, \
         up_mode, lock_timeout_ms, statement_timeout_ms, role) SELECT id, 1, $1, $2, $3, $4, $5, \
         $4, $5, $6, $7, $8 FROM operation RETURNING id), parts AS (INSERT INTO schemad.statements \
         (step, ordinal, checksum, settles_by) SELECT step.id, n, checksum, by FROM step, \
         unnest($9::text[], $10::text[]) WITH ORDINALITY p (checksum, by, n)) SELECT id FROM step";

/// Inserts the row of the step that runs next. Returns its id.
///
/// # Errors
/// Returns an error if the statement fails or the connection is lost.
pub(crate) async fn step(
    locked: &LockedSession,
    step: &NewStepRow<'_>,
) -> Result<i64, DatabaseError> {
    let millis = |of: std::time::Duration| i32::try_from(of.as_millis()).unwrap_or(i32::MAX);
    let (lock_timeout, statement_timeout) =
        (millis(step.lock_timeout), millis(step.statement_timeout));
    let checksum = step.script.checksum.to_string();
    let parts: Vec<&str> = step
        .parts
        .iter()
        .map(|(checksum, _)| checksum.as_str())
        .collect();
    let settles_by: Vec<&str> = step.parts.iter().map(|(_, by)| *by).collect();
    let texts: [(&(dyn ToSql + Sync), Type); 10] = [
        (&step.version, Type::TEXT),
        (&step.name, Type::TEXT),
        (&step.direction.as_str(), Type::TEXT),
        (&checksum, Type::TEXT),
        (&step.script.mode.as_str(), Type::TEXT),
        (&lock_timeout, Type::INT4),
        (&statement_timeout, Type::INT4),
        (&step.role, Type::TEXT),
        (&parts, Type::TEXT_ARRAY),
        (&settles_by, Type::TEXT_ARRAY),
    ];
    let rows = locked.client().query_typed(STEP, &texts).await?;
    let row = rows
        .first()
        .ok_or_else(|| DatabaseError::Lost("the server sent no row".into()))?;
    Ok(row.try_get(0)?)
}
