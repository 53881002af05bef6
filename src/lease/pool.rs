//! What there is on the server: the template, copies that are ready, and the sessions that make and
//! drop them. A stock belongs to one maker of scratch databases, so it ends with that one's
//! session; the next lease opens another.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tokio::{
    sync::{Notify, mpsc, watch},
    task::JoinHandle,
};

use super::{
    DatabaseSlot,
    removal::{self, DatabaseRemoval, RemovalReceipt},
    template,
};
use crate::lease::copier::SessionPool;
use tokio_postgres::types::Type;

use crate::{
    failure::{Failure, Reason},
    migration::set::MigrationSet,
    postgres::{
        self, DatabaseUrl,
        scratch::{ScratchError, ScratchMaker, ScratchName, copy},
        session::MigrationSession,
    },
    runtime::shutdown::ShutdownPhase,
    telemetry::metrics::Metrics,
};

/// How often the maker's session is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// The pause after a copy for the pool could not be made.
const PAUSE: Duration = Duration::from_secs(5);

/// Copies made at once. More gain nothing: a copy is the server's disk and WAL.
const AT_ONCE: usize = 4;

/// How many names are tried.
const TRIES: u32 = 3;

/// Whether leases can be had of a stock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum LeasePoolState {
    Open,
    /// No new ones.
    Retired,
    /// The maker's session has ended, so that others may sweep what is here.
    Lost,
}

pub(super) struct LeasePool {
    scratch: Mutex<Option<ScratchMaker>>,
    template: ScratchName,
    url: DatabaseUrl,
    /// As whom clients connect.
    client_role: String,
    makers: SessionPool,
    pool: usize,
    ready: Mutex<VecDeque<TemplateCopy>>,
    taken: Notify,
    state: watch::Sender<LeasePoolState>,
    /// `None` once it is closed.
    removals: Mutex<Option<mpsc::UnboundedSender<DatabaseRemoval>>>,
    /// `None` once its end has begun.
    tasks: Mutex<Option<LeasePoolTasks>>,
    metrics: Arc<Metrics>,
}

struct LeasePoolTasks {
    filler: JoinHandle<()>,
    remover: JoinHandle<()>,
}

/// A copy of the template; to be dropped when it is.
pub(super) struct TemplateCopy {
    /// `None` once its removal is under way.
    name: Option<ScratchName>,
    was: ScratchName,
    was_ready: bool,
    /// Once it is leased: its room among the databases of all leases, kept until it is dropped.
    slot: Option<DatabaseSlot>,
    removals: mpsc::UnboundedSender<DatabaseRemoval>,
    metrics: Arc<Metrics>,
}

impl TemplateCopy {
    pub(super) fn name(&self) -> ScratchName {
        self.was
    }

    /// It came from the pool.
    pub(super) fn was_ready(&self) -> bool {
        self.was_ready
    }

    /// Has it dropped.
    pub(super) fn remove(mut self) -> RemovalReceipt {
        self.name = None;
        self.send_to_be_dropped()
    }

    fn send_to_be_dropped(&mut self) -> RemovalReceipt {
        let (removal, removed) =
            DatabaseRemoval::new(self.was, (self.slot.take(), self.metrics.lease_dropping()));
        let _ = self.removals.send(removal); // the remover is gone only when the runtime is
        removed
    }
}

