//! Leases: a migrated database of one's own for a while, for tests in any language. Each is a copy
//! of a template into which the whole embedded set was applied; it is dropped when whoever has it
//! goes away, when its time is over, or with the daemon.
//!
//! A lease ends at once, and its database is dropped as soon as the server can: `capacity` says how
//! many may wait for that.
//!
//! Template and copies are [`scratch`](crate::postgres::scratch) databases of one maker per daemon,
//! so that what a killed daemon leaves is swept, and what a living one has is not.

mod capacity;
pub(crate) mod copier;
pub(crate) mod pool;
mod removal;
mod template;
mod url;

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use futures_util::{FutureExt as _, future::BoxFuture, future::Shared};
use tokio::sync::{oneshot, watch};
use tokio_postgres::error::SqlState;

pub(crate) use pool::may_throw_out;
pub(crate) use url::ClientUrl;

use crate::{
    failure::{Failure, Reason},
    migration::set::MigrationSet,
    postgres::{self, DatabaseUrl, scratch::ScratchError},
    runtime::shutdown::ShutdownPhase,
    telemetry::metrics::Metrics,
};
use capacity::{DatabaseSlot, LeaseCapacity, LeaseSlot};
use pool::{LeasePool, LeasePoolState, TemplateCopy};
use removal::RemovalReceipt;

/// A set that cannot be applied is not tried again for every lease that is asked for.
const REMEMBER: Duration = Duration::from_secs(5);

/// Between tries to fill the pool of a server that does not answer, or with a set that cannot be
/// applied.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// How long the end of a lease is told later than it comes, so that whoever is told finds the
/// database gone. A server that is busy dropping others may need longer.
const REMOVED_WITHIN: Duration = Duration::from_secs(5);

/// What leases are made of.
#[derive(Clone, Debug)]
pub struct LeaseSettings {
    /// Where they are made: a direct address, of a role with CREATEDB. The databases lie beside the
    /// one that it names.
    pub database: DatabaseUrl,
    /// How clients reach the same server, and as whom.
    pub client: ClientUrl,
    /// So many copies are kept ready.
    pub pool: usize,
    /// How long a lease lasts that does not say.
    pub ttl: Duration,
    /// How long one may last.
    pub max_ttl: Duration,
    /// At once, of one principal.
    pub per_principal: usize,
    /// At once, of all.
    pub most: usize,
}

impl LeaseSettings {
    /// What a lease that asks for `ttl` gets.
    ///
    /// # Errors
    /// It is none, or too long.
    pub fn ttl(&self, asked: Option<Duration>) -> Result<Duration, Failure> {
        match asked.unwrap_or(self.ttl) {
            ttl if !ttl.is_zero() && ttl <= self.max_ttl => Ok(ttl),
            _ => {
                let message = format!(
                    "a lease lasts longer than nothing and at most {}",
                    humantime::format_duration(self.max_ttl)
                );
                Err(Failure::invalid(Reason::InvalidDuration, "ttl", message))
            }
        }
    }
}

/// Gives leases.
#[derive(Clone)]
pub(crate) struct Leases(Arc<LeasesInner>);

struct LeasesInner {
    settings: Option<LeaseSettings>,
    /// Where there are settings.
    capacity: Option<LeaseCapacity>,
    catalog: Arc<MigrationSet>,
    metrics: Arc<Metrics>,
    phases: watch::Receiver<ShutdownPhase>,
    stock: Mutex<Option<PoolOpening>>,
}

/// A stock that is being opened, or was. Whoever waits for it may go; it is opened all the same.
#[derive(Clone)]
struct PoolOpening {
    stock: Shared<BoxFuture<'static, Result<Arc<LeasePool>, Failure>>>,
    since: Instant,
}

impl PoolOpening {
    fn is_usable(&self) -> bool {
        match self.stock.peek() {
            None => true,
            Some(Ok(stock)) => stock.state() == LeasePoolState::Open,
            Some(Err(_)) => self.since.elapsed() < REMEMBER,
        }
    }
}

/// A leased database. It is dropped after this value.
pub(crate) struct LeasedDatabase {
    /// Its name.
    pub database: String,
    /// Where it is, with a password where the settings have one.
    pub url: String,
    /// When it is dropped at the latest.
    pub expires: SystemTime,
    ended: oneshot::Receiver<Failure>,
}

