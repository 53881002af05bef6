//! Whether a script can run the way its mode says; found without a server, so that status says it before anybody applies.

use crate::{
    failure::{Failure, Reason},
    migration::{Checksum, Direction, Mode, Script, Version},
    sql::{self, Hazard, Place, Unit},
};

/// A part of a script that is not one transaction: its checksum, and how it can be told whether it took effect.
pub type Part = (String, &'static str);

/// The parts of a script; none for one that is one transaction.
///
/// # Errors
/// Why the script cannot run: the statement, its line, and what to write instead.
pub fn parts(name: &str, version: &Version, direction: Direction, script: &Script) -> Result<Vec<Part>, Failure> {
    let found = match script.mode {
        Mode::Transactional => match sql::hazard(&script.sql) {
            Some(found) => Err(found),
            None => Ok(Vec::new()),
        },
        Mode::NonTransactional => sql::units(&script.sql),
    };
    let part = |unit: Unit<'_>| (Checksum::of_script(unit.body.sql).to_string(), unit.settles_by());
    match found {
        Ok(units) => Ok(units.into_iter().map(part).collect()),
        Err((hazard, place)) => Err(unfit(&direction.file(name), version, hazard, place)),
    }
}

fn unfit(file: &str, version: &Version, hazard: Hazard, place: Place) -> Failure {
    let (reason, why) = match hazard {
        Hazard::EndsTransaction => (
            Reason::EndsTransaction,
            "ends a transaction that the file did not begin, or begins one that it does not commit. schemad runs a file in a \
             transaction with its ledger row; a file may have its own, as whole BEGIN ... COMMIT blocks",
        ),
        Hazard::NeedsNoTransaction => (
            Reason::NonTransactional,
            "cannot run in a transaction, and schemad runs the file in one. Put the statement into a migration of its own \
             whose metadata.toml says run_in_transaction = false",
        ),
        Hazard::NeedsPsql => (
            Reason::NeedsClient,
            "is a command of psql's, not SQL, and only psql understands it. Write the SQL that it stands for",
        ),
        Hazard::NeedsClient => (
            Reason::NeedsClient,
            "exchanges data with a client, and a migration has none. Use INSERT, or COPY with a file on the server",
        ),
    };
    Failure::new(reason, format!("{file}, line {}: the statement {why}. Nothing was run", place.line))
        .with("version", version)
        .with("file", file)
        .with("line", place.line)
        .with("column", place.column)
}
