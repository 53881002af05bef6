//! Stores and reads the verdicts of rehearsals: the last one for each version of a migration's
//! scripts.

use std::time::Duration;

use diesel::{
    QueryableByName, sql_query,
    sql_types::{Array, Nullable, Text},
};
use diesel_async::RunQueryDsl as _;
use tokio_postgres::types::Type;

use super::{
    install,
    text::{self, held},
};
use crate::{
    failure::{Failure, Reason},
    migration::{Checksum, ScriptMode, Version},
    postgres::{DatabaseError, logins::Logins, pool::PooledReader, session::MigrationSession},
};

/// The longest that storing one verdict may take.
const WITHIN: Duration = Duration::from_secs(5);

/// A script's checksum and the mode that it runs in.
pub(crate) type ScriptIdentity = (Checksum, ScriptMode);

/// The scripts that a verdict is about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RehearsedScripts<'a> {
    /// The migration's version.
    pub version: &'a Version,
    /// The up script.
    pub up: ScriptIdentity,
    /// The down script, if there is one.
    pub down: Option<ScriptIdentity>,
}

/// Stores verdicts, on a session of its own.
pub(crate) struct VerdictRecorder {
    logins: Logins,
    principal: String,
    daemon: String,
    session: Option<MigrationSession>,
}

impl VerdictRecorder {
    /// Creates a recorder for the ledger of the database that `logins` lead to.
    pub(crate) fn new(logins: Logins, principal: &str, daemon: &str) -> Self {
        Self {
            logins,
            principal: principal.into(),
            daemon: daemon.into(),
            session: None,
        }
    }

    /// Stores one verdict. Opens a new session if the one before was lost.
    ///
    /// # Errors
    /// LEDGER_NOT_READY, the reason that the ledger cannot be used, or a database error.
    pub(crate) async fn keep(
        &mut self,
        of: RehearsedScripts<'_>,
        verdict: &str,
    ) -> Result<(), Failure> {
        let was_there = self.session.is_some();
        match self.try_keep(of, verdict).await {
            Err(_) if was_there => self.try_keep(of, verdict).await,
            kept => kept,
        }
    }

    async fn try_keep(&mut self, of: RehearsedScripts<'_>, verdict: &str) -> Result<(), Failure> {
        let session = self.session.take();
        let keeping = async {
            let session = match session {
                Some(session) => session,
                None => self.logins.open_ledger().await?,
            };
            self.insert(&session, of, verdict).await?;
            Ok::<_, Failure>(session)
        };
        let late = |_| Err(DatabaseError::Timeout(WITHIN).into());
        self.session = Some(
            tokio::time::timeout(WITHIN, keeping)
                .await
                .unwrap_or_else(late)?,
        );
        Ok(())
    }

    async fn insert(
        &self,
        session: &MigrationSession,
        of: RehearsedScripts<'_>,
        verdict: &str,
    ) -> Result<(), Failure> {
        if install::check(session).await? != install::LedgerState::Usable {
            let message = "the ledger is gone or of an older version; the next operation makes it";
            return Err(Failure::new(Reason::LedgerNotReady, message));
        }
        let (up, up_mode) = texts(Some(of.up));
        let (down, down_mode) = texts(of.down);
        let query = "INSERT INTO schemad.rehearsals (version, up_script, up_mode, down_script, \
            down_mode, verdict, principal, daemon) VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON \
            CONFLICT (version, up_script, up_mode, down_script, down_mode) DO UPDATE SET verdict = \
            excluded.verdict, principal = excluded.principal, daemon = excluded.daemon, \
            rehearsed_at = clock_timestamp()";
        let write = async |principal: &str| {
            let texts: [&str; 8] = [
                of.version.as_str(),
                &up,
                up_mode,
                &down,
                down_mode,
                verdict,
                principal,
                &self.daemon,
            ];
            let parameters: Vec<_> = texts.iter().map(|text| (text as _, Type::TEXT)).collect();
            session
                .ledger()
                .query_typed(query, &parameters)
                .await
                .map(drop)
                .map_err(DatabaseError::from)
        };
        Ok(held!(write(&self.principal), or write(&text::plain(&self.principal)))?)
    }
}

/// Returns the verdict for each of these pairs of scripts, in order. An element is `None` if
/// exactly these scripts were not rehearsed.
///
/// # Errors
/// Returns an error if the query fails or the connection is lost.
pub(crate) async fn verdicts(
    reader: &mut PooledReader,
    of: &[RehearsedScripts<'_>],
) -> Result<Vec<Option<String>>, DatabaseError> {
    #[derive(QueryableByName)]
    struct Found {
        #[diesel(sql_type = Nullable<Text>)]
        verdict: Option<String>,
    }
    let column =
        |text: &dyn Fn(&RehearsedScripts<'_>) -> String| of.iter().map(text).collect::<Vec<_>>();
    reader.begin().await?;
    let query = "SELECT r.verdict FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], \
        $5::text[]) WITH ORDINALITY w (version, up_script, up_mode, down_script, down_mode, n) \
        LEFT JOIN schemad.rehearsals r USING (version, up_script, up_mode, down_script, down_mode) \
        ORDER BY w.n";
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

fn texts(script: Option<ScriptIdentity>) -> (String, &'static str) {
    script.map_or_else(
        || (String::new(), ""),
        |(checksum, mode)| (checksum.to_string(), mode.as_str()),
    )
}
