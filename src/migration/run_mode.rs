//! Whether a script can run the way its mode says; found without a server, so that status says it
//! before anybody applies.

use serde::{Deserialize, Serialize};

use crate::{
    failure::{Failure, Reason},
    migration::{Checksum, Direction, Script, ScriptMode, Version},
    sql::{self, Hazard, ScriptUnit, SessionLoss, TextPosition},
};

/// A part of a script that is not one transaction: its checksum, and how it can be told whether it
/// took effect.
pub(crate) type JournalPart = (String, &'static str);

/// Why a script does not run in one transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PartsReason {
    /// Its metadata.toml says so.
    Metadata,
    /// It has BEGIN … COMMIT blocks of its own.
    OwnTransactions,
}

/// How a script runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunMode {
    /// Why it does not run in one transaction; `None`: it does.
    pub in_parts: Option<PartsReason>,
    /// In how many parts it is committed; 0 for one transaction, and for a script that cannot run.
    pub parts: usize,
}

impl RunMode {
    /// Of a script with so many parts.
    pub(crate) fn of(script: &Script, parts: usize) -> Self {
        let why = || {
            if sql::has_own_transactions(&script.sql) {
                PartsReason::OwnTransactions
            } else {
                PartsReason::Metadata
            }
        };
        Self {
            in_parts: (script.mode == ScriptMode::NonTransactional).then(why),
            parts,
        }
    }

    /// The same, with its parts counted.
    pub(crate) fn counted(script: &Script) -> Self {
        let count = || sql::units(&script.sql).map_or(0, |units| units.len());
        Self::of(
            script,
            if script.mode == ScriptMode::NonTransactional {
                count()
            } else {
                0
            },
        )
    }
}

/// The parts of a script; none for one that is one transaction.
///
/// # Errors
/// Why the script cannot run: the statement, its line, and what to write instead.
pub(crate) fn parts(
    name: &str,
    version: &Version,
    direction: Direction,
    script: &Script,
) -> Result<Vec<JournalPart>, Failure> {
    let found = match script.mode {
        ScriptMode::Transactional => match sql::hazard(&script.sql) {
            Some(found) => Err(found),
            None => Ok(Vec::new()),
        },
        ScriptMode::NonTransactional => sql::units(&script.sql),
    };
    let part = |unit: ScriptUnit<'_>| {
        (
            Checksum::of_script(unit.body.sql).to_string(),
            unit.settles_by(),
        )
    };
    match found {
        Ok(units) => Ok(units.into_iter().map(part).collect()),
        Err(found) => Err(unfit(&direction.file(name), version, script, found)),
    }
}

/// Refuses an up that would run and not do what it says: its BEGIN is never committed, or it counts
/// on a session that each of its parts begins anew. Not for what runs already: a down was taken
/// into the ledger as it is, and an up that is half applied goes on.
///
/// # Errors
/// The statement, its line, and what to write instead.
pub(crate) fn means_what_it_says(
    name: &str,
    version: &Version,
    up: &Script,
) -> Result<(), Failure> {
    let found = match up.mode {
        ScriptMode::Transactional => {
            sql::lone_begin(&up.sql).map(|place| (Hazard::EndsTransaction, place))
        }
        ScriptMode::NonTransactional => {
            sql::loses_session(&up.sql).map(|(loss, place)| (Hazard::LosesSession(loss), place))
        }
    };
    found.map_or(Ok(()), |found| {
        Err(unfit(&Direction::Up.file(name), version, up, found))
    })
}

