//! Reads the state of the database in one READ ONLY transaction. Works on a standby and without a
//! ledger.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use diesel::{
    QueryableByName, sql_query,
    sql_types::{Array, BigInt, Binary, Bool, Integer, Nullable, Oid, Text},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl as _, SimpleAsyncConnection as _};

use super::{
    LedgerInfo, LedgerSnapshot, OperationRow, ServerInfo,
    history::{RawOperation, operation_columns},
    install::{ledger_owner, trusted_owner},
    one_database::{DatabaseIdentity, IDENTITY},
};
use crate::{
    migration::{
        Checksum, Direction, JournalRecord, MigrationRecord, MigrationRow, RunningPart, ScriptMode,
        TriedPart, Version,
    },
    postgres::{
        DatabaseError,
        error::ForeignObject,
        pool::{PooledReader, TOLD},
    },
};

/// Reads everything that planning, status and health need.
///
/// # Errors
/// [`DatabaseError::MissingRight`] with the GRANT that helps, or the error of a query that failed
/// or a connection that was lost.
pub(crate) async fn snapshot(reader: &mut PooledReader) -> Result<LedgerSnapshot, DatabaseError> {
    reader.begin().await?;
    let other_login = reader.whose().other_login().map(str::to_owned);
    let result = read(reader.conn(), other_login).await;
    reader.end(result).await?
}

/// Returns the identity of the database that the reader is connected to.
///
/// # Errors
/// Returns an error if the query fails or the connection is lost.
pub(crate) async fn identity(reader: &mut PooledReader) -> Result<DatabaseIdentity, DatabaseError> {
    #[derive(QueryableByName)]
    struct Found {
        #[diesel(sql_type = Text)]
        database: String,
        #[diesel(sql_type = Nullable<BigInt>)]
        primary_since: Option<i64>,
    }
    reader.begin().await?;
    let found = sql_query(IDENTITY).get_result::<Found>(reader.conn()).await;
    let Found {
        database,
        primary_since,
    } = reader.end(found).await?;
    Ok(DatabaseIdentity {
        database,
        primary_since,
    })
}

/// Returns a hash of everything that a snapshot depends on and that other sessions change. This is
/// the rows of Diesel's table, of `schemad.migrations` and of the journals, each with the
/// transaction that wrote it, and the open operations. It is a single statement, so polling is
/// cheap while nothing changes. The statement is a DO block, which can lock the table before it
/// reads it, and which returns its result in a message. Returns `None` if there is no ledger or no
/// Diesel's table. In that case only a snapshot detects a change.
///
/// # Errors
/// Returns an error if the statement fails or the connection is lost. An error that the server
/// reports may mean that something is gone or locked. Take a snapshot then.
pub(crate) async fn fingerprint(
    reader: &mut PooledReader,
    before: &LedgerSnapshot,
) -> Result<Option<String>, DatabaseError> {
    let (Some(_), Some(table), Some(oid)) =
        (&before.ledger, &before.diesel_table, before.diesel_oid)
    else {
        return Ok(None);
    };
    // The server quoted the table's name. The table is locked before it is read, and has to be the
    // one in `before`. The owner of its schema can put a view in its place, and the view's
    // functions would run here.
    let block = format!(
        "DECLARE result text; BEGIN LOCK TABLE ONLY {table} IN ACCESS SHARE MODE; IF \
        to_regclass({literal})::oid = {oid} THEN SELECT md5(concat_ws('|', pg_is_in_recovery(), \
        (SELECT concat_ws(',', l.xmin, l.ctid) FROM schemad.ledger l), (SELECT \
        string_agg(concat_ws(',', d.version, d.xmin, d.ctid), ';') FROM {table} d), (SELECT \
        string_agg(concat_ws(',', m.version, m.xmin, m.ctid), ';') FROM schemad.migrations m), \
        (SELECT string_agg(concat_ws(',', o.id, o.xmin, o.ctid), ';') FROM schemad.operations o \
        WHERE o.state IN ('pending', 'running')), (SELECT string_agg(concat_ws(',', t.step, \
        t.xmin, t.ctid), ';') FROM schemad.statements t))) INTO result; ELSE result := 'another \
        table'; END IF; RAISE INFO '%', result USING ERRCODE = '{TOLD}'; END",
        literal = crate::sql::literal(table)
    );
    reader
        .told_by(&format!("DO {}", crate::sql::literal(&block)))
        .await
}

