//! What lies in the tables, as far as a later migration could notice: whether anything was ever
//! written, and if so, a hash of it.

use sha2::{Digest as _, Sha256};
use tokio_postgres::Client;

use crate::postgres::DatabaseError;

/// More than this is not read: copying the database again is cheaper, and rehearsals run on seeds,
/// not on data.
const MOST: i64 = 4 << 20;

/// The contents of a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DataHash {
    /// No table has a row, no sequence was asked or set, there is no large object.
    Nothing,
    /// All of it, as a hash.
    Something([u8; 32]),
    /// Too much, or it cannot be read.
    Unknown,
}

/// Tables that have a block, with their names as SQL writes them, and how long they are; sequences,
/// without a length.
const WRITTEN: &str = "SELECT format('%I.%I', n.nspname, c.relname), pg_relation_size(c.oid) FROM \
     pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE \
     c.relkind IN ('r', 'm') AND c.oid >= 16384 AND n.nspname <> 'schemad' AND n.nspname !~ '^pg_' \
     AND c.relname <> '__diesel_schema_migrations' AND pg_relation_size(c.oid) > 0 AND NOT EXISTS \
     (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::regclass AND \
     d.objid = c.oid AND d.deptype = 'e') UNION ALL SELECT format('%I.%I', n.nspname, c.relname), \
     NULL FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
     WHERE c.relkind = 'S' AND n.nspname <> 'schemad' AND n.nspname !~ '^pg_' ORDER BY 1";

/// Large objects, where their owner asks: who else does is refused.
const LARGE: &str = "SELECT md5(string_agg(h, '' ORDER BY h)) FROM (SELECT md5((m.*)::text || \
     md5(lo_get(m.oid))) h FROM pg_catalog.pg_largeobject_metadata m) objects";

/// So many sequences are asked at once.
const AT_ONCE: usize = 100;

impl DataHash {
    /// Reads them.
    ///
    /// # Errors
    /// The connection's loss. What the server refuses to read is unknown; a transaction is aborted
    /// by it.
    pub(super) async fn read(client: &Client) -> Result<Self, DatabaseError> {
        match read(client).await {
            Err(DatabaseError::Sql(error)) => {
                tracing::debug!(cause = %error, "the contents of a scratch database cannot be \
                    read");
                Ok(Self::Unknown)
            }
            other => other,
        }
    }

    /// True where both are known to be the same.
    pub(super) fn is(&self, other: &Self) -> bool {
        *self != Self::Unknown && self == other
    }
}

async fn read(client: &Client) -> Result<DataHash, DatabaseError> {
    let written = client.query_typed(WRITTEN, &[]).await?;
    let written = || {
        written
            .iter()
            .map(|row| (row.get::<_, &str>(0), row.get::<_, Option<i64>>(1)))
    };
    if written().filter_map(|(_, length)| length).sum::<i64>() > MOST {
        return Ok(DataHash::Unknown);
    }
    let sequences: Vec<&str> = written()
        .filter(|(_, length)| length.is_none())
        .map(|(name, _)| name)
        .collect();
    let tables = written()
        .filter(|(_, length)| length.is_some())
        .map(|(name, _)| name);
    let (mut hash, mut is_nothing) = (Sha256::new(), true);
    let mut add = |name: &str, text: Option<&str>| {
        let Some(text) = text else { return };
        is_nothing = false;
        for text in [name, text] {
            hash.update((text.len() as u64).to_be_bytes());
            hash.update(text);
        }
    };
    for table in tables {
        // The name was quoted by the server. ONLY: what lies in children is theirs. A column may be
        // called as the table is here.
        let query = format!(
            "SELECT md5(string_agg(h, '' ORDER BY h)) FROM (SELECT md5(ROW(t.*)::text) h FROM ONLY \
             {table} t) rows"
        );
        let rows = client.query_typed(&query, &[]).await?;
        add(table, rows.first().and_then(|row| row.get(0)));
    }
    // A sequence that nobody asked or set says its start, and that it was not called.
    for sequences in sequences.chunks(AT_ONCE) {
        let one = |name: &&str| {
            format!(
                "SELECT q.tableoid::regclass::text, q.last_value, q.is_called FROM {name} q JOIN \
                 pg_catalog.pg_sequence s ON s.seqrelid = q.tableoid WHERE q.is_called OR \
                 q.last_value <> s.seqstart"
            )
        };
        let query = sequences
            .iter()
            .map(one)
            .collect::<Vec<_>>()
            .join(" UNION ALL ");
        for row in &client.query_typed(&query, &[]).await? {
            add(
                row.get(0),
                Some(&format!(
                    "{} {}",
                    row.get::<_, i64>(1),
                    row.get::<_, bool>(2)
                )),
            );
        }
    }
    let rows = client.query_typed(LARGE, &[]).await?;
    add("large objects", rows.first().and_then(|row| row.get(0)));
    Ok(if is_nothing {
        DataHash::Nothing
    } else {
        DataHash::Something(hash.finalize().into())
    })
}
