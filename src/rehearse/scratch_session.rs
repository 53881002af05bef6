//! The working database: a session that runs scripts as an operation does, between the same guards,
//! and looks at what they did. It can look before a script's transaction is committed, and so undo
//! what it did without making the database again.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::rehearse::data_hash::DataHash;
use crate::{
    failure::{Failure, Reason},
    ledger::{journals, operations::NewStepRow, rehearsal},
    migration::{Direction, Migration, Script, ScriptMode, run_mode},
    planner::ResumePoint,
    postgres::{
        DatabaseError, SqlError,
        lock::{LockOutcome, LockedSession},
        scratch::{ScratchMaker, ScratchName},
        session::{MigrationSession, ServerNotice},
    },
    runner::{self, JournaledScript, RunControl, StepError, StepObserver, StopReason},
    runtime::blocking,
    schema::{self, Except, PreparedQueries, Snapshot},
    sql,
};

/// What one try may wait for a lock, where the file does not say. Nobody else is in the database
/// but sessions of the script's own.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// For looking: one plan for each question, made once. Without the last, a policy would hide rows.
const LOOKING: &str =
    "SET LOCAL plan_cache_mode=force_generic_plan;SET LOCAL jit=off;SET LOCAL row_security=off";

/// The SQLSTATEs of the guards after which the session does not hold its lock any more, or may not.
const LOST_LOCK: [&str; 3] = ["SCH02", "SCH03", "SCH04"];

/// The SQLSTATE of a prepared statement that does not exist.
const NO_SUCH_STATEMENT: &str = "26000";

/// A working database.
pub(super) struct ScratchSession {
    pub name: ScratchName,
    locked: LockedSession,
    /// The questions.
    prepared: PreparedQueries,
    /// A script's transaction is open.
    is_open: bool,
    url: crate::postgres::DatabaseUrl,
    role: Option<String>,
}

/// What the database is like.
#[derive(Clone)]
pub(super) struct WorkingState {
    pub snapshot: Arc<Snapshot>,
    pub contents: DataHash,
}

impl WorkingState {
    /// True where a migration cannot tell the two apart.
    pub(super) fn is(&self, other: &Self) -> bool {
        let is_the_same = || self.snapshot == other.snapshot;
        self.contents.is(&other.contents) && blocking::in_place(self.snapshot.bytes(), is_the_same)
    }
}

/// How a script ends that is through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AfterScript {
    /// It is committed.
    Commit,
    /// Its transaction stays open, and so do those of the scripts after it, which are one with it.
    StayOpen,
}

/// Why a script did not run to its end.
pub(super) enum ScriptStop {
    /// By its own fault.
    Failed(Box<Failure>),
    /// The session is gone.
    Lost(Box<Failure>),
    /// The rehearsal was told to end, or cannot go on.
    Ended(Box<Failure>),
}

impl ScratchSession {
    /// Connects to a database that nobody else uses.
    pub(super) async fn open(
        scratch: &ScratchMaker,
        name: ScratchName,
        role: Option<&str>,
    ) -> Result<Self, Failure> {
        let url = scratch.url(&name);
        let locked = locked(&url).await?;
        Ok(Self {
            name,
            locked,
            prepared: PreparedQueries::default(),
            is_open: false,
            url,
            role: role.map(Into::into),
        })
    }

    /// Goes on with another session, as another operation would.
    async fn reopen(&mut self) -> Result<(), Failure> {
        self.prepared.clear();
        // It would go with the session, but the server may notice late.
        self.locked
            .client()
            .query_typed("SELECT pg_advisory_unlock_all()", &[])
            .await
            .map_err(DatabaseError::from)?;
        self.locked = locked(&self.url).await?;
        Ok(())
    }

    /// Its session.
    pub(super) fn session(&self) -> &LockedSession {
        &self.locked
    }

    /// What lies in the database now.
    pub(super) async fn contents(&self) -> Result<DataHash, Failure> {
        self.begin_to_look().await?;
        let contents = DataHash::read(self.locked.client()).await;
        self.end_to_look().await?;
        Ok(contents?)
    }

    /// What the database is like now, as the open transaction sees it where there is one.
    pub(super) async fn state(&self) -> Result<WorkingState, Failure> {
        match self.look().await {
            Err(error)
                if error
                    .sql()
                    .is_some_and(|sql| sql.sqlstate == NO_SUCH_STATEMENT) =>
            {
                self.prepared.clear(); // the script has ended them: DEALLOCATE ALL
                Ok(self.look().await?)
            }
            other => Ok(other?),
        }
    }