/// Returns the characters that the database's encoding cannot represent.
///
/// # Errors
/// Returns an error if the statement fails or the connection is lost.
pub(crate) async fn not_in_encoding(
    reader: &mut PooledReader,
    characters: &BTreeSet<char>,
) -> Result<BTreeSet<char>, DatabaseError> {
    let code = |character: &char| {
        let bytes: String = character
            .to_string()
            .bytes()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        format!("{}/{bytes}", u32::from(*character))
    };
    let codes: Vec<String> = characters.iter().map(code).collect();
    // The server converts the characters one by one, from their UTF-8 bytes. As text they could not
    // even be sent.
    let block = format!(
        "DECLARE code text; unknown text := ''; BEGIN FOREACH code IN ARRAY string_to_array('{}', \
        ',') LOOP BEGIN PERFORM convert(decode(split_part(code, '/', 2), 'hex'), 'UTF8'::name, \
        current_setting('server_encoding')::name); EXCEPTION WHEN untranslatable_character OR \
        character_not_in_repertoire THEN unknown := unknown || split_part(code, '/', 1) || ','; \
        END; END LOOP; RAISE INFO '%', unknown USING ERRCODE = '{TOLD}'; END",
        codes.join(",")
    );
    let told = reader
        .told_by(&format!("DO {}", crate::sql::literal(&block)))
        .await?
        .unwrap_or_default();
    Ok(told
        .split(',')
        .filter_map(|code| char::from_u32(code.parse().ok()?))
        .collect())
}

