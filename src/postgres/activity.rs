//! What another session is doing, seen from the server's statistics: what it waits for, who is in
//! its way, and how far an index build is. A role that may not see the others' sessions gets fewer
//! words, never an error.

use std::time::Duration;

use tokio_postgres::{Client, Row, types::Type};

use super::{DatabaseError, lock::operation_lock};

/// A session, by its process id and when it began: a process id alone is used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Process id.
    pub pid: i32,
    /// pg_stat_activity.backend_start, in microseconds since 1970.
    pub started: i64,
}

/// What a session is doing.
#[derive(Clone, Debug, Default)]
pub(crate) struct SessionActivity {
    /// Changes with every statement.
    pub query_start: Option<i64>,
    /// What it waits for, if it waits for a lock.
    pub waiting: Option<LockWaiting>,
    /// The index build it is busy with.
    pub building: Option<IndexProgress>,
}

/// A wait for a lock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LockWaiting {
    /// For example "relation", "virtualxid", "transactionid".
    pub kind: String,
    /// The mode it wants, for example "AccessExclusiveLock".
    pub mode: String,
    /// The relation, where the wait is for one.
    pub relation: Option<String>,
    /// Whom it waits for.
    pub blockers: Vec<Blocker>,
}

impl LockWaiting {
    /// Whether both are waits for the same lock behind the same sessions, whose state and age
    /// change all the time.
    pub(crate) fn is_for_the_same(&self, other: &Self) -> bool {
        let pids = |waiting: &Self| {
            waiting
                .blockers
                .iter()
                .map(|blocker| blocker.pid)
                .collect::<Vec<_>>()
        };
        (&self.kind, &self.mode, &self.relation) == (&other.kind, &other.mode, &other.relation)
            && pids(self) == pids(other)
    }

    /// All who are in the way, for a log or a failure; empty where nobody is known.
    pub(crate) fn blocked_by(&self) -> String {
        blocked_by(&self.blockers)
    }
}

/// The sessions in the way, as one text; empty where nobody is known.
pub(crate) fn blocked_by(blockers: &[Blocker]) -> String {
    blockers
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}

/// A session that is in the way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blocker {
    /// Process id; 0 for a prepared transaction.
    pub pid: i32,
    /// Role.
    pub user: Option<String>,
    /// application_name.
    pub application: Option<String>,
    /// "idle in transaction" and so on; `None` without the right to see it.
    pub state: Option<String>,
    /// Age of its transaction.
    pub age: Option<Duration>,
    /// What it holds that is waited for: the relation.
    pub relation: Option<String>,
    /// And the mode it holds.
    pub mode: Option<String>,
}

/// How far an index build is, as pg_stat_progress_create_index says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct IndexProgress {
    /// For example "building index: scanning table".
    pub phase: String,
    /// The table.
    pub relation: Option<String>,
    /// The index.
    pub index: Option<String>,
    /// Done in this phase: blocks, tuples or lockers.
    pub done: i64,
    /// Of so many; 0 where the phase has no measure.
    pub total: i64,
}

impl std::fmt::Display for Blocker {
    /// "pid 4711 (alice, psql, idle in transaction for 93s, AccessShareLock on public.t)"
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.pid == 0 {
            return write!(f, "a prepared transaction (see pg_prepared_xacts)");
        }
        let state = match (&self.state, self.age) {
            (Some(state), Some(age)) => Some(format!("{state} for {}s", age.as_secs())),
            (state, _) => state.clone(),
        };
        let holds = match (&self.mode, &self.relation) {
            (Some(mode), Some(relation)) => Some(format!("{mode} on {relation}")),
            (mode, _) => mode.clone(),
        };
        let application = self.application.clone().filter(|name| !name.is_empty());
        let words: Vec<String> = [self.user.clone(), application, state, holds]
            .into_iter()
            .flatten()
            .collect();
        if words.is_empty() {
            write!(f, "pid {}", self.pid)
        } else {
            write!(f, "pid {} ({})", self.pid, words.join(", "))
        }
    }
}

/// The session behind `client`.
///
/// # Errors
/// The database's, or its loss.
pub(crate) async fn own(client: &Client) -> Result<Backend, DatabaseError> {
    // A login whose settings name another role may not see when it began itself.
    let query = "SELECT a.pid, coalesce((extract(epoch FROM a.backend_start) * 1000000)::bigint, \
                 0) FROM pg_catalog.pg_stat_activity a WHERE a.pid = pg_catalog.pg_backend_pid()";
    let rows = client.query_typed(query, &[]).await?;
    let row = rows
        .first()
        .ok_or_else(|| DatabaseError::Lost("the server does not list this session".into()))?;
    Ok(Backend {
        pid: row.get(0),
        started: row.get(1),
    })
}

const LOOK: &str = "SELECT (extract(epoch FROM a.query_start) * 1000000)::bigint, \
    a.wait_event_type = 'Lock', p.phase, p.relid::regclass::text, nullif(p.index_relid, \
    0)::regclass::text, CASE WHEN p.phase LIKE 'waiting%' THEN p.lockers_done WHEN p.tuples_total \
    > 0 THEN p.tuples_done ELSE p.blocks_done END, CASE WHEN p.phase LIKE 'waiting%' THEN \
    p.lockers_total WHEN p.tuples_total > 0 THEN p.tuples_total ELSE p.blocks_total END FROM \
    pg_catalog.pg_stat_activity a LEFT JOIN pg_catalog.pg_stat_progress_create_index p USING (pid) \
    WHERE a.pid = $1";

