//! Claims a request's operation, finds an existing one, and closes the operations of dead daemons.

use std::time::{Duration, SystemTime};

use tokio_postgres::{Client, types::Type};
use uuid::Uuid;

use super::{
    OperationEnding, OperationRow, OperationState,
    history::operation_columns,
    text::{self, held},
};
use crate::postgres::{
    DatabaseError,
    lock::{LockedSession, operation_lock},
    session::MigrationSession,
};

/// The time that a pending operation gets beyond its queue_timeout. After it the daemon is
/// considered dead, even if its session still exists.
const QUEUE_SLACK: Duration = Duration::from_secs(60);

/// SQL that is true for a pending operation `o` with a daemon that may still be waiting: its
/// session exists, and its time is not over. The server does not show when a session of another
/// role began.
macro_rules! pending_alive {
    () => {
        "(o.queue_until > clock_timestamp() AND EXISTS (SELECT FROM pg_stat_activity a WHERE a.pid \
          = o.backend_pid AND a.datname = current_database() AND (a.backend_start IS NULL OR \
          a.backend_start = o.backend_start)))"
    };
}

pub(super) use pending_alive;

const EXISTING: &str = concat!(
    "SELECT o.id, o.request_hash, o.state, o.result::text, \
     CASE o.state WHEN 'running' THEN EXISTS (SELECT FROM pg_catalog.pg_locks k WHERE ",
    operation_lock!(),
    ") ELSE ",
    pending_alive!(),
    " END, o.state <> 'pending' OR EXISTS (SELECT FROM schemad.events e WHERE e.operation = o.id \
     AND e.kind = 'accepted') FROM schemad.operations o"
);

/// An operation that is to be claimed.
#[derive(Debug)]
pub(crate) struct NewOperation<'a> {
    /// `apply`, `rollback`, `resolve` or `sign`.
    pub kind: &'a str,
    /// The principal that makes the request.
    pub principal: &'a str,
    /// The client's id for the request.
    pub request_id: Uuid,
    /// A hash of the request, which detects another request with the same id.
    pub request_hash: &'a str,
    /// The longest that the operation may wait for the operation lock.
    pub queue_timeout: Duration,
    /// The daemon, as host:pid.
    pub daemon: &'a str,
    /// The reason that the client gave with the request.
    pub reason: Option<String>,
}

/// The outcome of a claim.
pub(crate) enum ClaimOutcome {
    /// The request is new. It was given this operation.
    Ours {
        /// The operation's id.
        id: Uuid,
        /// The time of the claim by the server's clock. Every daemon reports it as the time of
        /// acceptance.
        created_at: SystemTime,
    },
    /// The request_id already has an operation.
    Existing(ExistingOperation),
}

/// An operation that was claimed before.
pub(crate) struct ExistingOperation {
    /// The operation's id.
    pub id: Uuid,
    /// The hash of the request that began it.
    pub request_hash: String,
    /// The operation's state.
    pub state: OperationState,
    /// Whether it was accepted. If not, it may still be refused, which deletes it.
    pub is_accepted: bool,
    /// The operation's result, if it has ended.
    pub result: Option<OperationEnding>,
    /// Whether its daemon may be alive. False for an operation that is open although no session
    /// holds the operation lock or waits for it: a dead daemon left it.
    pub is_alive: bool,
}

/// Claims a request_id for a new operation. A single INSERT decides between all daemons that try.
///
/// # Errors
/// Returns an error if a statement fails or the connection is lost.
pub(crate) async fn claim(
    session: &MigrationSession,
    new: &NewOperation<'_>,
) -> Result<ClaimOutcome, DatabaseError> {
    held!(try_to_claim(session, new), or async {
        let (principal, reason) = (text::plain(new.principal), new.reason.as_deref().map(text::plain));
        try_to_claim(session, &NewOperation { principal: &principal, reason, ..*new }).await
    })
}