fn unfit(
    file: &str,
    version: &Version,
    script: &Script,
    (hazard, place): (Hazard, TextPosition),
) -> Failure {
    let (reason, problem, cure) = words(hazard);
    let sql = &*script.sql;
    let of_pg_dump = || is_of_pg_dump(&sql::excerpt(sql, place).0);
    let (problem, cure) = match hazard {
        Hazard::NeedsPsql if of_pg_dump() => (
            problem,
            "pg_dump wrote it, at the dump's beginning and end: delete both lines",
        ),
        Hazard::NeedsNoTransaction if script.mode == ScriptMode::NonTransactional => (
            "this statement cannot run in a transaction, and stands between the file's BEGIN and \
             COMMIT",
            "Write it before the BEGIN or behind the COMMIT",
        ),
        // The file is this statement, so it need not move.
        Hazard::NeedsNoTransaction if sql::count(sql) == 1 => (
            problem,
            "Write a metadata.toml beside this file that says run_in_transaction = false",
        ),
        _ => (problem, cure),
    };
    not_run(reason, file, version, (sql, place), problem, cure)
}

/// Refuses a script that changes the role it runs as: where migrations run as a role of their own,
/// the session's user is the daemon's, and RESET ROLE would make the script run with the daemon's
/// rights.
///
/// # Errors
/// The statement, its line, and what to write instead.
pub(crate) fn keeps_role(
    name: &str,
    version: &Version,
    direction: Direction,
    script: &Script,
) -> Result<(), Failure> {
    let Some(change) = sql::first_role_change(&script.sql) else {
        return Ok(());
    };
    let problem = format!(
        "this statement {}, and this daemon runs migrations as another role than its login (its \
         setting SCHEMAD_ROLE)",
        change.what
    );
    let cure = "Leave it out. What needs another role is run by hand, or by a daemon without that \
         setting";
    let (file, place) = (direction.file(name), (&*script.sql, change.place));
    Err(not_run(
        Reason::ChangesRole,
        &file,
        version,
        place,
        &problem,
        cure,
    ))
}

/// A file of which nothing is run because of the statement at `place` in it.
pub(crate) fn not_run(
    reason: Reason,
    file: &str,
    version: &Version,
    (sql, place): (&str, TextPosition),
    problem: &str,
    cure: &str,
) -> Failure {
    const CONSEQUENCE: &str = "Nothing of the file was run";
    let (statement, statements) = (sql::statement_at(sql, place) + 1, sql::count(sql));
    let (source, source_column) = sql::excerpt(sql, place);
    let TextPosition { line, column } = place;
    let message = format!(
        "{file}, line {line}, column {column}, statement {statement} of {statements}: {problem}. \
         {cure}. {CONSEQUENCE}"
    );
    Failure::new(reason, message)
        .with("version", version)
        .with("file", file)
        .with("line", line)
        .with("column", column)
        .with("statement", statement)
        .with("statements", statements)
        .with("source", source)
        .with("source_column", source_column)
        .with("problem", problem)
        .with("meaning", cure)
        .with("consequence", CONSEQUENCE)
}

/// `\restrict` and `\unrestrict`, which every dump has had since August 2025.
fn is_of_pg_dump(line: &str) -> bool {
    matches!(
        line.split_whitespace().next(),
        Some("\\restrict" | "\\unrestrict")
    )
}

/// What does not reach the next part of a script that is not one transaction, and what to write
/// instead.
fn lost(loss: SessionLoss) -> (&'static str, &'static str) {
    const ONE_BLOCK: &str = "The file runs statement by statement, and every statement or BEGIN \
        ... COMMIT block begins with a clean session. Put what makes it and what uses it between \
        one BEGIN and COMMIT";
    match loss {
        SessionLoss::Temporary => (
            "this statement uses a temporary table, view or sequence that is gone by then",
            ONE_BLOCK,
        ),
        SessionLoss::Prepared => (
            "this statement uses a prepared statement that is gone by then",
            ONE_BLOCK,
        ),
        SessionLoss::Cursor => (
            "this statement uses a cursor that is gone by then",
            ONE_BLOCK,
        ),
        SessionLoss::Sequence => (
            "currval() and lastval() know only what the session did before, and here that is \
             nothing",
            "The file runs statement by statement, and every statement or BEGIN ... COMMIT block \
             begins with a clean session. Put it together with the INSERT or nextval() before it \
             between one BEGIN and COMMIT, or use INSERT ... RETURNING in a WITH",
        ),
        SessionLoss::Local => (
            "this statement holds to the end of its transaction, and it stands in none of the \
             file's",
            "Put it with what it is for between one BEGIN and COMMIT, or write SET without LOCAL, \
             which holds for the rest of the file",
        ),
        SessionLoss::Setting => (
            "what this statement sets is gone before the next one, because it is not known before \
             it runs",
            "Write SET, or set_config() with texts and false, which hold for the rest of the file; \
             or put it with what it is for between one BEGIN and COMMIT",
        ),
    }
}

