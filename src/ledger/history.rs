//! Reads operations: a single one, a page of a list, and the changes in one since it was last read.
//! Works with every version of the ledger and on a standby.

use std::time::{Duration, SystemTime};

use diesel::{
    QueryableByName, sql_query,
    sql_types::{BigInt, Bool, Integer, Nullable, Text},
};
use diesel_async::RunQueryDsl as _;
use uuid::Uuid;

use super::{OperationEnding, OperationRow, OperationState, PlanRecord, read::micros};
use crate::{
    migration::Direction,
    postgres::{DatabaseError, pool::PooledReader},
};

/// The columns that make an [`OperationRow`]. Some go through to_jsonb, because a ledger of version
/// 1 does not have them.
macro_rules! operation_columns {
    () => {
        "o.id::text AS id, o.kind, o.state, o.principal, o.daemon, o.request_id::text AS \
         request_id, (extract(epoch FROM o.created_at) * 1000000)::bigint AS created_at, \
         (extract(epoch FROM o.started_at) * 1000000)::bigint AS started_at, (extract(epoch FROM \
         o.finished_at) * 1000000)::bigint AS finished_at, o.steps_total, (SELECT \
         count(*)::integer FROM schemad.steps s WHERE s.operation = o.id AND s.state = 'applied') \
         AS steps_done, o.result->'failure'->>'reason' AS reason, \
         coalesce(o.result->'failure'->>'message', to_jsonb(o)->>'reason') AS message, \
         to_jsonb(o)->>'cancel_requested_by' IS NOT NULL AS cancel_requested"
    };
}
pub(super) use operation_columns;

/// The criteria for a list of operations. A field that is `None` matches every operation.
#[derive(Clone, Debug, Default)]
pub struct OperationFilter {
    /// The kind of the operation.
    pub kind: Option<&'static str>,
    /// The state of the operation.
    pub state: Option<OperationState>,
    /// The principal that requested the operation.
    pub principal: Option<String>,
    /// A version that one of the operation's steps has.
    pub version: Option<String>,
    /// The earliest time of creation, in microseconds since 1970.
    pub from: Option<i64>,
    /// The end of the time of creation (exclusive), in microseconds since 1970.
    pub before: Option<i64>,
    /// The last operation of the page before: its time of creation, and its id.
    pub after: Option<(i64, Uuid)>,
}

/// Returns at most `limit` operations, the newest first.
///
/// # Errors
/// Returns an error if a query fails or the connection is lost.
pub(crate) async fn list(
    reader: &mut PooledReader,
    filter: &OperationFilter,
    limit: usize,
) -> Result<Vec<OperationRow>, DatabaseError> {
    // A parameter that is null filters nothing. The bounds on the time use coalesce instead of
    // `IS NULL OR`, so that the index on the time can be used.
    let query = concat!(
        "SELECT ",
        operation_columns!(),
        " FROM schemad.operations o WHERE ($1::text IS NULL OR o.kind = $1) AND ($2::text IS NULL \
         OR o.state = $2) AND ($3::text IS NULL OR o.principal = $3) AND ($4::text IS NULL OR \
         EXISTS (SELECT FROM schemad.steps v WHERE v.operation = o.id AND v.version = $4)) AND \
         o.created_at >= coalesce('epoch'::timestamptz + $5 * interval '1 microsecond', \
         '-infinity') AND o.created_at < coalesce('epoch'::timestamptz + $6 * interval '1 \
         microsecond', 'infinity') AND (o.created_at, o.id) < (coalesce('epoch'::timestamptz + $7 \
         * interval '1 microsecond', 'infinity'), coalesce($8::uuid, \
         'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid)) ORDER BY o.created_at DESC, o.id DESC \
         LIMIT $9"
    );
    if !exists(reader).await? {
        return Ok(Vec::new());
    }
    reader.begin().await?;
    let result = sql_query(query)
        .bind::<Nullable<Text>, _>(filter.kind)
        .bind::<Nullable<Text>, _>(filter.state.map(OperationState::as_str))
        .bind::<Nullable<Text>, _>(filter.principal.as_deref())
        .bind::<Nullable<Text>, _>(filter.version.as_deref())
        .bind::<Nullable<BigInt>, _>(filter.from)
        .bind::<Nullable<BigInt>, _>(filter.before)
        .bind::<Nullable<BigInt>, _>(filter.after.map(|(at, _)| at))
        .bind::<Nullable<Text>, _>(filter.after.map(|(_, id)| id.to_string()))
        .bind::<BigInt, _>(i64::try_from(limit).unwrap_or(i64::MAX))
        .load::<RawOperation>(reader.conn())
        .await
        .map(|rows| rows.into_iter().map(OperationRow::from).collect());
    reader.end(result).await
}

