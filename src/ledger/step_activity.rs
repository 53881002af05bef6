//! Reads what the running step of an operation is doing: the lock that it waits for, for how long
//! and for which sessions, and the progress of an index build. The source is the server's own lists
//! of locks and sessions, for the session in the operation's row. So every daemon can report it,
//! not only the one that runs the operation. Nothing is written. Only a session of this database
//! counts: the process id may belong to another session by now, or may come from the server that a
//! copied ledger was made on.

use std::time::Duration;

use diesel::{
    QueryableByName, sql_query,
    sql_types::{BigInt, Double, Integer, Nullable, Text},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl as _};
use uuid::Uuid;

use crate::postgres::{
    DatabaseError,
    activity::{Blocker, IndexProgress, LockWaiting},
    lock::operation_lock,
    pool::PooledReader,
};

/// The current activity of a running step.
#[derive(Clone, Debug, Default)]
pub(crate) struct StepActivity {
    /// The migration's version.
    pub version: String,
    /// The lock that it waits for.
    pub waiting: Option<LockWaiting>,
    /// The time since it began to wait for that lock. Before PostgreSQL 14, the time since the
    /// statement began.
    pub waited: Duration,
    /// The index that it builds.
    pub building: Option<IndexProgress>,
}

/// The session of the operation, the version of the next step, and the index build in progress. A
/// role that may not see the sessions of others does not see when they began. For that role the
/// session has to hold the operation lock instead.
const SESSION: &str = concat!(
    "SELECT s.pid, coalesce((SELECT t.version FROM schemad.steps t WHERE t.operation = o.id AND \
        t.state = 'pending' ORDER BY t.ordinal LIMIT 1), '') AS version, p.phase, \
        p.relid::regclass::text AS relation, nullif(p.index_relid, 0::oid)::regclass::text AS \
        index, CASE WHEN p.phase LIKE 'waiting%' THEN p.lockers_done WHEN p.tuples_total > \
        0::bigint THEN p.tuples_done ELSE p.blocks_done END AS done, CASE WHEN p.phase LIKE \
        'waiting%' THEN p.lockers_total WHEN p.tuples_total > 0::bigint THEN p.tuples_total ELSE \
        p.blocks_total END AS total FROM schemad.operations o JOIN pg_catalog.pg_stat_activity s \
        ON s.pid = o.backend_pid AND s.datid = (SELECT d.oid FROM pg_catalog.pg_database d WHERE \
        d.datname = pg_catalog.current_database()) AND (s.backend_start = o.backend_start OR \
        s.backend_start IS NULL AND EXISTS (SELECT FROM pg_catalog.pg_locks k WHERE k.pid = s.pid \
        AND ",
    operation_lock!(),
    ")) \
    LEFT JOIN pg_catalog.pg_stat_progress_create_index p ON p.pid = s.pid \
    WHERE o.id = $1::uuid AND o.state = 'running'"
);

/// The wait, and each blocker with what it holds of the same object: a relation, a transaction or a
/// virtual transaction. PostgreSQL 14 and later report when the wait began. The column is read
/// through JSON, so that PostgreSQL 13 accepts the query.
const WAIT: &str = "SELECT w.locktype AS kind, w.mode, w.relation::regclass::text AS relation, \
    pg_catalog.date_part('epoch'::text, pg_catalog.clock_timestamp() - coalesce( \
    (pg_catalog.to_jsonb(w) ->> 'waitstart'::text)::timestamptz, s.query_start)) AS waited, b.pid \
    AS blocker, a.usename::text AS usename, a.application_name, a.state, \
    pg_catalog.date_part('epoch'::text, pg_catalog.clock_timestamp() - coalesce(a.xact_start, \
    a.state_change)) AS age, h.relation::regclass::text AS held_relation, h.mode AS held_mode FROM \
    pg_catalog.pg_locks w JOIN pg_catalog.pg_stat_activity s ON s.pid = w.pid LEFT JOIN LATERAL \
    pg_catalog.unnest(pg_catalog.pg_blocking_pids(w.pid)) b (pid) ON true LEFT JOIN \
    pg_catalog.pg_stat_activity a ON a.pid = b.pid LEFT JOIN LATERAL (SELECT l.relation, l.mode \
    FROM pg_catalog.pg_locks l WHERE l.pid = b.pid AND l.granted AND l.locktype = w.locktype AND \
    l.database IS NOT DISTINCT FROM w.database AND l.relation IS NOT DISTINCT FROM w.relation AND \
    l.page IS NOT DISTINCT FROM w.page AND l.tuple IS NOT DISTINCT FROM w.tuple AND \
    l.transactionid IS NOT DISTINCT FROM w.transactionid AND l.virtualxid IS NOT DISTINCT FROM \
    w.virtualxid AND l.classid IS NOT DISTINCT FROM w.classid AND l.objid IS NOT DISTINCT FROM \
    w.objid LIMIT 1) h ON true WHERE w.pid = $1 AND NOT w.granted ORDER BY b.pid LIMIT 20";

