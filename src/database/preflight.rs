//! Proves that operations could run, on a session of its own; and does on it what has to be done
//! beside operations: ends those of silent and dead daemons, and says who watches what.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use crate::{
    database::monitor::{ANSWER_WITHIN, BACKOFF, DatabaseView},
    failure::{Failure, Reason},
    ledger::{
        claims, control,
        install::{self, InspectionDepth},
        one_database::SameDatabaseCheck,
        search_path, upkeep,
    },
    migration::Version,
    operation::watchers::VersionWatchers,
    postgres::{
        DatabaseError, SqlError,
        activity::{self, Backend},
        lock::{LockOutcome, LockedSession},
        logins::Logins,
        session::MigrationSession,
    },
};

/// Opening a session, proving that it is direct and making the ledger.
const PREFLIGHT_WITHIN: Duration = Duration::from_secs(15);

/// Between two looks while nothing is open: one statement each, and a right that is taken away
/// shows within 2 s.
const EVERY: Duration = Duration::from_millis(1900);

/// The same while an operation is pending or running, when others may have to be taken over or
/// closed.
const EVERY_BUSY: Duration = Duration::from_millis(500);

/// One of so many looks takes in what stands on Diesel's table, which each step's guard looks at
/// anyway.
const CLOSELY_EVERY: u32 = 4;

/// Whoever locks the ledger's tables keeps this session from them for no longer.
const SIDE_SETTINGS: &str = "SET lock_timeout='1s'";

/// How often the watchers are said while they do not change; other daemons believe it three times
/// as long.
const SAY_WATCHERS: Duration = Duration::from_secs(5);

/// What is proved and kept up.
#[derive(Clone)]
pub(crate) struct Preflight {
    /// Where operations run: direct, or through a session pooler.
    pub logins: Logins,
    /// Whether that is what is read.
    pub one_database: SameDatabaseCheck,
    /// Runs the migrations, where it is not the role that logs in.
    pub role: Option<String>,
    /// Who watches what here.
    pub watchers: VersionWatchers,
}

/// When the watchers were said last, and which.
#[derive(Default)]
struct WatcherUpkeep {
    said: Option<(Instant, BTreeMap<Version, usize>)>,
}

impl WatcherUpkeep {
    /// Says who watches what when that is due. Not worth more than a word in the log when it fails.
    async fn tick(&mut self, plan: &Preflight, session: &MigrationSession) {
        let watched = plan.watchers.count();
        let due = match &self.said {
            None => !watched.is_empty(),
            Some((at, said)) => {
                *said != watched || !watched.is_empty() && at.elapsed() >= SAY_WATCHERS
            }
        };
        if due {
            match upkeep::say_watchers(session.ledger(), plan.watchers.daemon(), &watched).await {
                Ok(()) => self.said = Some((Instant::now(), watched)),
                Err(error) => tracing::debug!(cause = %error, "the watchers could not be said"),
            }
        }
    }
}

/// Ends the sessions of daemons that say nothing any more.
#[derive(Default)]
struct SilentDaemonTakeover {
    /// The silent sessions that were spoken of, and whether each was ended.
    told: Vec<(Backend, bool)>,
}

impl SilentDaemonTakeover {
    /// Ends those that there are, and returns what dead daemons left. Without the right to end one
    /// (another role's) it says so, once, and goes on trying.
    async fn look(&mut self, session: &MigrationSession) -> Result<control::DeadDaemons, Failure> {
        let client = session.ledger();
        let silent = control::silent(client, control::DEAD_AFTER).await?;
        self.told
            .retain(|(backend, _)| silent.iter().any(|silent| silent.backend == *backend));
        for silent in &silent {
            if !silent.is_visible {
                self.tell(silent, Some(&unseen()));
                continue;
            }
            match activity::terminate(client, silent.backend).await {
                Ok(true) => self.tell(silent, None),
                Ok(false) => {} // gone, or another session by now
                Err(DatabaseError::Sql(error)) => self.tell(silent, Some(&error)),
                Err(lost) => return Err(lost.into()),
            }
        }
        Ok(control::left(client).await?)
    }

