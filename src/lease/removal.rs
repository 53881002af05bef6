//! Drops what is no longer leased, one after the other on a session of its own: a drop makes the server write all it has, and who
//! gets a lease meanwhile shall not wait for that. And looks for what killed daemons left.

use std::{any::Any, collections::HashSet, time::Duration};

use tokio::sync::{mpsc, oneshot};

use crate::{
    db::{DatabaseUrl, Error, session::Session},
    scratch::{Name, drop_database, orphans, sweep},
};

/// Between two looks at what was left behind; whoever is connected to such a database has one round to finish.
const ROUND: Duration = Duration::from_secs(10);

/// How long the removal of one database may take that others are still being thrown out of.
const WITHIN: Duration = Duration::from_secs(30);

/// A database that is to be dropped.
pub(super) struct Removal {
    name: Name,
    /// Kept until it is gone.
    _held: Box<dyn Any + Send>,
}

/// Resolves when the database is gone.
pub(super) type Removed = oneshot::Receiver<()>;

impl Removal {
    /// And what to wait for.
    pub fn new(name: Name, held: impl Send + 'static) -> (Self, Removed) {
        let (gone, removed) = oneshot::channel::<()>();
        // Dropping the sender says it, too.
        (Self { name, _held: Box::new((held, gone)) }, removed)
    }
}

/// Who drops.
pub(super) struct Remover {
    url: DatabaseUrl,
    session: Option<Session>,
    /// What could not be dropped yet.
    later: Vec<Removal>,
    /// What others left, and somebody is connected to.
    orphans: HashSet<Name>,
}

impl Remover {
    pub fn new(url: DatabaseUrl) -> Self {
        Self { url, session: None, later: Vec::new(), orphans: HashSet::new() }
    }

    /// Drops what comes, until nothing can come any more.
    pub async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Removal>) {
        let mut rounds = tokio::time::interval(ROUND);
        loop {
            tokio::select! {
                removal = inbox.recv() => match removal {
                    Some(removal) => self.remove(removal).await,
                    None => break,
                },
                _ = rounds.tick() => {
                    self.again().await;
                    if let Err(error) = self.look().await {
                        tracing::debug!(cause = %error, "what others left could not be looked for");
                    }
                }
            }
        }
        self.again().await;
    }

    async fn again(&mut self) {
        for removal in std::mem::take(&mut self.later) {
            self.remove(removal).await;
        }
    }

    async fn remove(&mut self, removal: Removal) {
        if let Err(error) = self.drop(&removal.name).await {
            tracing::warn!(event = "lease.not_removed", database = %removal.name, cause = %error,
                "a leased database could not be dropped yet");
            self.later.push(removal);
        }
    }

    async fn drop(&mut self, name: &Name) -> Result<(), Error> {
        let session = self.session().await?;
        let dropped = drop_database(session.client(), name);
        let dropped = tokio::time::timeout(WITHIN, dropped).await.unwrap_or(Err(Error::Timeout(WITHIN)));
        if matches!(dropped, Err(Error::Lost(_) | Error::Timeout(_))) {
            self.session = None;
        }
        dropped
    }

    /// Drops what killed daemons left: at once what nobody uses, and a round later what somebody does.
    async fn look(&mut self) -> Result<(), Error> {
        let session = self.session().await?;
        sweep(session.client()).await?;
        let left: HashSet<Name> = orphans(session.client()).await?.into_iter().collect();
        let left_for_long: Vec<Name> = left.intersection(&self.orphans).copied().collect();
        self.orphans = left;
        for name in left_for_long {
            self.drop(&name).await?;
            tracing::info!(event = "scratch.swept", database = %name, age_s = name.age(),
                "dropped a scratch database that was left behind, under who was connected");
        }
        Ok(())
    }

    async fn session(&mut self) -> Result<&Session, Error> {
        if self.session.as_ref().is_none_or(|session| session.client().is_closed()) {
            self.session = Some(Session::open(&self.url).await?);
        }
        self.session.as_ref().ok_or_else(|| Error::Lost("it was just opened".into()))
    }
}
