//! Communication between daemons about operations, through the ledger: requests to cancel,
//! heartbeats, and the detection of a daemon that is dead although its session still exists.

use std::time::Duration;

use tokio_postgres::{
    Client,
    types::{ToSql, Type},
};
use uuid::Uuid;

use super::{
    OperationRow, OperationState,
    claims::pending_alive,
    history::operation_columns,
    text::{self, held},
};
use crate::{
    failure::{Failure, Reason},
    postgres::{DatabaseError, activity::Backend, lock::operation_lock},
};

/// The interval between the heartbeats of a running operation's daemon.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(5);

/// The time without a heartbeat after which the session of a daemon is ended, so that another
/// daemon can go on.
pub const DEAD_AFTER: Duration = Duration::from_secs(30);

/// The time for which the session of a running operation must be idle to count as abandoned.
/// Between two attempts at a step it is idle for at most 3 s.
const STANDS_STILL: Duration = Duration::from_secs(10);

/// SQL that is true, and lets the commit of its statement wait for no standby. Heartbeats and
/// requests to cancel are worthless after a failover, and must not be delayed by replication.
macro_rules! without_standbys {
    () => {
        "pg_catalog.set_config('synchronous_commit', 'local', true) = 'local'"
    };
}

/// Requests the cancellation of an operation. Returns the operation and the session that runs it.
/// Returns `None` if the operation does not exist.
///
/// # Errors
/// Returns an error if the statement fails or the connection is lost.
pub(crate) async fn request_cancel(
    client: &Client,
    id: Uuid,
    by: &str,
) -> Result<Option<(OperationRow, Backend)>, DatabaseError> {
    held!(ask_to_end(client, id, by), or ask_to_end(client, id, &text::plain(by)))
}

async fn ask_to_end(
    client: &Client,
    id: Uuid,
    by: &str,
) -> Result<Option<(OperationRow, Backend)>, DatabaseError> {
    let query = concat!(
        "WITH asked AS (UPDATE schemad.operations o SET cancel_requested_by = \
             coalesce(o.cancel_requested_by, $2) WHERE o.id = $1 AND o.state IN ('pending', \
             'running') AND ",
        without_standbys!(),
        ") SELECT ",
        operation_columns!(),
        ", o.backend_pid, coalesce((extract(epoch FROM o.backend_start) * 1000000)::bigint, 0) AS \
         backend_start FROM schemad.operations o WHERE o.id = $1"
    );
    let rows = client
        .query_typed(query, &[(&id, Type::UUID), (&by, Type::TEXT)])
        .await?;
    let backend = |row: &tokio_postgres::Row| Backend {
        pid: row.get("backend_pid"),
        started: row.get("backend_start"),
    };
    Ok(rows
        .first()
        .map(|row| (OperationRow::from(row), backend(row))))
}

/// Returns the principal that requested the cancellation of an operation.
///
/// # Errors
/// Returns an error if the query fails or the connection is lost.
pub(crate) async fn cancel_requested_by(
    client: &Client,
    id: Uuid,
) -> Result<Option<String>, DatabaseError> {
    let query = "SELECT cancel_requested_by FROM schemad.operations WHERE id = $1";
    let rows = client.query_typed(query, &[(&id, Type::UUID)]).await?;
    Ok(rows.first().and_then(|row| row.get(0)))
}

/// Records a heartbeat of the operation's daemon.
///
/// # Errors
/// Returns an error if the statement fails or the connection is lost.
pub(crate) async fn beat(client: &Client, id: Uuid) -> Result<(), DatabaseError> {
    let update = concat!(
        "UPDATE schemad.operations SET heartbeat_at = clock_timestamp() WHERE id = $1 AND state = \
         'running' AND ",
        without_standbys!()
    );
    client.query_typed(update, &[(&id, Type::UUID)]).await?;
    Ok(())
}

/// A daemon that holds the operation lock but sends no heartbeats.
#[derive(Debug)]
pub struct SilentDaemon {
    /// The operation that it runs or prepares, if known.
    pub operation: Option<Uuid>,
    /// The daemon as host:pid, if known.
    pub daemon: String,
    /// The daemon's session.
    pub backend: Backend,
    /// Whether the server shows the state of the session to this role.
    pub is_visible: bool,
}