impl Drop for TemplateCopy {
    fn drop(&mut self) {
        if self.name.take().is_some() {
            drop(self.send_to_be_dropped());
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LeasePool {
    /// Connects, sweeps, makes the template and begins to fill the pool.
    pub(super) async fn open(
        url: DatabaseUrl,
        client_role: String,
        pool: usize,
        catalog: Arc<MigrationSet>,
        metrics: Arc<Metrics>,
        phases: watch::Receiver<ShutdownPhase>,
    ) -> Result<Arc<Self>, Failure> {
        let mut scratch = ScratchMaker::open(&url).await?;
        may_throw_out(&url, &client_role).await?;
        let template = template::make(&mut scratch, &url, &catalog, phases).await?;
        let (sender, inbox) = mpsc::unbounded_channel();
        let stock = Arc::new(Self {
            scratch: Mutex::new(Some(scratch)),
            template,
            makers: SessionPool::new(url.clone(), AT_ONCE),
            pool,
            ready: Mutex::default(),
            taken: Notify::new(),
            state: watch::Sender::new(LeasePoolState::Open),
            removals: Mutex::new(Some(sender)),
            tasks: Mutex::default(),
            metrics,
            url: url.clone(),
            client_role,
        });
        let filler = tokio::spawn(fill(Arc::downgrade(&stock)));
        let remover = tokio::spawn(removal::run(url, inbox));
        *lock(&stock.tasks) = Some(LeasePoolTasks { filler, remover });
        tokio::spawn(look(Arc::downgrade(&stock)));
        Ok(stock)
    }

    pub(super) fn state(&self) -> LeasePoolState {
        *self.state.borrow()
    }

    pub(super) async fn until_not_open(&self) {
        let _ = self
            .state
            .subscribe()
            .wait_for(|state| *state != LeasePoolState::Open)
            .await; // its sender is self
    }

    pub(super) async fn until_lost(&self) {
        let _ = self
            .state
            .subscribe()
            .wait_for(|state| *state == LeasePoolState::Lost)
            .await;
    }

    /// A ready copy, or a new one, with its room. Dropping the future has what is made meanwhile
    /// dropped, too.
    pub(super) async fn take(
        self: &Arc<Self>,
        slot: &DatabaseSlot,
    ) -> Result<TemplateCopy, ScratchError> {
        let ready = lock(&self.ready).pop_front();
        if let Some(mut database) = ready {
            self.metrics.leases_ready(-1);
            self.taken.notify_one();
            database.was_ready = true;
            database.slot = Some(slot.clone());
            return Ok(database);
        }
        // In a task: CREATE DATABASE goes on when nobody waits for it any more.
        let (stock, slot) = (self.clone(), slot.clone());
        let made = tokio::spawn(async move { stock.make(Some(slot)).await }).await;
        made.unwrap_or_else(|panic| Err(postgres::DatabaseError::Lost(panic.to_string()).into()))
    }

    /// Copies the template.
    async fn make(&self, slot: Option<DatabaseSlot>) -> Result<TemplateCopy, ScratchError> {
        let closed = || {
            ScratchError::from(postgres::DatabaseError::Lost(
                "the leases have ended".into(),
            ))
        };
        let removals = lock(&self.removals).clone().ok_or_else(closed)?;
        let session = self.makers.get().await?;
        let mut tries = 0;
        loop {
            tries += 1;
            let name = lock(&self.scratch).as_mut().ok_or_else(closed)?.reserve();
            // Before it is made, so that one whose answer is lost is dropped.
            let database = TemplateCopy {
                name: Some(name),
                was: name,
                was_ready: false,
                slot: slot.clone(),
                removals: removals.clone(),
                metrics: self.metrics.clone(),
            };
            match copy(
                session.client(),
                &name,
                &self.template,
                &self.url,
                &self.client_role,
            )
            .await
            {
                Ok(()) => {
                    session.give_back();
                    return Ok(database);
                }
                // It is somebody else's.
                Err(ScratchError::NameTaken(_)) if tries < TRIES => database.forget(),
                Err(error @ ScratchError::NameTaken(_)) => {
                    database.forget();
                    return Err(error);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Gives no more leases; the template is gone once those have ended that there are.
    pub(super) fn retire(self: &Arc<Self>) {
        self.end(LeasePoolState::Retired);
    }

    fn end(self: &Arc<Self>, state: LeasePoolState) {
        let later = self.state.send_if_modified(|current| {
            let later = state > *current;
            *current = state.max(*current);
            later
        });
        if later {
            let stock = self.clone();
            tokio::spawn(async move { stock.wind_up().await });
        }
    }

    /// Drops everything, as the daemon ends. As long as the server needs.
    pub(super) async fn close(self: &Arc<Self>) {
        self.state
            .send_modify(|state| *state = LeasePoolState::Retired.max(*state));
        self.wind_up().await;
    }

    /// Ends what makes, drops the template and what is ready, and waits for what is leased.
    async fn wind_up(&self) {
        let Some(LeasePoolTasks { filler, remover }) = lock(&self.tasks).take() else {
            return;
        };
        let _ = filler.await;
        if let Some(removals) = lock(&self.removals).take() {
            let _ = removals.send(DatabaseRemoval::new(self.template, ()).0);
        }
        let ready = std::mem::take(&mut *lock(&self.ready));
        self.metrics.leases_ready(-count(ready.len()));
        drop(ready);
        let _ = remover.await;
        let scratch = lock(&self.scratch).take();
        if let Some(scratch) = scratch
            && let Err(error) = scratch.close().await
        {
            tracing::debug!(cause = %error, "what is left is swept");
        }
    }
}

impl TemplateCopy {
    /// There is nothing to drop.
    fn forget(mut self) {
        self.name = None;
    }
}

/// Whose sessions a role may not end, it may not drop a database under.
///
/// # Errors
/// MISSING_RIGHT with the GRANT that is enough, or the database's.
pub(crate) async fn may_throw_out(url: &DatabaseUrl, client_role: &str) -> Result<(), Failure> {
    let session = MigrationSession::open(url).await?;
    let query = "SELECT pg_catalog.pg_has_role(r::oid, 'USAGE') OR \
        pg_catalog.pg_has_role('pg_signal_backend', 'USAGE') FROM (SELECT \
        pg_catalog.to_regrole($1) AS r) clients";
    let rows = session
        .client()
        .query_typed(query, &[(&client_role, Type::TEXT)])
        .await
        .map_err(postgres::DatabaseError::from)?;
    // There may be no such role yet: the migrations may make it.
    match rows.first().and_then(|row| row.get::<_, Option<bool>>(0)) {
        Some(false) => {
            let (role, grant) = (url.role(), format!("GRANT {client_role} TO {}", url.role()));
            let message = format!(
                "the role {role} could not drop a leased database under its clients, who are \
                 {client_role}: {grant};"
            );
            Err(Failure::new(Reason::MissingRight, message).with("grant", grant))
        }
        _ => Ok(()),
    }
}

fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Keeps the pool full while the stock is open.
async fn fill(stock: Weak<LeasePool>) {
    let Some(stock) = stock.upgrade().filter(|stock| stock.pool > 0) else {
        return;
    };
    let mut told = false;
    while stock.state() == LeasePoolState::Open {
        if lock(&stock.ready).len() >= stock.pool {
            tokio::select! {
                () = stock.taken.notified() => {}
                () = stock.until_not_open() => {}
            }
            continue;
        }
        match stock.make(None).await {
            Ok(database) => {
                told = false;
                stock.metrics.leases_ready(1);
                lock(&stock.ready).push_back(database);
            }
            Err(error) if super::is_gone(&error) => return stock.retire(),
            Err(error) => {
                let failure = Failure::from(error);
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(event = "lease.not_ready", reason = %failure.reason,
                        "the pool of leases cannot be filled: {}", failure.message);
                }
                tokio::select! {
                    () = tokio::time::sleep(PAUSE) => {}
                    () = stock.until_not_open() => {}
                }
            }
        }
    }
}

/// Notices that the maker's session has ended.
async fn look(stock: Weak<LeasePool>) {
    loop {
        tokio::time::sleep(LOOK).await;
        let Some(stock) = stock.upgrade() else { return };
        let Some(is_alive) = lock(&stock.scratch).as_ref().map(ScratchMaker::is_alive) else {
            return;
        };
        if !is_alive {
            tracing::warn!(event = "lease.lost", reason = %Reason::DatabaseUnavailable,
                "lost the server of the leased databases; they are dropped when it is back");
            return stock.end(LeasePoolState::Lost);
        }
    }
}
