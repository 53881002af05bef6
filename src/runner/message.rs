//! A step as one simple-query message: an explicit transaction with the script between the ledger's two guards. One round
//! trip, atomic, and safe to send ahead. No value is formed into it but the step's integer.

use super::Step;
use crate::db::session::{RESET, settings};

/// BEGIN and the first guard.
pub const PREAMBLE_STATEMENTS: usize = 2;

/// Ten digits and a sign are room for every id, and padding keeps the length, so positions can be told without the id.
fn preamble(id: i64) -> String {
    format!("BEGIN ISOLATION LEVEL READ COMMITTED;SELECT schemad.begin_step_v1({id:>19});\n")
}

/// Characters before the script (all of them ASCII).
pub fn preamble_length() -> usize {
    preamble(0).len()
}

/// The message for a step. The line break before the semicolon keeps a trailing `--` comment from swallowing it, and
/// deferred constraints are checked while the script's own settings still hold.
pub fn of(step: &Step<'_>, server_major: u32) -> String {
    let Step { id, sql } = step;
    format!(
        "{}{sql}\n;SET CONSTRAINTS ALL IMMEDIATE;{RESET};{};SELECT schemad.finish_step_v1({id});COMMIT",
        preamble(*id),
        settings(server_major)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preamble_has_one_length() {
        for id in [0, 7, i64::MAX] {
            assert_eq!(preamble(id).len(), preamble_length());
        }
    }

    #[test]
    fn a_message_reads_as_designed() {
        insta::assert_snapshot!(of(&Step { id: 42, sql: "CREATE TABLE t (); -- last" }, 17));
    }
}
