//! The open connections of a listener: each has a seat, and when there is none left somebody gives
//! up theirs: who has been idle for longest, a stranger first; where all are busy, a stranger. A
//! connection that says nothing in time, or nothing any more, is closed.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures_util::task::AtomicWaker;
use tokio::sync::oneshot;

use super::Limits;
use crate::transport::quota::network;

/// How often connections are looked at.
const SWEEP: Duration = Duration::from_secs(1);

/// What an HTTP/2 client says first.
const PREFACE: u64 = 24;

/// Whoever is refused so often on one connection does not listen.
const REFUSALS: usize = 1_000;
/// But what was long ago is forgotten: so many a second.
const REFUSALS_FORGIVEN: usize = 10;

/// Bytes that a connection may say at first: what HTTP/2's windows let through before anything is
/// looked at, and headers.
const CREDIT: i64 = 96 << 10;
/// More of them with each second, for what keeps a connection alive.
const CREDIT_A_SECOND: i64 = 16 << 10;
/// And with each request, but not more than so many ahead. Whoever says more says nothing that is
/// worth reading: floods of PING, SETTINGS or PRIORITY.
const CREDIT_A_REQUEST: i64 = 96 << 10;
const MOST_CREDIT: i64 = 256 << 10;

/// All connections of a listener.
#[derive(Clone, Debug)]
pub(crate) struct Connections(Arc<ConnectionsShared>);

#[derive(Debug)]
struct ConnectionsShared {
    limits: Limits,
    began: Instant,
    seats: Mutex<ConnectionSlots>,
    refused: AtomicU64,
}

#[derive(Debug, Default)]
struct ConnectionSlots {
    next: u64,
    taken: HashMap<u64, Arc<ClientConnection>>,
    of: HashMap<IpAddr, usize>,
}

/// Who gives up a seat before whom. A known caller that is busy never does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum EvictionRank {
    IdleStranger,
    Idle,
    /// All that it can have open is a watch, or what will not last.
    BusyStranger,
}

/// A connection, as its requests see it.
#[derive(Debug)]
pub(crate) struct ClientConnection {
    id: u64,
    address: IpAddr,
    shared: Weak<ConnectionsShared>,
    /// Somebody who is known has called on it.
    known: AtomicBool,
    /// Requests under way.
    open: AtomicUsize,
    /// Requests that were too many.
    refused: AtomicUsize,
    /// Milliseconds from the listener's beginning to the last sign of use.
    used: AtomicU64,
    /// Bytes read.
    read: AtomicU64,
    /// Bytes that it may still say.
    credit: AtomicI64,
    closed: AtomicBool,
    waker: AtomicWaker,
}

impl Connections {
    /// None yet. They are looked after as long as a clone lives.
    pub(crate) fn new(limits: Limits) -> Self {
        let (seats, refused) = (Mutex::default(), AtomicU64::new(0));
        let shared = Arc::new(ConnectionsShared {
            limits,
            began: Instant::now(),
            seats,
            refused,
        });
        let weak = Arc::downgrade(&shared);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(SWEEP).await;
                let Some(shared) = weak.upgrade() else { return };
                shared.sweep();
            }
        });
        Self(shared)
    }

    /// A seat for a new connection from this address; when there is none left, another loses its
    /// own. `None`: all of them are of known callers, and busy.
    pub(crate) fn seat(&self, address: IpAddr) -> Option<ConnectionSlot> {
        let shared = &self.0;
        let mut seats = shared.seats();
        let client = network(address);
        let of_address = seats.of.get(&client).copied().unwrap_or_default();
        let full = seats.taken.len() >= shared.limits.connections;
        if full || of_address >= shared.limits.connections_per_address {
            shared.refused.fetch_add(1, SeqCst);
            let among = seats
                .taken
                .values()
                .filter(|c| full || c.client() == client);
            let leaving = among.filter_map(|c| Some((c.leaves()?, c.used.load(SeqCst), c)));
            let (.., leaving) = leaving.min_by_key(|(leaves, used, _)| (*leaves, *used))?;
            let leaving = leaving.clone();
            leaving.close();
            seats.remove(&leaving);
        }
        let connection = Arc::new(ClientConnection {
            id: seats.next,
            address,
            shared: Arc::downgrade(shared),
            known: AtomicBool::new(false),
            open: AtomicUsize::new(0),
            refused: AtomicUsize::new(0),
            used: AtomicU64::new(shared.now()),
            read: AtomicU64::new(0),
            credit: AtomicI64::new(CREDIT),
            closed: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        });
        seats.next += 1;
        seats.taken.insert(connection.id, connection.clone());
        *seats.of.entry(client).or_default() += 1;
        Some(ConnectionSlot {
            connection,
            shared: shared.clone(),
        })
    }

    /// How many are open, and how many were refused or had to give up their seat.
    pub(crate) fn count(&self) -> (usize, u64) {
        (self.0.seats().taken.len(), self.0.refused.load(SeqCst))
    }
}

