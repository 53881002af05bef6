//! Why an operation did not do all its steps, in an operator's words.

use super::{accept::cancelled, prepare::PreparedStep};
use crate::{
    failure::{Failure, Reason},
    migration::ScriptMode,
    planner::ResolveOutcome,
    postgres::{
        self,
        activity::{Blocker, blocked_by},
    },
    runner::{self, ScriptError, StepError, StopReason},
    sql,
};

/// The operation ends as it was told to; what its statement did is for a person to find out.
fn halted_in_doubt(halt: StopReason, step: &PreparedStep, progress: &str) -> Failure {
    let doubt = format!(
        "{progress}. The statement that ran may have committed a part of its work, so {} is in \
         doubt: the status names the statement, and Resolve settles it",
        step.file(),
    );
    let failure = match halt {
        StopReason::Shutdown => Failure::new(
            Reason::Interrupted,
            format!("the daemon was told to stop; {doubt}"),
        ),
        StopReason::Cancelled(by) => cancelled(&by, &doubt),
    };
    failure
        .with("version", &step.version)
        .with("file", step.file())
        .with("resolve", ResolveOutcome::list(&ResolveOutcome::OF_A_DOUBT))
}

/// The session was lost and the lock could not be won again to read what it had committed.
pub(super) fn unknown(error: &postgres::DatabaseError) -> postgres::DatabaseError {
    postgres::DatabaseError::Lost(format!(
        "{error}{NOT_KNOWN}. The next operation records it, and the status shows it"
    ))
}

/// Why an operation did not do all its steps, in an operator's words.
pub(super) fn failure(
    broken: StepError,
    (done, parts): (usize, usize),
    steps: &[PreparedStep],
    (role, login): (&str, &str),
    blockers: &[Blocker],
) -> Failure {
    let progress = format!("{done} of {} steps are done and stay", steps.len());
    // The runner stops at the first step that is not done, so there is one.
    let step = &steps[done.min(steps.len() - 1)];
    let undone = match (step.script.mode, parts) {
        (ScriptMode::Transactional, _) => "what ran of it was undone",
        (ScriptMode::NonTransactional, 0) => "nothing of it stays",
        (ScriptMode::NonTransactional, _) => "its statements before this one stay",
    };
    match broken {
        StepError::Sql(error) => explained(&error, step, role, false).with("steps_done", done),
        StepError::Doubt(error) => explained(&error, step, role, true).with("steps_done", done),
        StepError::Locks { error, waited } => {
            let blocked_by = blocked_by(blockers);
            let who = match blocked_by.as_str() {
                "" => "Find who holds them in pg_locks and pg_stat_activity".to_owned(),
                who => format!("In the way: {who}. End that"),
            };
            let failure = Failure::new(
                Reason::LockTimeout,
                format!(
                    "{} could not get its locks within {waited:.0?} ({error}); {undone}, \
                     {progress}. {who}, or allow more with lock_wait",
                    step.file()
                ),
            )
            .with("version", &step.version)
            .with("file", step.file())
            .with("sqlstate", &error.sqlstate);
            if blocked_by.is_empty() {
                failure
            } else {
                failure.with("blocked_by", blocked_by)
            }
        }
        StepError::Halted(StopReason::Shutdown) => Failure::new(
            Reason::Interrupted,
            format!("the daemon was told to stop; {progress}, {undone}. Ask again"),
        ),
        StepError::Halted(StopReason::Cancelled(by)) => {
            cancelled(&by, &format!("{progress}, {undone}"))
                .with("version", &step.version)
                .with("steps_done", done)
        }
        StepError::HaltedInDoubt(halt) => {
            halted_in_doubt(halt, step, &progress).with("steps_done", done)
        }
        StepError::Guard(error) => {
            let grant = runner::grant_on_the_ledger(&error, login);
            let failure = Failure::from(postgres::DatabaseError::from(error));
            let mut message = format!(
                "the ledger refused {}: {}; {progress}",
                step.file(),
                failure.message
            );
            if let Some(grant) = &grant {
                message += &format!(". {grant}");
            }
            let failure = Failure { message, ..failure };
            grant
                .into_iter()
                .fold(failure, |failure, grant| failure.with("grant", grant))
        }
        // Asking again would end as this did.
        StepError::Lost(error) if ends_sessions(&error, step) => {
            let cure = "The file calls pg_terminate_backend(), and its own session was among those \
                that it ended: leave that out with AND pid <> pg_backend_pid()";
            Failure::new(
                Reason::MigrationFailed,
                format!("{}: {error}. {cure}; {undone}, {progress}", step.file()),
            )
            .with("version", &step.version)
            .with("file", step.file())
            .with("sqlstate", ADMIN_SHUTDOWN)
            .with("meaning", cure)
            .with("steps_done", done)
        }
        StepError::Lost(error) => Failure::new(
            Reason::Interrupted,
            format!("{error}; {progress}. Ask again"),
        ),
    }
}

/// The SQLSTATE of a session that somebody ended.
const ADMIN_SHUTDOWN: &str = "57P01";

/// What [`unknown`] says.
const NOT_KNOWN: &str =
    ", and the database could not be asked in time whether the step that ran was committed";

/// The session was ended, and the script ends sessions without sparing its own: the step is known
/// to be undone. A server that is stopped says the same of a session, so a script that names its
/// own is not suspected.
fn ends_sessions(error: &postgres::DatabaseError, step: &PreparedStep) -> bool {
    let (error, sql) = (error.to_string(), &step.script.sql);
    error.contains(ADMIN_SHUTDOWN)
        && !error.contains(NOT_KNOWN)
        && sql::mentions(sql, &["pg_terminate_backend"])
        && !sql::mentions(sql, &["pg_backend_pid"])
}

fn explained(error: &ScriptError, step: &PreparedStep, role: &str, in_doubt: bool) -> Failure {
    let failure = runner::explain(error, &step.script.sql, &step.file(), role, in_doubt)
        .with("version", &step.version)
        .with("file", step.file());
    if in_doubt {
        failure.with("resolve", ResolveOutcome::list(&ResolveOutcome::OF_A_DOUBT))
    } else {
        failure
    }
}
