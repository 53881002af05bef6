//! What a database has and a snapshot does not compare. It is counted, so that nobody takes silence
//! for sameness.

use crate::postgres::DatabaseError;
use crate::schema::query::CatalogQuery;

/// Counts everything.
pub(super) async fn count(ask: CatalogQuery<'_>) -> Result<Vec<String>, DatabaseError> {
    let counts = kinds().map(|(words, from)| format!("SELECT '{words}', count(*) FROM {from}"));
    let rows = ask.ask(&counts.join(" UNION ALL "), &[]).await?;
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
fn kinds() -> [(&'static str, &'static str); 4] {
    [
        (
            "user mapping (its options)|user mappings (their options)",
            "pg_user_mappings m WHERE m.srvid >= 16384",
        ),
        ("security label|security labels", "pg_seclabel"),
        // An internal trigger's name is an oid; pg_dump does not write down whether it is enabled.
        (
            "disabled trigger of a foreign key|disabled triggers of foreign keys",
            "pg_trigger t WHERE t.tgisinternal AND t.tgenabled <> 'O' AND t.tgname ~ \
             '^RI_ConstraintTrigger_'",
        ),
        (
            "subscription|subscriptions",
            "pg_subscription s WHERE s.subdbid = (SELECT d.oid FROM pg_database d WHERE d.datname \
             = current_database())",
        ),
    ]
}