/// Returns the session of this database that holds the operation lock, if its daemon seems to be
/// dead: it has sent no heartbeat for `so_long`, and its session is idle. The server's clock
/// decides.
///
/// A session that executes a statement is not returned, even without heartbeats. Its daemon may
/// have found no free connection, and the server itself ends the session of a client that is gone
/// (PostgreSQL 14 and later). A session that waits for a standby is not returned either. If it were
/// ended, its commit would stay although a failover can lose it.
///
/// A session with a state that this role may not see is returned with `is_visible` false. It must
/// not be ended.
///
/// # Errors
/// Returns an error if the query fails or the connection is lost.
pub async fn silent(
    client: &Client,
    so_long: Duration,
) -> Result<Vec<SilentDaemon>, DatabaseError> {
    let query = concat!(
        "SELECT o.id, coalesce(o.daemon, ''), a.pid, coalesce((extract(epoch FROM a.backend_start) \
            * 1000000)::bigint, 0), a.state IS NOT NULL FROM pg_catalog.pg_locks k JOIN \
            pg_catalog.pg_stat_activity a ON a.pid = k.pid AND a.datname = current_database() LEFT \
            JOIN schemad.operations o ON o.state IN ('pending', 'running') AND o.backend_pid = \
            a.pid AND (a.backend_start IS NULL OR a.backend_start = o.backend_start) WHERE \
            a.application_name = 'schemad' AND a.wait_event IS DISTINCT FROM 'SyncRep' AND CASE \
            WHEN a.state IS NULL THEN o.state = 'running' AND o.heartbeat_at < clock_timestamp() - \
            make_interval(secs => $1) WHEN a.state NOT LIKE 'idle%' THEN false WHEN o.state = \
            'running' THEN o.heartbeat_at < clock_timestamp() - make_interval(secs => $1) AND \
            a.state_change < clock_timestamp() - make_interval(secs => $2) ELSE a.state_change < \
            clock_timestamp() - make_interval(secs => $1) END AND ",
        operation_lock!()
    );
    let times: [(&(dyn ToSql + Sync), Type); 2] = [
        (&so_long.as_secs_f64(), Type::FLOAT8),
        (&STANDS_STILL.as_secs_f64(), Type::FLOAT8),
    ];
    let rows = client.query_typed(query, &times).await?;
    let silent = |row: &tokio_postgres::Row| SilentDaemon {
        operation: row.get(0),
        daemon: row.get(1),
        backend: Backend {
            pid: row.get(2),
            started: row.get(3),
        },
        is_visible: row.get(4),
    };
    Ok(rows.iter().map(silent).collect())
}

/// The kinds of operations that dead daemons have left open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct DeadDaemons {
    /// There is a pending operation that can never acquire the lock.
    pub queued: bool,
    /// There is an operation in the state running although no session holds the operation lock. Its
    /// session is gone, or its daemon has sent no heartbeat for twice [`HEARTBEAT`].
    pub running: bool,
}

/// Checks whether dead daemons have left operations open.
///
/// # Errors
/// Returns an error if the query fails or the connection is lost.
pub(crate) async fn left(client: &Client) -> Result<DeadDaemons, DatabaseError> {
    let query = concat!(
        "SELECT EXISTS (SELECT FROM schemad.operations o WHERE o.state = 'pending' AND NOT ",
        pending_alive!(),
        "), EXISTS (SELECT FROM schemad.operations o WHERE o.state = 'running' AND \
            (coalesce(o.heartbeat_at, o.started_at) < clock_timestamp() - 2 * make_interval(secs \
            => $1) OR NOT EXISTS (SELECT FROM pg_catalog.pg_stat_activity a WHERE a.pid = \
            o.backend_pid AND a.datname = current_database() AND (a.backend_start IS NULL OR \
            a.backend_start = o.backend_start))) AND NOT EXISTS (SELECT FROM pg_catalog.pg_locks k \
            WHERE ",
        operation_lock!(),
        "))"
    );
    let rows = client
        .query_typed(query, &[(&HEARTBEAT.as_secs_f64(), Type::FLOAT8)])
        .await?;
    Ok(rows
        .first()
        .map(|row| DeadDaemons {
            queued: row.get(0),
            running: row.get(1),
        })
        .unwrap_or_default())
}

/// Returns the failure for a request to cancel an operation that has already ended.
pub(crate) fn ended(operation: &OperationRow) -> Option<Failure> {
    let open = matches!(
        OperationState::parse(&operation.state),
        Some(OperationState::Pending | OperationState::Running)
    );
    (!open).then(|| {
        Failure::new(
            Reason::OperationEnded,
            format!(
                "operation {} has ended already ({}, {} of {} steps done)",
                operation.id, operation.state, operation.steps_done, operation.steps_total
            ),
        )
        .with("state", &operation.state)
        .with("steps_done", operation.steps_done)
    })
}

/// Returns the failure for an operation that the ledger does not contain.
pub(crate) fn unknown(id: Uuid) -> Failure {
    Failure::new(
        Reason::UnknownOperation,
        format!("operation {id} is unknown to this database"),
    )
}