/// Returns the operation with this id.
///
/// # Errors
/// Returns an error if a query fails or the connection is lost.
pub(crate) async fn get(
    reader: &mut PooledReader,
    id: Uuid,
) -> Result<Option<OperationRow>, DatabaseError> {
    let query = concat!(
        "SELECT ",
        operation_columns!(),
        " FROM schemad.operations o WHERE o.id = $1::uuid"
    );
    if !exists(reader).await? {
        return Ok(None);
    }
    reader.begin().await?;
    let result = sql_query(query)
        .bind::<Text, _>(id.to_string())
        .load::<RawOperation>(reader.conn())
        .await;
    Ok(reader
        .end(result.map(|mut rows| rows.pop()))
        .await?
        .map(OperationRow::from))
}

/// Returns whether the table of operations exists. Without a ledger there are no operations.
async fn exists(reader: &mut PooledReader) -> Result<bool, DatabaseError> {
    #[derive(QueryableByName)]
    struct Exists {
        #[diesel(sql_type = Bool)]
        there: bool,
    }
    reader.begin().await?;
    let query = "SELECT pg_catalog.to_regclass('schemad.operations') IS NOT NULL AS there";
    let result = sql_query(query)
        .get_result::<Exists>(reader.conn())
        .await
        .map(|row| row.there);
    reader.end(result).await
}

/// The changes in an operation since it was last read.
#[derive(Debug)]
pub(crate) struct OperationChanges {
    /// The operation's current row.
    pub operation: OperationRow,
    /// The steps after those that were already seen. All steps on the first read.
    pub steps: Vec<StepChange>,
    /// The plan's record beside its steps. Empty until the operation has started.
    pub planned: PlanRecord,
    /// The operation's result, if it has ended.
    pub ending: Option<OperationEnding>,
}

/// A row of the table `schemad.steps`.
#[derive(Clone, Debug)]
pub(crate) struct StepChange {
    /// The number of the step, from 1.
    pub ordinal: usize,
    /// The migration's version.
    pub version: String,
    /// The migration's name.
    pub name: String,
    /// Up or down.
    pub direction: Direction,
    /// When the step was committed, and how long it took. `None` until then.
    pub done: Option<(SystemTime, Duration)>,
}

/// Reads the changes in an operation since its first `seen` steps were done. Returns `None` if the
/// operation does not exist or no longer exists.
///
/// # Errors
/// Returns an error if a query fails or the connection is lost.
pub(crate) async fn changes(
    reader: &mut PooledReader,
    id: Uuid,
    seen: usize,
) -> Result<Option<OperationChanges>, DatabaseError> {
    if !exists(reader).await? {
        return Ok(None);
    }
    reader.begin().await?;
    let result = async {
        let query = concat!(
            "SELECT ",
            operation_columns!(),
            ", o.result::text AS result, (SELECT e.data::text FROM schemad.events e WHERE \
             e.operation = o.id AND e.kind = 'started' LIMIT 1) AS planned FROM schemad.operations \
             o WHERE o.id = $1::uuid"
        );
        let Some(raw) = sql_query(query)
            .bind::<Text, _>(id.to_string())
            .load::<RawEnding>(reader.conn())
            .await?
            .pop()
        else {
            return Ok(None);
        };
        let steps = "SELECT s.ordinal, s.version, s.name, s.direction, s.state = 'applied' AS \
            done, (extract(epoch FROM s.finished_at) * 1000000)::bigint AS finished_at, \
            (extract(epoch FROM s.finished_at - s.started_at) * 1000000)::bigint AS took FROM \
            schemad.steps s WHERE s.operation = $1::uuid AND s.ordinal > $2 ORDER BY s.ordinal";
        let steps = sql_query(steps)
            .bind::<Text, _>(id.to_string())
            .bind::<Integer, _>(i32::try_from(seen).unwrap_or(i32::MAX))
            .load::<RawStep>(reader.conn())
            .await?;
        Ok(Some((raw, steps)))
    };
    let found = result.await;
    let found = reader.end(found).await?;
    Ok(found.map(|(raw, steps)| OperationChanges {
        planned: raw
            .planned
            .as_deref()
            .and_then(|json| serde_json::from_str(json).ok())
            .unwrap_or_default(),
        ending: raw
            .result
            .as_deref()
            .and_then(|json| serde_json::from_str(json).ok()),
        operation: raw.operation.into(),
        steps: steps.into_iter().filter_map(RawStep::read).collect(),
    }))
}

