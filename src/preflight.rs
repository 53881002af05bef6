//! Proves that operations could run, on a session of its own; and does on it what has to be done beside operations: ends
//! those of silent daemons, says who watches what, and deletes what is kept no longer.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use crate::{
    db::{DatabaseUrl, Error, activity, lock::Attempt, lock::LockedSession, pooler, session::Session},
    failure::{Failure, Reason},
    ledger::{
        claims, control, install,
        upkeep::{self, Retention},
    },
    migration::Version,
    monitor::{ANSWER_WITHIN, BACKOFF, EVERY, View},
    watchers::Watchers,
};

/// Opening a session, proving that it is direct and making the ledger.
const PREFLIGHT_WITHIN: Duration = Duration::from_secs(15);

/// How often the watchers are said while they do not change; other daemons believe it three times as long.
const SAY_WATCHERS: Duration = Duration::from_secs(5);

/// How often old rows are looked for.
const PRUNE: Duration = Duration::from_secs(60);

/// What is proved and kept up.
#[derive(Clone)]
pub struct Preflight {
    /// Where operations run: direct, or through a session pooler.
    pub url: DatabaseUrl,
    /// Runs the migrations, where it is not the role that logs in.
    pub role: Option<String>,
    /// Who watches what here.
    pub watchers: Watchers,
    /// How long things are kept.
    pub retention: Retention,
}

/// When what was done last.
#[derive(Default)]
struct Upkeep {
    said: Option<(Instant, BTreeMap<Version, usize>)>,
    pruned: Option<Instant>,
}

impl Upkeep {
    /// Does what is due. None of it is worth more than a word in the log when it fails.
    async fn tick(&mut self, plan: &Preflight, session: &Session) {
        let watched = plan.watchers.count();
        let due = match &self.said {
            None => !watched.is_empty(),
            Some((at, said)) => *said != watched || !watched.is_empty() && at.elapsed() >= SAY_WATCHERS,
        };
        if due {
            match upkeep::say_watchers(session.client(), plan.watchers.daemon(), &watched).await {
                Ok(()) => self.said = Some((Instant::now(), watched)),
                Err(error) => tracing::debug!(cause = %error, "the watchers could not be said"),
            }
        }
        if self.pruned.is_none_or(|at| at.elapsed() >= PRUNE) {
            match upkeep::prune(session.client(), plan.retention).await {
                Ok(true) => {} // more of it at the next tick
                Ok(false) => self.pruned = Some(Instant::now()),
                Err(error) => {
                    self.pruned = Some(Instant::now());
                    tracing::debug!(cause = %error, "old operations could not be deleted");
                }
            }
        }
    }
}

/// Proves that operations could run, and goes on proving it on a session of its own: the migration address may be another
/// one, rights are given and taken, and a server becomes read-only while it is watched.
pub async fn preflights(
    plan: Preflight,
    views: Arc<watch::Sender<Arc<View>>>,
    side: watch::Sender<Option<Arc<Session>>>,
) {
    let mut backoff = BACKOFF.0;
    let (mut told, mut upkeep) = (None, Upkeep::default());
    let mut publish = |result: Result<(), Failure>| {
        let message = result.as_ref().err().map(|failure| failure.message.clone());
        if told != message {
            if let Err(failure) = &result {
                tracing::warn!(event = "operation.impossible", reason = %failure.reason,
                    "operations cannot run: {}", failure.message);
            }
            told = message;
        }
        views.send_if_modified(|view| {
            let changed = view.preflight != result;
            if changed {
                Arc::make_mut(view).preflight = result;
            }
            changed
        });
    };
    loop {
        let failure = match within(PREFLIGHT_WITHIN, preflight(&plan)).await {
            Err(failure) => failure,
            Ok(session) => {
                backoff = BACKOFF.0;
                let session = Arc::new(session);
                side.send_replace(Some(session.clone()));
                loop {
                    publish(Ok(()));
                    tokio::time::sleep(EVERY).await;
                    let recovered = async {
                        match check(&session).await? {
                            // No operations, or no columns for them yet.
                            install::State::ToBeMade => Ok(false),
                            install::State::Usable => {
                                upkeep.tick(&plan, &session).await;
                                take_over(&session).await
                            }
                        }
                    };
                    match within(ANSWER_WITHIN, recovered).await {
                        Ok(false) => {}
                        // Wins the lock, if it can be had, and closes them.
                        Ok(true) => drop(within(PREFLIGHT_WITHIN, preflight(&plan)).await),
                        Err(failure) => break failure,
                    }
                }
            }
        };
        side.send_replace(None);
        publish(Err(failure));
        tokio::time::sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF.1);
    }
}

async fn within<T>(limit: Duration, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(Error::Timeout(limit).into()))
}

/// A session that is proved direct, on a database whose ledger is in order or was just made.
async fn preflight(Preflight { url, role, .. }: &Preflight) -> Result<Session, Failure> {
    let session = Session::open(url).await?;
    pooler::prove_direct(&session, url).await?;
    if let Some(role) = role {
        session.may_become(role).await?;
    }
    let state = check(&session).await?;
    // When another session has the lock, the next operation makes the ledger and closes what dead daemons left.
    match LockedSession::try_lock(session).await? {
        Attempt::Held(session) => Ok(session),
        Attempt::Won(locked) => {
            if state == install::State::ToBeMade {
                install::ensure(&locked).await?;
            }
            claims::close_abandoned(&locked, uuid::Uuid::nil()).await?;
            Ok(locked.release().await?)
        }
    }
}

/// Ends the sessions of operations whose daemons are silent. Without the right to end them (another role's) it says so and leaves
/// them. True when there are operations to be closed.
async fn take_over(session: &Session) -> Result<bool, Failure> {
    let client = session.client();
    let silent = control::silent(client).await?;
    for (operation, daemon, backend) in &silent {
        match activity::terminate(client, *backend).await {
            Ok(_) => tracing::warn!(event = "operation.taken_over", %operation, daemon,
                "the daemon that runs this operation has been silent for {:?}; its session was ended", control::DEAD_AFTER),
            Err(error) => tracing::warn!(event = "operation.not_taken_over", %operation, daemon, cause = %error,
                "the daemon that runs this operation is silent, and its session cannot be ended from here"),
        }
    }
    Ok(!silent.is_empty() || control::has_orphan(client).await?)
}

/// What can change while a session lives.
async fn check(session: &Session) -> Result<install::State, Failure> {
    let read_only = "SELECT pg_is_in_recovery() OR (SELECT reset_val::bool FROM pg_settings \
        WHERE name = 'default_transaction_read_only')";
    let rows = session.client().query_typed(read_only, &[]).await.map_err(Error::from)?;
    if rows.first().is_some_and(|row| row.get(0)) {
        return Err(Failure::new(
            Reason::ReadOnlyServer,
            "the server is a standby or read-only; it reports, and cannot run operations",
        ));
    }
    install::check(session.client()).await
}