/// The wait, and each blocker with what it holds of the same thing: a relation, a transaction or a
/// session's virtual one.
const BLOCKERS: &str = "SELECT w.locktype, w.mode, w.relation::regclass::text, b.pid, \
    a.usename::text, a.application_name, a.state, extract(epoch FROM clock_timestamp() - \
    coalesce(a.xact_start, a.state_change))::float8, h.relation::regclass::text, h.mode FROM \
    pg_catalog.pg_locks w CROSS JOIN LATERAL unnest(pg_catalog.pg_blocking_pids(w.pid)) b (pid) \
    LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = b.pid LEFT JOIN LATERAL (SELECT l.relation, \
    l.mode FROM pg_catalog.pg_locks l WHERE l.pid = b.pid AND l.granted AND l.locktype = \
    w.locktype AND l.database IS NOT DISTINCT FROM w.database AND l.relation IS NOT DISTINCT FROM \
    w.relation AND l.page IS NOT DISTINCT FROM w.page AND l.tuple IS NOT DISTINCT FROM w.tuple AND \
    l.transactionid IS NOT DISTINCT FROM w.transactionid AND l.virtualxid IS NOT DISTINCT FROM \
    w.virtualxid AND l.classid IS NOT DISTINCT FROM w.classid AND l.objid IS NOT DISTINCT FROM \
    w.objid LIMIT 1) h ON true WHERE w.pid = $1 AND NOT w.granted ORDER BY b.pid LIMIT 20";

/// Looks at the session with this process id. `None`: it is gone.
///
/// # Errors
/// The database's, or its loss.
pub(crate) async fn look(
    client: &Client,
    pid: i32,
) -> Result<Option<SessionActivity>, DatabaseError> {
    let rows = client.query_typed(LOOK, &[(&pid, Type::INT4)]).await?;
    let Some(row) = rows.first() else {
        return Ok(None);
    };
    let waits: Option<bool> = row.get(1);
    let building = row.get::<_, Option<String>>(2).map(|phase| IndexProgress {
        phase,
        relation: row.get(3),
        index: row.get(4),
        done: row.get::<_, Option<i64>>(5).unwrap_or_default(),
        total: row.get::<_, Option<i64>>(6).unwrap_or_default(),
    });
    let waiting = match waits {
        Some(true) => waiting(&client.query_typed(BLOCKERS, &[(&pid, Type::INT4)]).await?),
        _ => None,
    };
    Ok(Some(SessionActivity {
        query_start: row.get(0),
        waiting,
        building,
    }))
}

fn waiting(rows: &[Row]) -> Option<LockWaiting> {
    let first = rows.first()?;
    let blocker = |row: &Row| Blocker {
        pid: row.get(3),
        user: row.get(4),
        application: row.get(5),
        state: row.get(6),
        age: row
            .get::<_, Option<f64>>(7)
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
        relation: row.get(8),
        mode: row.get(9),
    };
    let mut blockers: Vec<Blocker> = rows.iter().map(blocker).collect();
    blockers.dedup_by_key(|blocker| blocker.pid);
    Some(LockWaiting {
        kind: first.get(0),
        mode: first.get(1),
        relation: first.get(2),
        blockers,
    })
}

/// Cancels what a session runs, if it is still the same session. False: it is gone.
///
/// # Errors
/// The database's (another role's session may not be touched), or its loss.
pub(crate) async fn cancel(client: &Client, backend: Backend) -> Result<bool, DatabaseError> {
    signal(client, "pg_cancel_backend", "true", backend).await
}

/// Ends a session that is still the same one and is not at work. False: there is none.
///
/// # Errors
/// The database's (another role's session may not be touched), or its loss.
pub async fn terminate(client: &Client, backend: Backend) -> Result<bool, DatabaseError> {
    signal(
        client,
        "pg_terminate_backend",
        "a.state LIKE 'idle%'",
        backend,
    )
    .await
}

/// Only a session of this database that is schemad's and holds its operation lock: the ledger's
/// rows may be copies of another database's, or written by others. Another role's session does not
/// show when it began; its lock proves that it is the same one.
async fn signal(
    client: &Client,
    how: &'static str,
    only_if: &'static str,
    backend: Backend,
) -> Result<bool, DatabaseError> {
    let query = format!(
        "SELECT pg_catalog.{how}(a.pid) FROM pg_catalog.pg_stat_activity a WHERE a.pid = $1 AND \
         a.datname = pg_catalog.current_database() AND a.application_name = 'schemad' AND \
         {only_if} AND (a.backend_start IS NULL OR (extract(epoch FROM a.backend_start) * \
         1000000)::bigint = $2) AND EXISTS (SELECT FROM pg_catalog.pg_locks k WHERE k.pid = a.pid \
         AND {}) LIMIT 1",
        operation_lock!()
    );
    let rows = client
        .query_typed(
            &query,
            &[(&backend.pid, Type::INT4), (&backend.started, Type::INT8)],
        )
        .await?;
    Ok(rows.first().is_some_and(|row| row.get(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocker_says_what_is_known_of_it() {
        let mut blocker = Blocker {
            pid: 7,
            ..Blocker::default()
        };
        assert_eq!(blocker.to_string(), "pid 7");
        blocker.user = Some("alice".into());
        blocker.application = Some(String::new());
        (blocker.state, blocker.age) = (
            Some("idle in transaction".into()),
            Some(Duration::from_secs(93)),
        );
        (blocker.mode, blocker.relation) =
            (Some("AccessShareLock".into()), Some("public.t".into()));
        assert_eq!(
            blocker.to_string(),
            "pid 7 (alice, idle in transaction for 93s, AccessShareLock on public.t)"
        );
        assert!(
            Blocker::default()
                .to_string()
                .contains("prepared transaction")
        );
    }
}
