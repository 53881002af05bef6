//! A database whose encoding is not UTF-8 has no place for some characters, in a comment or
//! anywhere: the server refuses the whole message. So the scripts of an operation are looked
//! through before it begins, and the character is named with its place.

use std::collections::BTreeSet;

use super::prepare::PreparedStep;
use crate::{
    failure::{Failure, Reason},
    ledger::read,
    migration::{Direction, Migration, MigrationRow, Script, Version, run_mode, set::MigrationSet},
    postgres::pool::PooledReader,
    runtime::blocking,
    sql,
};

/// Refuses the steps when one of their scripts, or a down that the ledger would keep, has a
/// character that the database cannot hold.
pub(super) async fn check(
    steps: &[PreparedStep],
    reader: &mut PooledReader,
    encoding: &str,
    bytes: usize,
) -> Result<(), Failure> {
    let files: Vec<ScriptFile<'_>> = steps.iter().flat_map(of_step).collect();
    match unfit(&files, reader, encoding, bytes)
        .await?
        .into_iter()
        .next()
    {
        Some(failure) => Err(failure),
        None => Ok(()),
    }
}

/// Why pending migrations cannot be applied to a database of this encoding: one failure each.
///
/// # Errors
/// The database's, or its loss.
pub(crate) async fn unfit_pending(
    catalog: &MigrationSet,
    pending: &[Version],
    reader: &mut PooledReader,
    encoding: &str,
) -> Result<Vec<Failure>, Failure> {
    let files: Vec<ScriptFile<'_>> = pending
        .iter()
        .filter_map(|version| catalog.get(version))
        .flat_map(of_migration)
        .collect();
    let bytes = files.iter().map(|file| file.script.sql.len()).sum();
    unfit(&files, reader, encoding, bytes).await
}

/// Whether a database of this encoding takes any character. SQL_ASCII takes any byte.
pub(crate) fn holds_everything(encoding: &str) -> bool {
    matches!(encoding, "UTF8" | "SQL_ASCII")
}

/// A script, and whose it is.
struct ScriptFile<'a> {
    version: &'a Version,
    name: &'a str,
    direction: Direction,
    script: &'a Script,
}

/// What runs, and of an up what the ledger keeps for its way back.
fn of_step(step: &PreparedStep) -> impl Iterator<Item = ScriptFile<'_>> {
    let (version, name) = (&step.version, step.name.name.as_str());
    let file = move |direction, script| ScriptFile {
        version,
        name,
        direction,
        script,
    };
    let down = step
        .down
        .iter()
        .map(move |down| file(Direction::Down, down));
    std::iter::once(file(step.name.direction, &step.script)).chain(down)
}

fn of_migration(migration: &Migration) -> impl Iterator<Item = ScriptFile<'_>> {
    let (version, name) = (&migration.version, migration.name.as_str());
    let file = move |direction, script| ScriptFile {
        version,
        name,
        direction,
        script,
    };
    let down = migration
        .down
        .iter()
        .map(move |down| file(Direction::Down, down));
    std::iter::once(file(Direction::Up, &migration.up)).chain(down)
}

/// What has a character that the database cannot hold, each with the first one's place; of one
/// migration only the first file.
async fn unfit(
    files: &[ScriptFile<'_>],
    reader: &mut PooledReader,
    encoding: &str,
    bytes: usize,
) -> Result<Vec<Failure>, Failure> {
    if holds_everything(encoding) {
        return Ok(Vec::new());
    }
    let unknown = not_held(files, reader, bytes).await?;
    if unknown.is_empty() {
        return Ok(Vec::new());
    }
    let found = blocking::in_place(bytes, || {
        let mut found: Vec<Failure> = files
            .iter()
            .filter_map(|file| first(file, &unknown, encoding))
            .collect();
        found.dedup_by(|later, earlier| {
            later.metadata.get("version") == earlier.metadata.get("version")
        });
        found
    });
    Ok(found)
}

/// The characters of the files, and of their names, that the database cannot hold.
async fn not_held(
    files: &[ScriptFile<'_>],
    reader: &mut PooledReader,
    bytes: usize,
) -> Result<BTreeSet<char>, Failure> {
    let texts = || files.iter().flat_map(|file| [file.name, &*file.script.sql]);
    let characters: BTreeSet<char> = blocking::in_place(bytes, || {
        texts()
            .flat_map(str::chars)
            .filter(|c| !c.is_ascii())
            .collect()
    });
    if characters.is_empty() {
        return Ok(characters);
    }
    Ok(read::not_in_encoding(reader, &characters).await?)
}

/// The characters of migrations that are adopted which the database cannot hold.
///
/// # Errors
/// The database's, or its loss.
pub(super) async fn not_held_of(
    adopted: &[(&MigrationRow, Option<&Migration>)],
    reader: &mut PooledReader,
    encoding: &str,
) -> Result<BTreeSet<char>, Failure> {
    if holds_everything(encoding) {
        return Ok(BTreeSet::new());
    }
    let files: Vec<ScriptFile<'_>> = adopted
        .iter()
        .filter_map(|(_, migration)| *migration)
        .flat_map(of_migration)
        .collect();
    let bytes = files.iter().map(|file| file.script.sql.len()).sum();
    not_held(&files, reader, bytes).await
}

/// The first character of the file that the encoding does not have.
fn first(file: &ScriptFile<'_>, unknown: &BTreeSet<char>, encoding: &str) -> Option<Failure> {
    let sql = &*file.script.sql;
    let lacks = |character: char| {
        format!(
            "the database's encoding is {encoding}, which has no {character:?} (U+{:04X})",
            u32::from(character)
        )
    };
    if let Some(character) = file.name.chars().find(|c| unknown.contains(c)) {
        let message = format!("{}: {}. Rename the folder", file.name, lacks(character));
        return Some(Failure::new(Reason::InvalidMigration, message).with("version", file.version));
    }
    let (at, character) = sql.chars().enumerate().find(|(_, c)| unknown.contains(c))?;
    let problem = lacks(character);
    let cure = "Write it with characters that the encoding has, in comments too; or make the \
        database with ENCODING 'UTF8'";
    let (name, place) = (file.direction.file(file.name), sql::place(sql, at + 1));
    Some(run_mode::not_run(
        Reason::InvalidMigration,
        &name,
        file.version,
        (sql, place),
        &problem,
        cure,
    ))
}
