//! Reading without writing: one READ ONLY transaction that works on a standby and without a ledger.

use std::time::{Duration, SystemTime};

use diesel::{
    QueryableByName, sql_query,
    sql_types::{BigInt, Binary, Bool, Integer, Nullable, Text},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl as _};

use super::{
    LedgerInfo, OperationRow, Server, Snapshot,
    history::{RawOperation, operation_columns},
};
use crate::{
    db::{Error, pool::Reader},
    migration::{Checksum, Direction, Journal, Mode, Recorded, Row, RunningPart, TriedPart, Version},
};

/// Everything that planning, status and health need to know.
///
/// # Errors
/// The database's, its loss, or [`Error::MissingRight`] with the GRANT that helps.
pub async fn snapshot(reader: &mut Reader) -> Result<Snapshot, Error> {
    reader.begin().await?;
    let result = read(reader.conn()).await;
    reader.end(result).await?
}

/// The id of the ledger. `None`: there is none.
///
/// # Errors
/// The database's, or its loss.
pub async fn id(reader: &mut Reader) -> Result<Option<String>, Error> {
    #[derive(QueryableByName)]
    struct Id {
        #[diesel(sql_type = Text)]
        id: String,
    }
    reader.begin().await?;
    let conn = reader.conn();
    let result = async {
        match sql_query(HAS_LEDGER).load::<Id>(conn).await?.is_empty() {
            true => Ok(None),
            false => Ok(sql_query(LEDGER_ID).load::<Id>(conn).await?.pop().map(|row| row.id)),
        }
    };
    let result = result.await;
    reader.end(result).await
}

/// A row where there is a ledger.
pub(super) const HAS_LEDGER: &str = "SELECT c.oid::text AS id FROM pg_catalog.pg_class c \
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    WHERE n.nspname = 'schemad' AND c.relname = 'ledger' AND c.relkind = 'r'";
pub(super) const LEDGER_ID: &str = "SELECT l.id::text AS id FROM schemad.ledger l";

/// The texts of scripts in the ledger, in the order asked for; `None` where the ledger has none.
///
/// # Errors
/// The database's, or its loss.
pub async fn scripts(reader: &mut Reader, checksums: Vec<Checksum>) -> Result<Vec<Option<String>>, Error> {
    #[derive(QueryableByName)]
    struct Sql {
        #[diesel(sql_type = Nullable<Text>)]
        sql: Option<String>,
    }
    reader.begin().await?;
    let wanted: Vec<String> = checksums.iter().map(ToString::to_string).collect();
    let query = "SELECT s.sql FROM unnest($1::text[]) WITH ORDINALITY w (checksum, n) \
                 LEFT JOIN schemad.scripts s USING (checksum) ORDER BY w.n";
    let result = sql_query(query)
        .bind::<diesel::sql_types::Array<Text>, _>(wanted)
        .load::<Sql>(reader.conn())
        .await
        .map(|rows| rows.into_iter().map(|r| r.sql).collect());
    reader.end(result).await
}

async fn read(conn: &mut AsyncPgConnection) -> diesel::QueryResult<Result<Snapshot, Error>> {
    let place = sql_query(PLACE).get_result::<Place>(conn).await?;
    if let Some(right) = place.missing {
        return Ok(Err(Error::MissingRight { role: place.role, right }));
    }
    let ledger = match place.has_ledger {
        true => Some(sql_query(LEDGER).get_result::<LedgerRow>(conn).await?),
        false => None,
    };
    if let Some(right) = ledger.as_ref().and_then(|ledger| ledger.missing.clone()) {
        return Ok(Err(Error::MissingRight { role: place.role, right }));
    }
    let diesel_table = match &ledger {
        Some(ledger) => ledger.diesel_table.clone(),
        None => place.diesel_table,
    };
    let rows = match (&diesel_table, place.has_ledger) {
        (None, false) => Vec::new(),
        (diesel, has_ledger) => sql_query(rows_query(diesel.as_deref(), has_ledger)).load::<RawRow>(conn).await?,
    };
    let running = match place.has_ledger {
        true => sql_query(RUNNING).load::<RawOperation>(conn).await?.pop(),
        false => None,
    };
    let mut rows: Vec<Row> = rows.into_iter().map(Row::from).collect();
    if running.is_some() {
        // What is under way is neither half done nor in doubt.
        rows.iter_mut().for_each(|row| row.journal = None);
        rows.retain(|row| row.is_applied() || row.recorded.is_some());
    }
    Ok(Ok(Snapshot {
        server: Server {
            database: place.database,
            version: place.server_version.split(' ').next().unwrap_or_default().into(),
            read_only: place.read_only,
        },
        ledger: ledger.map(|l| LedgerInfo { id: l.id, version: l.version, compatible_with: l.compatible_with }),
        diesel_table,
        rows,
        running: running.map(OperationRow::from),
    }))
}

