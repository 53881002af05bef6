//! The admin listener: health for probes that speak no TLS, and metrics. Plaintext, may bind any
//! address, and for that reason says nothing that needs protection.

use std::sync::Arc;

use axum::{
    Json, Router,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::sync::watch;

use crate::{
    database::monitor::DatabaseView,
    failure::{Failure, Reason},
    postgres::pool::ReadPool,
    runtime::shutdown::ShutdownPhase,
    telemetry::metrics::Metrics,
    transport::{Connections, ServerTls},
};

/// What the endpoints answer from.
#[derive(Clone)]
pub(crate) struct AdminState {
    /// How the database is.
    pub views: watch::Receiver<Arc<DatabaseView>>,
    /// Where the daemon is in its life.
    pub phases: watch::Receiver<ShutdownPhase>,
    /// For its connections.
    pub pool: ReadPool,
    /// The numbers.
    pub metrics: Arc<Metrics>,
    /// Of the main listener.
    pub connections: Connections,
    /// The main listener's TLS, whose certificates the metrics report.
    pub tls: Option<ServerTls>,
    /// The main listener lets in anybody from anywhere.
    pub insecure: bool,
}

impl AdminState {
    /// `/livez`, `/readyz`, `/health/db` and `/metrics`.
    pub(crate) fn router(self) -> Router {
        let [live, ready, database, metrics] = std::array::from_fn(|_| self.clone());
        Router::new()
            .route("/livez", get(async move || live.live()))
            .route("/readyz", get(async move || ready.ready()))
            .route("/health/db", get(async move || database.database()))
            .route("/metrics", get(async move || metrics.metrics()))
    }

    fn live(&self) -> Response {
        answer(self.serving())
    }

    fn ready(&self) -> Response {
        let view = self.views.borrow().clone();
        match self
            .serving()
            .and_then(|()| view.ready().map_err(|failure| reason(&failure)))
        {
            // Whoever settles it has to reach this daemon.
            Ok(()) if view.in_doubt() => said(StatusCode::OK, "SERVING", Reason::InDoubt.as_str()),
            ready => answer(ready),
        }
    }

    fn database(&self) -> Response {
        answer(
            self.views
                .borrow()
                .database
                .clone()
                .map_err(|failure| reason(&failure)),
        )
    }

    fn metrics(&self) -> Response {
        let ready = self.serving().is_ok() && self.views.borrow().ready().is_ok();
        self.metrics
            .listener(self.connections.count(), self.insecure);
        for (setting, ends) in self.tls.iter().flat_map(ServerTls::certificates_end) {
            self.metrics.certificate(setting, ends);
        }
        match self.metrics.text(ready, self.pool.state()) {
            Ok(text) => {
                let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                ([(header::CONTENT_TYPE, kind)], text).into_response()
            }
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        }
    }

    fn serving(&self) -> Result<(), String> {
        if *self.phases.borrow() == ShutdownPhase::Serving {
            Ok(())
        } else {
            Err("SHUTTING_DOWN".into())
        }
    }
}

/// The reason alone: messages name users and hosts, and this listener is open to everybody.
fn reason(failure: &Failure) -> String {
    failure.reason.to_string()
}

fn answer(health: Result<(), String>) -> Response {
    match health {
        Ok(()) => said(StatusCode::OK, "SERVING", ""),
        Err(reason) => said(StatusCode::SERVICE_UNAVAILABLE, "NOT_SERVING", &reason),
    }
}

fn said(code: StatusCode, status: &str, reason: &str) -> Response {
    (
        code,
        Json(serde_json::json!({ "status": status, "reason": reason })),
    )
        .into_response()
}
