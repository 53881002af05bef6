//! The migration session: one direct connection, opened for one operation and closed after it, so
//! that nothing of one operation reaches the next. Only unnamed and simple queries run on it,
//! because DEALLOCATE ALL ends every step, unless it was told to keep its statements.

use std::{
    collections::BTreeMap,
    future::poll_fn,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::mpsc, task::JoinHandle};
use tokio_postgres::{
    AsyncMessage, CancelToken, Client, SimpleQueryMessage, SimpleQueryRow, types::Type,
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{
    DatabaseError, DatabaseUrl,
    connect::{ConnectionDriver, NewConnection},
    logins::LedgerSession,
};
use crate::sql;

/// Ends whatever a script left in the session, but for prepared statements. The order matters: the
/// session's user before its role, and the settings after both. Advisory locks are the business of
/// the step's second guard.
const RESET: &str = "RESET SESSION AUTHORIZATION;RESET ROLE;RESET ALL;CLOSE ALL;UNLISTEN *;DISCARD \
    TEMP;DISCARD SEQUENCES";

/// Ends all prepared statements.
const DEALLOCATE: &str = "DEALLOCATE ALL";

/// Ends those that scripts made, and no others.
const DEALLOCATE_OF_SCRIPTS: &str = "DO 'DECLARE s pg_catalog.text; BEGIN \
    FOR s IN SELECT name FROM pg_catalog.pg_prepared_statements WHERE from_sql LOOP \
    EXECUTE pg_catalog.format(''DEALLOCATE %I'', s); END LOOP; END' LANGUAGE plpgsql";

/// How many notices wait to be read: what a few noisy steps may say while the one before them is
/// still awaited.
const NOTICE_BUFFER: usize = 1000;

/// Notices reported for one step; a flood of them is nobody's help.
const NOTICES_PER_STEP: usize = 100;

/// Bytes of a notice that are kept: a hundred of them still fit into a message.
const NOTICE_BYTES: usize = 8 * 1024;

/// The SQLSTATE with which the first guard announces a step; the message is the step's id.
const STEP_BEGINS: &str = "SCH00";

/// The search_path of every statement that schemad itself sends. Functions, operators and types
/// that others create cannot resolve here: nobody but a superuser creates anything in pg_catalog,
/// and pg_temp is searched for tables and types only, last. The path that the URL, the role or the
/// database sets is in force only around a migration's text ([`CONFIGURED_PATH`]).
pub(crate) const OWN_PATH: &str = "SET search_path=pg_catalog,pg_temp";

/// Puts the search_path into force that the URL, the role, the database or the server sets.
pub(crate) const CONFIGURED_PATH: &str = "RESET search_path";

/// How long a statement of schemad's own waits for a lock: nobody waits for a locked ledger without
/// end, and no operation keeps the operation lock meanwhile. A step has a lock_timeout of its own,
/// which the first guard sets, and what needs none sets none.
pub(crate) const OWN_LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// The session's own settings, each said explicitly because a role, a database or the server may
/// have set it otherwise. UTC is what Diesel's connections use, and strings are read as
/// `sql/split.rs` reads them. A connection that is gone is noticed by the server within 2 s (14 and
/// later). The first is [`OWN_PATH`].
pub(crate) fn settings(server_major: u32) -> &'static str {
    macro_rules! since_13 {
        () => {
            "SET search_path=pg_catalog,pg_temp;SET standard_conforming_strings=on;SET \
             default_transaction_isolation='read committed';SET application_name='schemad';SET \
             TimeZone='UTC';SET quote_all_identifiers=off;SET statement_timeout=0;SET \
             lock_timeout='5s';SET idle_in_transaction_session_timeout=0;SET \
             tcp_keepalives_idle=30;SET tcp_keepalives_interval=10;SET tcp_keepalives_count=3"
        };
    }
    macro_rules! since_14 {
        () => {
            concat!(
                since_13!(),
                ";SET idle_session_timeout=0;SET client_connection_check_interval='2s'"
            )
        };
    }
    match server_major {
        ..14 => since_13!(),
        14..17 => since_14!(),
        17.. => concat!(since_14!(), ";SET transaction_timeout=0"),
    }
}