/// The Diesel table is where the session's search_path finds it, as for diesel_cli. pg_class rather than to_regclass for the
/// ledger: it sees what lies in a schema that the role may not use.
const PLACE: &str = "SELECT pg_catalog.current_database()::text AS database, pg_catalog.quote_ident(current_user) AS role, \
    pg_catalog.current_setting('server_version') AS server_version, \
    pg_catalog.pg_is_in_recovery() OR (SELECT reset_val = 'on' FROM pg_catalog.pg_settings \
        WHERE name = 'default_transaction_read_only') AS read_only, \
    l.oid IS NOT NULL AS has_ledger, \
    pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(d.relname) AS diesel_table, \
    CASE WHEN l.oid IS NOT NULL AND NOT pg_catalog.has_schema_privilege(l.relnamespace, 'USAGE') \
            THEN 'USAGE ON SCHEMA schemad' \
        WHEN EXISTS (SELECT FROM pg_catalog.pg_class t WHERE l.oid IS NOT NULL AND t.relnamespace = l.relnamespace \
            AND t.relkind = 'r' AND NOT pg_catalog.has_table_privilege(t.oid, 'SELECT')) \
            THEN 'SELECT ON ALL TABLES IN SCHEMA schemad' \
        WHEN NOT pg_catalog.has_table_privilege(d.oid, 'SELECT') THEN 'SELECT ON ' || d.oid::regclass END AS missing \
    FROM (SELECT 1) one \
    LEFT JOIN pg_catalog.pg_class l ON l.relname = 'ledger' AND l.relkind = 'r' AND l.relnamespace = \
        (SELECT s.oid FROM pg_catalog.pg_namespace s WHERE s.nspname = 'schemad') \
    LEFT JOIN (pg_catalog.pg_class d JOIN pg_catalog.pg_namespace n ON n.oid = d.relnamespace) \
        ON d.oid = pg_catalog.to_regclass('__diesel_schema_migrations')";

/// With a ledger, the Diesel table is where the ledger says, whatever the search_path passes over; it may have been dropped since.
const LEDGER: &str = "SELECT l.id::text AS id, l.version, l.compatible_with, \
    CASE WHEN c.oid IS NOT NULL THEN pg_catalog.format('%I.%I', l.diesel_schema, l.diesel_table) END AS diesel_table, \
    CASE WHEN c.oid IS NOT NULL AND NOT pg_catalog.has_schema_privilege(n.oid, 'USAGE') \
            THEN pg_catalog.format('USAGE ON SCHEMA %I', n.nspname) \
        WHEN NOT pg_catalog.has_table_privilege(c.oid, 'SELECT') \
            THEN pg_catalog.format('SELECT ON %I.%I', l.diesel_schema, l.diesel_table) END AS missing \
    FROM schemad.ledger l LEFT JOIN (pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace) \
        ON n.nspname = l.diesel_schema AND c.relname = l.diesel_table";

