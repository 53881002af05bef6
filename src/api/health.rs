//! grpc.health.v1 over what the monitor knows. tonic-health's own server has no dynamic names and
//! answers Watch of an unknown name with NOT_FOUND where the protocol wants SERVICE_UNKNOWN on an
//! open stream; so the trait is implemented here.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::{StreamExt as _, stream};

use tokio::sync::watch;
use tokio_stream::{Stream, wrappers::WatchStream};
use tonic::{Request, Response, Status};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus, health_server,
};

use crate::{
    database::monitor::DatabaseView,
    failure::{Failure, Reason, status::status_from_failure},
    migration::Version,
    operation::watchers::{VersionWatchers, WatchGuard},
    planner,
    runtime::shutdown::ShutdownPhase,
    transport::quota::{Quota, QuotaKey},
};

/// SERVING when an operation could be accepted.
pub(crate) const READY: &str = "schemad.v1.MigrationService";
/// SERVING when the last probe was answered.
pub(crate) const DATABASE: &str = "schemad.database";
/// SERVING when all that the binary carries is applied and unedited.
pub(crate) const CURRENT: &str = "schemad.schema.current";
/// Followed by a version: SERVING when that is applied.
pub(crate) const APPLIED: &str = "schemad.schema.applied.";

/// What is asked for by a service name.
#[derive(Clone, Debug, PartialEq, Eq)]
enum HealthName {
    Process,
    Ready,
    Database,
    Current,
    Applied(Version),
}

impl HealthName {
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "" => Self::Process,
            READY => Self::Ready,
            DATABASE => Self::Database,
            CURRENT => Self::Current,
            _ => Self::Applied(name.strip_prefix(APPLIED)?.parse().ok()?),
        })
    }

    fn is_serving(&self, view: &DatabaseView, phase: ShutdownPhase) -> bool {
        let seen = view.seen.as_deref();
        match self {
            Self::Process => phase == ShutdownPhase::Serving,
            Self::Ready => phase == ShutdownPhase::Serving && view.ready().is_ok(),
            Self::Database => view.database.is_ok(),
            Self::Current => seen.is_some_and(|seen| {
                matches!(
                    seen.assessment.state,
                    planner::SchemaState::Current | planner::SchemaState::Ahead
                )
            }),
            Self::Applied(version) => seen.is_some_and(|seen| {
                let rows = &seen.snapshot.rows;
                rows.binary_search_by(|row| row.version.cmp(version))
                    .is_ok_and(|i| rows[i].is_applied())
            }),
        }
    }
}

/// The health service.
#[derive(Clone)]
pub(crate) struct HealthService {
    views: watch::Receiver<Arc<DatabaseView>>,
    phases: watch::Receiver<ShutdownPhase>,
    watchers: VersionWatchers,
    names: Quota,
}

impl HealthService {
    /// Answers from what `views` and `phases` last said; who watches a version is counted among
    /// `watchers`, where there is room for so many different ones.
    pub(crate) fn new(
        views: watch::Receiver<Arc<DatabaseView>>,
        phases: watch::Receiver<ShutdownPhase>,
        watchers: VersionWatchers,
        names: Quota,
    ) -> Self {
        Self {
            views,
            phases,
            watchers,
            names,
        }
    }

    fn enter(&self, client: QuotaKey, version: &Version) -> Result<WatchGuard, Status> {
        self.watchers.enter(client, version.clone(), self.names).ok_or_else(|| {
            let Quota { each, all } = self.names;
            let message = format!(
                "{each} different versions of one client, or {all} of all, are watched; end some, \
                 or ask again later"
            );
            status_from_failure(&Failure::new(Reason::TooManyWatchers, message))
        })
    }

    fn status(&self, name: &HealthName) -> ServingStatus {
        if name.is_serving(&self.views.borrow(), *self.phases.borrow()) {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        }
    }
}

#[tonic::async_trait]
impl health_server::Health for HealthService {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let service = request.into_inner().service;
        let name = HealthName::parse(&service)
            .ok_or_else(|| Status::not_found("unknown service name; see docs/health.md"))?;
        Ok(Response::new(HealthCheckResponse {
            status: self.status(&name).into(),
        }))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let client = request
            .extensions()
            .get()
            .cloned()
            .unwrap_or(QuotaKey::Stranger(None)); // the gate says who
        let name = HealthName::parse(&request.into_inner().service);
        let health = self.clone();
        let watched = match &name {
            Some(HealthName::Applied(version)) => Some(self.enter(client, version)?),
            _ => None,
        };
        let changes = stream::select(
            WatchStream::new(self.views.clone()).map(drop),
            WatchStream::new(self.phases.clone()).map(drop),
        );
        let last = Mutex::new(None);
        let news = Arc::new(move || {
            let _as_long_as_the_stream = &watched;
            let status = name
                .as_ref()
                .map_or(ServingStatus::ServiceUnknown, |name| health.status(name));
            let before = last
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .replace(status);
            (before != Some(status)).then(|| {
                Ok(HealthCheckResponse {
                    status: status.into(),
                })
            })
        });
        let at_the_end = news.clone();
        let statuses = changes.filter_map(move |()| std::future::ready(news()));
        // The stream ends with the daemon, so that an open Watch does not keep it from ending.
        let mut phases = self.phases.clone();
        let ended = async move {
            // Its sender gone means ended too.
            let _ = phases
                .wait_for(|phase| *phase == ShutdownPhase::Ended)
                .await;
        };
        // A daemon that ends at once says so all the same.
        let farewell = stream::once(async move { at_the_end() }).filter_map(std::future::ready);
        Ok(Response::new(Box::pin(
            statuses.take_until(Box::pin(ended)).chain(farewell),
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_promised_names_are_known() {
        assert_eq!(HealthName::parse(""), Some(HealthName::Process));
        assert!(matches!(
            HealthName::parse("schemad.schema.applied.20260101"),
            Some(HealthName::Applied(_))
        ));
        let long = format!("{APPLIED}{}", "1".repeat(51));
        for unknown in [
            "x",
            "schemad.schema.applied.",
            "schemad.v1",
            "schemad.schema",
            &long,
        ] {
            assert_eq!(HealthName::parse(unknown), None, "{unknown}");
        }
    }
}