    async fn look(&self) -> Result<WorkingState, DatabaseError> {
        self.begin_to_look().await?;
        let state = async {
            let snapshot =
                schema::read_within(self.locked.client(), &Except::default(), &self.prepared)
                    .await?;
            Ok(WorkingState {
                snapshot: Arc::new(snapshot),
                contents: DataHash::read(self.locked.client()).await?,
            })
        };
        let state = state.await;
        self.end_to_look().await?;
        state
    }

    async fn begin_to_look(&self) -> Result<(), DatabaseError> {
        let begin = if self.is_open {
            "SAVEPOINT schemad_looks"
        } else {
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
        };
        Ok(self
            .locked
            .client()
            .batch_execute(&format!("{begin};{};{LOOKING}", schema::SETTINGS))
            .await?)
    }

    async fn end_to_look(&self) -> Result<(), DatabaseError> {
        let end = if self.is_open {
            "ROLLBACK TO SAVEPOINT schemad_looks;RELEASE SAVEPOINT schemad_looks"
        } else {
            "ROLLBACK"
        };
        Ok(self.locked.client().batch_execute(end).await?)
    }

    /// Commits what stayed open.
    pub(super) async fn commit(&mut self) -> Result<(), DatabaseError> {
        self.is_open = false;
        Ok(self.locked.client().batch_execute("COMMIT").await?)
    }

    /// Undoes what stayed open.
    pub(super) async fn roll_back(&mut self) -> Result<(), DatabaseError> {
        self.is_open = false;
        self.locked.clean().await
    }

    /// Runs a script. One that fails while a transaction is open undoes that.
    pub(super) async fn run(
        &mut self,
        migration: &Migration,
        direction: Direction,
        script: &Script,
        then: AfterScript,
        orders: &RunControl,
    ) -> Result<Duration, ScriptStop> {
        let file = direction.file(&migration.name);
        let failed = |failure: Failure| {
            ScriptStop::Failed(Box::new(
                failure
                    .with("version", &migration.version)
                    .with("file", &file),
            ))
        };
        if self.role.is_some() {
            run_mode::keeps_role(&migration.name, &migration.version, direction, script)
                .map_err(failed)?;
        }
        let parts = run_mode::parts(&migration.name, &migration.version, direction, script)
            .map_err(failed)?;
        let settings = sql::settings(&script.sql).unwrap_or_default();
        let lock_timeout = settings.lock_timeout.unwrap_or(LOCK_TIMEOUT);
        let statement_timeout = settings.statement_timeout.unwrap_or_default();
        let row = NewStepRow {
            version: migration.version.as_str(),
            name: &migration.name,
            direction,
            script,
            down: None,
            down_mac: None,
            lock_timeout,
            statement_timeout,
            parts: &parts,
            resume: ResumePoint::default(),
            earlier: None,
            role: self.role.as_deref(),
        };
        // What it calls its own statements must not meet ours.
        if blocking::in_place(script.sql.len(), || mentions_prepared(&script.sql)) {
            self.locked
                .client()
                .batch_execute("DEALLOCATE ALL")
                .await
                .map_err(|error| lost(error.into()))?;
            self.prepared.clear();
        }
        if !self.locked.is_pinned() {
            let table = journals::diesel_table(self.locked.client())
                .await
                .map_err(lost)?;
            self.locked
                .pin(self.role.as_deref(), &table)
                .await
                .map_err(lost)?;
        }
        let id = rehearsal::step(&self.locked, &row).await.map_err(lost)?;
        let journaled = (script.mode == ScriptMode::NonTransactional).then(|| JournaledScript {
            // `fitness` has refused what has none.
            units: sql::units(&script.sql).unwrap_or_default(),
            resume: ResumePoint::default(),
            statement_timeout,
        });
        let role = self.role.as_deref();
        let (sql, lock_wait, earlier) = (&*script.sql, Duration::ZERO, None);
        let step = runner::RunnableStep {
            id,
            sql,
            lock_wait,
            lock_timeout,
            role,
            earlier,
            journaled,
        };
        let begun = Instant::now();
        let ran = match then {
            AfterScript::Commit => {
                runner::run(&mut self.locked, &[step], orders.clone(), &IgnoredEvents).await
            }
            AfterScript::StayOpen => {
                runner::run_open(&mut self.locked, &step, orders, &IgnoredEvents).await
            }
        };
        self.is_open = then == AfterScript::StayOpen && ran.is_ok();
        let session_lost = ran.as_ref().is_err_and(|stopped| stopped.session_lost);
        if !self.is_open && !session_lost && sql::may_define(&script.sql) {
            self.reopen()
                .await
                .map_err(|failure| ScriptStop::Ended(Box::new(failure)))?;
        }
        let Err(runner::RunStopped { broken, .. }) = ran else {
            // A cancel that came late meets what is asked next.
            return match orders.halted() {
                None => Ok(begun.elapsed()),
                Some(halt) => Err(ScriptStop::Ended(Box::new(halted(&halt)))),
            };
        };
        let role = self
            .role
            .as_deref()
            .map_or_else(|| self.url.role(), sql::ident);
        let explained = |error| {
            let failure: Failure = runner::explain(error, &script.sql, &file, &role, false);
            Box::new(
                failure
                    .with("version", &migration.version)
                    .with("file", &file),
            )
        };
        let stop = match broken {
            // The guards': the session has lost its lock.
            StepError::Sql(error) if LOST_LOCK.contains(&error.error.sqlstate.as_str()) => {
                ScriptStop::Lost(explained(&error))
            }
            StepError::Sql(error) | StepError::Doubt(error) => {
                ScriptStop::Failed(explained(&error))
            }
            StepError::Locks { error, waited } => failed(Failure::new(
                Reason::LockTimeout,
                format!(
                    "{file} could not get its locks within {waited:.0?} ({error}), in a database \
                     of its own"
                ),
            )),
            StepError::Guard(error) => failed(DatabaseError::from(error).into()),
            StepError::Halted(halt) | StepError::HaltedInDoubt(halt) => {
                ScriptStop::Ended(Box::new(halted(&halt)))
            }
            StepError::Lost(error) => {
                let failure = Failure::new(
                    Reason::MigrationFailed,
                    format!("{file} ended its own session: {error}"),
                );
                ScriptStop::Lost(Box::new(
                    failure
                        .with("version", &migration.version)
                        .with("file", &file),
                ))
            }
        };
        Err(match stop {
            // The server ended the session with its error, which is told.
            ScriptStop::Failed(failure) if session_lost => ScriptStop::Lost(failure),
            stop => stop,
        })
    }
}