impl ConnectionSlots {
    fn remove(&mut self, connection: &ClientConnection) {
        if self.taken.remove(&connection.id).is_none() {
            return;
        }
        let client = connection.client();
        if let Some(count) = self.of.get_mut(&client) {
            *count -= 1;
            if *count == 0 {
                self.of.remove(&client);
            }
        }
    }
}

impl ConnectionsShared {
    fn seats(&self) -> MutexGuard<'_, ConnectionSlots> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Closes what has been silent for too long.
    fn sweep(&self) {
        let now = self.now();
        let seats = self.seats();
        for connection in seats.taken.values() {
            connection.allow(CREDIT_A_SECOND);
            let less = |refused: usize| refused.checked_sub(REFUSALS_FORGIVEN);
            // Fewer are none to forgive.
            let _ = connection.refused.fetch_update(SeqCst, SeqCst, less);
        }
        for connection in seats.taken.values().filter(|c| c.open.load(SeqCst) == 0) {
            let begun = connection.read.load(SeqCst) >= PREFACE;
            let patience = if begun {
                self.limits.idle
            } else {
                self.limits.arrive_within
            };
            if u128::from(now.saturating_sub(connection.used.load(SeqCst))) > patience.as_millis() {
                connection.close();
            }
        }
    }
}

impl ClientConnection {
    /// Where it comes from.
    pub(crate) fn address(&self) -> IpAddr {
        self.address
    }

    /// Somebody who is known calls on it.
    pub(crate) fn mark_known(&self) {
        self.known.store(true, SeqCst);
    }

    /// Whether, and before whom, it gives up its seat.
    fn leaves(&self) -> Option<EvictionRank> {
        match (self.known.load(SeqCst), self.open.load(SeqCst)) {
            (false, 0) => Some(EvictionRank::IdleStranger),
            (true, 0) => Some(EvictionRank::Idle),
            (false, _) => Some(EvictionRank::BusyStranger),
            (true, _) => None,
        }
    }

    /// Whom it is counted against: an address, of IPv6 a network.
    pub(crate) fn client(&self) -> IpAddr {
        network(self.address)
    }

    /// A request begins, and lasts until the guard is dropped. `None`: there are too many on this
    /// connection.
    ///
    /// HTTP/2 lets a client open no more streams than the limit, and counts a stream that its
    /// client has reset as ended before the request of that stream is cleaned up. So there may be
    /// as many again.
    pub(crate) fn request(self: &Arc<Self>) -> Option<InFlightRequest> {
        let limit = self.shared.upgrade().map_or(0, |shared| {
            shared.limits.streams_per_connection.saturating_mul(2)
        });
        self.allow(CREDIT_A_REQUEST);
        let before = self.open.fetch_add(1, SeqCst);
        let guard = InFlightRequest(self.clone()); // counts down again when it is refused
        if before < limit {
            return Some(guard);
        }
        if self.refused.fetch_add(1, SeqCst) >= REFUSALS {
            self.close();
        }
        None
    }