/// The reason, what is wrong, and what to write instead.
fn words(hazard: Hazard) -> (Reason, &'static str, &'static str) {
    match hazard {
        Hazard::LosesSession(loss) => {
            let (problem, cure) = lost(loss);
            (Reason::LosesSession, problem, cure)
        }
        Hazard::EndsTransaction => (
            Reason::EndsTransaction,
            "this statement ends a transaction that the file did not begin, or begins one that it \
             does not commit",
            "schemad runs a file in a transaction with its ledger row; a file may have its own, as \
             whole BEGIN ... COMMIT blocks",
        ),
        Hazard::NeedsNoTransaction => (
            Reason::NonTransactional,
            "this statement cannot run in a transaction, and its file is one",
            "Put it into a migration of its own whose metadata.toml says run_in_transaction = \
             false",
        ),
        Hazard::Discards => (
            Reason::NonTransactional,
            "DISCARD ALL cannot run in a transaction, and its file is one",
            "Leave it out: every migration begins with a clean session",
        ),
        Hazard::NeedsPsql => (
            Reason::NeedsClient,
            "this is a command of psql's, not SQL, and only psql understands it",
            "Write the SQL that it stands for",
        ),
        Hazard::NeedsClient => (
            Reason::NeedsClient,
            "this statement exchanges data with a client, and a migration has none",
            "Use INSERT (pg_dump --inserts, or --rows-per-insert=1000), or COPY with a file on the \
             server",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_run_is_told_with_its_place_and_the_cure() {
        let script = Script::new(
            "SELECT 1;\n  VACUUM t;\nSELECT 2;",
            ScriptMode::Transactional,
        );
        let failure = parts("1_a", &"1".parse().unwrap(), Direction::Up, &script).unwrap_err();
        insta::assert_snapshot!(failure.message, @"1_a/up.sql, line 2, column 3, statement 2 of 3: \
            this statement cannot run in a transaction, and its file is one. Put it into a \
            migration of its own whose metadata.toml says run_in_transaction = false. Nothing of \
            the file was run");
        let problem = |sql: &str, mode| {
            let failure = parts(
                "1_a",
                &"1".parse().unwrap(),
                Direction::Up,
                &Script::new(sql, mode),
            )
            .unwrap_err();
            (
                failure.metadata["problem"].clone(),
                failure.metadata["meaning"].clone(),
            )
        };
        let block = problem("BEGIN; VACUUM t; COMMIT", ScriptMode::NonTransactional);
        assert!(
            block.0.contains("between the file's BEGIN and COMMIT")
                && block.1.contains("before the BEGIN"),
            "{block:?}"
        );
        for command in ["\\restrict AbC", "SELECT 1;\n\\unrestrict AbC\n"] {
            let dump = problem(command, ScriptMode::Transactional);
            assert!(dump.1.contains("pg_dump wrote it"), "{dump:?}");
        }
        assert!(
            !problem("\\i other.sql", ScriptMode::Transactional)
                .1
                .contains("pg_dump")
        );
        let alone = problem(
            "CREATE INDEX CONCURRENTLY i ON t (n);",
            ScriptMode::Transactional,
        );
        assert!(alone.1.contains("beside this file"), "{alone:?}");
        assert!(
            problem("COPY t FROM stdin", ScriptMode::Transactional)
                .1
                .contains("--inserts")
        );
        let told = [
            "line",
            "column",
            "statement",
            "statements",
            "source",
            "source_column",
        ];
        assert_eq!(
            told.map(|key| failure.metadata[key].as_str()),
            ["2", "3", "2", "3", "  VACUUM t;", "3"]
        );
    }
}
