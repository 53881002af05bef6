//! How many databases leases may have. Two numbers, because a database lives longer than its lease:
//! DROP DATABASE waits for a checkpoint. What is leased has limits that refuse; all databases
//! together, leased or still being dropped, have a larger one, for which the next lease waits. So a
//! fast suite of tests runs at the pace at which the server drops, and nobody is refused.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use crate::{
    failure::{Failure, Reason},
    transport::{
        quota::{Quota, QuotaKey},
        quota_counter::{QuotaCounter, QuotaGuard},
    },
};

/// How long a caller at a limit waits that does not say: the end of its last lease may arrive after
/// the request that follows.
const AT_A_LIMIT: Duration = Duration::from_secs(2);

/// How long a caller waits for databases to be dropped that does not say. Long, because they are
/// certain to be.
const DROPPED_WITHIN: Duration = Duration::from_secs(120);

/// Keeps the room of one database, from before it is made until it is dropped.
pub(super) type DatabaseSlot = Arc<OwnedSemaphorePermit>;

/// The databases of a daemon's leases, counted.
pub(super) struct LeaseCapacity {
    limits: Quota,
    leased: QuotaCounter,
    /// Some lease has ended.
    ended: Arc<Notify>,
    slots: Arc<Semaphore>,
    /// How many databases there may be, leased or still being dropped.
    databases: usize,
}

/// One lease, as the limits count it.
pub(super) struct LeaseSlot {
    // The order matters: it is counted down before others are told.
    _counted: QuotaGuard,
    _tell: CapacityNotice,
}

struct CapacityNotice(Arc<Notify>);

impl Drop for CapacityNotice {
    fn drop(&mut self) {
        self.0.notify_waiters();
    }
}

impl LeaseCapacity {
    /// So many leases at once of one principal, and of all.
    pub(super) fn new(per_principal: usize, most: usize) -> Self {
        let databases = most.saturating_mul(2).min(Semaphore::MAX_PERMITS);
        Self {
            limits: Quota {
                each: per_principal,
                all: most,
            },
            leased: QuotaCounter::default(),
            ended: Arc::default(),
            slots: Arc::new(Semaphore::new(databases)),
            databases,
        }
    }

    /// Waits for room for one more lease, at most `wait` where the caller says how long. Dropping
    /// the future gives up.
    ///
    /// # Errors
    /// TOO_MANY_LEASES.
    pub(super) async fn enter(
        &self,
        principal: &str,
        wait: Option<Duration>,
    ) -> Result<(LeaseSlot, DatabaseSlot), Failure> {
        let begun = Instant::now();
        let leased = self
            .lease(principal, begun + wait.unwrap_or(AT_A_LIMIT))
            .await?;
        let slot = self.slots.clone().acquire_owned();
        match tokio::time::timeout_at(begun + wait.unwrap_or(DROPPED_WITHIN), slot).await {
            Ok(Ok(slot)) => Ok((leased, Arc::new(slot))),
            // Nobody closes the semaphore.
            Ok(Err(_)) | Err(_) => Err(Failure::new(
                Reason::TooManyLeases,
                format!(
                    "there are {} databases of leases, many of them of leases that have ended and \
                     still being dropped, and there is no room for more. The server drops them \
                     slowly, or something keeps it from it (lease.not_removed in the daemon's log \
                     says what); ask again later",
                    self.databases
                ),
            )),
        }
    }

    async fn lease(&self, principal: &str, deadline: Instant) -> Result<LeaseSlot, Failure> {
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable(); // before the look, so that no end is missed between the two
            if let Some(counted) = self
                .leased
                .enter(QuotaKey::Principal(principal.to_owned()), self.limits)
            {
                return Ok(LeaseSlot {
                    _counted: counted,
                    _tell: CapacityNotice(self.ended.clone()),
                });
            }
            if tokio::time::timeout_at(deadline, ended).await.is_err() {
                let Quota { each, all } = self.limits;
                let message = format!(
                    "{principal} may have {each} databases leased at once, and all together {all}, \
                     and one of the two is reached; end some, or ask again later"
                );
                return Err(Failure::new(Reason::TooManyLeases, message));
            }
        }
    }
}
