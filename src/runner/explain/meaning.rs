//! What a SQLSTATE means here, where the server's words alone do not say it.

use super::grant;
use crate::{
    postgres::SqlError,
    runner::{ScriptError, message},
    sql,
};

/// In a sentence without its full stop. `is_through`: all statements of the script, or of its part,
/// were.
pub(super) fn of(failed: &ScriptError, sql: &str, role: &str, is_through: bool) -> Option<String> {
    let error = &failed.error;
    let in_guard = |name| {
        error
            .context
            .as_deref()
            .is_some_and(|context| context.contains(name))
    };
    let in_finish = in_guard(message::FINISH_STEP) || in_guard(message::CAN_BE_FINISHED);
    let in_guards = in_finish || in_guard(message::NOTE_STATEMENT);
    let statement = || sql::split(sql).into_iter().nth(failed.statements_done);
    let words = match error.sqlstate.as_str() {
        _ if needs_preloading(error) => {
            "The server has to load this extension's library when it starts: add it to \
             shared_preload_libraries on the server (in postgresql.conf, or with ALTER SYSTEM), \
             start the server anew, and apply again. The private server of `rehearse` and `dev` \
             takes it with --preload"
        }
        "SCH03" => "A migration is one transaction with its ledger row; the file must not end it",
        "SCH04" => {
            "The file calls pg_advisory_unlock_all() or releases schemad's own lock; remove that"
        }
        "SCH05" => "The file changes the session's user for good; use SET LOCAL ROLE",
        "SCH06" => "Something else changed the Diesel table meanwhile",
        "42P01" | "3F000" if in_finish => {
            "The file drops or moves Diesel's table of applied migrations, so the migration cannot \
             be recorded"
        }
        "3F000" | "42883" if is_through && error.message.contains("schemad") => {
            "The file drops the schema schemad, where the ledger of the migrations is; remove \
             that"
        }
        "25006" if in_guards => {
            "The file makes its transaction read only, so the migration cannot be recorded; remove \
             that"
        }
        "23505" if in_finish => "The file itself inserts into Diesel's table; schemad does that",
        "25001" => cannot_be_in_a_transaction(failed, statement().as_ref()),
        "2D000" => match failed.undone {
            None => {
                "The block or the procedure ends its transaction (COMMIT or ROLLBACK), and schemad \
                 runs the file in one: put the statement alone into a migration whose \
                 metadata.toml says run_in_transaction = false"
            }
            Some(_) => {
                "Only a CALL or a DO that stands for itself may end its transaction (COMMIT or \
                 ROLLBACK): take it out of the file's BEGIN ... COMMIT, or out of the function \
                 that calls it"
            }
        },
        "55006" if error.message.contains("pending trigger events") => {
            "The file changed rows of the table, and its deferred constraints or triggers wait for \
             the end of the transaction: write SET CONSTRAINTS ALL IMMEDIATE before this \
             statement, or put it into a migration of its own"
        }
        _ if misses_an_earlier_part(failed, sql) => {
            "The file runs statement by statement, and every statement or BEGIN ... COMMIT block \
             begins with a clean session: a temporary table, a prepared statement, a cursor or \
             currval() of an earlier one is gone. Put what belongs together between one BEGIN and \
             COMMIT"
        }
        "55P04" => {
            "A new enum label can be used only after it is committed: put its use into a later \
             migration"
        }
        "42501" => {
            // What the guards lack a right on is named in their own statements.
            let touches_ledger = |sql: &str| {
                sql::split(sql)
                    .iter()
                    .flat_map(sql::Statement::tokens)
                    .any(|token| token.eq_ignore_ascii_case("schemad"))
            };
            let refused =
                grant::inner(error).or_else(|| statement().map(|statement| statement.sql));
            if !in_guards && refused.is_some_and(touches_ledger) {
                return Some(
                    "The file touches the ledger (schema schemad), which no migration may: remove \
                     that"
                        .to_owned(),
                );
            }
            let inner = grant::inner(error)
                .filter(|_| in_guards)
                .and_then(|inner| sql::split(inner).into_iter().next());
            return Some(grant::helps(
                &error.message,
                role,
                inner.or_else(statement).as_ref(),
            ));
        }
        "53100" => "The server's disk is full",
        "42P07" | "42P06" if is_of_schemad(&error.message) => {
            "A dump of the whole database holds what schemad keeps itself: write it with pg_dump \
             -T '*.__diesel_schema_migrations' -N schemad"
        }
        "42P06" if error.message.contains("\"public\"") => {
            "Every database has this schema: delete the statement (pg_dump --clean wrote it), or \
             write CREATE SCHEMA IF NOT EXISTS"
        }
        "42704" if is_setting(&error.message) => {
            "This server does not know the setting; where a newer pg_dump wrote the file, delete \
             the line"
        }
        "42704" if error.message.starts_with("role \"") => {
            "Create the role before, on the server and not by a migration; or write the dump with \
             pg_dump --no-owner --no-privileges"
        }
        "42601" if let Some((name, code)) = odd_blank(&error.message) => {
            return Some(format!(
                "There is a {name} (U+{code:04X}), which looks like a blank and is none to \
                 PostgreSQL: replace it"
            ));
        }
        "42601" if error.message.contains("\"\\\"") => {
            "A backslash begins a command of psql's, which only psql understands"
        }
        "57014" => "statement_timeout ran out, or somebody cancelled it",
        _ if is_through && !in_guards && !error.sqlstate.starts_with("SCH") => {
            "A deferred constraint, or a deferred trigger, failed when the statements were \
             through"
        }
        _ => return None,
    };
    Some(words.to_owned())
}

