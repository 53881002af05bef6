//! What rehearsals found: the last verdict for exactly these scripts.

use std::time::Duration;

use diesel::{
    QueryableByName, sql_query,
    sql_types::{Array, Nullable, Text},
};
use diesel_async::RunQueryDsl as _;
use tokio_postgres::types::Type;

use super::install;
use crate::{
    db::{
        DatabaseUrl, Error,
        lock::{Attempt, LockedSession},
        pool::Reader,
        session::Session,
    },
    failure::{Failure, Reason},
    migration::{Checksum, Mode, Version},
};

/// How often, and after what pause, an operation is looked for to have made the ledger.
const LOOKS: u32 = 50;
const PAUSE: Duration = Duration::from_millis(200);

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

/// Keeps verdicts, on a session of its own.
pub struct Keeper {
    url: DatabaseUrl,
    principal: String,
    daemon: String,
    session: Option<Session>,
}

impl Keeper {
    /// In the ledger of that database.
    pub fn new(url: DatabaseUrl, principal: &str, daemon: &str) -> Self {
        Self { url, principal: principal.into(), daemon: daemon.into(), session: None }
    }

    /// Keeps one. Makes the ledger where there is none, or none of this version.
    ///
    /// # Errors
    /// What making the ledger fails with, BUSY when an operation keeps it from being made, the database's, or its loss.
    pub async fn keep(&mut self, of: Scripts<'_>, verdict: &str) -> Result<(), Failure> {
        let session = match self.session.take() {
            Some(session) => session,
            None => with_ledger(Session::open(&self.url).await?).await?,
        };
        let (up, up_mode) = texts(Some(of.up));
        let (down, down_mode) = texts(of.down);
        let query = "INSERT INTO schemad.rehearsals (version, up_script, up_mode, down_script, down_mode, verdict, principal, daemon) \
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (version, up_script, up_mode, down_script, down_mode) DO UPDATE \
            SET verdict = excluded.verdict, principal = excluded.principal, daemon = excluded.daemon, rehearsed_at = clock_timestamp()";
        let texts: [&str; 8] =
            [of.version.as_str(), &up, up_mode, &down, down_mode, verdict, &self.principal, &self.daemon];
        let parameters: Vec<_> = texts.iter().map(|text| (text as _, Type::TEXT)).collect();
        session.client().query_typed(query, &parameters).await.map_err(Error::from)?;
        self.session = Some(session);
        Ok(())
    }
}

/// Makes sure that there is a ledger. An operation that runs makes it first of all, so its end need not be waited for.
async fn with_ledger(mut session: Session) -> Result<Session, Failure> {
    for _ in 0..LOOKS {
        if install::check(session.client()).await? == install::State::Usable {
            return Ok(session);
        }
        session = match LockedSession::try_lock(session).await? {
            Attempt::Won(locked) => {
                install::ensure(&locked).await?;
                return Ok(locked.release().await?);
            }
            Attempt::Held(session) => session,
        };
        tokio::time::sleep(PAUSE).await;
    }
    Err(Failure::new(Reason::Busy, "there is no ledger yet, and an operation that runs keeps it from being made"))
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