    /// It may say so many bytes more, for a message that is expected.
    pub(crate) fn expect(&self, bytes: usize) {
        self.credit
            .fetch_add(i64::try_from(bytes).unwrap_or(i64::MAX), SeqCst);
    }

    fn allow(&self, bytes: i64) {
        let more = |credit: i64| (credit < MOST_CREDIT).then(|| (credit + bytes).min(MOST_CREDIT));
        let _ = self.credit.fetch_update(SeqCst, SeqCst, more); // Err: it has enough
    }

    /// It said so many.
    pub(super) fn said(&self, bytes: usize) {
        self.read.fetch_add(bytes as u64, SeqCst);
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        if self.credit.fetch_sub(bytes, SeqCst) < bytes {
            tracing::debug!(address = %self.address, "a connection said too much for what it \
                asked; it is closed");
            self.close();
        }
    }

    fn used(&self) {
        if let Some(shared) = self.shared.upgrade() {
            self.used.store(shared.now(), SeqCst);
        }
    }

    /// True once it has to go.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(SeqCst)
    }

    fn close(&self) {
        self.closed.store(true, SeqCst);
        self.waker.wake();
    }

    pub(super) fn poll_closed(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.waker.register(cx.waker());
        if self.closed.load(SeqCst) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}

/// A request under way.
#[derive(Debug)]
pub(crate) struct InFlightRequest(Arc<ClientConnection>);

impl InFlightRequest {
    /// Closes the connection unless the request is over within this time.
    pub(crate) fn within(self, limit: Duration) -> TimedRequest {
        let (over, ended) = oneshot::channel();
        let connection = self.0.clone();
        tokio::spawn(async move {
            if tokio::time::timeout(limit, ended).await.is_err() {
                tracing::debug!(address = %connection.address, "an answer was not read in time; \
                    its connection is closed");
                connection.close();
            }
        });
        TimedRequest {
            _request: self,
            _over: over,
        }
    }
}

/// A request under way whose time is limited.
#[derive(Debug)]
pub(crate) struct TimedRequest {
    _request: InFlightRequest,
    /// Dropped with the request, which ends the watch over it.
    _over: oneshot::Sender<()>,
}

impl Drop for InFlightRequest {
    fn drop(&mut self) {
        self.0.used();
        self.0.open.fetch_sub(1, SeqCst);
    }
}

/// A connection's place among the others, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct ConnectionSlot {
    pub(super) connection: Arc<ClientConnection>,
    shared: Arc<ConnectionsShared>,
}

impl ConnectionSlot {
    /// How long a handshake may take.
    pub(crate) fn within(&self) -> Duration {
        self.shared.limits.arrive_within
    }

    /// Returns when the connection has to go.
    pub(crate) async fn closed(&self) {
        std::future::poll_fn(|cx| self.connection.poll_closed(cx)).await;
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.shared.seats().remove(&self.connection);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_network_of_ipv6_is_one_client_and_an_ipv4_address_one_in_any_clothes() {
        let limits = Limits {
            connections_per_address: 1,
            ..Limits::default()
        };
        for (first, same, other) in [
            ("2001:db8::1", "2001:db8::ffff:1", "2001:db8:0:1::1"),
            ("192.0.2.1", "::ffff:192.0.2.1", "::ffff:192.0.2.2"),
        ] {
            let connections = Connections::new(limits.clone());
            let [first, same, other] = [first, same, other]
                .map(|address| connections.seat(address.parse().unwrap()).unwrap());
            assert!(
                first.connection.is_closed(),
                "{:?} makes room",
                first.connection.address()
            );
            assert!(!same.connection.is_closed() && !other.connection.is_closed());
            assert_eq!(same.connection.client(), first.connection.client());
        }
    }
}
