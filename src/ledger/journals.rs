//! The journals of scripts that are not one transaction. They are begun, taken over and deleted
//! together with the operation that runs the script.

use tokio_postgres::{
    Client,
    types::{ToSql, Type},
};

use super::{operations::NewStepRow, settle::Settlement};
use crate::postgres::{DatabaseError, lock::operation_lock, session::insist};

/// Begins or takes over the journals of the scripts that are not one transaction. Deletes those of
/// migrations that another tool has settled.
pub(super) async fn write(
    client: &Client,
    steps: &[NewStepRow<'_>],
    ids: &[i64],
    settlement: &Settlement<'_>,
) -> Result<(), DatabaseError> {
    let settled: Vec<i64> = settlement.settled_journals().collect();
    let taken_over: Vec<i64> = steps.iter().filter_map(|step| step.resume.step).collect();
    // A journal without progress is useless. Of a journal that is taken over, the parts that did
    // not run are replaced, because the script may have been repaired. The indexes that existed
    // before the first attempt at an index build count as progress.
    let clear = "DELETE FROM schemad.statements t WHERE t.step = ANY ($1) \
        OR NOT EXISTS (SELECT FROM schemad.statements q WHERE q.step = t.step \
            AND (q.state <> 'pending' OR q.indexes_before IS NOT NULL)) \
        OR t.step = ANY ($2) AND t.state = 'pending' AND t.indexes_before IS NULL";
    client
        .query_typed(
            clear,
            &[
                (&settled, Type::INT8_ARRAY),
                (&taken_over, Type::INT8_ARRAY),
            ],
        )
        .await?;
    for (step, id) in steps
        .iter()
        .zip(ids)
        .filter(|(step, _)| !step.parts.is_empty())
    {
        if let Some(old) = step.resume.step {
            let take_over = "UPDATE schemad.statements SET step = $2 WHERE step = $1";
            client
                .query_typed(take_over, &[(&old, Type::INT8), (id, Type::INT8)])
                .await?;
        }
        let checksums: Vec<&str> = step
            .parts
            .iter()
            .map(|(checksum, _)| checksum.as_str())
            .collect();
        let settles_by: Vec<&str> = step.parts.iter().map(|(_, by)| *by).collect();
        client
            .query_typed(
                "INSERT INTO schemad.statements (step, ordinal, checksum, settles_by) SELECT $1, \
                 n, checksum, by FROM unnest($2::text[], $3::text[]) WITH ORDINALITY p (checksum, \
                 by, n) ON CONFLICT (step, ordinal) DO UPDATE SET checksum = excluded.checksum, \
                 settles_by = excluded.settles_by WHERE statements.state = 'pending' AND \
                 statements.indexes_before IS NULL",
                &[
                    (id, Type::INT8),
                    (&checksums, Type::TEXT_ARRAY),
                    (&settles_by, Type::TEXT_ARRAY),
                ],
            )
            .await?;
    }
    Ok(())
}

/// Returns the name of Diesel's table, quoted by the server.
///
/// # Errors
/// Returns an error if the query fails or the connection is lost.
pub(crate) async fn diesel_table(client: &Client) -> Result<String, DatabaseError> {
    let query = "SELECT format('%I.%I', l.diesel_schema, l.diesel_table) FROM schemad.ledger l";
    let rows = insist!(client.query_typed(query, &[]))?;
    rows.first()
        .map(|row| row.get(0))
        .ok_or_else(|| DatabaseError::Lost("the ledger is empty".into()))
}

/// Writes the state of a statement, given by its step and ordinal, that runs outside a transaction.
/// Another session than `client` runs it, which has the process id `holder`. Returns false if that
/// session does not hold the operation lock, or the statement is not in the journal or already
/// done.
///
/// # Errors
/// Returns an error if the statement fails or the connection is lost.
pub(crate) async fn note(
    client: &Client,
    (step, ordinal): (i64, i32),
    state: &str,
    holder: i32,
) -> Result<bool, DatabaseError> {
    let change = concat!(
        "UPDATE schemad.statements s SET state = $3, started_at = CASE $3 WHEN 'pending' THEN NULL \
            ELSE coalesce(s.started_at, clock_timestamp()) END, finished_at = CASE $3 WHEN 'done' \
            THEN clock_timestamp() END WHERE s.step = $1 AND s.ordinal = $2 AND s.state <> 'done' \
            AND EXISTS (SELECT FROM pg_locks k WHERE k.pid = $4 AND ",
        operation_lock!(),
        ") RETURNING true"
    );
    let values: [(&(dyn ToSql + Sync), Type); 4] = [
        (&step, Type::INT8),
        (&ordinal, Type::INT4),
        (&state, Type::TEXT),
        (&holder, Type::INT4),
    ];
    let noted = insist!(client.query_typed(change, &values))?;
    Ok(!noted.is_empty())
}

/// Records the end of a statement that failed outside a transaction. It may have committed a part
/// of its work before that, which only a person can determine. So its state stays `running`.
///
/// # Errors
/// Returns an error if the statement fails or the connection is lost.
pub(crate) async fn note_failed(
    client: &Client,
    step: i64,
    ordinal: i32,
) -> Result<(), DatabaseError> {
    let change = "UPDATE schemad.statements SET finished_at = clock_timestamp() WHERE step = $1 \
        AND ordinal = $2 AND state = 'running'";
    insist!(client.query_typed(change, &[(&step, Type::INT8), (&ordinal, Type::INT4)]))?;
    Ok(())
}

/// Clears the list of indexes that existed before a statement was first tried. Its failed attempt
/// left nothing behind, so the next attempt starts afresh.
///
/// # Errors
/// Returns an error if the statement fails or the connection is lost.
pub(crate) async fn forget_try(
    client: &Client,
    step: i64,
    ordinal: i32,
) -> Result<(), DatabaseError> {
    let change = "UPDATE schemad.statements SET indexes_before = NULL WHERE step = $1 AND ordinal \
        = $2 AND state = 'pending'";
    insist!(client.query_typed(change, &[(&step, Type::INT8), (&ordinal, Type::INT4)]))?;
    Ok(())
}

/// Records that the remains of an earlier attempt were removed. `now` is the checksum and the way
/// of settling of the part that has its place in the script now. The journal's row is changed to
/// that part, or deleted if there is none.
///
/// # Errors
/// Returns an error if the statement fails or the connection is lost.
pub(crate) async fn forget_tried(
    client: &Client,
    step: i64,
    done: usize,
    now: Option<(String, &str)>,
) -> Result<(), DatabaseError> {
    let ordinal = i32::try_from(done + 1).unwrap_or(i32::MAX);
    let mut values: Vec<(&(dyn ToSql + Sync), Type)> =
        vec![(&step, Type::INT8), (&ordinal, Type::INT4)];
    let change = match &now {
        Some((checksum, by)) => {
            values.extend([
                (checksum as &(dyn ToSql + Sync), Type::TEXT),
                (by, Type::TEXT),
            ]);
            "UPDATE schemad.statements SET checksum = $3, settles_by = $4, indexes_before = NULL \
             WHERE step = $1 AND ordinal = $2 AND state = 'pending'"
        }
        None => {
            "DELETE FROM schemad.statements WHERE step = $1 AND ordinal >= $2 AND state = \
             'pending'"
        }
    };
    insist!(client.query_typed(change, &values))?;
    Ok(())
}
