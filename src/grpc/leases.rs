//! LeaseService.

use std::time::{Duration, Instant};

use futures_util::stream;
use tonic::{Request, Response, Status};

use super::{
    gate,
    migrations::{Answer, Responses, malformed},
    pb, request, status,
    stream::HEARTBEAT,
};
use crate::{
    client::{Client, Room},
    failure::{Failure, Reason},
    lease::{Lease, Leases},
    pace::Pace,
    tally::Counter,
};

/// The service.
pub struct LeaseService {
    leases: Leases,
    counter: Counter,
}

/// The database of a lease that has ended counts until it is dropped, which takes moments: whoever is over a limit is refused only
/// when none is dropped meanwhile.
const DROPPED_WITHIN: Duration = Duration::from_secs(2);

/// Between two looks whether one was.
const LOOK: Duration = Duration::from_millis(50);

impl LeaseService {
    /// Gives out `leases`.
    pub fn new(leases: Leases) -> Self {
        Self { leases, counter: Counter::default() }
    }

    /// A lease that counts until its database is gone.
    async fn take(&self, ttl: Option<Duration>, principal: &str) -> Result<Lease, Failure> {
        let settings = self.leases.settings()?;
        let (ttl, each, all) = (settings.ttl(ttl)?, settings.per_principal, settings.most);
        let client = Client::Principal(principal.to_owned());
        let begun = Instant::now();
        let counted = loop {
            if let Some(counted) = self.counter.enter(client.clone(), Room { each, all }) {
                break counted;
            }
            if begun.elapsed() >= DROPPED_WITHIN {
                let message = format!(
                    "{principal} may have {each} databases leased at once, and all together {all}, and one of the two is reached; \
                     end some, or ask again later"
                );
                return Err(Failure::new(Reason::TooManyLeases, message));
            }
            tokio::time::sleep(LOOK).await;
        };
        self.leases.take(ttl, principal, counted).await
    }
}

/// What the stream says first, then heartbeats, and why the lease has ended.
fn responses(lease: Lease, set_digest: String) -> Responses<pb::LeaseResponse> {
    use pb::lease_response::Event;
    let first = Event::Database(pb::LeasedDatabase {
        name: lease.database.clone(),
        url: lease.url.clone(),
        set_digest,
        expire_time: Some(lease.expires.into()),
    });
    let says = |event| Ok(pb::LeaseResponse { event: Some(event) });
    Box::pin(stream::unfold(Some((lease, Some(first))), move |state| async move {
        let (mut lease, first) = state?;
        if let Some(first) = first {
            return Some((says(first), Some((lease, None))));
        }
        match tokio::time::timeout(HEARTBEAT, lease.ended()).await {
            Ok(why) => Some((Err(status::from_failure(&why)), None)),
            Err(_) => Some((says(Event::Heartbeat(pb::Heartbeat {})), Some((lease, None)))),
        }
    }))
}

#[tonic::async_trait]
impl pb::lease_service_server::LeaseService for LeaseService {
    type LeaseStream = Responses<pb::LeaseResponse>;

    async fn lease(&self, request: Request<pb::LeaseRequest>) -> Answer<Self::LeaseStream> {
        let (principal, message) = gate::caller(request)?;
        let ttl = request::lease(&message).map_err(|e| malformed(&e))?;
        let lease = self.take(ttl, &principal.name).await.map_err(|failure| refused(&principal.name, &failure))?;
        Ok(Response::new(responses(lease, self.leases.set_digest())))
    }
}

/// Whoever keeps the daemon reads why tests do not begin.
fn refused(principal: &str, failure: &Failure) -> Status {
    static TOLD: Pace = Pace::new(20);
    if TOLD.allows() {
        tracing::info!(event = "lease.refused", reason = %failure.reason, principal, "no lease: {}", failure.message);
    }
    status::from_failure(failure)
}