fn reset(deallocate: &str, server_major: u32, pins: &str) -> String {
    format!("{RESET};{deallocate};{}{pins}", settings(server_major))
}

/// Does what schemad itself has to do although a cancel that was meant for a statement before comes
/// late: a cancel names a session, not a statement. The work must be such that it can be done
/// again. (A macro, because a closure that borrows what it awaits is not known to be Send.)
macro_rules! insist {
    ($work:expr) => {{
        let mut tries = 5;
        loop {
            tries -= 1;
            match $work.await.map_err($crate::postgres::DatabaseError::from) {
                Err($crate::postgres::DatabaseError::Sql(error))
                    if tries > 0
                        && error.is(&::tokio_postgres::error::SqlState::QUERY_CANCELED) => {}
                done => break done,
            }
        }
    }};
}
pub(crate) use insist;

/// How many messages of a step were left out.
type OmittedNotices = Arc<Mutex<BTreeMap<Option<i64>, u64>>>;

/// Something the server said beside the result.
#[derive(Clone, Debug, Default)]
pub struct ServerNotice {
    /// The step that ran, as the first guard announced it.
    pub step: Option<i64>,
    /// NOTICE, WARNING, INFO and so on.
    pub severity: String,
    /// The message.
    pub message: String,
    /// The server's DETAIL; empty without one.
    pub detail: String,
    /// The server's HINT; empty without one.
    pub hint: String,
}

/// A session for changing the schema. Dropping it closes the connection, also when an answer is
/// still awaited, which ends its transaction and its locks.
pub struct MigrationSession {
    client: Client,
    tls: MakeRustlsConnect,
    notices: mpsc::Receiver<ServerNotice>,
    left_out: OmittedNotices,
    server_major: u32,
    /// Ends prepared statements, all of them or those of scripts.
    deallocate: &'static str,
    /// What the guards compare, as SET statements; empty until [`MigrationSession::pin`].
    pins: String,
    pinned_table: Option<String>,
    reset: String,
    /// Another login's session, which writes the ledger.
    keeper: Option<Box<LedgerSession>>,
    driver: JoinHandle<()>,
}

/// Cancels what a session runs.
pub struct QueryCanceller {
    token: CancelToken,
    tls: MakeRustlsConnect,
}

impl QueryCanceller {
    /// Asks the server, on a connection of its own, to cancel what runs. That nothing may run then
    /// is no mistake, and a server that is gone shows in the answer that is awaited.
    pub async fn cancel(&self) {
        let _ = self.token.cancel_query(self.tls.clone()).await;
    }
}

impl Drop for MigrationSession {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl MigrationSession {
    /// Connects and makes the settings.
    ///
    /// # Errors
    /// [`DatabaseError::Connect`], [`DatabaseError::ServerTooOld`], or what the server says to the
    /// settings.
    pub async fn open(url: &DatabaseUrl) -> Result<Self, DatabaseError> {
        let NewConnection {
            client,
            connection,
            tls,
        } = url.connect("schemad").await?;
        let version = connection
            .parameter("server_version")
            .unwrap_or_default()
            .to_owned();
        let server_major = major(&version);
        if server_major < 13 {
            return Err(DatabaseError::ServerTooOld(version));
        }
        let (sender, notices) = mpsc::channel(NOTICE_BUFFER);
        let left_out = OmittedNotices::default();
        let driver = tokio::spawn(drive(connection, sender, left_out.clone()));
        let (deallocate, pins) = (DEALLOCATE, String::new());
        let reset = reset(deallocate, server_major, &pins);
        let (pinned_table, keeper) = (None, None);
        let session = Self {
            client,
            tls,
            notices,
            left_out,
            server_major,
            deallocate,
            pins,
            pinned_table,
            reset,
            keeper,
            driver,
        };
        session.client.batch_execute(settings(server_major)).await?;
        Ok(session)
    }

