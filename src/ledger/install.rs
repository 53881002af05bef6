//! The ledger's own migrations. It has two numbers: its version, and the oldest version a daemon must know to use it. Every
//! change is additive, so the previous release goes on working beside the next one.

use tokio_postgres::{Client, Row};

use crate::{
    db::{self, lock::LockedSession},
    failure::{Failure, Reason},
};

/// What this daemon makes of a ledger: its version, the oldest compatible one, and the SQL that leads there from the one
/// before.
const MIGRATIONS: [(i32, i32, &str); 4] = [
    (1, 1, include_str!("0001.sql")),
    (2, 1, include_str!("0002.sql")),
    (3, 1, include_str!("0003.sql")),
    (4, 1, include_str!("0004.sql")),
];

/// The ledger version of this daemon.
pub const VERSION: i32 = MIGRATIONS[MIGRATIONS.len() - 1].0;

/// What `check` found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// This daemon can use it.
    Usable,
    /// It has to be created or upgraded, under the lock.
    ToBeMade,
}

/// Looks whether there is a ledger and whether this daemon can use it.
///
/// # Errors
/// MISSING_RIGHT, LEDGER_FOREIGN, LEDGER_TOO_NEW, or the database's.
pub async fn check(client: &Client) -> Result<State, Failure> {
    let place = Place::find(client).await?;
    if !place.has_ledger {
        place.may_be_created()?;
        return Ok(State::ToBeMade);
    }
    Ok(if version(client, &place).await? < VERSION { State::ToBeMade } else { State::Usable })
}

/// Creates or upgrades the ledger, and the Diesel table with Diesel's own DDL. Does nothing where both are there.
///
/// # Errors
/// MISSING_RIGHT with the GRANTs that help, LEDGER_FOREIGN, LEDGER_TOO_NEW, or the database's. Nothing is changed then.
pub async fn ensure(session: &LockedSession) -> Result<(), Failure> {
    let client = session.client();
    let place = Place::find(client).await?;
    let installed = if place.has_ledger { version(client, &place).await? } else { 0 };
    if installed == 0 {
        place.may_be_created()?;
        let mut sql = String::from("BEGIN;");
        if !place.has_schema {
            sql += "CREATE SCHEMA schemad;COMMENT ON SCHEMA schemad IS 'schemad''s ledger: which migrations ran, when and by whom';";
        }
        if place.diesel.is_none() {
            sql += &diesel_table("__diesel_schema_migrations");
        }
        sql += &format!(
            "{};INSERT INTO schemad.ledger (version, compatible_with, diesel_schema, diesel_table) \
             SELECT {}, {}, n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE c.oid = to_regclass('__diesel_schema_migrations');COMMIT",
            MIGRATIONS[0].2, MIGRATIONS[0].0, MIGRATIONS[0].1
        );
        execute(client, &sql).await?;
        tracing::info!(event = "ledger.created", database = %place.database, version = MIGRATIONS[0].0, "created the ledger");
    }
    for (version, compatible_with, sql) in MIGRATIONS.iter().filter(|(v, ..)| *v > installed.max(MIGRATIONS[0].0)) {
        let update = format!("UPDATE schemad.ledger SET version = {version}, compatible_with = {compatible_with}");
        // Behind a long reader (a dump of the whole database) it tries again later, rather than keep others waiting behind it.
        execute(client, &format!("BEGIN;SET LOCAL lock_timeout='3s';{sql};{update};COMMIT")).await?;
        tracing::info!(event = "ledger.upgraded", database = %place.database, version, "upgraded the ledger");
    }
    restore_diesel_table(client).await
}

/// The Diesel table may have been dropped since (a reset of the schema it was in): then nothing is applied any more, and
/// the next step needs it again, where the ledger says it is.
async fn restore_diesel_table(client: &Client) -> Result<(), Failure> {
    let query = "SELECT pg_catalog.format('%I.%I', l.diesel_schema, l.diesel_table) FROM schemad.ledger l \
        WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
            WHERE n.nspname = l.diesel_schema AND c.relname = l.diesel_table)";
    if let Some(row) = one(client, query).await? {
        execute(client, &diesel_table(row.get(0))).await?;
    }
    Ok(())
}

/// Diesel's own DDL (diesel 2.3, `migrations/mod.rs`). `name` is a constant or was quoted by the server.
fn diesel_table(name: &str) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {name} (version VARCHAR(50) PRIMARY KEY NOT NULL, \
         run_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP);"
    )
}