async fn locked(url: &crate::postgres::DatabaseUrl) -> Result<LockedSession, Failure> {
    match LockedSession::try_lock(MigrationSession::open(url).await?).await? {
        LockOutcome::Won(mut locked) => {
            locked.keep_statements();
            Ok(locked)
        }
        LockOutcome::Held(_) => Err(Failure::new(
            Reason::Internal,
            "somebody else uses a scratch database",
        )),
    }
}

fn mentions_prepared(sql: &str) -> bool {
    let sql = sql.to_ascii_lowercase();
    ["prepare", "deallocate"]
        .iter()
        .any(|word| sql.contains(word))
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
pub(super) fn halted(halt: &StopReason) -> Failure {
    match halt {
        StopReason::Shutdown => Failure::new(
            Reason::ShuttingDown,
            "the daemon shuts down; nothing of the rehearsal is left",
        ),
        StopReason::Cancelled(by) => Failure::new(
            Reason::Cancelled,
            format!("the rehearsal was cancelled by {by}; nothing of it is left"),
        ),
    }
}

fn lost(error: DatabaseError) -> ScriptStop {
    match error {
        DatabaseError::Lost(_) => ScriptStop::Lost(Box::new(error.into())),
        // The script before it has taken the ledger along, or the like.
        error => ScriptStop::Ended(Box::new(error.into())),
    }
}

/// Nobody listens to the steps of a rehearsal.
struct IgnoredEvents;

impl StepObserver for IgnoredEvents {
    fn started(&self, _: usize) {}
    fn statement_started(&self, _: usize, _: (usize, usize)) {}
    fn statement(&self, _: usize, _: (usize, usize), _: Duration) {}
    fn done(&self, _: usize, _: Duration) {}
    fn notice(&self, _: usize, _: ServerNotice) {}
    fn retrying(&self, _: usize, _: u32, _: &SqlError, _: Duration) {}
}