    /// The connection.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The session that writes the ledger: this one, or another login's beside it.
    pub fn ledger_session(&self) -> &Self {
        self.keeper.as_ref().map_or(self, |keeper| &keeper.session)
    }

    /// The connection that writes the ledger.
    pub fn ledger(&self) -> &Client {
        self.ledger_session().client()
    }

    /// The other login's session that writes the ledger. `None`: this session writes it itself.
    pub fn keeper(&self) -> Option<&LedgerSession> {
        self.keeper.as_deref()
    }

    pub(super) fn with_keeper(mut self, keeper: LedgerSession) -> Self {
        self.keeper = Some(Box::new(keeper));
        self
    }

    /// Keeps the session that writes the ledger, and closes another.
    pub fn into_ledger_session(mut self) -> Self {
        match self.keeper.take() {
            Some(keeper) => keeper.session,
            None => self,
        }
    }

    /// Cancels what runs here, from beside it.
    pub fn canceller(&self) -> QueryCanceller {
        QueryCanceller {
            token: self.client.cancel_token(),
            tls: self.tls.clone(),
        }
    }

    /// Proves that the session may take `role`, and is itself again afterwards; says so in
    /// `schemad.role`, as [`MigrationSession::pin`] does.
    ///
    /// # Errors
    /// [`DatabaseError::Role`] with the server's words, or the session's loss.
    pub async fn may_become(&self, role: &str) -> Result<(), DatabaseError> {
        let taken = self
            .client
            .query_typed(
                "SELECT pg_catalog.set_config('role', $1, false)",
                &[(&role, Type::TEXT)],
            )
            .await;
        match taken.map_err(DatabaseError::from) {
            Ok(_) => {}
            Err(DatabaseError::Sql(error)) => {
                let found = "SELECT format('GRANT %I TO %I', rolname, session_user) FROM pg_roles \
                    WHERE rolname = $1";
                let rows = self
                    .client
                    .query_typed(found, &[(&role, Type::TEXT)])
                    .await?;
                let grant = rows.first().map(|row| row.get(0));
                return Err(DatabaseError::Role {
                    role: role.into(),
                    cause: error.message.clone(),
                    grant,
                });
            }
            Err(lost) => return Err(lost),
        }
        // Its name is for those who look whose code could run here (`ledger/install.rs`), until the
        // session is reset.
        let says = format!("SET schemad.role={}", sql::literal(role));
        self.client
            .batch_execute(&format!("RESET ROLE;{says}"))
            .await?;
        match &self.keeper {
            Some(keeper) => Ok(keeper.session.client.batch_execute(&says).await?),
            None => Ok(()),
        }
    }

    /// Returns the only row of `query`, asked while the configured search_path is in force. This is
    /// for what depends on that path: which table an unqualified name means, and where one is
    /// created. The query has to be immune against the path: it qualifies every function and type,
    /// and uses no operator. One message, and so one transaction: an error leaves the session's own
    /// path.
    ///
    /// # Errors
    /// The database's, or its loss.
    pub async fn in_configured_path(
        &self,
        query: &'static str,
    ) -> Result<SimpleQueryRow, DatabaseError> {
        let answer = self
            .client
            .simple_query(&format!("{CONFIGURED_PATH};{query};{OWN_PATH}"))
            .await?;
        let row = answer.into_iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        row.ok_or_else(|| DatabaseError::Lost("the server returned no row".into()))
    }

