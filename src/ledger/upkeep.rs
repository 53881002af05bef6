//! Writes refusals and health watchers to the ledger, and deletes old refusals and operations.

use std::{collections::BTreeMap, time::Duration};

use diesel::{
    QueryableByName, sql_query,
    sql_types::{BigInt, Bool, Text},
};
use diesel_async::RunQueryDsl as _;
use tokio_postgres::{Client, types::Type};
use uuid::Uuid;

use super::text::{self, held};
use crate::{
    failure::Failure,
    migration::Version,
    postgres::{DatabaseError, pool::PooledReader},
};

/// The number of refusals that are deleted at once, to keep the transaction short.
const BATCH_REFUSALS: i64 = 1_000;

/// The number of operations that are deleted at once, and the number of steps that all but the last
/// of them may have. This is about 50 ms of work.
const BATCH_OPERATIONS: i64 = 100;
const BATCH_STEPS: i64 = 2_000;

/// The longest retention, a hundred years. PostgreSQL cannot compute a time before its own
/// earliest.
pub(crate) const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// The time for which another daemon's record of its watchers is valid.
const WATCHERS_HOLD: Duration = Duration::from_secs(15);

/// The time for which records are kept.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// For operations that have ended.
    pub operations: Duration,
    /// For refusals.
    pub refusals: Duration,
}

/// A request that was refused before it became an operation.
#[derive(Debug)]
pub(crate) struct RefusedRequest<'a> {
    /// The daemon, as host:pid.
    pub daemon: &'a str,
    /// The principal that made the request.
    pub principal: &'a str,
    /// The kind of operation that was requested.
    pub kind: &'a str,
    /// The client's id for the request.
    pub request_id: Uuid,
    /// The reason for the refusal.
    pub failure: &'a Failure,
}

/// Records a refusal.
///
/// # Errors
/// Returns an error if the statement fails or the connection is lost.
pub(crate) async fn refused(
    client: &Client,
    refused: &RefusedRequest<'_>,
) -> Result<(), DatabaseError> {
    let message = &refused.failure.message;
    held!(write_refusal(client, refused, (refused.principal, message)), or async {
        let (principal, message) = (text::plain(refused.principal), text::plain(message));
        write_refusal(client, refused, (&principal, &message)).await
    })
}

async fn write_refusal(
    client: &Client,
    refused: &RefusedRequest<'_>,
    (principal, message): (&str, &str),
) -> Result<(), DatabaseError> {
    let insert = "INSERT INTO schemad.refusals (daemon, principal, kind, request_id, reason, \
        message) VALUES ($1, $2, $3, $4, $5, $6)";
    let reason = refused.failure.reason.as_str();
    client
        .query_typed(
            insert,
            &[
                (&refused.daemon, Type::TEXT),
                (&principal, Type::TEXT),
                (&refused.kind, Type::TEXT),
                (&refused.request_id, Type::UUID),
                (&reason, Type::TEXT),
                (&message, Type::TEXT),
            ],
        )
        .await?;
    Ok(())
}

/// Deletes a batch of records that are past their retention. Returns the number of deleted
/// operations and refusals, which is 0 when none are left. An operation is kept as long as an
/// applied or half done migration refers to it. Rows that another daemon is deleting are skipped.
///
/// # Errors
/// Returns an error if a statement fails or the connection is lost.
pub async fn prune(client: &Client, keep: Retention) -> Result<usize, DatabaseError> {
    // The operations to keep are few. So they are looked up from the migrations and journals that
    // refer to them, and not from every old step. The steps of an operation are deleted with it, so
    // the number of steps of the operations before it in the batch is limited.
    let operations = "WITH old AS (SELECT o.id, o.created_at FROM schemad.operations o WHERE \
            o.created_at < clock_timestamp() - make_interval(secs => $1) AND o.finished_at IS NOT \
            NULL AND o.id NOT IN (SELECT s.operation FROM schemad.migrations m JOIN schemad.steps \
            s ON s.id = m.step AND s.version = m.version UNION ALL SELECT s.operation FROM \
            schemad.statements t JOIN schemad.steps s ON s.id = t.step) ORDER BY o.created_at \
            LIMIT $2 FOR UPDATE OF o SKIP LOCKED), sized AS (SELECT old.id, sum((SELECT count(*) \
            FROM schemad.steps s WHERE s.operation = old.id)) OVER (ORDER BY old.created_at, \
            old.id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before FROM old) DELETE \
            FROM schemad.operations WHERE id IN (SELECT id FROM sized WHERE coalesce(before, 0) < \
            $3) RETURNING true";
    let refusals = "DELETE FROM schemad.refusals WHERE id IN (SELECT r.id FROM schemad.refusals r \
        WHERE r.at < clock_timestamp() - make_interval(secs => $1) ORDER BY r.at LIMIT $2 FOR \
        UPDATE SKIP LOCKED) RETURNING true";
    let seconds = |keep: Duration| keep.min(LONGEST).as_secs_f64();
    let (operations_for, refusals_for) = (seconds(keep.operations), seconds(keep.refusals));
    let gone = client
        .query_typed(
            operations,
            &[
                (&operations_for, Type::FLOAT8),
                (&BATCH_OPERATIONS, Type::INT8),
                (&BATCH_STEPS, Type::INT8),
            ],
        )
        .await?;
    let refused = client
        .query_typed(
            refusals,
            &[(&refusals_for, Type::FLOAT8), (&BATCH_REFUSALS, Type::INT8)],
        )
        .await?;
    Ok(gone.len() + refused.len())
}

