//! What the ledger keeps beside operations, and for how long: refusals, watchers, and the
//! operations themselves.

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

/// Refusals deleted at once, so that nobody waits for a long transaction.
const BATCH_REFUSALS: i64 = 1_000;

/// Operations deleted at once, and how many steps may go with all but the last of them: some 50 ms
/// of work.
const BATCH_OPERATIONS: i64 = 100;
const BATCH_STEPS: i64 = 2_000;

/// Nothing is kept longer than for a hundred years: PostgreSQL's times begin somewhere.
pub(crate) const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// What another daemon said of its watchers holds for so long.
const WATCHERS_HOLD: Duration = Duration::from_secs(15);

/// How long things are kept.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// Operations that ended.
    pub operations: Duration,
    /// Refusals.
    pub refusals: Duration,
}

/// A request that was refused before it became an operation.
#[derive(Debug)]
pub(crate) struct RefusedRequest<'a> {
    /// host:pid.
    pub daemon: &'a str,
    /// Who asked.
    pub principal: &'a str,
    /// For what.
    pub kind: &'a str,
    /// The caller's id.
    pub request_id: Uuid,
    /// Why not.
    pub failure: &'a Failure,
}

/// Notes a refusal.
///
/// # Errors
/// The database's, or its loss.
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

/// Deletes a batch of what is kept no longer and returns how many operations and refusals that
/// were; 0 when there is no more. An operation stays as long as it explains an applied migration or
/// a half done one. What another daemon is deleting is left to it.
///
/// # Errors
/// The database's, or its loss.
pub async fn prune(client: &Client, keep: Retention) -> Result<usize, DatabaseError> {
    // Those that explain something are few, so they are found from there, and not from every old
    // step. An operation goes with its steps, so those are counted: all before it in the batch must
    // be few.
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

/// Says how many clients of this daemon watch which versions. What was said moments ago and has not
/// changed is not written again.
///
/// # Errors
/// The database's, or its loss.
pub(crate) async fn say_watchers(
    client: &Client,
    daemon: &str,
    watched: &BTreeMap<Version, usize>,
) -> Result<(), DatabaseError> {
    // A version is what a client asks for. What the database cannot hold is applied nowhere in it,
    // and must not hide the others.
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

/// How many clients of the other daemons watch which versions.
///
/// # Errors
/// The database's, or its loss.
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
