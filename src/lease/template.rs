//! The template of all leases: an empty database into which the product's own runner applies the
//! whole set, and which nobody can connect to afterwards, so that it stays what it is and can be
//! copied at any time.

use std::{sync::Arc, time::Duration, time::Instant};

use tokio::sync::watch;
use uuid::Uuid;

use crate::{
    failure::Failure,
    ledger::one_database::SameDatabaseCheck,
    migration::set::MigrationSet,
    operation::{
        LOCK_TIMEOUT, OperationAction, OperationDeps, OperationRequest, Operations,
        refresh::RefreshSignal, watchers::VersionWatchers,
    },
    planner::ApplyRequest,
    postgres::{
        DatabaseUrl,
        pool::{LedgerOwner, PoolSettings, ReadPool},
        scratch::{ScratchMaker, ScratchName, ScratchTemplate, close},
        session::MigrationSession,
    },
    runtime::shutdown::ShutdownPhase,
    telemetry::metrics::Metrics,
};

/// Who applies the set, in the template's ledger.
const PRINCIPAL: &str = "lease-template";

/// Makes the template. After an error there is none.
pub(super) async fn make(
    scratch: &mut ScratchMaker,
    url: &DatabaseUrl,
    catalog: &Arc<MigrationSet>,
    phases: watch::Receiver<ShutdownPhase>,
) -> Result<ScratchName, Failure> {
    let begun = Instant::now();
    let name = scratch.create(ScratchTemplate::Empty).await?;
    let made = async {
        apply(scratch.url(&name), catalog, phases).await?;
        let session = MigrationSession::open(url).await?;
        close(session.client(), &name, 0)
            .await
            .map_err(Failure::from)
    };
    if let Err(failure) = made.await {
        if let Err(error) = scratch.remove(&name).await {
            tracing::debug!(database = %name, cause = %error, "left for the sweep");
        }
        return Err(failure);
    }
    tracing::info!(event = "lease.template", database = %name, migrations = catalog.len(), set_digest = %catalog.digest(),
        seconds = begun.elapsed().as_secs_f64(), "made the template of leased databases");
    Ok(name)
}

/// Applies the whole set as an operation like any other.
async fn apply(
    url: DatabaseUrl,
    catalog: &Arc<MigrationSet>,
    phases: watch::Receiver<ShutdownPhase>,
) -> Result<(), Failure> {
    let (refresh, daemon) = (Arc::new(RefreshSignal::default()), PRINCIPAL.to_owned());
    // Reads are for those who look on from elsewhere, and here is nobody.
    let no_reads = PoolSettings {
        size: 0,
        overflow: 1,
        timeout: LOCK_TIMEOUT,
        ping_after: LOCK_TIMEOUT,
    };
    let operations = Operations::new(OperationDeps {
        catalog: catalog.clone(),
        pool: ReadPool::new(url.clone(), LedgerOwner::default(), &no_reads),
        one_database: SameDatabaseCheck::new(None),
        logins: url.into(),
        side: watch::Sender::new(None).subscribe(),
        role: None,
        signing: None,
        require_rehearsed: false,
        watchers: VersionWatchers::new(&daemon),
        daemon,
        metrics: Arc::new(Metrics::new()),
        refresh: refresh.clone(),
        phases,
    });
    let request = OperationRequest {
        action: OperationAction::Apply(ApplyRequest::default()),
        principal: PRINCIPAL.into(),
        request_id: Uuid::new_v4(),
        queue_timeout: Duration::ZERO,
        lock_wait: LOCK_TIMEOUT,
        lock_timeout: LOCK_TIMEOUT,
    };
    let nobody_looks = async {
        loop {
            refresh.wanted().await;
            refresh.answer(refresh.asked());
        }
    };
    let mut result = tokio::select! {
        result = operations.submit(request).result() => result,
        () = nobody_looks => Ok(()), // never returns
    };
    if let Err(failure) = &mut result {
        // It is no operation that anybody could ask this daemon's ledger for.
        failure.metadata.remove("operation");
    }
    result
}
