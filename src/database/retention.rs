//! Deletes what the ledger keeps no longer (and scratch databases that were left behind), a little
//! at a time and on a session of its own: how long that takes, or that it fails, is no business of
//! readiness.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

use crate::{
    database::monitor::DatabaseView,
    failure::Failure,
    ledger::{
        install,
        upkeep::{self, Retention},
    },
    postgres::{DatabaseError, logins::Logins, scratch},
};

/// How often old rows are looked for.
const EVERY: Duration = Duration::from_secs(5 * 60);

/// Between two batches, so that deleting a great many leaves room for others.
const PAUSE: Duration = Duration::from_millis(50);

/// A batch takes milliseconds; whoever keeps it from its rows for so long is not waited for.
const BATCH_WITHIN: Duration = Duration::from_secs(30);

/// Deletes what is old whenever operations could run, until it is dropped.
pub(crate) async fn prune(
    logins: Logins,
    keep: Retention,
    mut views: watch::Receiver<Arc<DatabaseView>>,
) {
    let mut told = None;
    loop {
        if views.wait_for(|view| view.ready().is_ok()).await.is_err() {
            return; // the daemon ended
        }
        let failed = pass(&logins, keep)
            .await
            .err()
            .map(|failure| failure.message);
        if let Some(message) = &failed
            && told != failed
        {
            tracing::warn!(
                event = "retention.failed",
                "old operations and refusals could not be deleted: {message}"
            );
        }
        told = failed;
        tokio::time::sleep(EVERY).await;
    }
}

/// Deletes all there is to delete, and drops the scratch databases that a killed daemon or client
/// left.
async fn pass(logins: &Logins, keep: Retention) -> Result<(), Failure> {
    let session = logins.open().await?;
    scratch::sweep(session.client()).await?;
    if install::check(&session).await? != install::LedgerState::Usable {
        return Ok(());
    }
    loop {
        let batch = tokio::time::timeout(BATCH_WITHIN, upkeep::prune(session.ledger(), keep)).await;
        match batch.unwrap_or(Err(DatabaseError::Timeout(BATCH_WITHIN)))? {
            0 => return Ok(()),
            _ => tokio::time::sleep(PAUSE).await,
        }
    }
}
