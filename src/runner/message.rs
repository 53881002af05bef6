//! A step as one simple-query message: an explicit transaction with the script between the ledger's two guards. One round
//! trip, atomic, and safe to send ahead. No value is formed into it but the step's integer, and the name of Diesel's table as the server
//! itself quotes it.

use super::Step;
use crate::{db::session::CONFIGURED_PATH, sql};

/// BEGIN, the first guard, and the search_path for the script.
pub const PREAMBLE_STATEMENTS: usize = 3;

/// The guards, in the schema `schemad` (src/ledger/0001.sql and 0005.sql).
pub const BEGIN_STEP: &str = "begin_step_v2";
pub const FINISH_STEP: &str = "finish_step_v3";
pub const NOTE_STATEMENT: &str = "note_statement_v2";

/// The column of a finished step's answer that says how long it took, in seconds.
pub const TOOK: &str = "schemad_step_took";

/// How schemad begins a transaction, where the file does not do it itself.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";

/// Said once more by the script's own SET TRANSACTION, which is then no change and so not too late.
fn begin(own: Option<&str>, modes: Option<&str>) -> String {
    [own.unwrap_or(BEGIN), modes.unwrap_or_default()].join(" ").trim_end().to_owned()
}

/// BEGIN and the first guard. Nineteen digits are room for every id, and padding keeps the length, so positions can be told
/// without the id.
fn preamble(begin: &str, id: i64) -> String {
    format!("{begin};SELECT schemad.{BEGIN_STEP}({id:>19}::int8)")
}

/// The preamble of a script, which runs with the search_path that the URL, the role or the database sets.
fn script_preamble(begin: &str, id: i64) -> String {
    format!("{};{CONFIGURED_PATH};\n", preamble(begin, id))
}

/// The message for a step, and the characters before its script. `reset` ends what the script left in the session.
pub fn of(step: &Step<'_>, reset: &str) -> (String, usize) {
    let (message, preamble) = open(step, reset);
    (format!("{message};COMMIT"), preamble)
}

/// The same without its COMMIT.
pub fn open(step: &Step<'_>, reset: &str) -> (String, usize) {
    let preamble = script_preamble(&begin(None, sql::transaction_modes(step.sql)), step.id);
    (message(&preamble, step.sql, &finish_step(step.id), reset), preamble.chars().count())
}

/// What ends a part of a script that is not one transaction.
#[derive(Clone, Copy)]
pub enum Then {
    /// The part is done, and there are more.
    Note(usize),
    /// The step is done.
    Finish,
}

/// The message for a part of a script that is not one transaction, and the characters before `text`, which is the part with the
/// file's settings before it. A part that keeps the step from being finished fails as the last would.
pub fn of_part(
    id: i64,
    diesel_table: &str,
    (own, modes): (Option<&str>, Option<&str>),
    text: &str,
    then: Then,
    reset: &str,
) -> (String, usize) {
    let preamble = script_preamble(&begin(own, modes), id);
    let ending = match then {
        Then::Note(_) => format!("{};{}", can_be_finished(id, diesel_table), ending(id, then)),
        Then::Finish => ending(id, then),
    };
    (format!("{};COMMIT", message(&preamble, text, &ending, reset)), preamble.chars().count())
}

/// Calls the second guard where it can only refuse: Diesel's table is gone, or lists the migration already (a down: no longer).
fn can_be_finished(id: i64, diesel_table: &str) -> String {
    let literal = sql::literal(diesel_table);
    format!(
        "SELECT schemad.{FINISH_STEP}({id}::int8) WHERE pg_catalog.to_regclass({literal}) IS NULL;\
         SELECT schemad.{FINISH_STEP}(s.id) FROM schemad.steps s WHERE s.id = {id} AND (s.direction = 'up') = \
         EXISTS (SELECT FROM {diesel_table} d WHERE d.version::text = s.version)"
    )
}

/// The message that records a part which ran outside a transaction. The first guard has taken the step's role, which may not touch
/// the ledger; so in the two below.
pub fn record(id: i64, then: Then) -> String {
    format!("{};RESET ROLE;{};COMMIT", preamble(BEGIN, id), ending(id, then))
}

/// The message before a part that runs outside a transaction, without its COMMIT.
pub fn announce(id: i64, number: usize) -> String {
    format!("{};RESET ROLE;{}", preamble(BEGIN, id), note(id, number, "running"))
}

/// The message after such a part was refused by the server.
pub fn take_back(id: i64, number: usize) -> String {
    format!("{};RESET ROLE;{};COMMIT", preamble(BEGIN, id), note(id, number, "pending"))
}

fn ending(id: i64, then: Then) -> String {
    match then {
        Then::Note(number) => note(id, number, "done"),
        Then::Finish => finish_step(id),
    }
}

fn note(id: i64, number: usize, state: &'static str) -> String {
    format!("SELECT schemad.{NOTE_STATEMENT}({id}::int8,{number}::int4,'{state}'::text)")
}

/// With the time that the step has taken so far, as the server sees it: steps are sent ahead and their answers may arrive together.
fn finish_step(id: i64) -> String {
    format!(
        "SELECT schemad.{FINISH_STEP}({id}::int8),pg_catalog.date_part('epoch',pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) \
         pg_catalog.transaction_timestamp()) AS {TOOK}"
    )
}

/// The line break before the semicolon keeps a trailing `--` comment from swallowing it, and deferred constraints are
/// checked while the script's own settings still hold.
fn message(preamble: &str, sql: &str, ending: &str, reset: &str) -> String {
    format!("{preamble}{sql}\n;SET CONSTRAINTS ALL IMMEDIATE;{reset};{ending}")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn step(id: i64, sql: &str) -> Step<'_> {
        let (lock_wait, lock_timeout) = (Duration::ZERO, Duration::ZERO);
        Step { id, sql, lock_wait, lock_timeout, role: None, earlier: None, journaled: None }
    }

    #[test]
    fn the_preamble_has_one_length() {
        for id in [0, 7, i64::MAX] {
            assert_eq!(preamble(BEGIN, id).len(), preamble(BEGIN, 1).len());
        }
        let modes = |sql| of(&step(1, sql), "RESET ALL").0;
        assert!(
            modes("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE; SELECT 1")
                .starts_with("BEGIN ISOLATION LEVEL READ COMMITTED ISOLATION LEVEL SERIALIZABLE;SELECT")
        );
    }

    #[test]
    fn a_message_reads_as_designed() {
        insta::assert_snapshot!(of(&step(42, "CREATE TABLE t (); -- last"), "RESET ALL;SET lock_timeout=0").0);
    }
}