/// `table` was formed by the server's own `format('%I.%I')`.
fn rows_query(table: Option<&str>, has_ledger: bool) -> String {
    let diesel = table.map_or_else(
        || "(SELECT NULL::text AS version, NULL::timestamp AS run_on WHERE false)".into(),
        |t| format!("(SELECT version::text AS version, run_on FROM {t})"),
    );
    let (ledger, journal) = if has_ledger {
        let ledger = "(SELECT m.*, s.operation::text AS operation, o.principal, s.finished_at - s.started_at AS took \
          FROM schemad.migrations m LEFT JOIN schemad.steps s ON s.id = m.step \
          LEFT JOIN schemad.operations o ON o.id = s.operation)";
        let journal = "(SELECT s.version, jsonb_build_object('step', s.id, 'direction', s.direction, 'name', s.name, 'parts', \
          jsonb_agg(jsonb_build_array(t.checksum, t.state, t.settles_by, t.indexes_before::int8[]) ORDER BY t.ordinal), \
          'script', CASE WHEN bool_or(t.state = 'running' OR t.state = 'pending' AND t.indexes_before IS NOT NULL) \
            THEN (SELECT c.sql FROM schemad.scripts c WHERE c.checksum = s.script) END, \
          'tried', (SELECT c.sql FROM schemad.scripts c WHERE c.checksum = min(t.checksum) \
            FILTER (WHERE t.state = 'pending' AND t.indexes_before IS NOT NULL)))::text AS journal \
          FROM schemad.statements t JOIN schemad.steps s ON s.id = t.step GROUP BY s.id \
          HAVING bool_or(t.state <> 'pending' OR t.indexes_before IS NOT NULL))";
        (ledger, journal)
    } else {
        let ledger = "(SELECT NULL::text AS version, NULL::text AS name, NULL::bigint AS position, NULL::text AS up_script, \
          NULL::text AS down_script, NULL::text AS up_mode, NULL::text AS down_mode, NULL::timestamptz AS applied_at, \
          NULL::boolean AS adopted, NULL::bytea AS mac, NULL::text AS operation, NULL::text AS principal, NULL::interval AS took WHERE false)";
        (ledger, "(SELECT NULL::text AS version, NULL::text AS journal WHERE false)")
    };
    format!(
        "SELECT coalesce(d.version, m.version, j.version) AS version, j.journal, \
         (extract(epoch FROM d.run_on) * 1000000)::bigint AS run_on, m.name, m.position, m.up_script, m.down_script, \
         m.up_mode, m.down_mode, (extract(epoch FROM m.applied_at) * 1000000)::bigint AS applied_at, m.adopted, m.mac, \
         m.operation, m.principal, (extract(epoch FROM m.took) * 1000000)::bigint AS took \
         FROM {diesel} d FULL JOIN {ledger} m ON m.version = d.version \
         FULL JOIN {journal} j ON j.version = coalesce(d.version, m.version) \
         ORDER BY coalesce(d.version, m.version, j.version) COLLATE \"C\""
    )
}

/// A row 'running' whose lock nobody holds is what a dead daemon left. A standby does not see the primary's locks.
const RUNNING: &str = concat!(
    "SELECT ",
    operation_columns!(),
    " FROM schemad.operations o WHERE o.state = 'running' AND (pg_catalog.pg_is_in_recovery() OR EXISTS ( \
        SELECT FROM pg_catalog.pg_locks k WHERE k.locktype = 'advisory' AND k.granted AND k.objsubid = 1 \
        AND k.classid = 7562088 AND k.objid = 1701667172 AND k.database = \
            (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()))) \
    ORDER BY o.started_at DESC LIMIT 1"
);

#[derive(QueryableByName)]
struct Place {
    #[diesel(sql_type = Text)]
    database: String,
    /// Quoted.
    #[diesel(sql_type = Text)]
    role: String,
    #[diesel(sql_type = Text)]
    server_version: String,
    #[diesel(sql_type = Bool)]
    read_only: bool,
    #[diesel(sql_type = Bool)]
    has_ledger: bool,
    #[diesel(sql_type = Nullable<Text>)]
    diesel_table: Option<String>,
    /// A right that reading needs and the role lacks.
    #[diesel(sql_type = Nullable<Text>)]
    missing: Option<String>,
}