impl fmt::Debug for LeasedDatabase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.database)
    }
}

impl LeasedDatabase {
    /// Why the lease has ended, once it has and its database is gone. Dropping the future changes
    /// nothing.
    pub(crate) async fn ended(&mut self) -> Failure {
        let gone = |_| Failure::new(Reason::Internal, "a mistake in schemad ended the lease");
        (&mut self.ended).await.unwrap_or_else(gone)
    }
}

impl Leases {
    /// Nothing is made before somebody asks, or [`Leases::keep`].
    pub(crate) fn new(
        settings: Option<LeaseSettings>,
        catalog: Arc<MigrationSet>,
        metrics: Arc<Metrics>,
        phases: watch::Receiver<ShutdownPhase>,
    ) -> Self {
        let capacity = settings
            .as_ref()
            .map(|settings| LeaseCapacity::new(settings.per_principal, settings.most));
        Self(Arc::new(LeasesInner {
            settings,
            capacity,
            catalog,
            metrics,
            phases,
            stock: Mutex::default(),
        }))
    }

    /// The settings.
    ///
    /// # Errors
    /// [`Reason::LeasesOff`]: there are none, so there are no leases.
    pub(crate) fn settings(&self) -> Result<&LeaseSettings, Failure> {
        self.0.settings.as_ref().ok_or_else(leases_off)
    }

    /// The digest of the set that leased databases have.
    pub(crate) fn set_digest(&self) -> String {
        self.0.catalog.digest().to_string()
    }

    /// A database for `ttl`, or shorter. Waits for room, at most `wait` where the caller says how
    /// long. Dropping the future gives it back.
    ///
    /// # Errors
    /// Why there is none: TOO_MANY_LEASES, the server's reasons, a migration's, or that the daemon
    /// ends.
    pub(crate) async fn take(
        &self,
        ttl: Duration,
        wait: Option<Duration>,
        principal: &str,
    ) -> Result<LeasedDatabase, Failure> {
        let inner = &self.0;
        let client = &self.settings()?.client;
        let (leased, slot) = inner
            .capacity
            .as_ref()
            .ok_or_else(leases_off)?
            .enter(principal, wait)
            .await?;
        let begun = Instant::now();
        let mut again = true;
        let (stock, database) = loop {
            let stock = self.stock().await?;
            match stock.take(&slot).await {
                Err(error) if again && is_gone(&error) => {
                    again = false;
                    stock.retire();
                }
                result => break (stock, result?),
            }
        };
        let name = database.name();
        tracing::info!(event = "lease.begun", database = %name, principal, ttl_s = ttl.as_secs(), ready = database.was_ready(),
            took_ms = begun.elapsed().as_millis(), "leased {name} to {principal}");
        let (tell, ended) = oneshot::channel();
        let lease = RunningLease {
            stock,
            inner: inner.clone(),
            database,
            leased,
            tell,
        };
        tokio::spawn(lease.run(ttl, principal.to_owned()));
        Ok(LeasedDatabase {
            database: name.to_string(),
            url: client.with_database(&name.to_string()),
            expires: SystemTime::now() + ttl,
            ended,
        })
    }

    /// Keeps a pool ready and drops what killed daemons left, until the daemon ends. Returns at
    /// once where there are no leases.
    pub(crate) async fn keep(&self) {
        let Ok(settings) = self.settings() else {
            return;
        };
        let mut phases = self.0.phases.clone();
        tokio::select! {
            () = removal::sweeps(&settings.database) => {}
            () = self.keep_ready(), if settings.pool > 0 => {}
            _ = phases.wait_for(|phase| *phase > ShutdownPhase::Serving) => {}
        }
    }

    async fn keep_ready(&self) {
        let mut pause = RETRY.0;
        loop {
            match self.stock().await {
                Ok(stock) => {
                    pause = RETRY.0;
                    stock.until_not_open().await;
                }
                Err(failure) => {
                    tracing::warn!(event = "lease.not_ready", reason = %failure.reason,
                        "no database can be leased yet: {}", failure.message);
                    tokio::time::sleep(pause.max(REMEMBER)).await;
                    pause = (pause * 2).min(RETRY.1);
                }
            }
        }
    }

