//! What a database has and a snapshot does not compare. It is counted, so that nobody takes silence for sameness.

use tokio_postgres::{Client, types::Type};

use super::sql::made;
use crate::db::Error;

/// Counts everything; `left_out` are the schemas that are not compared.
pub(super) async fn count(client: &Client, left_out: &[String]) -> Result<Vec<String>, Error> {
    let counts = kinds().map(|(words, from)| format!("SELECT '{words}', count(*) FROM {from}"));
    let rows = client.query_typed(&counts.join(" UNION ALL "), &[(&left_out, Type::TEXT_ARRAY)]).await?;
    let mut found = Vec::new();
    for row in rows {
        let (words, count): (String, i64) = (row.try_get(0)?, row.try_get(1)?);
        match (count, words.split_once('|')) {
            (0, _) => {}
            (1, Some((one, _))) => found.push(format!("1 {one}")),
            (n, Some((_, many))) => found.push(format!("{n} {many}")),
            (n, None) => found.push(format!("{n} {words}")),
        }
    }
    Ok(found)
}

/// Words for one and for many, and where they lie.
fn kinds() -> [(&'static str, String); 16] {
    let of = |catalog: &str| format!("{catalog} o WHERE {}", made(catalog, "o.oid"));
    [
        ("cast|casts", of("pg_cast")),
        ("operator|operators", of("pg_operator")),
        ("operator family|operator families", of("pg_opfamily")),
        ("operator class|operator classes", of("pg_opclass")),
        ("collation|collations", of("pg_collation")),
        ("conversion|conversions", of("pg_conversion")),
        ("language|languages", of("pg_language")),
        ("transform|transforms", of("pg_transform")),
        ("access method|access methods", of("pg_am")),
        ("text search configuration|text search configurations", of("pg_ts_config")),
        ("text search dictionary|text search dictionaries", of("pg_ts_dict")),
        ("foreign data wrapper|foreign data wrappers", of("pg_foreign_data_wrapper")),
        ("foreign server|foreign servers", of("pg_foreign_server")),
        ("publication|publications", of("pg_publication")),
        ("security label|security labels", "pg_seclabel".into()),
        (
            "subscription|subscriptions",
            "pg_subscription s WHERE s.subdbid = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())".into(),
        ),
    ]
}
