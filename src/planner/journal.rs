//! Scripts that are not one transaction and ended before their last statement: what may go on, and what has to wait for a
//! person.

use super::Refusal;
use crate::{
    catalog::{Catalog, fitness::Part},
    migration::{Direction, Journal, Row},
    sql,
};

/// Where a script goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resume {
    /// The step that began it, in the ledger.
    pub step: Option<i64>,
    /// Parts that are done.
    pub done: usize,
    /// The next one was sent, and its end is not recorded.
    pub interrupted: bool,
}

/// Refuses to plan anything while nobody knows what a statement did.
pub(super) fn in_doubt<'a>(catalog: &'a Catalog, rows: &'a [Row]) -> impl Iterator<Item = Refusal> + 'a {
    journals(rows).filter(|(_, journal)| journal.running.as_ref().is_some_and(|part| part.in_doubt)).map(
        |(row, journal)| Refusal::InDoubt {
            version: row.version.clone(),
            direction: journal.direction,
            statement: journal.done.len() + 1,
            sql: sent(catalog, row, journal),
        },
    )
}

/// How the statement begins that was sent, where the binary still carries it.
fn sent(catalog: &Catalog, row: &Row, journal: &Journal) -> String {
    let migration = catalog.get(&row.version);
    let script = migration.and_then(|m| match journal.direction {
        Direction::Up => Some(&m.up),
        Direction::Down => m.down.as_ref(),
    });
    let units = script.and_then(|script| sql::units(&script.sql).ok()).unwrap_or_default();
    let unit = units.get(journal.done.len()).map(|unit| unit.body.summary());
    unit.unwrap_or_else(|| "this binary does not carry its text".into())
}

/// The migrations that are half rolled back; only rolling back goes on from there.
pub(super) fn half_reverted(rows: &[Row]) -> impl Iterator<Item = Refusal> + '_ {
    journals(rows)
        .filter(|(row, journal)| row.is_applied() && journal.direction == Direction::Down)
        .map(|(row, journal)| Refusal::HalfReverted { version: row.version.clone(), done: journal.done.len() })
}

/// The migrations that are half applied; nothing they stand on may go.
pub(super) fn half_applied(rows: &[Row]) -> impl Iterator<Item = Refusal> + '_ {
    journals(rows)
        .filter(|(row, journal)| !row.is_applied() && journal.direction == Direction::Up && !journal.done.is_empty())
        .map(|(row, journal)| Refusal::HalfApplied { version: row.version.clone(), done: journal.done.len() })
}

fn journals(rows: &[Row]) -> impl Iterator<Item = (&Row, &Journal)> {
    rows.iter().filter_map(|row| Some((row, row.journal.as_ref()?)))
}

/// Where a script with these parts goes on. A part that is not done yet may have been mended.
///
/// # Errors
/// [`Refusal::JournalDiffers`] when a part that ran is no longer what it was.
pub fn resume(row: Option<&Row>, direction: Direction, parts: &[Part]) -> Result<Resume, Refusal> {
    let Some((row, journal)) =
        row.and_then(|row| Some((row, row.journal.as_ref().filter(|journal| journal.direction == direction)?)))
    else {
        return Ok(Resume::default());
    };
    let running = journal.running.as_ref().map(|part| &part.checksum);
    let differs = journal
        .done
        .iter()
        .chain(running)
        .enumerate()
        .find(|(n, ran)| parts.get(*n).map(|(checksum, _)| checksum) != Some(ran));
    match differs {
        Some((n, _)) => Err(Refusal::JournalDiffers { version: row.version.clone(), statement: n + 1 }),
        None => {
            Ok(Resume { step: Some(journal.step), done: journal.done.len(), interrupted: journal.running.is_some() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        catalog::tests::{Hand, Source},
        migration::RunningPart,
    };

    fn row(done: &[&str], running: Option<(&str, bool)>) -> Row {
        let running = running.map(|(checksum, in_doubt)| RunningPart { checksum: checksum.into(), in_doubt });
        let done = done.iter().map(|c| (*c).to_owned()).collect();
        let journal = Journal { step: 7, direction: Direction::Up, name: "1_a".into(), done, running };
        Row { version: "1".parse().unwrap(), run_on: None, recorded: None, journal: Some(journal) }
    }

    fn parts(parts: &[&str]) -> Vec<Part> {
        parts.iter().map(|p| ((*p).to_owned(), "transaction")).collect()
    }

    #[test]
    fn a_script_goes_on_after_what_is_done() {
        let go_on = |row: &Row, given: &[&str]| resume(Some(row), Direction::Up, &parts(given));
        let expected = |done, interrupted| Ok(Resume { step: Some(7), done, interrupted });
        assert_eq!(go_on(&row(&["a", "b"], None), &["a", "b", "c"]), expected(2, false));
        assert_eq!(go_on(&row(&["a"], Some(("b", false))), &["a", "b"]), expected(1, true));
        assert_eq!(go_on(&row(&["a"], None), &["a", "mended"]), expected(1, false));
        assert_eq!(resume(Some(&row(&["a"], None)), Direction::Down, &parts(&["x"])), Ok(Resume::default()));
        assert_eq!(resume(None, Direction::Up, &parts(&["x"])), Ok(Resume::default()));
    }

    #[test]
    fn what_ran_may_not_have_changed() {
        let statement = |row: &Row, given: &[&str]| match resume(Some(row), Direction::Up, &parts(given)) {
            Err(Refusal::JournalDiffers { statement, .. }) => statement,
            other => panic!("{other:?}"),
        };
        assert_eq!(statement(&row(&["a", "b"], None), &["a", "x"]), 2);
        assert_eq!(statement(&row(&["a", "b"], None), &["a"]), 2);
        assert_eq!(statement(&row(&[], Some(("a", false))), &["x"]), 1);
    }

    #[test]
    fn doubt_is_seen() {
        let set = Catalog::load(&Source(vec![Hand("1_a", vec!["SELECT 1; CREATE DATABASE x"], None)])).unwrap();
        let rows = [row(&["a"], Some(("b", true)))];
        let refusal = in_doubt(&set, &rows).next().unwrap().to_string();
        assert!(refusal.contains(": CREATE DATABASE x. Look"), "{refusal}");
        assert_eq!(in_doubt(&set, &[row(&["a"], Some(("b", false)))]).count(), 0);
    }
}