#[derive(QueryableByName)]
struct RawEnding {
    #[diesel(embed)]
    operation: RawOperation,
    #[diesel(sql_type = Nullable<Text>)]
    result: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    planned: Option<String>,
}

#[derive(QueryableByName)]
struct RawStep {
    #[diesel(sql_type = Integer)]
    ordinal: i32,
    #[diesel(sql_type = Text)]
    version: String,
    #[diesel(sql_type = Text)]
    name: String,
    #[diesel(sql_type = Text)]
    direction: String,
    #[diesel(sql_type = Bool)]
    done: bool,
    #[diesel(sql_type = Nullable<BigInt>)]
    finished_at: Option<i64>,
    #[diesel(sql_type = Nullable<BigInt>)]
    took: Option<i64>,
}

impl RawStep {
    fn read(self) -> Option<StepChange> {
        let took = Duration::from_micros(
            self.took
                .and_then(|took| u64::try_from(took).ok())
                .unwrap_or_default(),
        );
        Some(StepChange {
            ordinal: usize::try_from(self.ordinal).ok()?,
            version: self.version,
            name: self.name,
            direction: Direction::parse(&self.direction)?,
            done: self.done.then(|| {
                (
                    self.finished_at.map_or(SystemTime::UNIX_EPOCH, micros),
                    took,
                )
            }),
        })
    }
}

#[derive(QueryableByName)]
pub(super) struct RawOperation {
    #[diesel(sql_type = Text)]
    id: String,
    #[diesel(sql_type = Text)]
    kind: String,
    #[diesel(sql_type = Text)]
    state: String,
    #[diesel(sql_type = Text)]
    principal: String,
    #[diesel(sql_type = Text)]
    daemon: String,
    #[diesel(sql_type = Text)]
    request_id: String,
    #[diesel(sql_type = BigInt)]
    created_at: i64,
    #[diesel(sql_type = Nullable<BigInt>)]
    started_at: Option<i64>,
    #[diesel(sql_type = Nullable<BigInt>)]
    finished_at: Option<i64>,
    #[diesel(sql_type = Integer)]
    steps_total: i32,
    #[diesel(sql_type = Integer)]
    steps_done: i32,
    #[diesel(sql_type = Nullable<Text>)]
    reason: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    message: Option<String>,
    #[diesel(sql_type = Bool)]
    cancel_requested: bool,
}

impl From<RawOperation> for OperationRow {
    fn from(raw: RawOperation) -> Self {
        Self {
            id: raw.id.parse().unwrap_or_default(),
            kind: raw.kind,
            state: raw.state,
            principal: raw.principal,
            daemon: raw.daemon,
            request_id: raw.request_id,
            created_at: micros(raw.created_at),
            started_at: raw.started_at.map(micros),
            finished_at: raw.finished_at.map(micros),
            steps_total: raw.steps_total,
            steps_done: raw.steps_done,
            reason: raw.reason,
            message: raw.message,
            cancel_requested: raw.cancel_requested,
        }
    }
}

impl From<&tokio_postgres::Row> for OperationRow {
    /// Reads a row of a query for `operation_columns!`.
    fn from(row: &tokio_postgres::Row) -> Self {
        Self {
            id: row.get::<_, String>("id").parse().unwrap_or_default(),
            kind: row.get("kind"),
            state: row.get("state"),
            principal: row.get("principal"),
            daemon: row.get("daemon"),
            request_id: row.get("request_id"),
            created_at: micros(row.get("created_at")),
            started_at: row.get::<_, Option<i64>>("started_at").map(micros),
            finished_at: row.get::<_, Option<i64>>("finished_at").map(micros),
            steps_total: row.get("steps_total"),
            steps_done: row.get("steps_done"),
            reason: row.get("reason"),
            message: row.get("message"),
            cancel_requested: row.get("cancel_requested"),
        }
    }
}