    /// Returns the schema in which a script creates what it does not qualify: the first one that
    /// there is on the configured search_path, for `role` where migrations run as one. `None` where
    /// there is none.
    ///
    /// # Errors
    /// The database's, or its loss.
    pub async fn first_schema(&self, role: Option<&str>) -> Result<Option<String>, DatabaseError> {
        let (become_it, back) = match role {
            Some(role) => (format!("SET ROLE {};", sql::ident(role)), ";RESET ROLE"),
            None => (String::new(), ""),
        };
        let query = format!(
            "{become_it}{CONFIGURED_PATH};SELECT pg_catalog.current_schema();{OWN_PATH}{back}"
        );
        let answer = self.client.simple_query(&query).await?;
        Ok(answer.into_iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        }))
    }

    /// From now on the statements that were prepared through the connection outlive scripts, which
    /// does not hold for those that a script ends itself.
    pub fn keep_statements(&mut self) {
        self.deallocate = DEALLOCATE_OF_SCRIPTS;
        self.reset = reset(self.deallocate, self.server_major, &self.pins);
    }

    /// Says for the guards, now and again after every reset, as whom steps run and where Diesel's
    /// table is. They refuse a step whose row in the ledger says something else: others may be able
    /// to write the ledger, and what runs as whom is the daemon's to say.
    ///
    /// # Errors
    /// The database's, or its loss.
    pub async fn pin(
        &mut self,
        role: Option<&str>,
        diesel_table: &str,
    ) -> Result<(), DatabaseError> {
        let (role, table) = (
            sql::literal(role.unwrap_or_default()),
            sql::literal(diesel_table),
        );
        self.pinned_table = Some(diesel_table.to_owned());
        self.pins = format!(";SET schemad.role={role};SET schemad.diesel_table={table}");
        self.reset = reset(self.deallocate, self.server_major, &self.pins);
        Ok(self.client.batch_execute(&self.pins).await?)
    }

    /// Whether [`MigrationSession::pin`] was called.
    pub fn is_pinned(&self) -> bool {
        self.pinned_table.is_some()
    }

    /// Where Diesel's table is, as [`MigrationSession::pin`] said, for who may lock it: where
    /// another login keeps the ledger, this one has no right on it.
    pub fn table_to_lock(&self) -> Option<&str> {
        self.pinned_table
            .as_deref()
            .filter(|_| self.keeper.is_none())
    }

    /// What ends whatever a script left in the session, and makes the settings again. It can run in
    /// a transaction.
    pub fn reset_sql(&self) -> &str {
        &self.reset
    }

    /// The server's major version, 13 or later.
    pub fn server_major(&self) -> u32 {
        self.server_major
    }

    /// Lets a cancel arrive that is under way and has nothing to cancel any more, so that it does
    /// not meet what comes next.
    pub async fn await_cancel(&self) {
        let _ = self
            .client
            .batch_execute("SELECT pg_catalog.pg_sleep(0.2)")
            .await;
    }

    /// The next notice. Dropping the future loses none.
    pub async fn next_notice(&mut self) -> ServerNotice {
        match self.notices.recv().await {
            Some(notice) => notice,
            // The connection is gone, which shows in the answer that is awaited.
            None => std::future::pending().await,
        }
    }

    /// The notices that have arrived.
    pub fn take_notices(&mut self) -> Vec<ServerNotice> {
        std::iter::from_fn(|| self.notices.try_recv().ok()).collect()
    }

    /// That more was said while `step` ran than is passed on, if it was. To be asked when the
    /// step's answer is through.
    pub fn take_left_out(&mut self, step: i64) -> Option<ServerNotice> {
        let mut left_out = self.left_out.lock().unwrap_or_else(PoisonError::into_inner);
        let count = left_out.remove(&Some(step))?;
        let message = format!(
            "{count} more messages are left out: of what a step, or a part of one, says, the first \
             {NOTICES_PER_STEP} are passed on"
        );
        Some(ServerNotice {
            step: Some(step),
            severity: "NOTICE".into(),
            message,
            ..ServerNotice::default()
        })
    }

    /// Ends the transaction and whatever else a failed step left, and makes the settings again.
    ///
    /// # Errors
    /// The database's, or its loss.
    pub async fn clean(&self) -> Result<(), DatabaseError> {
        insist!(self.client.batch_execute("ROLLBACK"))?;
        self.reset().await
    }

    /// Ends whatever a statement outside a transaction left, and makes the settings again.
    ///
    /// # Errors
    /// The database's, or its loss.
    pub async fn reset(&self) -> Result<(), DatabaseError> {
        insist!(self.client.batch_execute(&self.reset))
    }
}