    /// Drops all there is. To be called when the daemon has begun to end, which ends the leases.
    pub(crate) async fn close(&self) {
        let opening = self
            .0
            .stock
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(opening) = opening
            && let Ok(stock) = opening.stock.await
        {
            stock.close().await;
        }
    }

    /// The stock; a new one where there is none, or none that can be used any more.
    async fn stock(&self) -> Result<Arc<LeasePool>, Failure> {
        let opening = {
            // Under the lock that `close` takes: what is opened before it is closed by it.
            let mut slot = self.0.stock.lock().unwrap_or_else(PoisonError::into_inner);
            if *self.0.phases.borrow() > ShutdownPhase::Serving {
                return Err(shutting_down());
            }
            match slot.take().filter(PoolOpening::is_usable) {
                Some(opening) => slot.insert(opening).clone(),
                None => slot.insert(self.open()?).clone(),
            }
        };
        opening.stock.await
    }

    fn open(&self) -> Result<PoolOpening, Failure> {
        let (settings, inner) = (self.settings()?.clone(), &self.0);
        let opening = tokio::spawn(LeasePool::open(
            settings.database,
            settings.client.role(),
            settings.pool,
            inner.catalog.clone(),
            inner.metrics.clone(),
            inner.phases.clone(),
        ));
        let panicked = |_| {
            Err(Failure::new(
                Reason::Internal,
                "a mistake in schemad; see the daemon's log",
            ))
        };
        let stock = opening
            .map(move |opened| opened.unwrap_or_else(panicked))
            .boxed()
            .shared();
        Ok(PoolOpening {
            stock,
            since: Instant::now(),
        })
    }
}

/// A lease under way.
struct RunningLease {
    stock: Arc<LeasePool>,
    inner: Arc<LeasesInner>,
    database: TemplateCopy,
    /// Counts until the lease ends, whenever the database is dropped after it.
    leased: LeaseSlot,
    tell: oneshot::Sender<Failure>,
}

impl RunningLease {
    /// Waits for its end, has the database dropped, and says why. It does not depend on whether a
    /// client reads.
    async fn run(mut self, ttl: Duration, principal: String) {
        let (begun, mut phases) = (Instant::now(), self.inner.phases.clone());
        self.inner.metrics.lease(true);
        let why = tokio::select! {
            () = self.tell.closed() => None,
            () = tokio::time::sleep(ttl) => Some(expired(ttl)),
            () = self.stock.until_lost() => Some(lost()),
            _ = phases.wait_for(|phase| *phase > ShutdownPhase::Serving) => Some(shutting_down()),
        };
        let name = self.database.name();
        let why_shown = why
            .as_ref()
            .map_or("RETURNED", |failure| failure.reason.as_str());
        tracing::info!(event = "lease.ended", database = %name, principal, why = why_shown,
            seconds = begun.elapsed().as_secs_f64(), "the lease of {name} has ended");
        let removed: RemovalReceipt = self.database.remove();
        self.inner.metrics.lease(false);
        drop(self.leased);
        if let Some(why) = why {
            let _ = tokio::time::timeout(REMOVED_WITHIN, removed).await;
            let _ = self.tell.send(why); // nobody listens any more
        }
    }
}

/// True for what another stock might not meet: the template is not there any more, or a connection
/// has ended.
fn is_gone(error: &ScratchError) -> bool {
    match error {
        ScratchError::Database(postgres::DatabaseError::Lost(_)) => true,
        ScratchError::Database(error) => error
            .sql()
            .is_some_and(|sql| sql.is(&SqlState::INVALID_CATALOG_NAME)),
        _ => false,
    }
}

fn leases_off() -> Failure {
    let message = "this daemon gives no leases: start it with SCHEMAD_LEASE_DATABASE_URL, a server \
         on which to make databases for tests (docs/lease.md)";
    Failure::new(Reason::LeasesOff, message)
}

fn expired(ttl: Duration) -> Failure {
    let ttl = humantime::format_duration(ttl);
    Failure::new(
        Reason::LeaseExpired,
        format!("the lease has lasted its {ttl}; its database is dropped"),
    )
}

fn lost() -> Failure {
    Failure::new(
        Reason::DatabaseUnavailable,
        "the connection to the server of the leased databases was lost",
    )
}

fn shutting_down() -> Failure {
    Failure::new(
        Reason::ShuttingDown,
        "this daemon is shutting down, and its leased databases are dropped",
    )
}
