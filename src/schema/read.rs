//! Reading a snapshot: one transaction that sees one state, cannot write, and asks a handful of
//! questions, never one an object.

use std::{collections::HashMap, time::Duration};

use tokio_postgres::{Client, Row, types::Type};

use super::{
    Relation, Snapshot,
    column::{self, Column},
    not_compared,
    snapshot::{Answers, OBJECT},
    sql,
};
use crate::schema::{
    query::{CatalogQuery, PreparedQueries},
    row::{Cells, Context, RowReader as _, Unread},
};
use crate::{
    postgres::{DatabaseError, SqlError},
    runtime::blocking,
};

/// What is not part of the schema. Always left out besides: pg_catalog, information_schema,
/// temporary and TOAST schemas, and what belongs to an extension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Except {
    /// Schemas with all that is in them.
    pub schemas: Vec<String>,
    /// Tables with all that is theirs, as PostgreSQL quotes them (`public.t`), or without a schema:
    /// in every one.
    pub tables: Vec<String>,
}

impl Except {
    /// The ledger, and Diesel's table where a ledger's snapshot has found it.
    pub fn ours(diesel_table: Option<&str>) -> Self {
        let table = diesel_table
            .unwrap_or("__diesel_schema_migrations")
            .to_owned();
        Self {
            schemas: vec!["schemad".into()],
            tables: vec![table],
        }
    }

    /// Nothing more than what is always left out.
    pub fn nothing() -> Self {
        Self {
            schemas: Vec::new(),
            tables: Vec::new(),
        }
    }
}

impl Default for Except {
    /// The ledger, and Diesel's table under its usual name.
    fn default() -> Self {
        Self::ours(None)
    }
}

/// What a read sets in its transaction: how the server writes constants and names, and the timeouts
/// of all reads.
pub(crate) const SETTINGS: &str = "SET LOCAL lock_timeout = '500ms'; SET LOCAL statement_timeout = \
    '10s'; SET LOCAL search_path = pg_catalog, pg_temp; SET LOCAL DateStyle = ISO; SET LOCAL \
    IntervalStyle = postgres; SET LOCAL TimeZone = 'UTC'; SET LOCAL extra_float_digits = 1; SET \
    LOCAL bytea_output = hex; SET LOCAL quote_all_identifiers = off; SET LOCAL xmloption = \
    content; SET LOCAL standard_conforming_strings = on; SET LOCAL lc_monetary = 'C'";

/// pg_get_viewdef and its like look at the catalog as it is, not as the transaction sees it: what
/// changes meanwhile is read again.
const TRIES: u32 = 5;

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(100);

/// Reads the schema. It takes one transaction, which is rolled back, on a connection that is in
/// none. Rights on the objects are not needed.
///
/// Dropped before it returns, the connection is left in the transaction; close it.
///
/// # Errors
/// The database's, its loss, or that the schema went on changing while it was read (SQLSTATE
/// 40001).
pub async fn read(client: &Client, except: &Except) -> Result<Snapshot, DatabaseError> {
    let ask = CatalogQuery {
        client,
        prepared: None,
    };
    for _ in 0..TRIES {
        let begin = format!("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {SETTINGS}");
        client.batch_execute(&begin).await?;
        let result = async { tokio::try_join!(read_once(ask, except), seen(ask)) }.await;
        client.batch_execute("ROLLBACK").await?;
        match result {
            Ok((snapshot, seen)) if unchanged(client, &seen).await? => return Ok(snapshot),
            Ok(_) => {}
            // "cache lookup failed", or [`Cells`] says so: it was dropped meanwhile.
            Err(error) if error.sql().is_some_and(|sql| sql.sqlstate == "XX000") => {}
            Err(error) => return Err(error),
        }
        tokio::time::sleep(PAUSE).await;
    }
    let message = "the schema went on changing while it was read; try again when no migration \
        runs";
    Err(SqlError {
        sqlstate: "40001".into(),
        message: message.into(),
        ..SqlError::default()
    }
    .into())
}

