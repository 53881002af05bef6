//! What rehearsals found: the last verdict for exactly these scripts.

use diesel::{
    QueryableByName, sql_query,
    sql_types::{Array, Nullable, Text},
};
use diesel_async::RunQueryDsl as _;
use tokio_postgres::{Client, types::Type};

use super::install;
use crate::{
    db::{Error, pool::Reader},
    failure::Failure,
    migration::{Checksum, Mode, Version},
};

/// A script's checksum and how it runs.
pub type Identity = (Checksum, Mode);

/// Exactly what was rehearsed.
#[derive(Clone, Copy, Debug)]
pub struct Scripts<'a> {
    /// The migration's version.
    pub version: &'a Version,
    /// Its up.
    pub up: Identity,
    /// Its down, where there is one.
    pub down: Option<Identity>,
}

/// Keeps a verdict. Does nothing where there is no ledger of this version, which the next operation makes.
///
/// # Errors
/// The database's, or its loss.
pub async fn record(
    client: &Client,
    of: Scripts<'_>,
    verdict: &str,
    principal: &str,
    daemon: &str,
) -> Result<(), Failure> {
    if install::check(client).await? != install::State::Usable {
        return Ok(());
    }
    let (up, up_mode) = texts(Some(of.up));
    let (down, down_mode) = texts(of.down);
    let query = "INSERT INTO schemad.rehearsals (version, up_script, up_mode, down_script, down_mode, verdict, principal, daemon) \
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (version, up_script, up_mode, down_script, down_mode) DO UPDATE \
        SET verdict = excluded.verdict, principal = excluded.principal, daemon = excluded.daemon, rehearsed_at = clock_timestamp()";
    let texts: [&str; 8] = [of.version.as_str(), &up, up_mode, &down, down_mode, verdict, principal, daemon];
    let parameters: Vec<_> = texts.iter().map(|text| (text as _, Type::TEXT)).collect();
    client.query_typed(query, &parameters).await.map_err(Error::from)?;
    Ok(())
}

/// The verdicts' words for exactly these scripts, in order; `None`: they were not rehearsed.
///
/// # Errors
/// The database's, or its loss.
pub async fn verdicts(reader: &mut Reader, of: &[Scripts<'_>]) -> Result<Vec<Option<String>>, Error> {
    #[derive(QueryableByName)]
    struct Found {
        #[diesel(sql_type = Nullable<Text>)]
        verdict: Option<String>,
    }
    let column = |text: &dyn Fn(&Scripts<'_>) -> String| of.iter().map(text).collect::<Vec<_>>();
    reader.begin().await?;
    let query = "SELECT r.verdict FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[]) \
        WITH ORDINALITY w (version, up_script, up_mode, down_script, down_mode, n) \
        LEFT JOIN schemad.rehearsals r USING (version, up_script, up_mode, down_script, down_mode) ORDER BY w.n";
    let result = sql_query(query)
        .bind::<Array<Text>, _>(column(&|of| of.version.to_string()))
        .bind::<Array<Text>, _>(column(&|of| texts(Some(of.up)).0))
        .bind::<Array<Text>, _>(column(&|of| texts(Some(of.up)).1.into()))
        .bind::<Array<Text>, _>(column(&|of| texts(of.down).0))
        .bind::<Array<Text>, _>(column(&|of| texts(of.down).1.into()))
        .load::<Found>(reader.conn())
        .await
        .map(|rows| rows.into_iter().map(|row| row.verdict).collect());
    reader.end(result).await
}

fn texts(script: Option<Identity>) -> (String, &'static str) {
    script.map_or_else(|| (String::new(), ""), |(checksum, mode)| (checksum.to_string(), mode.as_str()))
}