async fn version(client: &Client, place: &Place) -> Result<i32, Failure> {
    place.may_be_used()?;
    let row = one(client, LEDGER).await?;
    let (version, compatible_with) = row.as_ref().map_or((0, 0), |row| (row.get(0), row.get::<_, i32>(1)));
    if let Some(schema) = row.and_then(|row| row.get::<_, Option<String>>(2)) {
        place.has(&[format!("USAGE ON SCHEMA {schema}")])?;
    }
    if compatible_with > VERSION {
        return Err(Failure::new(
            Reason::LedgerTooNew,
            format!(
                "the ledger has version {version} and needs a schemad that knows version {compatible_with}; this one knows \
                 {VERSION}. Use a newer release"
            ),
        )
        .with("ledger_version", version)
        .with("compatible_with", compatible_with));
    }
    Ok(version)
}

/// The ledger knows where Diesel's table is; the search_path passes over a schema that the role may not use.
const LEDGER: &str = "SELECT l.version, l.compatible_with, \
    (SELECT quote_ident(n.nspname) FROM pg_namespace n \
        WHERE n.nspname = l.diesel_schema AND NOT has_schema_privilege(n.oid, 'USAGE')) FROM schemad.ledger l";

/// What is there already, and what this role may do about the rest.
struct Place {
    role: String,
    database: String,
    has_schema: bool,
    may_use_schema: bool,
    has_ledger: bool,
    /// Something in the schema that is not schemad's.
    foreign: Option<String>,
    may_create_schema: bool,
    may_create_in_schema: bool,
    /// The Diesel table with its schema, quoted.
    diesel: Option<String>,
    may_use_diesel: bool,
    /// Whether the role lacks a right on one of the ledger's tables, and on one of its functions.
    lacks_tables: bool,
    lacks_functions: bool,
    /// Where the Diesel table would be created, quoted.
    current_schema: Option<String>,
    may_create_diesel: bool,
    /// What the role lacks on a schema of the search_path that it may not use.
    hidden: Option<String>,
}

/// pg_class rather than to_regclass for the ledger: it sees what lies in a schema that the role may not use.
const PLACE: &str = "SELECT quote_ident(current_user), quote_ident(current_database()), s.oid IS NOT NULL, \
    s.oid IS NOT NULL AND has_schema_privilege(s.oid, 'USAGE'), \
    EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = s.oid AND c.relname = 'ledger'), \
    (SELECT min(relname::text) FROM pg_class c WHERE c.relnamespace = s.oid), \
    has_database_privilege(current_database(), 'CREATE'), s.oid IS NOT NULL AND has_schema_privilege(s.oid, 'CREATE'), \
    quote_ident(m.nspname) || '.' || quote_ident(d.relname), coalesce(has_table_privilege(d.oid, 'SELECT') AND has_table_privilege(d.oid, 'INSERT') \
        AND has_table_privilege(d.oid, 'DELETE'), false), \
    quote_ident(current_schema()), coalesce(has_schema_privilege(current_schema(), 'CREATE'), false), \
    EXISTS (SELECT FROM pg_class t WHERE t.relnamespace = s.oid AND t.relkind = 'r' \
        AND NOT (has_table_privilege(t.oid, 'SELECT') AND has_table_privilege(t.oid, 'INSERT') \
            AND has_table_privilege(t.oid, 'UPDATE') AND has_table_privilege(t.oid, 'DELETE'))), \
    EXISTS (SELECT FROM pg_proc p WHERE p.pronamespace = s.oid AND NOT has_function_privilege(p.oid, 'EXECUTE')), \
    (SELECT 'USAGE' || CASE WHEN EXISTS (SELECT FROM pg_class t WHERE t.relnamespace = h.oid \
            AND t.relname = '__diesel_schema_migrations') THEN '' ELSE ', CREATE' END || ' ON SCHEMA ' || quote_ident(h.nspname) \
        FROM unnest(string_to_array(current_setting('search_path'), ',')) WITH ORDINALITY p (name, n) \
        JOIN pg_namespace h ON h.nspname = CASE btrim(p.name, ' \"') WHEN '$user' THEN current_user ELSE btrim(p.name, ' \"') END \
        WHERE NOT has_schema_privilege(h.oid, 'USAGE') ORDER BY p.n LIMIT 1) \
    FROM (SELECT 1) one LEFT JOIN pg_namespace s ON s.nspname = 'schemad' \
    LEFT JOIN (pg_class d JOIN pg_namespace m ON m.oid = d.relnamespace) ON d.oid = to_regclass('__diesel_schema_migrations')";