/// Carries the connection until it ends; its end shows in the client's next call. Steps are sent
/// ahead, so which one a notice belongs to only the order on the wire tells: the first guard
/// announces each step with an INFO of its own SQLSTATE.
async fn drive(
    mut connection: ConnectionDriver,
    notices: mpsc::Sender<ServerNotice>,
    left_out: OmittedNotices,
) {
    let (mut step, mut room) = (None, NOTICES_PER_STEP);
    while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
        let AsyncMessage::Notice(notice) = message else {
            continue;
        };
        if notice.code().code() == STEP_BEGINS {
            (step, room) = (notice.message().parse().ok(), NOTICES_PER_STEP);
            continue;
        }
        let kept = |text: &str| text[..text.floor_char_boundary(NOTICE_BYTES)].to_owned();
        let notice = || ServerNotice {
            step,
            severity: notice.severity().into(),
            message: kept(notice.message()),
            detail: notice.detail().map(kept).unwrap_or_default(),
            hint: notice.hint().map(kept).unwrap_or_default(),
        };
        // A full channel drops it. Who watches a migration never slows it.
        if room == 0 || notices.try_send(notice()).is_err() {
            *left_out
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .entry(step)
                .or_default() += 1;
        }
        room = room.saturating_sub(1);
    }
}

/// "15.18 (Debian 15.18-0+deb12u1)" is 15; "18beta1" is 18.
fn major(version: &str) -> u32 {
    let digits = version
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(version.len());
    version[..digits].parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::SqlError;

    #[tokio::test]
    async fn a_late_cancel_does_not_keep_from_what_has_to_be_done() {
        let cancelled = || {
            DatabaseError::from(SqlError {
                sqlstate: "57014".into(),
                ..SqlError::default()
            })
        };
        for (cancels, done) in [(0, true), (4, true), (5, false)] {
            let mut left = cancels;
            let mut work = async || {
                left -= 1;
                if left >= 0 { Err(cancelled()) } else { Ok(()) }
            };
            assert_eq!(insist!(work()).is_ok(), done, "{cancels}");
        }
    }

    #[test]
    fn server_versions_are_read() {
        for (text, expected) in [
            ("15.18 (Debian 15.18-0+deb12u1)", 15),
            ("18beta1", 18),
            ("9.6.24", 9),
            ("", 0),
        ] {
            assert_eq!(major(text), expected);
        }
    }

    #[test]
    fn what_ends_a_scripts_traces_reads_as_designed() {
        insta::assert_snapshot!(reset(DEALLOCATE, 17, ""));
    }

    #[test]
    fn statements_of_schemads_own_wait_for_locks_as_long_as_is_said() {
        let seconds = OWN_LOCK_TIMEOUT.as_secs();
        assert!(
            [13, 14, 17]
                .iter()
                .all(|major| settings(*major).contains(&format!(
                    ";SET \
                lock_timeout='{seconds}s';"
                )))
        );
    }

    #[test]
    fn settings_that_a_server_does_not_know_are_left_out() {
        assert!(!settings(13).contains("idle_session_timeout"));
        assert!(
            settings(14).contains("idle_session_timeout")
                && !settings(16).contains("transaction_timeout=0;SET")
        );
        assert!(settings(17).ends_with("SET transaction_timeout=0"));
    }
}