/// Reads the schema of a database that nobody else changes meanwhile, as the transaction sees it in
/// which the session is, with [`SETTINGS`] made there; on a session that does it often: it keeps
/// the statements.
///
/// # Errors
/// The database's, which leave the transaction aborted, or its loss.
pub(crate) async fn read_within(
    client: &Client,
    except: &Except,
    prepared: &PreparedQueries,
) -> Result<Snapshot, DatabaseError> {
    read_once(
        CatalogQuery {
            client,
            prepared: Some(prepared),
        },
        except,
    )
    .await
}

async fn read_once(ask: CatalogQuery<'_>, except: &Except) -> Result<Snapshot, DatabaseError> {
    let major = ask
        .ask(
            "SELECT current_setting('server_version_num')::int / 10000",
            &[],
        )
        .await?;
    let major: i32 = major.first().map_or(Ok(0), |row| row.try_get(0))?;
    let major = u32::try_from(major).unwrap_or_default();
    if major < 13 {
        return Err(DatabaseError::ServerTooOld(major.to_string()));
    }
    let parameters = &[
        (&except.schemas as _, Type::TEXT_ARRAY),
        (&except.tables as _, Type::TEXT_ARRAY),
    ];
    let (relations, columns) = (relations(), column::query(major));
    let (relations, columns, not_compared, answers) = tokio::try_join!(
        ask.ask(&relations, parameters),
        ask.ask(&columns, &[]),
        not_compared::count(ask),
        Answers::ask(ask, major, &except.schemas),
    )?;
    let bytes = OBJECT * (answers.len() + columns.len());
    let snapshot = blocking::in_place(bytes, || assemble(relations, &columns, answers))?;
    Ok(Snapshot {
        server_major: major,
        not_compared,
        ..snapshot
    })
}

/// Makes the snapshot of the rows that were read.
fn assemble(
    relations: Vec<Row>,
    columns: &[Row],
    answers: Answers,
) -> Result<Snapshot, DatabaseError> {
    let mut context = Context::default();
    for row in relations {
        context.relations.insert(
            row.try_get(0)?,
            Relation {
                schema: row.try_get(1)?,
                name: row.try_get(2)?,
            },
        );
    }
    for row in columns {
        let mut cells = Cells::new(row, &mut context);
        let read = cells
            .next::<u32>()
            .and_then(|oid| Ok((oid, Column::read(&mut cells)?)));
        match read {
            Ok((oid, column)) if context.relations.contains_key(&oid) => {
                context.columns.entry(oid).or_default().push(column);
            }
            Ok(_) | Err(Unread::LeftOut) => {}
            Err(Unread::Failed(error)) => return Err(error),
        }
    }
    answers.read(&mut context)
}

/// What is compared of pg_class, as far as others refer to it. An identity's sequence and a
/// partition are as good as any. It is the type of a composite type that belongs to its extension,
/// not its pg_class.
fn relations() -> String {
    format!(
        "SELECT c.oid, n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON \
         n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm', 'c', 'S') AND {} AND \
         c.relname <> ALL ($2) AND format('%I.%I', n.nspname, c.relname) <> ALL ($2) AND NOT \
         (c.relkind = 'c' AND EXISTS (SELECT FROM pg_depend e WHERE e.classid = \
         'pg_type'::regclass AND e.objid = c.reltype AND e.deptype = 'e')) AND NOT (c.relkind = \
         'S' AND EXISTS (SELECT FROM pg_depend d JOIN pg_class t ON t.oid = d.refobjid JOIN \
         pg_namespace tn ON tn.oid = t.relnamespace WHERE d.classid = 'pg_class'::regclass AND \
         d.objid = c.oid AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i') AND \
         (t.relname = ANY ($2) OR format('%I.%I', tn.nspname, t.relname) = ANY ($2))))",
        sql::made_in_schema("pg_class", "c.oid")
    )
}

/// Where the server's own functions look things up.
const LOOKED_UP: [&str; 20] = [
    "pg_class",
    "pg_attribute",
    "pg_attrdef",
    "pg_proc",
    "pg_type",
    "pg_constraint",
    "pg_index",
    "pg_inherits",
    "pg_partitioned_table",
    "pg_rewrite",
    "pg_trigger",
    "pg_namespace",
    "pg_collation",
    "pg_operator",
    "pg_opclass",
    "pg_opfamily",
    "pg_language",
    "pg_statistic_ext",
    "pg_ts_dict",
    "pg_am",
];