/// Returns what the running step of an operation is doing. Returns `None` if the operation is not
/// running, or its session is not one of this database.
///
/// # Errors
/// Returns an error if a query fails or the connection is lost.
pub(crate) async fn of(
    reader: &mut PooledReader,
    operation: Uuid,
) -> Result<Option<StepActivity>, DatabaseError> {
    reader.begin().await?;
    let found = read(reader.conn(), operation).await;
    reader.end(found).await
}

async fn read(
    conn: &mut AsyncPgConnection,
    operation: Uuid,
) -> diesel::QueryResult<Option<StepActivity>> {
    let session = sql_query(SESSION)
        .bind::<Text, _>(operation.to_string())
        .load::<RawSession>(conn)
        .await?
        .pop();
    let Some(session) = session else {
        return Ok(None);
    };
    let wait = sql_query(WAIT)
        .bind::<Integer, _>(session.pid)
        .load::<RawWait>(conn)
        .await?;
    let (waiting, waited) = waiting(wait);
    let building = session.phase.map(|phase| IndexProgress {
        phase,
        relation: session.relation,
        index: session.index,
        done: session.done.unwrap_or_default(),
        total: session.total.unwrap_or_default(),
    });
    Ok(Some(StepActivity {
        version: session.version,
        waiting,
        waited,
        building,
    }))
}

fn waiting(rows: Vec<RawWait>) -> (Option<LockWaiting>, Duration) {
    let seconds = |seconds: Option<f64>| {
        seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
    };
    let mut waiting: Option<(LockWaiting, Duration)> = None;
    for row in rows {
        let (waiting, _) = waiting.get_or_insert_with(|| {
            let waiting = LockWaiting {
                kind: row.kind,
                mode: row.mode,
                relation: row.relation,
                blockers: Vec::new(),
            };
            (waiting, seconds(row.waited).unwrap_or_default())
        });
        let Some(pid) = row.blocker else { continue };
        // A parallel query appears once for each of its processes, with one pid. A prepared
        // transaction has no process, and the pid 0.
        if waiting.blockers.last().is_none_or(|last| last.pid != pid) {
            waiting.blockers.push(Blocker {
                pid,
                user: row.usename,
                application: row.application_name,
                state: row.state,
                age: seconds(row.age),
                relation: row.held_relation,
                mode: row.held_mode,
            });
        }
    }
    waiting.map_or((None, Duration::ZERO), |(waiting, waited)| {
        (Some(waiting), waited)
    })
}

#[derive(QueryableByName)]
struct RawSession {
    #[diesel(sql_type = Integer)]
    pid: i32,
    #[diesel(sql_type = Text)]
    version: String,
    #[diesel(sql_type = Nullable<Text>)]
    phase: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    relation: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    index: Option<String>,
    #[diesel(sql_type = Nullable<BigInt>)]
    done: Option<i64>,
    #[diesel(sql_type = Nullable<BigInt>)]
    total: Option<i64>,
}

#[derive(QueryableByName)]
struct RawWait {
    #[diesel(sql_type = Text)]
    kind: String,
    #[diesel(sql_type = Text)]
    mode: String,
    #[diesel(sql_type = Nullable<Text>)]
    relation: Option<String>,
    #[diesel(sql_type = Nullable<Double>)]
    waited: Option<f64>,
    #[diesel(sql_type = Nullable<Integer>)]
    blocker: Option<i32>,
    #[diesel(sql_type = Nullable<Text>)]
    usename: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    application_name: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    state: Option<String>,
    #[diesel(sql_type = Nullable<Double>)]
    age: Option<f64>,
    #[diesel(sql_type = Nullable<Text>)]
    held_relation: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    held_mode: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(blocker: Option<i32>) -> RawWait {
        RawWait {
            kind: "relation".into(),
            mode: "AccessExclusiveLock".into(),
            relation: Some("t".into()),
            waited: Some(1.5),
            blocker,
            usename: None,
            application_name: None,
            state: None,
            age: Some(-1.0),
            held_relation: None,
            held_mode: None,
        }
    }

    #[test]
    fn each_blocker_is_named_once_and_a_wait_without_one_is_still_a_wait() {
        assert_eq!(waiting(Vec::new()), (None, Duration::ZERO));
        let (wait, waited) = waiting(vec![row(None)]);
        assert_eq!(
            (wait.unwrap().blockers.len(), waited),
            (0, Duration::from_millis(1500))
        );
        let (wait, _) = waiting(vec![row(Some(3)), row(Some(3)), row(Some(7))]);
        let blockers = wait.unwrap().blockers;
        assert_eq!(
            blockers
                .iter()
                .map(|blocker| (blocker.pid, blocker.age))
                .collect::<Vec<_>>(),
            [(3, None), (7, None)]
        );
    }
}
