//! The working database: a session that runs scripts as an operation does, between the same guards, and one that looks.

use std::time::{Duration, Instant};

use super::contents::Contents;
use crate::{
    catalog::fitness,
    db::{
        Error, SqlError,
        lock::{Attempt, LockedSession},
        session::{Notice, Session},
    },
    failure::{Failure, Reason},
    ledger::{operations::StepRow, rehearsal},
    migration::{Direction, Migration, Mode, Script},
    planner::Resume,
    runner::{self, Broken, Halt, Journaled, Observer, Orders},
    schema::{self, Except, Prepared, Snapshot},
    scratch::{Name, Scratch},
    sql,
};

/// What one try may wait for a lock, where the file does not say. Nobody else is in the database but sessions of the script's own.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// One plan for each question, made once. Without the last, a policy would hide rows.
const READER: &str = "SET plan_cache_mode=force_generic_plan;SET jit=off;SET row_security=off";

/// A working database.
pub(super) struct Stage {
    pub name: Name,
    locked: LockedSession,
    reader: Option<(Session, Prepared)>,
    url: crate::db::DatabaseUrl,
    role: Option<String>,
}

/// What the database is like.
pub(super) struct State {
    pub snapshot: Snapshot,
    pub contents: Contents,
}

impl State {
    /// True where a migration cannot tell the two apart.
    pub fn is(&self, other: &Self) -> bool {
        self.snapshot == other.snapshot && self.contents.is(&other.contents)
    }
}

/// Why a script did not run to its end.
pub(super) enum Stop {
    /// By its own fault.
    Failed(Box<Failure>),
    /// The session is gone.
    Lost(Box<Failure>),
    /// The rehearsal was told to end, or cannot go on.
    Ended(Box<Failure>),
}

impl Stage {
    /// Connects to a database that nobody else uses.
    pub async fn open(scratch: &Scratch, name: Name, role: Option<&str>) -> Result<Self, Failure> {
        let url = scratch.url(&name);
        match LockedSession::try_lock(Session::open(&url).await?).await? {
            Attempt::Won(locked) => Ok(Self { name, locked, reader: None, url, role: role.map(Into::into) }),
            Attempt::Held(_) => Err(Failure::new(Reason::Internal, format!("somebody else uses {name}"))),
        }
    }

    /// The session that runs scripts.
    pub fn session(&self) -> &LockedSession {
        &self.locked
    }

    /// Closes the session that looks: a database with two sessions cannot be copied.
    pub fn look_away(&mut self) {
        self.reader = None;
    }

    /// The session that looks.
    async fn reader(&mut self) -> Result<&mut (Session, Prepared), Failure> {
        Ok(match self.reader.take() {
            Some(reader) => self.reader.insert(reader),
            None => {
                let session = Session::open(&self.url).await?;
                session.client().batch_execute(READER).await.map_err(Error::from)?;
                self.reader.insert((session, Prepared::default()))
            }
        })
    }

    /// What lies in the database now.
    pub async fn contents(&mut self) -> Result<Contents, Failure> {
        let (session, _) = self.reader().await?;
        Ok(Contents::read(session.client()).await?)
    }

    /// What the database is like now.
    pub async fn state(&mut self) -> Result<State, Failure> {
        let (session, prepared) = self.reader().await?;
        let snapshot = schema::read_again(session.client(), &Except::default(), prepared).await?;
        let contents = Contents::read(session.client()).await?;
        Ok(State { snapshot, contents })
    }

    /// Runs a script.
    pub async fn run(
        &mut self,
        migration: &Migration,
        direction: Direction,
        script: &Script,
        orders: &Orders,
    ) -> Result<Duration, Stop> {
        let file = direction.file(&migration.name);
        let failed =
            |failure: Failure| Stop::Failed(Box::new(failure.with("version", &migration.version).with("file", &file)));
        let parts = fitness::parts(&migration.name, &migration.version, direction, script).map_err(failed)?;
        let settings = sql::settings(&script.sql).unwrap_or_default();
        let lock_timeout = settings.lock_timeout.unwrap_or(LOCK_TIMEOUT);
        let statement_timeout = settings.statement_timeout.unwrap_or_default();
        let row = StepRow {
            version: migration.version.as_str(),
            name: &migration.name,
            direction,
            script,
            down: None,
            down_mac: None,
            lock_timeout,
            statement_timeout,
            parts: &parts,
            resume: Resume::default(),
            earlier: None,
            role: self.role.as_deref(),
        };
        let id = rehearsal::step(&self.locked, &row).await.map_err(lost)?;
        let journaled = (script.mode == Mode::NonTransactional).then(|| Journaled {
            units: sql::units(&script.sql).unwrap_or_default(), // `fitness` has refused what has none
            resume: Resume::default(),
            statement_timeout,
        });
        let role = self.role.as_deref();
        let (sql, lock_wait, earlier) = (&*script.sql, Duration::ZERO, None);
        let step = runner::Step { id, sql, lock_wait, lock_timeout, role, earlier, journaled };
        let begun = Instant::now();
        let ran = runner::run(&mut self.locked, &[step], orders.clone(), &Unheard).await;
        let Err(stopped) = ran else { return Ok(begun.elapsed()) };
        let role = self.role.as_deref().map_or_else(|| self.url.role(), sql::ident);
        Err(match stopped.broken {
            Broken::Sql(error) | Broken::Doubt(error) => {
                failed(runner::explain(&error, &script.sql, &file, &role, None))
            }
            Broken::Locks { error, waited } => failed(Failure::new(
                Reason::LockTimeout,
                format!("{file} could not get its locks within {waited:.0?} ({error}), in a database of its own"),
            )),
            Broken::Guard(error) => failed(Error::from(error).into()),
            Broken::Halted(halt) | Broken::HaltedInDoubt(halt) => Stop::Ended(Box::new(halted(&halt))),
            Broken::Lost(error) => {
                let failure = Failure::new(Reason::MigrationFailed, format!("{file} ended its own session: {error}"));
                Stop::Lost(Box::new(failure.with("version", &migration.version).with("file", &file)))
            }
        })
    }
}

/// Tells what follows in place of what would follow in an operation.
pub(super) fn concluded(mut failure: Failure, consequence: &str) -> Failure {
    if let Some(old) = failure.metadata.get("consequence").cloned() {
        if let Some(before) = failure.message.strip_suffix(&*old) {
            failure.message = format!("{before}{consequence}");
        }
        failure = failure.with("consequence", consequence);
    }
    failure
}

/// The rehearsal was told to end.
pub(super) fn halted(halt: &Halt) -> Failure {
    match halt {
        Halt::Shutdown => Failure::new(Reason::ShuttingDown, "the daemon shuts down; nothing of the rehearsal is left"),
        Halt::Cancelled(by) => {
            Failure::new(Reason::Cancelled, format!("the rehearsal was cancelled by {by}; nothing of it is left"))
        }
    }
}

fn lost(error: Error) -> Stop {
    match error {
        Error::Lost(_) => Stop::Lost(Box::new(error.into())),
        // The script before it has taken the ledger along, or the like.
        error => Stop::Ended(Box::new(error.into())),
    }
}

/// Nobody listens to the steps of a rehearsal.
struct Unheard;

impl Observer for Unheard {
    fn started(&self, _: usize) {}
    fn statement_started(&self, _: usize, _: usize) {}
    fn statement(&self, _: usize, _: usize, _: Duration) {}
    fn done(&self, _: usize, _: Duration) {}
    fn notice(&self, _: usize, _: Notice) {}
    fn retrying(&self, _: usize, _: u32, _: &SqlError, _: Duration) {}
}