/// Their catalog is a superuser's, so its rows' transactions are not seen.
const ROLES: &str = "(SELECT array_agg(r.oid ORDER BY r.oid) FROM pg_catalog.pg_roles r), \
    (SELECT array_agg(r.rolname::text ORDER BY r.oid) FROM pg_catalog.pg_roles r)";

/// What a transaction sees: its snapshot as pg_current_snapshot writes it (`xmin:xmax:running,…`),
/// how many rows there are, and what the roles are called.
struct Seen {
    snapshot: String,
    rows: i64,
    roles: HashMap<u32, String>,
}

impl Seen {
    /// True when no role is called otherwise that both have seen. Those that came or went own
    /// nothing that was read.
    fn calls_roles_the_same(&self, other: &Self) -> bool {
        self.roles
            .iter()
            .all(|(oid, name)| other.roles.get(oid).is_none_or(|other| other == name))
    }
}

/// What the current transaction sees.
async fn seen(ask: CatalogQuery<'_>) -> Result<Seen, DatabaseError> {
    let counts = LOOKED_UP.map(|catalog| format!("(SELECT count(*) FROM pg_catalog.{catalog})"));
    let query = format!(
        "SELECT pg_catalog.pg_current_snapshot()::text, {}, {ROLES}",
        counts.join(" + ")
    );
    let row = ask.ask(&query, &[]).await?;
    let row = row
        .first()
        .ok_or_else(|| DatabaseError::Lost("the server sent no row".into()))?;
    let (oids, names): (Vec<u32>, Vec<String>) = (row.try_get(2)?, row.try_get(3)?);
    Ok(Seen {
        snapshot: row.try_get(0)?,
        rows: row.try_get(1)?,
        roles: oids.into_iter().zip(names).collect(),
    })
}

/// True when nothing that is looked up has changed since: nobody has written anything at all, or no
/// row is of a transaction that was not seen, and none is missing.
async fn unchanged(client: &Client, since: &Seen) -> Result<bool, DatabaseError> {
    client
        .batch_execute(&format!("BEGIN READ ONLY; {SETTINGS}"))
        .await?;
    let unchanged = look_again(client, since).await;
    client.batch_execute("ROLLBACK").await?;
    unchanged
}

async fn look_again(client: &Client, since: &Seen) -> Result<bool, DatabaseError> {
    let now = client
        .query_typed("SELECT pg_catalog.pg_current_snapshot()::text", &[])
        .await?;
    if now
        .first()
        .map(|row| row.try_get::<_, String>(0))
        .transpose()?
        .as_deref()
        == Some(&since.snapshot)
    {
        return Ok(true);
    }
    let mut parts = since.snapshot.split(':').skip(1);
    // The catalogs have the low half of a transaction's number.
    let low = |number: &str| {
        number
            .parse::<u64>()
            .map(|number| number & 0xffff_ffff)
            .unwrap_or_default()
            .to_string()
    };
    let end = low(parts.next().unwrap_or_default());
    let running: Vec<String> = parts
        .next()
        .unwrap_or_default()
        .split(',')
        .filter(|n| !n.is_empty())
        .map(low)
        .collect();
    let written = LOOKED_UP.map(|catalog| {
        format!(
            "SELECT FROM pg_catalog.{catalog} WHERE pg_catalog.age(xmin) <= \
             pg_catalog.age($1::text::xid) OR xmin = ANY ($2::text[]::xid[])"
        )
    });
    let query = format!("SELECT EXISTS ({})", written.join(" UNION ALL "));
    let parameters = &[(&end as _, Type::TEXT), (&running as _, Type::TEXT_ARRAY)];
    let written = client.query_typed(&query, parameters).await?;
    let written = written
        .first()
        .map_or(Ok(true), |row| row.try_get::<_, bool>(0))?;
    let now = seen(CatalogQuery {
        client,
        prepared: None,
    })
    .await?;
    Ok(!written && now.rows == since.rows && now.calls_roles_the_same(since))
}
