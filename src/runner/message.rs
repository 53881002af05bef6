//! A step as one simple-query message: an explicit transaction with the script between the ledger's
//! two guards. One round trip, atomic, and safe to send ahead. No value is formed into it but the
//! step's integer, and the name of Diesel's table as the server itself quotes it.

use super::RunnableStep;
use crate::{postgres::session::CONFIGURED_PATH, sql};

/// The guards, in the schema `schemad` (src/ledger/0001.sql to 0006.sql).
pub(crate) const BEGIN_STEP: &str = "begin_step_v3";
pub(crate) const FINISH_STEP: &str = "finish_step_v4";
pub(crate) const NOTE_STATEMENT: &str = "note_statement_v3";
pub(crate) const CAN_BE_FINISHED: &str = "can_be_finished_v1";

/// The column of a finished step's answer that says how long it took, in seconds.
pub(crate) const TOOK: &str = "schemad_step_took";

/// What stands in a message before its script.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct MessagePreamble {
    pub statements: usize,
    pub characters: usize,
}

/// How schemad begins a transaction, where the file does not do it itself.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";

/// `own`: how the file begins it. `modes`: what its SET TRANSACTION says, which is then no change
/// and so not too late. Where neither names an isolation level it is READ COMMITTED, whatever the
/// database's default is.
fn begin(own: Option<&str>, modes: Option<&str>) -> String {
    let begin = [own.unwrap_or("BEGIN"), modes.unwrap_or_default()]
        .join(" ")
        .trim_end()
        .to_owned();
    if begin.to_ascii_lowercase().contains("isolation") {
        begin
    } else {
        format!("{begin} ISOLATION LEVEL READ COMMITTED")
    }
}

/// The first guard. Nineteen digits are room for every id, and padding keeps the length, so
/// positions can be told without the id.
fn begin_step(id: i64) -> String {
    format!("schemad.{BEGIN_STEP}({id:>19}::int8)")
}

/// What stands before a script, which runs as its role and with the search_path that the URL, the
/// role or the database sets. A transaction of one snapshot takes that with its first query; LOCK
/// TABLE is none, so what is looked at under the lock afterwards is as it was when the snapshot was
/// taken. `diesel_table`: what to lock, as the server quotes it; none where the login may not.
fn script_preamble(begin: &str, id: i64, diesel_table: Option<&str>) -> (String, MessagePreamble) {
    let words = begin.to_ascii_lowercase();
    let has_one_snapshot = words.contains("repeatable") || words.contains("serializable");
    let lock = diesel_table.filter(|_| has_one_snapshot);
    let locks = usize::from(lock.is_some());
    let lock = lock
        .map(|table| format!("LOCK TABLE ONLY {table} IN ROW EXCLUSIVE MODE;"))
        .unwrap_or_default();
    let first = begin_step(id);
    let text = format!(
        "{begin};{lock}SELECT pg_catalog.set_config('role',{first},true);{CONFIGURED_PATH};\n"
    );
    let preamble = MessagePreamble {
        statements: 3 + locks,
        characters: text.chars().count(),
    };
    (text, preamble)
}

/// The message for a step, and what stands before its script. `reset` ends what the script left in
/// the session.
pub(crate) fn of(
    step: &RunnableStep<'_>,
    diesel_table: Option<&str>,
    reset: &str,
) -> (String, MessagePreamble) {
    let (message, preamble) = open(step, diesel_table, reset);
    (format!("{message};COMMIT"), preamble)
}

/// The same without its COMMIT.
pub(crate) fn open(
    step: &RunnableStep<'_>,
    diesel_table: Option<&str>,
    reset: &str,
) -> (String, MessagePreamble) {
    let begin = begin(None, sql::transaction_modes(step.sql));
    let (before, preamble) = script_preamble(&begin, step.id, diesel_table);
    (
        message(&before, step.sql, &finish_step(step.id), reset),
        preamble,
    )
}

/// What ends a part of a script that is not one transaction.
#[derive(Clone, Copy)]
pub(crate) enum PartEnding {
    /// The part is done, and there are more.
    Note(usize),
    /// The step is done.
    Finish,
}

