//! Reading a snapshot: one transaction that sees one state, cannot write, and asks a handful of questions, never one an object.

use std::time::Duration;

use tokio_postgres::{Client, types::Type};

use super::{
    Relation, Snapshot,
    cells::{Cells, Context, Read as _, Unread},
    column::{self, Column},
    not_compared,
    snapshot::Answers,
    sql,
};
use crate::db::{Error, SqlError};

/// What is not part of the schema. Always left out besides: pg_catalog, information_schema, temporary and TOAST schemas, and
/// what belongs to an extension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Except {
    /// Schemas with all that is in them.
    pub schemas: Vec<String>,
    /// Tables with all that is theirs, as PostgreSQL quotes them (`public.t`), or without a schema: in every one.
    pub tables: Vec<String>,
}

impl Except {
    /// The ledger, and Diesel's table where a ledger's snapshot has found it.
    pub fn ours(diesel_table: Option<&str>) -> Self {
        let table = diesel_table.unwrap_or("__diesel_schema_migrations").to_owned();
        Self { schemas: vec!["schemad".into()], tables: vec![table] }
    }

    /// Nothing more than what is always left out.
    pub fn nothing() -> Self {
        Self { schemas: Vec::new(), tables: Vec::new() }
    }
}

impl Default for Except {
    /// The ledger, and Diesel's table under its usual name.
    fn default() -> Self {
        Self::ours(None)
    }
}

/// The settings decide how the server writes constants and names. The timeouts are those of all reads.
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL lock_timeout = '500ms'; \
    SET LOCAL statement_timeout = '10s'; SET LOCAL search_path = pg_catalog; SET LOCAL DateStyle = ISO; \
    SET LOCAL IntervalStyle = postgres; SET LOCAL TimeZone = 'UTC'; SET LOCAL extra_float_digits = 1; \
    SET LOCAL bytea_output = hex; SET LOCAL quote_all_identifiers = off; SET LOCAL xmloption = content";

/// pg_get_viewdef and its like look at the catalog as it is, not as the transaction sees it: what changes meanwhile is read again.
const TRIES: u32 = 5;

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(100);

/// Reads the schema. It takes one transaction, which is rolled back, on a connection that is in none. Rights on the objects are not
/// needed.
///
/// Dropped before it returns, the connection is left in the transaction; close it.
///
/// # Errors
/// The database's, its loss, or that the schema went on changing while it was read (SQLSTATE 40001).
pub async fn read(client: &Client, except: &Except) -> Result<Snapshot, Error> {
    for _ in 0..TRIES {
        client.batch_execute(BEGIN).await?;
        let result = read_once(client, except).await;
        client.batch_execute("ROLLBACK").await?;
        match result {
            Ok(Some((snapshot, before))) if state(client).await? == before => return Ok(snapshot),
            Ok(_) => {}
            // "cache lookup failed": it was dropped meanwhile.
            Err(error) if error.sql().is_some_and(|sql| sql.sqlstate == "XX000") => {}
            Err(error) => return Err(error),
        }
        tokio::time::sleep(PAUSE).await;
    }
    let message = "the schema went on changing while it was read; try again when no migration runs";
    Err(SqlError { sqlstate: "40001".into(), message: message.into(), ..SqlError::default() }.into())
}

/// `None`: something that was there when the transaction began is gone.
async fn read_once(client: &Client, except: &Except) -> Result<Option<(Snapshot, Vec<i64>)>, Error> {
    let before = state(client).await?;
    let major = client.query_typed("SELECT current_setting('server_version_num')::int / 10000", &[]).await?;
    let major: i32 = major.first().map_or(Ok(0), |row| row.try_get(0))?;
    let major = u32::try_from(major).unwrap_or_default();
    if major < 13 {
        return Err(Error::ServerTooOld(major.to_string()));
    }
    let parameters = &[(&except.schemas as _, Type::TEXT_ARRAY), (&except.tables as _, Type::TEXT_ARRAY)];
    let (relations, columns) = (relations(), column::query(major));
    let (relations, columns, not_compared, answers) = tokio::try_join!(
        async { Ok(client.query_typed(&relations, parameters).await?) },
        async { Ok(client.query_typed(&columns, &[]).await?) },
        not_compared::count(client),
        Answers::ask(client, major, &except.schemas),
    )?;
    let mut context = Context::default();
    for row in relations {
        context.relations.insert(row.try_get(0)?, Relation { schema: row.try_get(1)?, name: row.try_get(2)? });
    }
    for row in columns {
        let mut cells = Cells::new(&row, &mut context);
        let read = cells.next::<u32>().and_then(|oid| Ok((oid, Column::read(&mut cells)?)));
        match read {
            Ok((oid, column)) if context.relations.contains_key(&oid) => {
                context.columns.entry(oid).or_default().push(column);
            }
            Ok(_) | Err(Unread::LeftOut) => {}
            Err(Unread::Failed(error)) => return Err(error),
        }
    }
    let snapshot = answers.read(&mut context)?;
    Ok(Some((Snapshot { server_major: major, not_compared, ..snapshot }, before)))
}

/// What is compared of pg_class, as far as others refer to it. An identity's sequence and a partition are as good as any.
fn relations() -> String {
    format!(
        "SELECT c.oid, n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm', 'c', 'S') AND {} AND c.relname <> ALL ($2) \
         AND format('%I.%I', n.nspname, c.relname) <> ALL ($2) \
         AND NOT (c.relkind = 'S' AND EXISTS (SELECT FROM pg_depend d JOIN pg_class t ON t.oid = d.refobjid \
             JOIN pg_namespace tn ON tn.oid = t.relnamespace WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid \
             AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i') \
             AND (t.relname = ANY ($2) OR format('%I.%I', tn.nspname, t.relname) = ANY ($2))))",
        sql::made_in_schema("pg_class", "c.oid")
    )
}

/// Changes whenever something changes that the server's own functions look up: sums over the transactions that wrote the rows.
async fn state(client: &Client) -> Result<Vec<i64>, Error> {
    let sums = ["pg_class", "pg_attribute", "pg_proc", "pg_type", "pg_constraint", "pg_index", "pg_rewrite", "pg_trigger"].map(
        |catalog| {
            format!(
                "SELECT count(*) * 4294967296 + coalesce(sum(xmin::text::bigint), 0)::bigint % 4294967296 FROM pg_catalog.{catalog}"
            )
        },
    );
    let rows = client.query_typed(&sums.join(" UNION ALL "), &[]).await?;
    rows.iter().map(|row| row.try_get(0).map_err(Error::from)).collect()
}
