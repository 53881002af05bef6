//! What the catalog says of a statement that runs outside a transaction: whether an earlier try
//! took effect, and what it left half done.

use tokio_postgres::{
    Client,
    types::{ToSql, Type},
};

use super::journaled::CurrentPart;
use crate::{
    postgres::{DatabaseError, lock::LockedSession},
    sql::NonTransactional,
};

/// What was found.
#[derive(Default)]
pub(super) struct CatalogEvidence {
    /// The index is there and valid, or gone; the partition is none any more. What is not found by
    /// its name proves nothing.
    pub took_effect: bool,
    /// Invalid indexes that an earlier try left, as the server quotes them.
    pub invalid: Vec<String>,
    /// Indexes that an earlier try began to drop, as the server quotes them.
    pub half_dropped: Vec<String>,
    /// What is to run instead of the statement, because an earlier try did half of it.
    pub instead: Option<String>,
    /// The indexes before the first try, of the table or (for REINDEX) all invalid ones; the
    /// database or tablespace.
    pub before: Option<Vec<u32>>,
}

impl CatalogEvidence {
    /// A try left nothing that another would have to know of.
    pub(super) fn is_nothing(&self) -> bool {
        !self.took_effect
            && self.invalid.is_empty()
            && self.half_dropped.is_empty()
            && self.instead.is_none()
    }
}

/// The indexes of the table $1 that a try of this statement made: valid ones that were not there
/// before, under its name if it has one; invalid ones under its name, or without one that were not
/// there before, unless somebody is building them just now.
const MADE: &str = "SELECT c.oid::regclass::text, i.indisvalid FROM pg_catalog.pg_index i JOIN \
    pg_catalog.pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = $1 AND ($2::text IS NULL OR \
    c.relname = (pg_catalog.parse_ident($2))[1]::name) AND (NOT c.oid = ANY ($3::oid[]) OR \
    $2::text IS NOT NULL AND NOT i.indisvalid) AND NOT EXISTS (SELECT FROM \
    pg_catalog.pg_stat_progress_create_index p WHERE p.index_relid = c.oid)";

/// The copies that a failed REINDEX CONCURRENTLY leaves, told by their names, invalidity and
/// novelty.
const COPIES: &str = "SELECT c.oid::regclass::text FROM pg_catalog.pg_index i JOIN \
    pg_catalog.pg_class c ON c.oid = i.indexrelid WHERE NOT i.indisvalid AND NOT c.oid = ANY \
    ($1::oid[]) AND c.relname::text ~ '_cc(new|old)[0-9]*$' AND NOT EXISTS (SELECT FROM \
    pg_catalog.pg_stat_progress_create_index p WHERE p.index_relid = c.oid)";

/// Whether the table $1 and the partition $2 are there, and whether the one is a partition of the
/// other, perhaps half detached.
const PARTITION: &str = "SELECT $1 IS NOT NULL AND $2 IS NOT NULL, (SELECT h.inhdetachpending FROM \
    pg_catalog.pg_inherits h WHERE h.inhparent = $1 AND h.inhrelid = $2)";

/// The invalid index that has the name $1 in the schema of the table $2.
const INVALID: &str = "SELECT c.oid::regclass::text FROM pg_catalog.pg_class c \
    JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid AND NOT i.indisvalid \
    JOIN pg_catalog.pg_class t ON t.relnamespace = c.relnamespace AND t.oid = $2 \
    WHERE c.relname = (pg_catalog.parse_ident($1))[1]::name";

/// The database, or the tablespace, with the name $1 as it is written.
const DATABASE: &str = "SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = \
    (pg_catalog.parse_ident($1))[1]::name";
const TABLESPACE: &str = "SELECT t.oid FROM pg_catalog.pg_tablespace t WHERE t.spcname = \
    (pg_catalog.parse_ident($1))[1]::name";

/// The indexes before the first try, if there was one.
pub(super) async fn recorded(
    session: &LockedSession,
    part: &CurrentPart<'_>,
) -> Result<Option<Vec<u32>>, DatabaseError> {
    let before = "SELECT indexes_before FROM schemad.statements WHERE step = $1 AND ordinal = $2";
    let rows = session
        .ledger()
        .query_typed(
            before,
            &[(&part.step.id, Type::INT8), (&part.ordinal(), Type::INT4)],
        )
        .await?;
    Ok(rows.first().and_then(|row| row.get(0)))
}

/// The relations that a statement names, as the file's search_path finds them. `None`: there is
/// none of that name.
#[derive(Clone, Copy, Default)]
pub(super) struct NamedRelations {
    /// The table, or of DROP INDEX the index.
    relation: Option<u32>,
    /// Of DETACH PARTITION the partition.
    partition: Option<u32>,
}

/// Looks the statement's names up, with the file's own settings in force. The query is immune
/// against that search_path: the one function and the types are qualified, and there is no
/// operator.
pub(super) async fn named(
    session: &LockedSession,
    what: NonTransactional<'_>,
) -> Result<NamedRelations, DatabaseError> {
    let (relation, partition) = match what {
        NonTransactional::DropIndex { index } => (index, None),
        NonTransactional::CreateIndex { table, .. } => (table, None),
        NonTransactional::Detach { table, partition } => (table, Some(partition)),
        _ => return Ok(NamedRelations::default()),
    };
    let query = "SELECT pg_catalog.to_regclass($1)::pg_catalog.oid, \
        pg_catalog.to_regclass($2)::pg_catalog.oid";
    let names: &[_] = &[(&relation as _, Type::TEXT), (&partition as _, Type::TEXT)];
    let rows = session.client().query_typed(query, names).await?;
    Ok(rows
        .first()
        .map_or_else(NamedRelations::default, |row| NamedRelations {
            relation: row.get(0),
            partition: row.get(1),
        }))
}

