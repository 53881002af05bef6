//! What daemons tell each other about operations through the ledger: that one is to be cancelled,
//! that its daemon lives, and which daemon is dead although its session is not.

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

/// How often a running operation's daemon says that it lives.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(5);

/// After so long without a word its session is ended, so that another daemon can go on.
pub const DEAD_AFTER: Duration = Duration::from_secs(30);

/// A running operation's session stands still for no longer: between two steps it waits for its
/// next try at a lock, for 3 s at most.
const STANDS_STILL: Duration = Duration::from_secs(10);

/// True, and the statement's commit waits for no standby. What daemons tell each other is worth
/// nothing after a failover, and must not be late because of replication.
macro_rules! without_standbys {
    () => {
        "pg_catalog.set_config('synchronous_commit', 'local', true) = 'local'"
    };
}

/// Asks for an operation's end. Returns it, and the session that runs it. `None`: there is no such
/// operation.
///
/// # Errors
/// The database's, or its loss.
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

/// Who asked to cancel an operation, if anybody did.
///
/// # Errors
/// The database's, or its loss.
pub(crate) async fn cancel_requested_by(
    client: &Client,
    id: Uuid,
) -> Result<Option<String>, DatabaseError> {
    let query = "SELECT cancel_requested_by FROM schemad.operations WHERE id = $1";
    let rows = client.query_typed(query, &[(&id, Type::UUID)]).await?;
    Ok(rows.first().and_then(|row| row.get(0)))
}

/// Says that the operation's daemon lives.
///
/// # Errors
/// The database's, or its loss.
pub(crate) async fn beat(client: &Client, id: Uuid) -> Result<(), DatabaseError> {
    let update = concat!(
        "UPDATE schemad.operations SET heartbeat_at = clock_timestamp() WHERE id = $1 AND state = \
         'running' AND ",
        without_standbys!()
    );
    client.query_typed(update, &[(&id, Type::UUID)]).await?;
    Ok(())
}

/// A daemon that holds the lock and says nothing.
#[derive(Debug)]
pub struct SilentDaemon {
    /// What it runs or prepares, where that is known.
    pub operation: Option<Uuid>,
    /// host:pid, where that is known.
    pub daemon: String,
    /// Its session.
    pub backend: Backend,
    /// False: this role does not see what the session does.
    pub is_visible: bool,
}

/// The session of this database that holds the operation lock, if its daemon seems to be dead: it
/// has not said for so long that it lives, and its session stands still. A session that is at work
/// is none of them, however long its daemon has been silent: it may have found no connection to say
/// so, and the server itself ends the session of a client that is gone (PostgreSQL 14 and later).
/// Neither is one that waits for a standby: ended, it would leave behind what a failover can lose.
/// The server's clock decides.
///
/// Whose state this role does not see is among them with `is_visible` false; nobody may be ended
/// unseen.
///
/// # Errors
/// The database's, or its loss.
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

/// Whether dead daemons left operations behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct DeadDaemons {
    /// One that waits and never will win.
    pub queued: bool,
    /// One that is 'running' although nobody holds the lock: its session is gone, or its daemon has
    /// been silent for a while.
    pub running: bool,
}

/// Whether dead daemons left operations behind.
///
/// # Errors
/// The database's, or its loss.
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

/// Why an operation cannot be cancelled: it has ended.
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

/// Nobody knows this operation.
pub(crate) fn unknown(id: Uuid) -> Failure {
    Failure::new(
        Reason::UnknownOperation,
        format!("operation {id} is unknown to this database"),
    )
}
