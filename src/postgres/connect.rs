//! From an address to a connection, and why there is none.

use std::time::Duration;

use tokio_postgres::{
    Client, Config, Socket,
    config::TargetSessionAttrs,
    error::{DbError, SqlState},
    tls::MakeTlsConnect,
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{
    DatabaseUrl,
    error::{DatabaseError, SqlError, chain},
};
use crate::postgres::connect_advice;
use crate::sql;

/// Longer than a slow TLS handshake over continents, shorter than anyone's patience; a URL's
/// connect_timeout overrides.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The half of a connection that a task has to drive.
pub(crate) type ConnectionDriver =
    tokio_postgres::Connection<Socket, <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream>;

/// A new connection.
pub struct NewConnection {
    /// The half that asks.
    pub client: Client,
    /// The half that a task has to drive.
    pub connection: ConnectionDriver,
    /// For cancelling what runs on it.
    pub tls: MakeRustlsConnect,
}

impl DatabaseUrl {
    /// Connects under `application_name`. The connection does nothing until the caller drives it.
    /// Of several hosts the one that takes writes is preferred, unless the URL chooses itself: a
    /// standby lags behind, and nothing can be migrated there.
    ///
    /// # Errors
    /// `Error::Connect` with every cause, for example the server's own "password authentication
    /// failed"; `Error::MissingRight` where the role may not connect.
    pub async fn connect(&self, application_name: &str) -> Result<NewConnection, DatabaseError> {
        if self.prefers_primary {
            let mut writing = self.config.clone();
            writing.target_session_attrs(TargetSessionAttrs::ReadWrite);
            if let Ok(connected) = self.connect_with(writing, application_name).await {
                return Ok(connected);
            }
        }
        self.connect_with(self.config.clone(), application_name)
            .await
    }

    async fn connect_with(
        &self,
        mut config: Config,
        application_name: &str,
    ) -> Result<NewConnection, DatabaseError> {
        config.application_name(application_name);
        // A dead peer is noticed after 30 s + 3 × 10 s instead of the kernel's two hours.
        config
            .keepalives_idle(Duration::from_secs(30))
            .keepalives_interval(Duration::from_secs(10))
            .keepalives_retries(3);
        let timeout = *config.get_connect_timeout().unwrap_or(&CONNECT_TIMEOUT);
        config.connect_timeout(timeout);
        let failed = |cause: String| DatabaseError::Connect {
            target: self.target.clone(),
            cause,
        };
        let tls = self.tls.connector().map_err(failed)?;
        // connect_timeout covers the TCP handshake of each address only; a stalled server accepts
        // and then says nothing.
        let addresses = u32::try_from(config.get_hosts().len().max(1)).unwrap_or(u32::MAX);
        match tokio::time::timeout(
            timeout.saturating_mul(addresses),
            config.connect(tls.clone()),
        )
        .await
        {
            Ok(Ok((client, connection))) => Ok(NewConnection {
                client,
                connection,
                tls,
            }),
            Ok(Err(error)) => Err(match error.as_db_error() {
                Some(db) if *db.code() == SqlState::INSUFFICIENT_PRIVILEGE => {
                    self.may_not_connect()
                }
                Some(db) if *db.code() == SqlState::INVALID_CATALOG_NAME => {
                    failed(self.names_no_database(db))
                }
                Some(db) if *db.code() == SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE => {
                    failed(self.is_closed(db))
                }
                Some(db) => failed(connect_advice::explained(
                    SqlError::from(db).to_string(),
                    Some(db.code()),
                    self.tls.mode,
                )),
                None => failed(connect_advice::explained(
                    chain(&error),
                    None,
                    self.tls.mode,
                )),
            }),
            Err(_) => Err(failed(format!(
                "no answer within {timeout:?}: check host and port, and whether a firewall is \
                 between"
            ))),
        }
    }

    /// 42501 while connecting has one cause (InitPostgres in postinit.c): the role has no CONNECT
    /// on the database.
    fn may_not_connect(&self) -> DatabaseError {
        DatabaseError::MissingRight {
            role: self.role(),
            right: format!("CONNECT ON DATABASE {}", self.quoted_database()),
        }
    }

    /// The server's words, and that nobody here makes the database.
    fn names_no_database(&self, error: &DbError) -> String {
        format!(
            "{}: schemad creates no database; CREATE DATABASE {}",
            SqlError::from(error),
            self.quoted_database()
        )
    }

    /// 55000 while connecting has one cause (CheckMyDatabase in postinit.c): the database accepts
    /// no sessions.
    fn is_closed(&self, error: &DbError) -> String {
        format!(
            "{}: ALTER DATABASE {} ALLOW_CONNECTIONS true",
            SqlError::from(error),
            self.quoted_database()
        )
    }

    /// As SQL names it.
    fn quoted_database(&self) -> String {
        sql::ident(self.database())
    }
}