/// Looks at what `named` found, in the session's own settings.
pub(super) async fn find(
    session: &LockedSession,
    what: NonTransactional<'_>,
    named: &NamedRelations,
    before: Option<Vec<u32>>,
) -> Result<CatalogEvidence, DatabaseError> {
    let client = session.client();
    match what {
        NonTransactional::DropIndex { .. } => {
            // By its oid: after a crash, another index may have the name.
            let before = before.unwrap_or_else(|| named.relation.into_iter().collect());
            let there = "SELECT i.indexrelid::regclass::text, i.indisvalid FROM \
                pg_catalog.pg_index i WHERE i.indexrelid = ANY ($1)";
            let there = client
                .query_typed(there, &[(&before, Type::OID_ARRAY)])
                .await?;
            Ok(CatalogEvidence {
                took_effect: !before.is_empty() && there.is_empty(),
                half_dropped: there
                    .iter()
                    .filter(|row| !row.get::<_, bool>(1))
                    .map(|row| row.get(0))
                    .collect(),
                before: Some(before),
                ..CatalogEvidence::default()
            })
        }
        NonTransactional::CreateIndex { index, .. } => {
            let now = "SELECT i.indexrelid FROM pg_catalog.pg_index i WHERE i.indrelid = $1";
            let before = known(client, before, now, &[(&named.relation, Type::OID)]).await?;
            let made = client
                .query_typed(
                    MADE,
                    &[
                        (&named.relation, Type::OID),
                        (&index, Type::TEXT),
                        (&before, Type::OID_ARRAY),
                    ],
                )
                .await?;
            Ok(CatalogEvidence {
                took_effect: made.iter().any(|row| row.get(1)),
                invalid: made
                    .iter()
                    .filter(|row| !row.get::<_, bool>(1))
                    .map(|row| row.get(0))
                    .collect(),
                before: Some(before),
                ..CatalogEvidence::default()
            })
        }
        NonTransactional::Reindex => {
            let now = "SELECT i.indexrelid FROM pg_catalog.pg_index i WHERE NOT i.indisvalid";
            let before = known(client, before, now, &[]).await?;
            let copies = client
                .query_typed(COPIES, &[(&before, Type::OID_ARRAY)])
                .await?;
            let invalid = copies.iter().map(|row| row.get(0)).collect();
            Ok(CatalogEvidence {
                invalid,
                before: Some(before),
                ..CatalogEvidence::default()
            })
        }
        NonTransactional::Detach { table, partition } if session.server_major() >= 14 => {
            let rows = client
                .query_typed(
                    PARTITION,
                    &[(&named.relation, Type::OID), (&named.partition, Type::OID)],
                )
                .await?;
            let (both_are_there, pending) = rows.first().map_or((false, None), |row| {
                (row.get(0), row.get::<_, Option<bool>>(1))
            });
            let instead = format!("ALTER TABLE {table} DETACH PARTITION {partition} FINALIZE");
            Ok(CatalogEvidence {
                took_effect: both_are_there && pending.is_none(),
                instead: (pending == Some(true)).then_some(instead),
                ..CatalogEvidence::default()
            })
        }
        NonTransactional::Shared {
            creates,
            is_tablespace,
            name,
        } => {
            let query = if is_tablespace { TABLESPACE } else { DATABASE };
            let now: Vec<u32> = known(client, None, query, &[(&name, Type::TEXT)]).await?;
            let before = before.unwrap_or_else(|| now.clone());
            let took_effect = if creates {
                now.iter().any(|oid| !before.contains(oid))
            } else {
                !now.iter().any(|oid| before.contains(oid))
            };
            Ok(CatalogEvidence {
                took_effect,
                before: Some(before),
                ..CatalogEvidence::default()
            })
        }
        NonTransactional::Detach { .. }
        | NonTransactional::ReadOnlyBlock
        | NonTransactional::Repeatable
        | NonTransactional::Unknown => Ok(CatalogEvidence::default()),
    }
}

/// The index with that name when it is invalid: IF NOT EXISTS keeps another table's, or one that
/// somebody builds just now.
pub(super) async fn invalid(
    session: &LockedSession,
    index: &str,
    table: &NamedRelations,
) -> Result<Option<String>, DatabaseError> {
    let rows = session
        .client()
        .query_typed(
            INVALID,
            &[(&index, Type::TEXT), (&table.relation, Type::OID)],
        )
        .await?;
    Ok(rows.first().map(|row| row.get(0)))
}

/// What was there before the first try: as recorded then, or as it is now.
async fn known(
    client: &Client,
    before: Option<Vec<u32>>,
    now: &str,
    parameters: &[(&(dyn ToSql + Sync), Type)],
) -> Result<Vec<u32>, DatabaseError> {
    if let Some(before) = before {
        return Ok(before);
    }
    let rows = client.query_typed(now, parameters).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
