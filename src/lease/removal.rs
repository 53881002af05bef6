//! Drops what is no longer leased. A drop waits for a checkpoint, and those that wait at once share
//! one, so they are sent together. And looks for what killed daemons left.

use std::{any::Any, collections::HashSet, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};

use crate::lease::copier::SessionPool;
use crate::postgres::{
    DatabaseError, DatabaseUrl,
    scratch::{ScratchName, drop_database, orphans, sweep},
    session::MigrationSession,
};

/// At once. DROP DATABASE first makes the server forget that the database's files have to be
/// synced, and then waits for a checkpoint; so those that have not been sent yet make the
/// checkpoint longer, by some 300 files each, and their removal slower.
const AT_ONCE: usize = 32;

/// Between tries, and between two looks at what was left behind; whoever is connected to such a
/// database has one round to finish.
const ROUND: Duration = Duration::from_secs(10);

/// How long the removal of one database may take. A checkpoint on a slow disk takes minutes, and a
/// removal that is given up has waited for it in vain; a lock is waited for no longer than the
/// session's lock_timeout.
const WITHIN: Duration = Duration::from_secs(300);

/// A database that is to be dropped.
pub(super) struct DatabaseRemoval {
    name: ScratchName,
    /// Kept until it is gone.
    _held: Box<dyn Any + Send>,
}

/// Resolves when the database is gone.
pub(super) type RemovalReceipt = oneshot::Receiver<()>;

impl DatabaseRemoval {
    /// And what to wait for.
    pub(super) fn new(name: ScratchName, held: impl Send + 'static) -> (Self, RemovalReceipt) {
        let (gone, removed) = oneshot::channel::<()>();
        // Dropping the sender says it, too.
        (
            Self {
                name,
                _held: Box::new((held, gone)),
            },
            removed,
        )
    }
}

/// Drops what comes, until nothing can come any more; what cannot be dropped is tried again.
pub(super) async fn run(url: DatabaseUrl, mut inbox: mpsc::UnboundedReceiver<DatabaseRemoval>) {
    let sessions = Arc::new(SessionPool::new(url, AT_ONCE));
    let (mut running, mut later) = (JoinSet::new(), Vec::new());
    let mut rounds = tokio::time::interval(ROUND);
    loop {
        tokio::select! {
            removal = inbox.recv() => match removal {
                Some(removal) => drop(running.spawn(remove(sessions.clone(), removal))),
                None => break,
            },
            Some(done) = running.join_next() => later.extend(done.ok().flatten()),
            _ = rounds.tick() => {
                for removal in later.drain(..) {
                    running.spawn(remove(sessions.clone(), removal));
                }
            }
        }
    }
    for removal in later {
        running.spawn(remove(sessions.clone(), removal));
    }
    running.join_all().await;
}

/// Returns what could not be dropped.
async fn remove(sessions: Arc<SessionPool>, removal: DatabaseRemoval) -> Option<DatabaseRemoval> {
    let dropped = async {
        let session = sessions.get().await?;
        let dropped = drop_database(session.client(), &removal.name);
        let dropped = tokio::time::timeout(WITHIN, dropped)
            .await
            .unwrap_or(Err(DatabaseError::Timeout(WITHIN)));
        if matches!(dropped, Ok(()) | Err(DatabaseError::Sql(_))) {
            session.give_back();
        }
        dropped
    };
    let error = dropped.await.err()?;
    tracing::warn!(event = "lease.not_removed", database = %removal.name, cause = %error,
        "a leased database could not be dropped yet");
    Some(removal)
}

/// Drops what killed daemons left, again and again: at once what nobody uses, and a round later
/// what somebody does.
pub(super) async fn sweeps(url: &DatabaseUrl) {
    let mut before = HashSet::new();
    loop {
        match look(url, &before).await {
            Ok(left) => before = left,
            Err(error) => {
                tracing::debug!(cause = %error, "what others left could not be looked for")
            }
        }
        tokio::time::sleep(ROUND).await;
    }
}

/// Returns what is left, because somebody is connected.
async fn look(
    url: &DatabaseUrl,
    before: &HashSet<ScratchName>,
) -> Result<HashSet<ScratchName>, DatabaseError> {
    let session = MigrationSession::open(url).await?;
    sweep(session.client()).await?;
    let left: HashSet<ScratchName> = orphans(session.client()).await?.into_iter().collect();
    for name in left.intersection(before) {
        drop_database(session.client(), name).await?;
        tracing::info!(event = "scratch.swept", database = %name, age_s = name.age(),
            "dropped a scratch database that was left behind, under who was connected");
    }
    Ok(left)
}
