//! How large tables are. It changes all the time and is no part of the schema, so no snapshot has
//! it.

use std::collections::HashMap;

use tokio_postgres::{Client, error::SqlState, types::Type};

use super::Relation;
use crate::postgres::DatabaseError;

/// How large a table or materialised view is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Size {
    /// Rows as the last VACUUM or ANALYZE estimated them. `None`: nobody has yet.
    pub rows: Option<i64>,
    /// With indexes and TOAST. `None`: somebody holds a lock that keeps it from being looked at.
    pub bytes: Option<i64>,
}

/// The sizes of those that there are: no bytes of what is locked. It takes a transaction, which is
/// rolled back.
///
/// Dropped before it returns, the connection is left in the transaction; close it.
///
/// # Errors
/// The database's, or its loss.
pub(crate) async fn sizes(
    client: &Client,
    of: &[Relation],
) -> Result<HashMap<Relation, Size>, DatabaseError> {
    let unlocked =
        format!("CASE WHEN c.oid NOT IN ({LOCKED}) THEN pg_total_relation_size(c.oid) END");
    match read(client, of, &unlocked).await {
        // Locked since.
        Err(DatabaseError::Sql(error)) if error.is(&SqlState::LOCK_NOT_AVAILABLE) => {
            read(client, of, "NULL::bigint").await
        }
        answer => answer,
    }
}

/// Tables that somebody holds a lock on, or waits for one, that keeps them from being opened; or on
/// their indexes or TOAST tables.
const LOCKED: &str = "SELECT unnest(array_remove(ARRAY[l.relation, i.indrelid, t.oid], NULL)) FROM \
    pg_locks l LEFT JOIN pg_index i ON i.indexrelid = l.relation LEFT JOIN pg_class t ON \
    t.reltoastrelid = coalesce(i.indrelid, l.relation) WHERE l.locktype = 'relation' AND l.mode = \
    'AccessExclusiveLock' AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = \
    current_database())";

async fn read(
    client: &Client,
    of: &[Relation],
    bytes: &str,
) -> Result<HashMap<Relation, Size>, DatabaseError> {
    // Before PostgreSQL 14, never looked at and empty were one.
    let query = format!(
        "SELECT n.nspname::text, c.relname::text, CASE WHEN c.reltuples >= 0 AND (c.relpages > 0 \
             OR c.reltuples > 0 OR current_setting('server_version_num')::int >= 140000) THEN \
             c.reltuples::bigint END, {bytes} FROM unnest($1, $2) w (schema, name) JOIN \
             pg_namespace n ON n.nspname = w.schema JOIN pg_class c ON c.relnamespace = n.oid AND \
             c.relname = w.name"
    );
    let schemas: Vec<&str> = of.iter().map(|relation| relation.schema.as_str()).collect();
    let names: Vec<&str> = of.iter().map(|relation| relation.name.as_str()).collect();
    client
        .batch_execute(
            "BEGIN READ ONLY; SET LOCAL lock_timeout = '500ms'; SET LOCAL statement_timeout = \
             '10s'; SET LOCAL search_path = pg_catalog, pg_temp",
        )
        .await?;
    let rows = client
        .query_typed(
            &query,
            &[(&schemas, Type::TEXT_ARRAY), (&names, Type::TEXT_ARRAY)],
        )
        .await;
    client.batch_execute("ROLLBACK").await?;
    let mut sizes = HashMap::new();
    for row in rows? {
        let relation = Relation {
            schema: row.try_get(0)?,
            name: row.try_get(1)?,
        };
        sizes.insert(
            relation,
            Size {
                rows: row.try_get(2)?,
                bytes: row.try_get(3)?,
            },
        );
    }
    Ok(sizes)
}