#[derive(QueryableByName)]
struct LedgerRow {
    #[diesel(sql_type = Text)]
    id: String,
    #[diesel(sql_type = Integer)]
    version: i32,
    #[diesel(sql_type = Integer)]
    compatible_with: i32,
    #[diesel(sql_type = Nullable<Text>)]
    diesel_table: Option<String>,
    /// A right on Diesel's table that reading needs and the role lacks.
    #[diesel(sql_type = Nullable<Text>)]
    missing: Option<String>,
}

#[derive(QueryableByName)]
struct RawRow {
    #[diesel(sql_type = Text)]
    version: String,
    #[diesel(sql_type = Nullable<BigInt>)]
    run_on: Option<i64>,
    #[diesel(sql_type = Nullable<Text>)]
    name: Option<String>,
    #[diesel(sql_type = Nullable<BigInt>)]
    position: Option<i64>,
    #[diesel(sql_type = Nullable<Text>)]
    up_script: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    down_script: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    up_mode: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    down_mode: Option<String>,
    #[diesel(sql_type = Nullable<BigInt>)]
    applied_at: Option<i64>,
    #[diesel(sql_type = Nullable<Bool>)]
    adopted: Option<bool>,
    #[diesel(sql_type = Nullable<Binary>)]
    mac: Option<Vec<u8>>,
    #[diesel(sql_type = Nullable<Text>)]
    operation: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    principal: Option<String>,
    #[diesel(sql_type = Nullable<BigInt>)]
    took: Option<i64>,
    #[diesel(sql_type = Nullable<Text>)]
    journal: Option<String>,
}

/// A journal as the query above makes it.
#[derive(serde::Deserialize)]
struct RawJournal {
    step: i64,
    direction: String,
    name: String,
    /// Checksum, state, how it settles, and the indexes before it.
    parts: Vec<(String, String, String, Option<Vec<u32>>)>,
    script: Option<String>,
    /// The text of the part that was tried.
    tried: Option<String>,
}

impl RawJournal {
    fn parse(json: &str) -> Option<Journal> {
        let raw: Self = serde_json::from_str(json).ok()?;
        let done: Vec<String> =
            raw.parts.iter().take_while(|(_, state, ..)| state == "done").map(|(c, ..)| c.clone()).collect();
        let (checksum, state, by, before) = raw.parts.into_iter().nth(done.len()).unwrap_or_default();
        let running =
            (state == "running").then(|| RunningPart { checksum: checksum.clone(), in_doubt: by == "nothing" });
        let tried = before.filter(|_| state == "pending").map(|before| TriedPart { checksum, before, sql: raw.tried });
        Some(Journal {
            step: raw.step,
            direction: Direction::parse(&raw.direction)?,
            name: raw.name,
            done,
            running,
            tried,
            script: raw.script,
        })
    }
}

impl From<RawRow> for Row {
    fn from(raw: RawRow) -> Self {
        let script = |checksum: Option<String>, mode: Option<String>| {
            Some((checksum?.parse::<Checksum>().ok()?, Mode::parse(&mode?)?))
        };
        let recorded = raw.name.map(|name| Recorded {
            name,
            position: raw.position.unwrap_or_default(),
            up: script(raw.up_script, raw.up_mode),
            down: script(raw.down_script, raw.down_mode),
            mac: raw.mac,
            applied_at: micros(raw.applied_at.unwrap_or_default()),
            adopted: raw.adopted.unwrap_or_default(),
            operation: raw.operation.zip(raw.principal),
            duration: raw.took.and_then(|t| u64::try_from(t).ok()).map(Duration::from_micros),
        });
        let journal = raw.journal.as_deref().and_then(RawJournal::parse);
        Self { version: Version::stored(raw.version), run_on: raw.run_on.map(micros), recorded, journal }
    }
}

/// Microseconds since 1970, as the queries above return times.
pub(super) fn micros(since_epoch: i64) -> SystemTime {
    let distance = Duration::from_micros(since_epoch.unsigned_abs());
    if since_epoch < 0 { SystemTime::UNIX_EPOCH - distance } else { SystemTime::UNIX_EPOCH + distance }
}