/// The message for a part of a script that is not one transaction, and what stands before `text`,
/// which is the part with the file's settings before it. A part that keeps the step from being
/// finished fails as the last would.
pub(crate) fn of_part(
    id: i64,
    diesel_table: Option<&str>,
    (own, modes): (Option<&str>, Option<&str>),
    text: &str,
    then: PartEnding,
    reset: &str,
) -> (String, MessagePreamble) {
    let (before, preamble) = script_preamble(&begin(own, modes), id, diesel_table);
    let ending = match then {
        PartEnding::Note(_) => format!(
            "SELECT schemad.{CAN_BE_FINISHED}({id}::int8);{}",
            ending(id, then)
        ),
        PartEnding::Finish => ending(id, then),
    };
    (
        format!("{};COMMIT", message(&before, text, &ending, reset)),
        preamble,
    )
}

/// The message that records a part which ran outside a transaction.
pub(crate) fn record(id: i64, then: PartEnding) -> String {
    alone(id, &ending(id, then))
}

/// The message before a part that runs outside a transaction.
pub(crate) fn announce(id: i64, number: usize) -> String {
    alone(id, &note(id, number, "running"))
}

/// The message after such a part was refused by the server.
pub(crate) fn take_back(id: i64, number: usize) -> String {
    alone(id, &note(id, number, "pending"))
}

/// A transaction of the guards alone, which does not take the step's role.
fn alone(id: i64, ending: &str) -> String {
    format!("{BEGIN};SELECT {};{ending};COMMIT", begin_step(id))
}

fn ending(id: i64, then: PartEnding) -> String {
    match then {
        PartEnding::Note(number) => note(id, number, "done"),
        PartEnding::Finish => finish_step(id),
    }
}

fn note(id: i64, number: usize, state: &'static str) -> String {
    format!("SELECT schemad.{NOTE_STATEMENT}({id}::int8,{number}::int4,'{state}'::text)")
}

/// With the time that the step has taken so far, as the server sees it: steps are sent ahead and
/// their answers may arrive together.
fn finish_step(id: i64) -> String {
    format!(
        "SELECT \
         schemad.{FINISH_STEP}({id}::int8),pg_catalog.date_part('epoch',pg_catalog.clock_timestamp() \
         OPERATOR(pg_catalog.-) pg_catalog.transaction_timestamp()) AS {TOOK}"
    )
}

/// The line break before the semicolon keeps a trailing `--` comment from swallowing it, and
/// deferred constraints are checked while the script's own settings still hold.
fn message(preamble: &str, sql: &str, ending: &str, reset: &str) -> String {
    format!("{preamble}{sql}\n;SET CONSTRAINTS ALL IMMEDIATE;{reset};{ending}")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn step(id: i64, sql: &str) -> RunnableStep<'_> {
        let (lock_wait, lock_timeout) = (Duration::ZERO, Duration::ZERO);
        RunnableStep {
            id,
            sql,
            lock_wait,
            lock_timeout,
            role: None,
            earlier: None,
            journaled: None,
        }
    }

    #[test]
    fn the_preamble_has_one_length() {
        for id in [0, 7, i64::MAX] {
            assert_eq!(begin_step(id).len(), begin_step(1).len());
        }
        let modes = |sql| of(&step(1, sql), Some("public.d"), "RESET ALL");
        let (message, preamble) = modes("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE; SELECT 1");
        let begins = "BEGIN ISOLATION LEVEL SERIALIZABLE;LOCK TABLE ONLY public.d IN ROW EXCLUSIVE \
            MODE;SELECT";
        assert!(message.starts_with(begins), "{message}");
        assert_eq!(
            (preamble.statements, modes("SELECT 1").1.statements),
            (4, 3)
        );
        assert_eq!(
            message
                .chars()
                .skip(preamble.characters)
                .take(3)
                .collect::<String>(),
            "SET"
        );
    }

    #[test]
    fn a_message_reads_as_designed() {
        insta::assert_snapshot!(
            of(
                &step(42, "CREATE TABLE t (); -- last"),
                Some("public.d"),
                "RESET ALL;SET lock_timeout=0"
            )
            .0
        );
    }
}
