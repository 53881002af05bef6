//! Pieces that the queries share. The names are unqualified: the transaction's search_path is
//! pg_catalog alone.

/// The comment that [`comment_of`] joined.
pub(super) fn comment() -> &'static str {
    "note.description"
}

/// Joins the comment of the object `oid` of a catalog.
pub(super) fn comment_of(catalog: &str, oid: &str) -> String {
    format!(
        "LEFT JOIN pg_description note ON note.classoid = '{catalog}'::regclass AND note.objoid = \
         {oid} AND note.objsubid = 0"
    )
}

/// True for an object of a catalog that somebody made and that no extension owns.
pub(super) fn made(catalog: &str, oid: &str) -> String {
    format!(
        "{oid} >= 16384 AND {oid} NOT IN (SELECT e.objid FROM pg_depend e WHERE e.refclassid = \
         'pg_extension'::regclass AND e.classid = '{catalog}'::regclass AND e.deptype = 'e')"
    )
}

/// The same, in a schema that is compared; the schema is joined as `n`.
pub(super) fn made_in_schema(catalog: &str, oid: &str) -> String {
    format!("{} AND {}", made(catalog, oid), compared("n"))
}

/// True for a schema that is compared.
pub(super) fn compared(schema: &str) -> String {
    format!(
        "{schema}.nspname !~ '^pg_' AND {schema}.nspname <> 'information_schema' AND \
         {schema}.nspname <> ALL ($1)"
    )
}