/// Something is not there that an earlier part of a script which is not one transaction may have
/// had in its session. What can be seen in the file was refused before it ran; this was made by a
/// function or a DO block.
fn misses_an_earlier_part(failed: &ScriptError, sql: &str) -> bool {
    let has_earlier = failed.undone.is_some_and(|undone| undone.first > 0);
    let error = &failed.error;
    has_earlier
        && match error.sqlstate.as_str() {
            "26000" | "34000" => true,
            "55000" => {
                error.message.starts_with("currval ") || error.message.starts_with("lastval ")
            }
            "42P01" => sql::mentions(sql, &["temp", "temporary", "pg_temp"]),
            _ => false,
        }
}

/// What the ledger or Diesel's table is called, in what the server says of a name that is taken.
fn is_of_schemad(message: &str) -> bool {
    [
        "\"schemad\"",
        "\"__diesel_schema_migrations\"",
        "\"__diesel_schema_migrations_pkey\"",
    ]
    .iter()
    .any(|name| message.contains(name))
}

fn is_setting(message: &str) -> bool {
    message.starts_with("unrecognized configuration parameter")
}

/// A character that editors and web pages put where a blank should be, or where nothing should.
fn odd_blank(message: &str) -> Option<(&'static str, u32)> {
    const ODD: [(char, &str); 8] = [
        ('\u{a0}', "no-break space"),
        ('\u{2007}', "figure space"),
        ('\u{202f}', "narrow no-break space"),
        ('\u{3000}', "ideographic space"),
        ('\u{200b}', "zero-width space"),
        ('\u{200c}', "zero-width non-joiner"),
        ('\u{2060}', "word joiner"),
        ('\u{feff}', "byte order mark"),
    ];
    ODD.iter()
        .find(|(odd, _)| message.contains(*odd))
        .map(|(odd, name)| (*name, u32::from(*odd)))
}

/// Extensions say so with SQLSTATEs of their own choice. The setting's name is the same in every
/// language.
fn needs_preloading(error: &SqlError) -> bool {
    const WORDS: [&str; 3] = [
        "shared_preload_libraries",
        "must be preloaded",
        "can only be loaded at server start",
    ];
    let texts = [
        Some(error.message.as_str()),
        error.detail.as_deref(),
        error.hint.as_deref(),
    ];
    texts
        .into_iter()
        .flatten()
        .any(|text| WORDS.iter().any(|words| text.contains(words)))
}

fn cannot_be_in_a_transaction(
    failed: &ScriptError,
    statement: Option<&sql::Statement<'_>>,
) -> &'static str {
    let sets = statement.is_some_and(|statement| statement.transaction_modes().is_some());
    // REINDEX of what is partitioned has a context without a function in it.
    let is_inner =
        failed.error.context.is_some() && !statement.is_some_and(sql::Statement::repeats);
    match failed.undone {
        _ if sets => "It has to be the first statement of its transaction",
        _ if is_inner => {
            "What stands inside of a function or a DO block is always in a transaction: write the \
             statement itself, alone, into a migration whose metadata.toml says run_in_transaction \
             = false"
        }
        None => {
            "This statement cannot run in a transaction: put it alone into a migration whose \
             metadata.toml says run_in_transaction = false"
        }
        Some(_) => {
            "This statement cannot run in a transaction: take it out of the file's BEGIN ... \
             COMMIT"
        }
    }
}