/// Returns the texts of scripts in the ledger, in the order of `checksums`. An element is `None` if
/// the ledger does not have that script.
///
/// # Errors
/// Returns an error if the query fails or the connection is lost.
pub(crate) async fn scripts(
    reader: &mut PooledReader,
    checksums: Vec<Checksum>,
) -> Result<Vec<Option<String>>, DatabaseError> {
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

async fn read(
    conn: &mut AsyncPgConnection,
    other_login: Option<String>,
) -> diesel::QueryResult<Result<LedgerSnapshot, DatabaseError>> {
    let place = sql_query(PLACE)
        .bind::<Nullable<Text>, _>(other_login)
        .get_result::<DieselTablePlace>(conn)
        .await?;
    if let Some(foreign) = place.foreign.as_deref().and_then(ForeignObject::of) {
        return Ok(Err(DatabaseError::foreign_ledger(
            &foreign,
            &place.role,
            place.is_superuser,
            None,
        )));
    }
    if let Some(problem) = place.problem {
        return Ok(Err(DatabaseError::Damaged(problem)));
    }
    if let Some(right) = place.missing {
        return Ok(Err(DatabaseError::MissingRight {
            role: place.role,
            right,
        }));
    }
    if let Some(table) = place.hidden {
        return Ok(Err(DatabaseError::RowSecurity {
            table,
            role: place.role,
        }));
    }
    let ledger = if place.has_ledger {
        match sql_query(LEDGER).load::<LedgerRow>(conn).await?.pop() {
            Some(ledger) => Some(ledger),
            None => {
                return Ok(Err(DatabaseError::Damaged(
                    "the only row of schemad.ledger is missing".into(),
                )));
            }
        }
    } else {
        None
    };
    let table = match &ledger {
        Some(ledger) => ledger.table().cloned(),
        None => match look_up(conn).await? {
            Some(oid) => sql_query(concat!("SELECT ", table_columns!(), " WHERE d.oid = $1"))
                .bind::<Oid, _>(oid)
                .load::<DieselTable>(conn)
                .await?
                .pop(),
            None => None,
        },
    };
    if let Some(table) = &table
        && let Err(error) = table.may_be_read(&place.role)
    {
        return Ok(Err(error));
    }
    // From here on the lock keeps the table in its place. The comparison of oids detects a table
    // that was replaced before that.
    if let Some(DieselTable {
        oid: Some(oid),
        name: Some(name),
        ..
    }) = &table
    {
        conn.batch_execute(&format!("LOCK TABLE ONLY {name} IN ACCESS SHARE MODE"))
            .await?;
        if !sql_query(IS_THE_SAME)
            .bind::<Text, _>(name)
            .bind::<Oid, _>(oid)
            .get_result::<ReadConsistency>(conn)
            .await?
            .same
        {
            return Ok(Err(DatabaseError::unsafe_table(
                name,
                "its name led to another table a moment before",
            )));
        }
    }
    let diesel_oid = table.as_ref().and_then(|table| table.oid);
    let diesel_table = table.and_then(|table| table.name);
    let rows = match (&diesel_table, place.has_ledger) {
        (None, false) => Vec::new(),
        (diesel, has_ledger) => {
            sql_query(rows_query(diesel.as_deref(), has_ledger))
                .load::<RawRow>(conn)
                .await?
        }
    };
    let running = if place.has_ledger {
        sql_query(RUNNING).load::<RawOperation>(conn).await?.pop()
    } else {
        None
    };
    let mut rows: Vec<MigrationRow> = rows.into_iter().map(MigrationRow::from).collect();
    if running.is_some() {
        // The journal of a running operation does not mean that a migration is half done or in
        // doubt. Rows that exist only because of their journal are dropped.
        rows.iter_mut().for_each(|row| row.journal = None);
        rows.retain(|row| row.is_applied() || row.recorded.is_some());
    }
    Ok(Ok(LedgerSnapshot {
        server: ServerInfo {
            database: place.database,
            encoding: place.server_encoding,
            version: place
                .server_version
                .split(' ')
                .next()
                .unwrap_or_default()
                .into(),
            read_only: place.read_only,
        },
        ledger: ledger.map(|l| LedgerInfo {
            id: l.id,
            version: l.version,
            compatible_with: l.compatible_with,
        }),
        diesel_table,
        diesel_oid,
        rows,
        running: running.map(OperationRow::from),
    }))
}

/// Returns the oid of the table that the connection's own search_path finds under the name of
/// Diesel's table, as diesel_cli does.
async fn look_up(conn: &mut AsyncPgConnection) -> diesel::QueryResult<Option<u32>> {
    #[derive(QueryableByName)]
    struct Found {
        #[diesel(sql_type = Nullable<Oid>)]
        oid: Option<u32>,
    }
    conn.batch_execute("SET LOCAL search_path TO DEFAULT")
        .await?;
    let look_up =
        "SELECT pg_catalog.to_regclass('__diesel_schema_migrations')::pg_catalog.oid AS oid";
    let found = sql_query(look_up).get_result::<Found>(conn).await?;
    conn.batch_execute("SET LOCAL search_path=pg_catalog,pg_temp")
        .await?;
    Ok(found.oid)
}

/// The server, the role, and whether the ledger can be read. The ledger is looked up in pg_class
/// and not by to_regclass, which does not see objects in a schema that the role may not use.
const PLACE: &str = concat!(
    "SELECT pg_catalog.current_database()::text AS database, pg_catalog.quote_ident(current_user) \
    AS role, pg_catalog.current_setting('server_version') AS server_version, \
    pg_catalog.current_setting('server_encoding') AS server_encoding, \
    pg_catalog.pg_is_in_recovery() OR (SELECT reset_val = 'on' FROM pg_catalog.pg_settings WHERE \
    name = 'default_transaction_read_only') AS read_only, l.oid IS NOT NULL AS has_ledger, CASE \
    WHEN l.oid IS NOT NULL AND NOT pg_catalog.has_schema_privilege(l.relnamespace, 'USAGE') THEN \
    'USAGE ON SCHEMA schemad' WHEN EXISTS (SELECT FROM pg_catalog.pg_class t WHERE t.relnamespace \
    = l.relnamespace AND t.relname IN ('ledger', 'scripts', 'operations', 'steps', 'statements', \
    'migrations', 'events', 'refusals', 'watchers', 'rehearsals') AND NOT \
    pg_catalog.has_table_privilege(t.oid, 'SELECT')) THEN 'SELECT ON ALL TABLES IN SCHEMA schemad' \
    END AS missing, (SELECT min(t.oid::regclass::text) FROM pg_catalog.pg_class t WHERE \
    t.relnamespace = l.relnamespace AND t.relname IN ('ledger', 'scripts', 'operations', 'steps', \
    'statements', 'migrations') AND row_security_active(t.oid)) AS hidden, (SELECT m.rolsuper FROM \
    pg_roles m WHERE m.rolname = current_user) AS is_superuser, coalesce((SELECT ARRAY['schema', \
    'schemad', quote_ident(pg_get_userbyid(n.nspowner))] FROM pg_namespace n WHERE n.oid = \
    l.relnamespace AND NOT ",
    ledger_owner!("n.nspowner", "$1"),
    "), (SELECT min(ARRAY['table', format('schemad.%I', t.relname), \
            quote_ident(pg_get_userbyid(t.relowner))]) FROM pg_class t WHERE t.relnamespace = \
            l.relnamespace AND t.relname IN ('ledger', 'scripts', 'operations', 'steps', \
            'statements', 'migrations', 'events', 'refusals', 'watchers', 'rehearsals') AND NOT ",
    ledger_owner!("t.relowner", "$1"),
    ")) AS foreign_object, (SELECT min(format('schemad.%I is not an ordinary table', t.relname)) \
    FROM pg_class t WHERE t.relnamespace = l.relnamespace AND t.relname IN ('ledger', 'scripts', \
    'operations', 'steps', 'statements', 'migrations', 'events', 'refusals', 'watchers', \
    'rehearsals') AND t.relkind <> 'r') AS problem FROM (SELECT 1) one LEFT JOIN \
    pg_catalog.pg_class l ON l.relname = 'ledger' AND l.relkind = 'r' AND l.relnamespace = (SELECT \
    s.oid FROM pg_catalog.pg_namespace s WHERE s.nspname = 'schemad')"
);

/// The columns and the FROM clause that read a [`DieselTable`].
macro_rules! table_columns {
    () => {
        concat!(
            "d.oid AS table_oid, format('%I.%I', n.nspname, d.relname) AS table_name, d.relkind = \
             'r' AS is_table, row_security_active(d.oid) AS is_hidden, quote_ident(o.rolname) AS \
             owner, ",
            trusted_owner!(),
            " AS owner_is_trusted, CASE WHEN NOT has_schema_privilege(n.oid, 'USAGE') THEN \
                format('USAGE ON SCHEMA %I', n.nspname) WHEN NOT has_table_privilege(d.oid, \
                'SELECT') THEN format('SELECT ON %I.%I', n.nspname, d.relname) END AS missing FROM \
                (pg_class d JOIN pg_namespace n ON n.oid = d.relnamespace JOIN pg_roles o ON o.oid \
                = d.relowner)"
        )
    };
}
use table_columns;

/// The ledger's own row, and Diesel's table. If there is a ledger, Diesel's table is where the
/// ledger expects it, even if the search_path does not find it. It may have been dropped since.
const LEDGER: &str = concat!(
    "SELECT l.id::text AS id, l.version, l.compatible_with, t.* FROM (SELECT * FROM schemad.ledger \
     LIMIT 1) l LEFT JOIN LATERAL (SELECT ",
    table_columns!(),
    " WHERE n.nspname = l.diesel_schema AND d.relname = l.diesel_table) t ON true"
);

const IS_THE_SAME: &str = "SELECT coalesce(to_regclass($1)::oid = $2, false) AS same";

#[derive(QueryableByName)]
struct ReadConsistency {
    #[diesel(sql_type = Bool)]
    same: bool,
}

/// Diesel's table, or another relation of that name.
#[derive(Clone, QueryableByName)]
struct DieselTable {
    #[diesel(sql_type = Nullable<Oid>, column_name = table_oid)]
    oid: Option<u32>,
    /// The name with its schema, quoted.
    #[diesel(sql_type = Nullable<Text>, column_name = table_name)]
    name: Option<String>,
    #[diesel(sql_type = Nullable<Bool>)]
    is_table: Option<bool>,
    #[diesel(sql_type = Nullable<Bool>)]
    is_hidden: Option<bool>,
    /// The owner's name, quoted.
    #[diesel(sql_type = Nullable<Text>)]
    owner: Option<String>,
    #[diesel(sql_type = Nullable<Bool>)]
    owner_is_trusted: Option<bool>,
    /// A right that reading needs and the role lacks.
    #[diesel(sql_type = Nullable<Text>)]
    missing: Option<String>,
}

impl DieselTable {
    /// Checks that reading the table runs no foreign code and shows every row.
    fn may_be_read(&self, role: &str) -> Result<(), DatabaseError> {
        let name = self.name.clone().unwrap_or_default();
        if self.owner_is_trusted != Some(true) {
            return Err(DatabaseError::untrusted_owner(
                &name,
                self.owner.as_deref().unwrap_or_default(),
            ));
        }
        if let Some(right) = &self.missing {
            return Err(DatabaseError::MissingRight {
                role: role.into(),
                right: right.clone(),
            });
        }
        if self.is_table != Some(true) {
            return Err(DatabaseError::unsafe_table(
                &name,
                "it is not an ordinary table",
            ));
        }
        match self.is_hidden {
            Some(true) => Err(DatabaseError::RowSecurity {
                table: name,
                role: role.into(),
            }),
            _ => Ok(()),
        }
    }
}

/// Returns the query for all [`RawRow`]s. `table` is Diesel's table, quoted by the server with
/// `format('%I.%I')`.
fn rows_query(table: Option<&str>, has_ledger: bool) -> String {
    let diesel = table.map_or_else(
        || "(SELECT NULL::text AS version, NULL::timestamp AS run_on WHERE false)".into(),
        |t| format!("(SELECT version::text AS version, run_on FROM {t})"),
    );
    let (ledger, journal) = if has_ledger {
        let ledger = "(SELECT m.*, s.operation::text AS operation, o.principal, s.finished_at - \
          s.started_at AS took FROM schemad.migrations m LEFT JOIN schemad.steps s ON s.id = \
          m.step LEFT JOIN schemad.operations o ON o.id = s.operation)";
        let journal = "(SELECT s.version, jsonb_build_object('step', s.id, 'direction', \
          s.direction, 'name', s.name, 'parts', jsonb_agg(jsonb_build_array(t.checksum, t.state, \
          t.settles_by, t.indexes_before::int8[], t.finished_at IS NOT NULL) ORDER BY t.ordinal), \
          'script', CASE WHEN bool_or(t.state = 'running' OR t.state = 'pending' AND \
          t.indexes_before IS NOT NULL) THEN (SELECT c.sql FROM schemad.scripts c WHERE c.checksum \
          = s.script) END, 'tried', (SELECT c.sql FROM schemad.scripts c WHERE c.checksum = \
          min(t.checksum) FILTER (WHERE t.state = 'pending' AND t.indexes_before IS NOT \
          NULL)))::text AS journal FROM schemad.statements t JOIN schemad.steps s ON s.id = t.step \
          GROUP BY s.id HAVING bool_or(t.state <> 'pending' OR t.indexes_before IS NOT NULL))";
        (ledger, journal)
    } else {
        let ledger = "(SELECT NULL::text AS version, NULL::text AS name, NULL::bigint AS position, \
          NULL::text AS up_script, NULL::text AS down_script, NULL::text AS up_mode, NULL::text AS \
          down_mode, NULL::timestamptz AS applied_at, NULL::boolean AS adopted, NULL::bytea AS \
          mac, NULL::text AS operation, NULL::text AS principal, NULL::interval AS took WHERE \
          false)";
        (
            ledger,
            "(SELECT NULL::text AS version, NULL::text AS journal WHERE false)",
        )
    };
    format!(
        "SELECT coalesce(d.version, m.version, j.version) AS version, j.journal, (extract(epoch \
         FROM d.run_on) * 1000000)::bigint AS run_on, m.name, m.position, m.up_script, \
         m.down_script, m.up_mode, m.down_mode, (extract(epoch FROM m.applied_at) * \
         1000000)::bigint AS applied_at, m.adopted, m.mac, m.operation, m.principal, \
         (extract(epoch FROM m.took) * 1000000)::bigint AS took FROM {diesel} d FULL JOIN {ledger} \
         m ON m.version = d.version FULL JOIN {journal} j ON j.version = coalesce(d.version, \
         m.version) ORDER BY coalesce(d.version, m.version, j.version) COLLATE \"C\""
    )
}

/// The running operation. A row in the state 'running' without a holder of the operation lock was
/// left by a dead daemon, and does not count. A standby does not see the locks of its primary.
const RUNNING: &str = concat!(
    "SELECT ",
    operation_columns!(),
    " FROM schemad.operations o WHERE o.state = 'running' AND (pg_catalog.pg_is_in_recovery() OR \
        EXISTS ( SELECT FROM pg_catalog.pg_locks k WHERE k.locktype = 'advisory' AND k.granted AND \
        k.objsubid = 1 AND k.classid = 7562088 AND k.objid = 1701667172 AND k.database = (SELECT \
        d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()))) \
        ORDER BY o.started_at DESC LIMIT 1"
);

#[derive(QueryableByName)]
struct DieselTablePlace {
    #[diesel(sql_type = Text)]
    database: String,
    /// The current role, quoted.
    #[diesel(sql_type = Text)]
    role: String,
    #[diesel(sql_type = Text)]
    server_version: String,
    #[diesel(sql_type = Text)]
    server_encoding: String,
    #[diesel(sql_type = Bool)]
    read_only: bool,
    #[diesel(sql_type = Bool)]
    has_ledger: bool,
    /// A right that reading needs and the role lacks.
    #[diesel(sql_type = Nullable<Text>)]
    missing: Option<String>,
    /// A table of the ledger with rows hidden by row security.
    #[diesel(sql_type = Nullable<Text>)]
    hidden: Option<String>,
    #[diesel(sql_type = Bool)]
    is_superuser: bool,
    /// An object with an untrusted owner: its kind, its name and its owner.
    #[diesel(sql_type = Nullable<Array<Text>>, column_name = foreign_object)]
    foreign: Option<Vec<String>>,
    /// A relation under the name of one of the ledger's tables that is not an ordinary table.
    #[diesel(sql_type = Nullable<Text>)]
    problem: Option<String>,
}

#[derive(QueryableByName)]
struct LedgerRow {
    #[diesel(sql_type = Text)]
    id: String,
    #[diesel(sql_type = Integer)]
    version: i32,
    #[diesel(sql_type = Integer)]
    compatible_with: i32,
    #[diesel(embed)]
    table: DieselTable,
}

impl LedgerRow {
    /// Diesel's table. `None` if it is not where the ledger expects it.
    fn table(&self) -> Option<&DieselTable> {
        Some(&self.table).filter(|table| table.oid.is_some())
    }
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

/// A part of a script: its checksum, its state, how it is settled, the indexes before it, and
/// whether it has finished or failed.
type RawPart = (String, String, String, Option<Vec<u32>>, bool);

/// A journal, in the form of the JSON that [`rows_query`] builds.
#[derive(serde::Deserialize)]
struct RawJournal {
    step: i64,
    direction: String,
    name: String,
    parts: Vec<RawPart>,
    script: Option<String>,
    /// The text of the part that was tried and failed.
    tried: Option<String>,
}

impl RawJournal {
    fn parse(json: &str) -> Option<JournalRecord> {
        let raw: Self = serde_json::from_str(json).ok()?;
        let done: Vec<String> = raw
            .parts
            .iter()
            .take_while(|(_, state, ..)| state == "done")
            .map(|(c, ..)| c.clone())
            .collect();
        let (checksum, state, by, before, failed) =
            raw.parts.into_iter().nth(done.len()).unwrap_or_default();
        let running = (state == "running").then(|| RunningPart {
            checksum: checksum.clone(),
            in_doubt: by == "nothing",
            failed,
        });
        let tried = before
            .filter(|_| state == "pending")
            .map(|before| TriedPart {
                checksum,
                before,
                sql: raw.tried,
            });
        Some(JournalRecord {
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

impl From<RawRow> for MigrationRow {
    fn from(raw: RawRow) -> Self {
        let script = |checksum: Option<String>, mode: Option<String>| {
            Some((
                checksum?.parse::<Checksum>().ok()?,
                ScriptMode::parse(&mode?)?,
            ))
        };
        let recorded = raw.name.map(|name| MigrationRecord {
            name,
            position: raw.position.unwrap_or_default(),
            up: script(raw.up_script, raw.up_mode),
            down: script(raw.down_script, raw.down_mode),
            mac: raw.mac,
            applied_at: micros(raw.applied_at.unwrap_or_default()),
            adopted: raw.adopted.unwrap_or_default(),
            operation: raw.operation.zip(raw.principal),
            duration: raw
                .took
                .and_then(|t| u64::try_from(t).ok())
                .map(Duration::from_micros),
        });
        let journal = raw.journal.as_deref().and_then(RawJournal::parse);
        Self {
            version: Version::stored(raw.version),
            run_on: raw.run_on.map(micros),
            recorded,
            journal,
        }
    }
}

/// Converts microseconds since 1970, the unit of all times in the queries above.
pub(super) fn micros(since_epoch: i64) -> SystemTime {
    let distance = Duration::from_micros(since_epoch.unsigned_abs());
    if since_epoch < 0 {
        SystemTime::UNIX_EPOCH - distance
    } else {
        SystemTime::UNIX_EPOCH + distance
    }
}