async fn try_to_claim(
    session: &MigrationSession,
    new: &NewOperation<'_>,
) -> Result<ClaimOutcome, DatabaseError> {
    let client = session.ledger();
    let of = session.keeper().map(|keeper| &keeper.of);
    let (pid, started) = (of.map(|of| of.pid), of.and_then(|of| of.started));
    loop {
        let id = Uuid::now_v7();
        let wait = new.queue_timeout.saturating_add(QUEUE_SLACK).as_secs_f64();
        let inserted = client
            .query_typed(
                "INSERT INTO schemad.operations (id, kind, principal, request_id, request_hash, \
                     state, daemon, backend_pid, backend_start, queue_until, reason) SELECT $1, \
                     $2, $3, $4, $5, 'pending', $6, coalesce($9, a.pid), CASE WHEN $9 IS NULL THEN \
                     a.backend_start ELSE $10 END, clock_timestamp() + make_interval(secs => $7), \
                     $8 FROM pg_stat_activity a WHERE a.pid = pg_backend_pid() ON CONFLICT \
                     (principal, request_id) DO NOTHING RETURNING created_at",
                &[
                    (&id, Type::UUID),
                    (&new.kind, Type::TEXT),
                    (&new.principal, Type::TEXT),
                    (&new.request_id, Type::UUID),
                    (&new.request_hash, Type::TEXT),
                    (&new.daemon, Type::TEXT),
                    (&wait, Type::FLOAT8),
                    (&new.reason, Type::TEXT),
                    (&pid, Type::INT4),
                    (&started, Type::TIMESTAMPTZ),
                ],
            )
            .await?;
        if let Some(row) = inserted.first() {
            return Ok(ClaimOutcome::Ours {
                id,
                created_at: row.get(0),
            });
        }
        let found = format!("{EXISTING} WHERE o.principal = $1 AND o.request_id = $2");
        let rows = client
            .query_typed(
                &found,
                &[(&new.principal, Type::TEXT), (&new.request_id, Type::UUID)],
            )
            .await?;
        if let Some(row) = rows.first() {
            return Ok(ClaimOutcome::Existing(existing(row)));
        } // Otherwise the operation was refused and deleted meanwhile. Try again.
    }
}

/// Returns the operation with this id.
///
/// # Errors
/// Returns an error if the query fails or the connection is lost.
pub(crate) async fn find(
    client: &Client,
    id: Uuid,
) -> Result<Option<ExistingOperation>, DatabaseError> {
    let rows = client
        .query_typed(&format!("{EXISTING} WHERE o.id = $1"), &[(&id, Type::UUID)])
        .await?;
    Ok(rows.first().map(existing))
}

/// Deletes a claimed operation that was not accepted. A refusal does not bind the request_id.
///
/// # Errors
/// Returns an error if the statement fails or the connection is lost.
pub(crate) async fn abandon(client: &Client, id: Uuid) -> Result<(), DatabaseError> {
    let delete = "DELETE FROM schemad.operations WHERE id = $1 AND state = 'pending'";
    client.query_typed(delete, &[(&id, Type::UUID)]).await?;
    Ok(())
}

/// Returns the operation in the state running.
///
/// # Errors
/// Returns an error if a query fails or the connection is lost.
pub(crate) async fn running(client: &Client) -> Result<Option<OperationRow>, DatabaseError> {
    of_the_lock(client, None).await
}

/// Returns the operation of the session that holds the operation lock: the running one, or the
/// pending one of the session with the process id `session`.
///
/// # Errors
/// Returns an error if a query fails or the connection is lost.
pub(crate) async fn of_the_lock(
    client: &Client,
    session: Option<i32>,
) -> Result<Option<OperationRow>, DatabaseError> {
    // The holder of the lock may be creating the ledger at this moment.
    let ledger = client
        .query_typed("SELECT to_regclass('schemad.operations') IS NOT NULL", &[])
        .await?;
    if !ledger.first().is_some_and(|row| row.get(0)) {
        return Ok(None);
    }
    let query = concat!(
        "SELECT ",
        operation_columns!(),
        " FROM schemad.operations o WHERE o.state = 'running' OR o.state = 'pending' AND \
         o.backend_pid = $1 ORDER BY o.state DESC, o.started_at DESC LIMIT 1"
    );
    Ok(client
        .query_typed(query, &[(&session, Type::INT4)])
        .await?
        .first()
        .map(OperationRow::from))
}