impl Place {
    async fn find(client: &Client) -> Result<Self, Failure> {
        let row =
            one(client, PLACE).await?.ok_or_else(|| Failure::new(Reason::Internal, "the catalog returned no row"))?;
        Ok(Self {
            role: row.get(0),
            database: row.get(1),
            has_schema: row.get(2),
            may_use_schema: row.get(3),
            has_ledger: row.get(4),
            foreign: row.get(5),
            may_create_schema: row.get(6),
            may_create_in_schema: row.get(7),
            diesel: row.get(8),
            may_use_diesel: row.get(9),
            current_schema: row.get(10),
            may_create_diesel: row.get(11),
            lacks_tables: row.get(12),
            lacks_functions: row.get(13),
            hidden: row.get(14),
        })
    }

    fn may_be_created(&self) -> Result<(), Failure> {
        if let Some(foreign) = &self.foreign {
            return Err(Failure::new(
                Reason::LedgerForeign,
                format!(
                    "the schema schemad exists and holds {foreign:?}, but no ledger of schemad's: it belongs to something \
                     else, and schemad needs that name. Give the other another (ALTER SCHEMA schemad RENAME TO ...), or drop it"
                ),
            ));
        }
        if let (None, None, None) = (&self.diesel, &self.current_schema, &self.hidden) {
            return Err(Failure::new(
                Reason::MissingRight,
                "no schema of the search_path exists, so there is no place for Diesel's table; create the schema or name \
                 another in the URL (options=-csearch_path%3D...)",
            ));
        }
        let mut lacks = Vec::new();
        if !self.has_schema && !self.may_create_schema {
            lacks.push(format!("CREATE ON DATABASE {}", self.database));
        }
        if self.has_schema && !(self.may_use_schema && self.may_create_in_schema) {
            lacks.push("USAGE, CREATE ON SCHEMA schemad".into());
        }
        lacks.extend(self.lacks_diesel());
        let alternative = format!("CREATE SCHEMA schemad AUTHORIZATION {}", self.role);
        self.has(&lacks).map_err(|failure| match self.has_schema || self.may_create_schema {
            true => failure,
            false => failure.with("alternative", alternative),
        })
    }

    /// What the guards and the operations' own SQL need on a ledger that another role made.
    fn may_be_used(&self) -> Result<(), Failure> {
        let needs = [
            (!self.may_use_schema, "USAGE ON SCHEMA schemad"),
            (self.lacks_tables, "SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA schemad"),
            (self.lacks_functions, "EXECUTE ON ALL FUNCTIONS IN SCHEMA schemad"),
        ];
        let mut lacks: Vec<String> =
            needs.iter().filter(|(lacks, _)| *lacks).map(|(_, right)| (*right).into()).collect();
        if self.diesel.is_some() {
            lacks.extend(self.lacks_diesel());
        }
        self.has(&lacks)
    }

    /// What is missing to use Diesel's table, or to create it.
    fn lacks_diesel(&self) -> Option<String> {
        match (&self.diesel, &self.current_schema) {
            (Some(table), _) if !self.may_use_diesel => Some(format!("SELECT, INSERT, DELETE ON {table}")),
            (None, Some(schema)) if !self.may_create_diesel => Some(format!("USAGE, CREATE ON SCHEMA {schema}")),
            (None, None) => self.hidden.clone(),
            _ => None,
        }
    }

    /// All rights that are missing at once, so that nobody has to ask for them one by one.
    fn has(&self, lacks: &[String]) -> Result<(), Failure> {
        match lacks {
            [] => Ok(()),
            [right] => Err(db::Error::MissingRight { role: self.role.clone(), right: right.clone() }.into()),
            _ => {
                let grants: Vec<_> = lacks.iter().map(|right| format!("GRANT {right} TO {}", self.role)).collect();
                let message = format!("the role {} lacks rights: {};", self.role, grants.join("; "));
                // One key each: a value that is too long for a trailer is cut, and half a GRANT is none.
                let keys = ["grant", "grant_2", "grant_3", "grant_4"];
                let failure = Failure::new(Reason::MissingRight, message);
                Err(keys.iter().zip(grants).fold(failure, |failure, (key, grant)| failure.with(key, grant)))
            }
        }
    }
}

async fn one(client: &Client, query: &str) -> Result<Option<Row>, Failure> {
    let mut rows = client.query_typed(query, &[]).await.map_err(db::Error::from)?;
    Ok(rows.pop())
}

/// Sends a message that is one transaction, and ends that transaction when it fails.
async fn execute(client: &Client, sql: &str) -> Result<(), Failure> {
    if let Err(error) = client.batch_execute(sql).await {
        let _ = client.batch_execute("ROLLBACK").await; // the session may be gone, and then so is the transaction
        return Err(db::Error::from(error).into());
    }
    Ok(())
}
