//! What lies in the tables, as far as a later migration could notice: whether anything was ever written, and if so, a hash of it.

use sha2::{Digest as _, Sha256};
use tokio_postgres::Client;

use crate::db::Error;

/// More than this is not read: copying the database again is cheaper, and rehearsals run on seeds, not on data.
const MOST: i64 = 4 << 20;

/// The contents of a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Contents {
    /// No table's file has a block, no sequence was asked, there is no large object.
    Nothing,
    /// All of it, as a hash.
    Something([u8; 32]),
    /// Too much, or it cannot be read.
    Unknown,
}

/// Tables that have a block, with its name as SQL writes it; sequences that have counted, and how far; large objects.
const WRITTEN: &str = "SELECT format('%I.%I', n.nspname, c.relname), pg_relation_size(c.oid), NULL \
     FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
     WHERE c.relkind IN ('r', 'm') AND c.oid >= 16384 AND n.nspname <> 'schemad' AND n.nspname !~ '^pg_' \
         AND c.relname <> '__diesel_schema_migrations' AND pg_relation_size(c.oid) > 0 \
         AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::regclass \
             AND d.objid = c.oid AND d.deptype = 'e') \
     UNION ALL SELECT format('%I.%I', schemaname, sequencename), 0, last_value::text FROM pg_catalog.pg_sequences \
     WHERE last_value IS NOT NULL AND schemaname <> 'schemad' \
     UNION ALL SELECT 'large objects', 0, count(*)::text FROM pg_catalog.pg_largeobject_metadata HAVING count(*) > 0 \
     ORDER BY 1";

impl Contents {
    /// Reads them, on a connection that is in no transaction.
    ///
    /// # Errors
    /// The connection's loss. What the server refuses to read is unknown.
    pub async fn read(client: &Client) -> Result<Self, Error> {
        match read(client).await {
            Err(Error::Sql(error)) => {
                tracing::debug!(cause = %error, "the contents of a scratch database cannot be read");
                Ok(Self::Unknown)
            }
            other => other,
        }
    }

    /// True where both are known to be the same.
    pub fn is(&self, other: &Self) -> bool {
        *self != Self::Unknown && self == other
    }
}

async fn read(client: &Client) -> Result<Contents, Error> {
    let written = client.query_typed(WRITTEN, &[]).await?;
    if written.is_empty() {
        return Ok(Contents::Nothing);
    }
    if written.iter().map(|row| row.get::<_, i64>(1)).sum::<i64>() > MOST {
        return Ok(Contents::Unknown);
    }
    let mut hash = Sha256::new();
    let mut add = |text: &str| {
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text);
    };
    let mut tables = Vec::new();
    for row in &written {
        match row.get::<_, Option<String>>(2) {
            Some(state) => add(&state),
            None => tables.push(row.get::<_, String>(0)),
        }
    }
    for table in &tables {
        // The name was quoted by the server. ONLY: what lies in children is theirs.
        let query =
            format!("SELECT md5(string_agg(h, '' ORDER BY h)) FROM (SELECT md5(t::text) h FROM ONLY {table} t) rows");
        let rows = client.query_typed(&query, &[]).await?;
        add(table);
        add(rows.first().and_then(|row| row.get::<_, Option<&str>>(0)).unwrap_or_default());
    }
    Ok(Contents::Something(hash.finalize().into()))
}