/// SQL that closes the operations `o` for which the condition `$dead` is true. Their committed
/// steps stay and are counted in the result. If all steps were committed, the operation succeeded
/// and only its end was not recorded. The state is compared again because another daemon may close
/// it, too.
macro_rules! close {
    ($($dead:expr),+) => {
        concat!(
            "WITH dead AS ( SELECT o.id, o.state, o.daemon, count(s.id) FILTER (WHERE s.state = \
                'applied') AS done, o.steps_total, o.state = 'running' AND count(s.id) FILTER \
                (WHERE s.state = 'applied') = o.steps_total AS all_done FROM schemad.operations o \
                LEFT JOIN schemad.steps s ON s.operation = o.id WHERE ",
            $($dead),+,
            " GROUP BY o.id), closed AS ( UPDATE schemad.operations o SET finished_at = \
            clock_timestamp(), state = CASE WHEN d.all_done THEN 'succeeded' ELSE 'interrupted' \
            END, result = jsonb_build_object('finished', jsonb_build_object('nothing_to_do', \
            d.all_done AND d.done = 0 AND o.kind NOT IN ('resolve', 'sign'), 'steps_done', d.done, \
            'steps_total', d.steps_total, 'warnings', '[]'::jsonb, 'current', (SELECT m.version \
            FROM schemad.migrations m ORDER BY m.version COLLATE \"C\" DESC LIMIT 1)), 'failure', \
            CASE WHEN NOT d.all_done THEN jsonb_build_object('reason', 'INTERRUPTED', 'message', \
            format('the daemon %s, or its database session, went away; %s of %s steps are done and \
            stay, the rest was not run. Ask again', d.daemon, d.done, d.steps_total), 'metadata', \
            jsonb_build_object('operation', o.id::text)) END) FROM dead d WHERE o.id = d.id AND \
            o.state = d.state RETURNING o.id, o.state), noted AS (INSERT INTO schemad.events \
            (operation, sequence, kind) SELECT c.id, 1 + coalesce(max(e.sequence), 0), c.state \
            FROM closed c LEFT JOIN schemad.events e ON e.operation = c.id GROUP BY c.id, c.state) \
            SELECT id::text, state FROM closed"
        )
    };
}

/// Closes the operations of dead daemons. No other operation can run while this session holds the
/// operation lock, so every other one in the state running is dead. A pending one is closed if its
/// session is gone or its time is over.
///
/// # Errors
/// Returns an error if the statement fails or the connection is lost.
pub(crate) async fn close_abandoned(
    locked: &LockedSession,
    own: Uuid,
) -> Result<(), DatabaseError> {
    let close = close!(
        "o.id <> $1 AND (o.state = 'running' OR o.state = 'pending' AND NOT ",
        pending_alive!(),
        ")"
    );
    say_closed(
        &locked
            .ledger()
            .query_typed(close, &[(&own, Type::UUID)])
            .await?,
    );
    Ok(())
}

/// Closes the operations that were open in the database that this one was copied from. Returns the
/// number of them. Their committed steps stay and are counted in the result.
///
/// # Errors
/// Returns an error if the statement fails or the connection is lost.
pub(crate) async fn close_copied(client: &Client) -> Result<usize, DatabaseError> {
    let close = "UPDATE schemad.operations o SET finished_at = clock_timestamp(), state = \
        'interrupted', result = jsonb_build_object('finished', jsonb_build_object('nothing_to_do', \
        false, 'steps_done', d.done, 'steps_total', o.steps_total, 'warnings', '[]'::jsonb, \
        'current', NULL), 'failure', jsonb_build_object('reason', 'INTERRUPTED', 'message', \
        format('the operation ran in the database that this one is a copy of; %s of %s steps were \
        done when it was copied, and the rest was not run here. Ask again', d.done, \
        o.steps_total), 'metadata', jsonb_build_object('operation', o.id::text))) FROM (SELECT \
        p.id, (SELECT count(*) FROM schemad.steps s WHERE s.operation = p.id AND s.state = \
        'applied') AS done FROM schemad.operations p WHERE p.state IN ('pending', 'running') AND \
        NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.pid = p.backend_pid AND a.datname = \
        current_database() AND a.backend_start = p.backend_start)) d WHERE o.id = d.id AND o.state \
        IN ('pending', 'running') RETURNING o.id::text, o.state";
    let rows = client.query_typed(close, &[]).await?;
    say_closed(&rows);
    Ok(rows.len())
}

/// Closes the pending operations of dead daemons. This needs no lock, because an operation without
/// a session can never acquire the operation lock.
///
/// # Errors
/// Returns an error if the statement fails or the connection is lost.
pub(crate) async fn close_queued(client: &Client) -> Result<(), DatabaseError> {
    let close = close!("o.state = 'pending' AND NOT ", pending_alive!());
    say_closed(&client.query_typed(close, &[]).await?);
    Ok(())
}

fn say_closed(rows: &[tokio_postgres::Row]) {
    for row in rows {
        tracing::warn!(
            event = "operation.interrupted",
            operation = row.get::<_, String>(0),
            state = row.get::<_, String>(1),
            "closed an operation that a dead daemon or a lost session had left"
        );
    }
}

fn existing(row: &tokio_postgres::Row) -> ExistingOperation {
    ExistingOperation {
        id: row.get(0),
        request_hash: row.get(1),
        // A state that only a newer daemon defines is some other way to end.
        state: OperationState::parse(row.get(2)).unwrap_or(OperationState::Failed),
        result: row
            .get::<_, Option<&str>>(3)
            .and_then(|json| serde_json::from_str(json).ok()),
        is_alive: row.get(4),
        is_accepted: row.get(5),
    }
}