/// Records how many clients of this daemon watch each version. A row that is a few seconds old and
/// has not changed is not written again.
///
/// # Errors
/// Returns an error if a statement fails or the connection is lost.
pub(crate) async fn say_watchers(
    client: &Client,
    daemon: &str,
    watched: &BTreeMap<Version, usize>,
) -> Result<(), DatabaseError> {
    // A client may watch any version. One with characters that the database cannot hold cannot be
    // applied in it. It is left out, so that the other versions are still recorded.
    held!(write_watchers(client, daemon, watched), or async {
        let held = watched.iter().filter(|(version, _)| version.as_str().is_ascii());
        write_watchers(client, daemon, &held.map(|(version, n)| (version.clone(), *n)).collect()).await
    })
}

async fn write_watchers(
    client: &Client,
    daemon: &str,
    watched: &BTreeMap<Version, usize>,
) -> Result<(), DatabaseError> {
    let versions: Vec<&str> = watched.keys().map(Version::as_str).collect();
    let clients: Vec<i32> = watched
        .values()
        .map(|n| i32::try_from(*n).unwrap_or(i32::MAX))
        .collect();
    let say = "WITH gone AS (DELETE FROM schemad.watchers w WHERE w.daemon = $1 AND NOT w.version \
            = ANY ($2) OR w.seen_at < clock_timestamp() - interval '1 hour') INSERT INTO \
            schemad.watchers (daemon, version, clients) SELECT $1, version, clients FROM \
            unnest($2::text[], $3::int[]) w (version, clients) ON CONFLICT (daemon, version) DO \
            UPDATE SET clients = excluded.clients, seen_at = clock_timestamp() WHERE \
            schemad.watchers.clients <> excluded.clients OR schemad.watchers.seen_at < \
            clock_timestamp() - interval '4 seconds'";
    client
        .query_typed(
            say,
            &[
                (&daemon, Type::TEXT),
                (&versions, Type::TEXT_ARRAY),
                (&clients, Type::INT4_ARRAY),
            ],
        )
        .await?;
    Ok(())
}

/// Returns how many clients of the other daemons watch each version.
///
/// # Errors
/// Returns an error if a query fails or the connection is lost.
pub(crate) async fn watchers_elsewhere(
    reader: &mut PooledReader,
    daemon: &str,
) -> Result<BTreeMap<Version, usize>, DatabaseError> {
    #[derive(QueryableByName)]
    struct There {
        #[diesel(sql_type = Bool)]
        there: bool,
    }
    #[derive(QueryableByName)]
    struct Watched {
        #[diesel(sql_type = Text)]
        version: String,
        #[diesel(sql_type = BigInt)]
        clients: i64,
    }
    reader.begin().await?;
    let result = async {
        let there =
            sql_query("SELECT pg_catalog.to_regclass('schemad.watchers') IS NOT NULL AS there");
        if !there.get_result::<There>(reader.conn()).await?.there {
            return Ok(Vec::new());
        }
        let query = "SELECT w.version, sum(w.clients)::bigint AS clients FROM schemad.watchers w \
            WHERE w.daemon <> $1 AND w.seen_at > clock_timestamp() - $2 * interval '1 second' \
            GROUP BY w.version";
        sql_query(query)
            .bind::<Text, _>(daemon)
            .bind::<BigInt, _>(i64::try_from(WATCHERS_HOLD.as_secs()).unwrap_or(i64::MAX))
            .load::<Watched>(reader.conn())
            .await
    };
    let found = result.await;
    let found = reader.end(found).await?;
    let count = |w: Watched| {
        (
            Version::stored(w.version),
            usize::try_from(w.clients).unwrap_or_default(),
        )
    };
    Ok(found.into_iter().map(count).collect())
}
