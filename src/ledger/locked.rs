//! Finds the sessions that have locked a table of the ledger. schemad's own statements wait for a
//! lock as long as the session's lock_timeout allows (`postgres/session.rs`). When that time is
//! over, the operation is refused, and the refusal names the sessions in its way.

use std::time::Duration;

use tokio_postgres::Client;

use crate::postgres::{DatabaseError, activity::Blocker};

/// The other sessions of this database that hold a lock on a table of the ledger or on Diesel's
/// table for which schemad's own statements wait. The result has locks on whole tables and locks on
/// rows. The latter are used only if there are none of the former. The location of Diesel's table
/// is in the ledger, which may itself be locked, so every table of its name counts.
const BLOCKERS: &str = "SELECT DISTINCT ON (l.pid) l.pid, a.usename::text, a.application_name, \
        a.state, pg_catalog.date_part('epoch'::text, pg_catalog.clock_timestamp() - \
        coalesce(a.xact_start, a.state_change)), l.relation::regclass::text, l.mode, l.mode IN \
        ('RowShareLock', 'RowExclusiveLock') AS is_weak FROM pg_catalog.pg_locks l JOIN \
        pg_catalog.pg_class c ON c.oid = l.relation JOIN pg_catalog.pg_namespace n ON n.oid = \
        c.relnamespace LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid WHERE l.granted \
        AND l.locktype = 'relation' AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid() AND \
        l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = \
        pg_catalog.current_database()) AND (n.nspname = 'schemad'::name OR c.relname = \
        '__diesel_schema_migrations'::name) AND (l.mode IN ('ShareLock', 'ShareRowExclusiveLock', \
        'ExclusiveLock', 'AccessExclusiveLock') OR l.mode IN ('RowShareLock', 'RowExclusiveLock') \
        AND a.application_name IS DISTINCT FROM 'schemad') ORDER BY l.pid, is_weak LIMIT 20";

/// Returns the blocking sessions. Empty if they are gone by now.
///
/// # Errors
/// Returns an error if the query fails or the connection is lost.
pub(crate) async fn by(client: &Client) -> Result<Vec<Blocker>, DatabaseError> {
    let rows = client.query_typed(BLOCKERS, &[]).await?;
    let is_weak = |row: &tokio_postgres::Row| row.get::<_, bool>(7);
    let only_weak = rows.iter().all(is_weak);
    let blocker = |row: &tokio_postgres::Row| Blocker {
        pid: row.get::<_, Option<i32>>(0).unwrap_or_default(),
        user: row.get(1),
        application: row.get(2),
        state: row.get(3),
        age: row
            .get::<_, Option<f64>>(4)
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
        relation: row.get(5),
        mode: row.get(6),
    };
    Ok(rows
        .iter()
        .filter(|row| only_weak || !is_weak(row))
        .map(blocker)
        .collect())
}