    fn tell(&mut self, silent: &control::SilentDaemon, refused: Option<&SqlError>) {
        let state = (silent.backend, refused.is_none());
        if self.told.contains(&state) {
            return;
        }
        self.told.push(state);
        let control::SilentDaemon {
            operation,
            daemon,
            backend,
            ..
        } = silent;
        let (operation, pid) = (
            operation.map(|id| id.to_string()).unwrap_or_default(),
            backend.pid,
        );
        match refused {
            None => tracing::warn!(
                event = "operation.taken_over",
                operation,
                daemon,
                pid,
                "a daemon that holds the operation lock has been silent for {:?}; its session was \
                 ended",
                control::DEAD_AFTER
            ),
            Some(error) => {
                tracing::warn!(event = "operation.not_taken_over", operation, daemon, pid, cause = %error,
                "a daemon that holds the operation lock is silent, and its session cannot be ended \
                 from here: GRANT pg_read_all_stats and pg_signal_backend, or end it by hand")
            }
        }
    }
}

/// Whether the session is at work cannot be seen, so it is not ended.
fn unseen() -> SqlError {
    SqlError {
        message: "this role does not see what the session does".into(),
        ..SqlError::default()
    }
}

/// Proves that operations could run, and goes on proving it on a session of its own: the migration
/// address may be another one, rights are given and taken, and a server becomes read-only while it
/// is watched.
pub(crate) async fn preflights(
    plan: Preflight,
    views: Arc<watch::Sender<Arc<DatabaseView>>>,
    side: watch::Sender<Option<Arc<MigrationSession>>>,
) {
    let (mut backoff, mut is_direct) = (BACKOFF.0, false);
    let (mut told, mut upkeep, mut silent) = (
        None,
        WatcherUpkeep::default(),
        SilentDaemonTakeover::default(),
    );
    let mut publish = |result: Result<(), Failure>| {
        let message = result.as_ref().err().map(|failure| failure.message.clone());
        if told != message {
            match &result {
                Ok(()) => {}
                // Nothing that passes by itself.
                Err(failure) if failure.reason == Reason::DatabasesDiffer => {
                    tracing::error!(event = "database.two", reason = %failure.reason, "operations \
                        are refused: {}", failure.message);
                }
                Err(failure) => {
                    tracing::warn!(event = "operation.impossible", reason = %failure.reason,
                    "operations cannot run: {}", failure.message)
                }
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
        let failure = match within(PREFLIGHT_WITHIN, preflight(&plan, &mut is_direct)).await {
            Err(failure) => failure,
            Ok((session, mut proved)) => {
                backoff = BACKOFF.0;
                let (mut pause, mut looks) = (EVERY_BUSY, 0_u32);
                let session = Arc::new(session);
                side.send_replace(Some(session.clone()));
                loop {
                    publish(Ok(()));
                    tokio::time::sleep(pause).await;
                    let look = async {
                        proved = proved || plan.one_database.prove(session.client()).await?;
                        // An idle daemon stays below two statements a second.
                        let kind = if looks.is_multiple_of(CLOSELY_EVERY) {
                            InspectionDepth::Closely
                        } else {
                            InspectionDepth::Shortly
                        };
                        let standing = stands(&plan, &session, kind).await?;
                        upkeep.tick(&plan, &session).await;
                        let left = if standing.is_busy {
                            silent.look(&session).await?
                        } else {
                            control::DeadDaemons::default()
                        };
                        Ok((standing, left))
                    };
                    match within(ANSWER_WITHIN, look).await {
                        Ok((standing, left)) => {
                            pause = if standing.is_busy { EVERY_BUSY } else { EVERY };
                            looks = looks.wrapping_add(1);
                            // Whatever comes of it, the next look shows it.
                            drop(within(PREFLIGHT_WITHIN, close(&plan.logins, left)).await);
                        }
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

/// Looks at the ledger again, in one statement, and upgrades it where another session had the lock
/// before.
async fn stands(
    plan: &Preflight,
    session: &MigrationSession,
    look: InspectionDepth,
) -> Result<install::LedgerStanding, Failure> {
    let standing = match install::standing(session, look).await {
        Ok(standing) => standing,
        // The statement reads the ledger whatever there is of it. Look step by step for what is
        // wrong, and say that.
        Err(failure) => return Err(install::check(session).await.err().unwrap_or(failure)),
    };
    match standing.state {
        install::LedgerState::Usable => {}
        install::LedgerState::ToBeCreated => return Err(not_made()),
        install::LedgerState::ToBeUpgraded if standing.is_busy => {}
        install::LedgerState::ToBeUpgraded => {
            if let LockOutcome::Won(locked) =
                LockedSession::try_lock(plan.logins.open().await?).await?
            {
                install::ensure(&locked).await?;
                locked.release().await?;
            }
        }
    }
    Ok(standing)
}

fn not_made() -> Failure {
    Failure::new(
        Reason::LedgerNotReady,
        "there is no ledger yet, and another session holds the operation lock, which it takes to \
         make one; looking again",
    )
}

async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::time::timeout(limit, work)
        .await
        .unwrap_or_else(|_| Err(DatabaseError::Timeout(limit).into()))
}

/// A session that is proved direct, on a database whose ledger is in order or was just made; and
/// whether it is proved that it is the one that is read. `is_direct`: the look before found no
/// pooler; what this one found.
async fn preflight(
    Preflight {
        logins,
        one_database,
        role,
        ..
    }: &Preflight,
    is_direct: &mut bool,
) -> Result<(MigrationSession, bool), Failure> {
    let session = logins.open().await?;
    // It takes dozens of statements. A daemon that looks again every second because of something
    // else proves it again only when nothing else is left, and before anything takes a lock of the
    // session, which a pooler would give to others.
    let proved_before = std::mem::take(is_direct);
    if !proved_before {
        logins.prove_direct(&session).await?;
    }
    *is_direct = true;
    if let Some(role) = role {
        session.may_become(role).await?;
    }
    let state = install::check(&session).await?;
    // Before a ledger is made where none belongs.
    let mut proved = one_database.prove(session.client()).await?;
    if proved_before {
        *is_direct = false;
        logins.prove_direct(&session).await?;
        *is_direct = true;
    }
    let session = match LockedSession::try_lock(session).await? {
        LockOutcome::Held(_) if state == install::LedgerState::ToBeCreated => {
            return Err(not_made());
        }
        // The ledger is there. The next operation, or the next look, upgrades it and closes what
        // dead daemons left.
        LockOutcome::Held(session) => session,
        LockOutcome::Won(locked) => {
            install::ensure(&locked).await?;
            claims::close_abandoned(&locked, uuid::Uuid::nil()).await?;
            locked.release().await?
        }
    };
    search_path::check(&session, role.as_deref()).await?;
    session
        .ledger()
        .batch_execute(SIDE_SETTINGS)
        .await
        .map_err(DatabaseError::from)?;
    proved = proved || one_database.prove(session.client()).await?;
    Ok((session, proved))
}

/// Closes what dead daemons left: the queued at once, the running under the lock, if it can be had.
async fn close(logins: &Logins, left: control::DeadDaemons) -> Result<(), Failure> {
    if left == control::DeadDaemons::default() {
        return Ok(());
    }
    let session = logins.open().await?;
    if left.queued {
        claims::close_queued(session.ledger()).await?;
    }
    if left.running
        && let LockOutcome::Won(locked) = LockedSession::try_lock(session).await?
    {
        claims::close_abandoned(&locked, uuid::Uuid::nil()).await?;
        locked.release().await?;
    }
    Ok(())
}
