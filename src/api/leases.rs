//! LeaseService.

use std::sync::Arc;

use futures_util::stream;
use tonic::{Request, Response, Status};

use super::{
    gate,
    migrations::{EventResponses, MigrationAnswer, check_database, malformed},
    request,
    stream::HEARTBEAT,
};
use crate::{database::Database, failure::status, pb};
use crate::{
    failure::Failure,
    lease::{LeasedDatabase, Leases},
    telemetry::rate_limit::LogRateLimiter,
};

/// The service.
pub(crate) struct LeaseService {
    leases: Leases,
    /// The database whose migrations the leased ones have.
    database: Arc<Database>,
}

impl LeaseService {
    /// Gives out `leases`, in which the migrations of `database` are applied.
    pub(crate) fn new(leases: Leases, database: Arc<Database>) -> Self {
        Self { leases, database }
    }

    async fn take(
        &self,
        asked: request::LeaseParameters,
        principal: &str,
    ) -> Result<LeasedDatabase, Failure> {
        let ttl = self.leases.settings()?.ttl(asked.ttl)?;
        self.leases.take(ttl, asked.queue_timeout, principal).await
    }
}

/// What the stream says first, then heartbeats, and why the lease has ended.
fn responses(lease: LeasedDatabase, set_digest: String) -> EventResponses<pb::LeaseResponse> {
    use pb::lease_response::Event;
    let first = Event::Database(pb::LeasedDatabase {
        name: lease.database.clone(),
        url: lease.url.clone(),
        set_digest,
        expire_time: Some(lease.expires.into()),
    });
    let says = |event| Ok(pb::LeaseResponse { event: Some(event) });
    Box::pin(stream::unfold(
        Some((lease, Some(first))),
        move |state| async move {
            let (mut lease, first) = state?;
            if let Some(first) = first {
                return Some((says(first), Some((lease, None))));
            }
            match tokio::time::timeout(HEARTBEAT, lease.ended()).await {
                Ok(why) => Some((Err(status::status_from_failure(&why)), None)),
                Err(_) => Some((
                    says(Event::Heartbeat(pb::Heartbeat {})),
                    Some((lease, None)),
                )),
            }
        },
    ))
}

#[tonic::async_trait]
impl pb::lease_service_server::LeaseService for LeaseService {
    type LeaseStream = EventResponses<pb::LeaseResponse>;

    async fn lease(
        &self,
        request: Request<pb::LeaseRequest>,
    ) -> MigrationAnswer<Self::LeaseStream> {
        let (principal, message) = gate::caller(request)?;
        check_database(&self.database, &message.database)?;
        let asked = request::lease(&message).map_err(|e| malformed(&e))?;
        let lease = self
            .take(asked, &principal.name)
            .await
            .map_err(|failure| refused(&principal.name, &failure))?;
        Ok(Response::new(responses(lease, self.leases.set_digest())))
    }
}

/// Whoever keeps the daemon reads why tests do not begin.
fn refused(principal: &str, failure: &Failure) -> Status {
    static TOLD: LogRateLimiter = LogRateLimiter::new(20);
    if TOLD.allows() {
        tracing::info!(event = "lease.refused", reason = %failure.reason, principal, "no lease: \
            {}", failure.message);
    }
    status::status_from_failure(failure)
}
