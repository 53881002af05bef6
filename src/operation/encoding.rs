//! A database whose encoding is not UTF-8 has no place for some characters, in a comment or anywhere: the server refuses the whole message.
//! So the scripts of an operation are looked through before it begins, and the character is named with its place.

use std::collections::BTreeSet;

use super::prepare::Step;
use crate::{
    blocking,
    catalog::fitness,
    db::pool::Reader,
    failure::{Failure, Reason},
    ledger::read,
    migration::{Direction, Script},
    sql,
};

/// Refuses the steps when one of their scripts, or a down that the ledger would keep, has a character that the database cannot hold.
pub(super) async fn check(steps: &[Step], reader: &mut Reader, encoding: &str, bytes: usize) -> Result<(), Failure> {
    // SQL_ASCII takes any byte.
    if matches!(encoding, "UTF8" | "SQL_ASCII") {
        return Ok(());
    }
    let beyond_ascii =
        || steps.iter().flat_map(scripts).flat_map(|(_, script)| script.sql.chars()).filter(|c| !c.is_ascii());
    let characters: BTreeSet<char> = blocking::in_place(bytes, || beyond_ascii().collect());
    if characters.is_empty() {
        return Ok(());
    }
    let unknown = read::not_in_encoding(reader, &characters).await.map_err(Failure::from)?;
    match blocking::in_place(bytes, || first(steps, &unknown)) {
        None => Ok(()),
        Some((step, direction, script, nth, character)) => {
            let problem = format!(
                "the database's encoding is {encoding}, which has no {character:?} (U+{:04X})",
                u32::from(character)
            );
            let cure = "Write it with characters that the encoding has, in comments too; or make the database with ENCODING 'UTF8'";
            let (file, place) = (direction.file(&step.name.name), sql::place(&script.sql, nth));
            Err(fitness::not_run(Reason::InvalidMigration, &file, &step.version, (&script.sql, place), &problem, cure))
        }
    }
}

/// What runs, and of an up what the ledger keeps for its way back.
fn scripts(step: &Step) -> impl Iterator<Item = (Direction, &Script)> {
    std::iter::once((step.name.direction, &step.script)).chain(step.down.iter().map(|down| (Direction::Down, down)))
}

type Found<'a> = (&'a Step, Direction, &'a Script, usize, char);

/// The first such character, and which of its script (from 1) it is.
fn first<'a>(steps: &'a [Step], unknown: &BTreeSet<char>) -> Option<Found<'a>> {
    steps.iter().find_map(|step| {
        scripts(step).find_map(|(direction, script)| {
            let (at, character) = script.sql.chars().enumerate().find(|(_, c)| unknown.contains(c))?;
            Some((step, direction, script, at + 1, character))
        })
    })
}
