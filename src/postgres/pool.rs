//! The connections that read: diesel-async on a bb8 pool. diesel-async's own manager knows nothing
//! of how long a connection has been idle or whether the server closed it, so this one keeps both.

use std::{
    future::poll_fn,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use diesel_async::{AsyncPgConnection, SimpleAsyncConnection as _};

use tokio::task::JoinHandle;
use tokio_postgres::AsyncMessage;

use super::{DatabaseError, DatabaseUrl, SqlError, connect::NewConnection, error::sqlstate_of};

/// Connections are closed after this long without use; bb8 opens new ones up to the size that is
/// kept.
const IDLE: Duration = Duration::from_secs(5 * 60);

/// How the pool behaves.
#[derive(Clone, Debug)]
pub struct PoolSettings {
    /// Connections that are kept open.
    pub size: u32,
    /// Connections above `size` under load.
    pub overflow: u32,
    /// How long a read waits for a connection.
    pub timeout: Duration,
    /// A connection that was idle for longer is asked whether it still works before it is used.
    pub ping_after: Duration,
}

/// Whose ledger a connection reads: code of its owner could run with the reader's rights. It may
/// belong to a superuser, to the reader's role, to one that this is a member of, and where another
/// login runs migrations, to that or to one that that is a member of.
#[derive(Clone, Debug, Default)]
pub(crate) struct LedgerOwner(Option<Arc<str>>);

impl LedgerOwner {
    /// For a connection of the login at `reading`, where operations run as the login at
    /// `migrating`.
    pub(crate) fn of(reading: &DatabaseUrl, migrating: Option<&DatabaseUrl>) -> Self {
        Self(
            migrating
                .filter(|migrating| migrating.login() != reading.login())
                .map(|migrating| migrating.login().into()),
        )
    }

    /// The login that runs migrations, where it is another.
    pub(crate) fn other_login(&self) -> Option<&str> {
        self.0.as_deref()
    }
}

/// A connection that reads, and what is known about it.
pub(crate) struct PooledReader {
    conn: AsyncPgConnection,
    closed: Arc<AtomicBool>,
    /// A transaction was begun and not ended: its future was dropped, or the connection failed.
    dirty: bool,
    /// The settings of a reading transaction are the session's own.
    keeps_settings: bool,
    whose: LedgerOwner,
    /// The last message of SQLSTATE [`TOLD`].
    told: Arc<Mutex<Option<String>>>,
    last_used: Instant,
    driver: JoinHandle<()>,
}

/// The SQLSTATE with which a block of schemad's own tells its result, which it has no other way to
/// return.
pub(crate) const TOLD: &str = "SCH0F";

impl Drop for PooledReader {
    /// Closes the connection even when an answer is still awaited.
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl PooledReader {
    /// Connects.
    ///
    /// # Errors
    /// [`DatabaseError::Connect`] with the server's own words.
    pub(crate) async fn connect(
        url: &DatabaseUrl,
        application_name: &str,
        whose: LedgerOwner,
    ) -> Result<Self, DatabaseError> {
        let NewConnection {
            client,
            mut connection,
            ..
        } = url.connect(application_name).await?;
        let closed = Arc::new(AtomicBool::new(false));
        let told = Arc::<Mutex<Option<String>>>::default();
        let (flag, tells) = (closed.clone(), told.clone());
        let driver = tokio::spawn(async move {
            while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
                if let AsyncMessage::Notice(notice) = message
                    && notice.code().code() == TOLD
                {
                    *tells.lock().unwrap_or_else(PoisonError::into_inner) =
                        Some(notice.message().to_owned());
                }
            }
            flag.store(true, Ordering::Release);
        });
        // diesel-async prepares what it sets up. A transaction keeps that on one server connection,
        // whatever pooler is between.
        client.batch_execute("BEGIN").await?;
        let failed = |cause: String| DatabaseError::Connect {
            target: url.target().into(),
            cause,
        };
        let mut conn = AsyncPgConnection::try_from(client)
            .await
            .map_err(|e| failed(e.to_string()))?;
        conn.batch_execute("COMMIT")
            .await
            .map_err(|e| failed(e.to_string()))?;
        Ok(Self {
            conn,
            closed,
            dirty: false,
            keeps_settings: false,
            whose,
            told,
            last_used: Instant::now(),
            driver,
        })
    }

    /// Makes the settings of a reading transaction the session's own, so that a single statement
    /// needs no transaction. Only on a direct connection: through a transaction pooler they would
    /// reach others.
    ///
    /// # Errors
    /// The database's, or its loss.
    pub(crate) async fn keep_settings(&mut self) -> Result<(), DatabaseError> {
        let settings = "SET search_path=pg_catalog,pg_temp;SET quote_all_identifiers=off;SET \
                        lock_timeout='500ms';SET statement_timeout='10s';SET \
                        default_transaction_read_only=on";
        let kept = self.conn.batch_execute(settings).await;
        kept.map_err(|error| self.error(error))?;
        self.keeps_settings = true;
        Ok(())
    }

    /// Runs a block, in a reading transaction where the settings are not the session's own, and
    /// returns what it told.
    ///
    /// # Errors
    /// The database's, or its loss.
    pub(crate) async fn told_by(&mut self, block: &str) -> Result<Option<String>, DatabaseError> {
        self.take_told();
        let is_in_transaction = !self.keeps_settings;
        if is_in_transaction {
            self.begin().await?;
        }
        let done = self.conn.batch_execute(block).await;
        if is_in_transaction {
            self.end(done).await?
        } else {
            done.map_err(|error| self.error(error))?
        };
        Ok(self.take_told())
    }

    fn take_told(&self) -> Option<String> {
        self.told
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// Whose ledger it reads.
    pub(crate) fn whose(&self) -> &LedgerOwner {
        &self.whose
    }

    /// Begins a transaction that sees one state and cannot write. A lock held by a migration ends a
    /// read after 500 ms. Nothing that others create can resolve in it: its search_path is
    /// `pg_catalog, pg_temp`. All is set for the transaction alone, because the connection may go
    /// through a transaction pooler.
    ///
    /// Dropped before [`Self::end`], the connection is not used again.
    ///
    /// # Errors
    /// [`DatabaseError::Lost`]: the connection does not work any more.
    pub(crate) async fn begin(&mut self) -> Result<(), DatabaseError> {
        self.dirty = true;
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;SET LOCAL \
                     search_path=pg_catalog,pg_temp;SET LOCAL quote_all_identifiers=off;SET LOCAL \
                     lock_timeout='500ms';SET LOCAL statement_timeout='10s'";
        // On a connection that works this cannot be refused; what comes back here is why the server
        // has closed it.
        self.conn
            .batch_execute(begin)
            .await
            .map_err(|e| DatabaseError::Lost(e.to_string()))
    }

    /// Ends the transaction and passes the result on.
    ///
    /// # Errors
    /// The result's own error, or that of ending.
    pub(crate) async fn end<T>(
        &mut self,
        result: diesel::QueryResult<T>,
    ) -> Result<T, DatabaseError> {
        let ended = self.conn.batch_execute("ROLLBACK").await;
        self.dirty = ended.is_err();
        let value = result.map_err(|e| self.error(e))?;
        ended.map_err(|e| self.error(e))?;
        Ok(value)
    }

    /// Converts diesel's error, which has no SQLSTATE; some are told from the message.
    pub(crate) fn error(&self, error: diesel::result::Error) -> DatabaseError {
        match error {
            _ if self.is_closed() => DatabaseError::Lost(error.to_string()),
            diesel::result::Error::DatabaseError(
                diesel::result::DatabaseErrorKind::ClosedConnection,
                info,
            ) => DatabaseError::Lost(info.message().into()),
            diesel::result::Error::DatabaseError(_, info) => SqlError {
                sqlstate: sqlstate_of(info.message()).into(),
                message: info.message().into(),
                detail: info.details().map(Into::into),
                hint: info.hint().map(Into::into),
                ..SqlError::default()
            }
            .into(),
            other => DatabaseError::Lost(other.to_string()),
        }
    }

    /// The connection.
    pub(crate) fn conn(&mut self) -> &mut AsyncPgConnection {
        &mut self.conn
    }

    /// True for a connection that answers no more: the server ended it, or a transaction on it did
    /// not end.
    pub(crate) fn is_broken(&self) -> bool {
        self.is_closed() || self.dirty
    }

    /// True once the server has ended the connection.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }
}

/// A pool of readers.
#[derive(Clone)]
pub(crate) struct ReadPool {
    pool: bb8::Pool<ConnectionManager>,
    timeout: Duration,
    last_failure: LastFailure,
}

impl ReadPool {
    /// A pool that connects in the background; nothing is awaited and no database needs to be there
    /// yet.
    pub(crate) fn new(url: DatabaseUrl, whose: LedgerOwner, settings: &PoolSettings) -> Self {
        let last_failure = LastFailure::default();
        let pool = bb8::Pool::builder()
            .max_size(settings.size.saturating_add(settings.overflow))
            .min_idle(settings.size)
            .idle_timeout(IDLE)
            .connection_timeout(settings.timeout)
            .queue_strategy(bb8::QueueStrategy::Lifo)
            .error_sink(Box::new(last_failure.clone()))
            .build_unchecked(ConnectionManager {
                url,
                whose,
                ping_after: settings.ping_after,
            });
        Self {
            pool,
            timeout: settings.timeout,
            last_failure,
        }
    }

    /// A connection, waiting for at most the pool's timeout.
    ///
    /// # Errors
    /// [`DatabaseError::PoolExhausted`], or the error that kept the pool from connecting (bb8
    /// itself says only "timed out").
    pub(crate) async fn get(
        &self,
    ) -> Result<bb8::PooledConnection<'_, ConnectionManager>, DatabaseError> {
        let asked = Instant::now();
        self.pool.get().await.map_err(|error| match error {
            bb8::RunError::User(error) => error,
            bb8::RunError::TimedOut => {
                self.last_failure
                    .since(asked)
                    .unwrap_or_else(|| DatabaseError::PoolExhausted {
                        size: self.max_size(),
                        waited: self.timeout,
                    })
            }
        })
    }

    /// The most connections it will open.
    pub(crate) fn max_size(&self) -> u32 {
        self.pool.config().max_size
    }

    /// Connections open and connections idle.
    pub(crate) fn state(&self) -> (u32, u32) {
        let state = self.pool.state();
        (state.connections, state.idle_connections)
    }
}

/// Opens and checks connections for bb8.
#[derive(Debug)]
pub(crate) struct ConnectionManager {
    url: DatabaseUrl,
    whose: LedgerOwner,
    ping_after: Duration,
}

impl bb8::ManageConnection for ConnectionManager {
    type Connection = PooledReader;
    type Error = DatabaseError;

    async fn connect(&self) -> Result<PooledReader, DatabaseError> {
        PooledReader::connect(&self.url, "schemad reader", self.whose.clone()).await
    }

    async fn is_valid(&self, reader: &mut PooledReader) -> Result<(), DatabaseError> {
        if reader.is_closed() {
            return Err(DatabaseError::Lost(
                "the server closed it while it was idle".into(),
            ));
        }
        if reader.last_used.elapsed() >= self.ping_after {
            reader
                .conn
                .batch_execute("SELECT 1")
                .await
                .map_err(|e| DatabaseError::Lost(e.to_string()))?;
        }
        Ok(())
    }

    /// Called when a connection comes back, which makes it the place to note when it was last used.
    fn has_broken(&self, reader: &mut PooledReader) -> bool {
        reader.last_used = Instant::now();
        reader.is_broken()
    }
}

/// The last error that kept the pool from connecting, which bb8 tells to this sink only.
#[derive(Clone, Debug, Default)]
struct LastFailure(Arc<Mutex<Option<(Instant, DatabaseError)>>>);

impl LastFailure {
    fn since(&self, start: Instant) -> Option<DatabaseError> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref()
            .filter(|(at, _)| *at >= start)
            .map(|(_, error)| error.clone())
    }
}

impl bb8::ErrorSink<DatabaseError> for LastFailure {
    fn sink(&self, error: DatabaseError) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), error));
    }

    fn boxed_clone(&self) -> Box<dyn bb8::ErrorSink<DatabaseError>> {
        Box::new(self.clone())
    }
}
