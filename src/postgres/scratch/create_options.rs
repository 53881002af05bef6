//! What an empty database has to be made with to be like another: its encoding and locale decide
//! how text sorts, and so what constraints and indexes accept.

use tokio_postgres::Client;

use crate::postgres::DatabaseError;

/// The server quotes the values. What a version does not know it does not have: ICU locales came
/// with 15 and are in `datlocale` from 17 on.
const QUERY: &str = "SELECT format('TEMPLATE template0 ENCODING %L LC_COLLATE %L LC_CTYPE %L', \
        pg_encoding_to_char(d.encoding), d.datcollate, d.datctype) || CASE j->>'datlocprovider' \
        WHEN 'i' THEN format(' LOCALE_PROVIDER icu ICU_LOCALE %L', coalesce(j->>'datlocale', \
        j->>'daticulocale')) || coalesce(format(' ICU_RULES %L', j->>'daticurules'), '') WHEN 'b' \
        THEN format(' LOCALE_PROVIDER builtin BUILTIN_LOCALE %L', j->>'datlocale') WHEN 'c' THEN ' \
        LOCALE_PROVIDER libc' ELSE '' END FROM pg_database d, to_jsonb(d) j WHERE d.datname = \
        current_database()";

/// The options of CREATE DATABASE for an empty one like the database of `client`.
pub(super) async fn options(client: &Client) -> Result<String, DatabaseError> {
    let rows = client.query_typed(QUERY, &[]).await?;
    let row = rows
        .first()
        .ok_or_else(|| DatabaseError::Lost("the server sent no row".into()))?;
    Ok(row.try_get(0)?)
}
