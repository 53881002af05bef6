//! Scripts that are not one transaction and ended before their last statement: what may go on, and
//! what has to wait for a person.

use super::{PlanRefusal, refusal::SentStatement};
use crate::{
    migration::{
        Checksum, Direction, JournalRecord, MigrationRow, run_mode::JournalPart, set::MigrationSet,
    },
    sql::{self, Statement},
};

/// Where a script goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ResumePoint {
    /// The step that began it, in the ledger.
    pub step: Option<i64>,
    /// Parts that are done.
    pub done: usize,
    /// The next one was sent, and its end is not recorded.
    pub interrupted: bool,
}

/// Refuses to plan anything while nobody knows what a statement did.
pub(super) fn in_doubt(rows: &[MigrationRow]) -> impl Iterator<Item = PlanRefusal> + '_ {
    journals(rows)
        .filter(|(_, journal)| journal.running.as_ref().is_some_and(|part| part.in_doubt))
        .map(|(row, journal)| PlanRefusal::InDoubt {
            version: row.version.clone(),
            direction: journal.direction,
            statement: journal.done.len() + 1,
            failed: journal.running.as_ref().is_some_and(|part| part.failed),
            sent: sent(journal).map(Box::new),
        })
}

/// The statement that was sent, in the script as it was then; the binary's may have changed since.
fn sent(journal: &JournalRecord) -> Option<SentStatement> {
    let script = journal.script.as_deref()?;
    let unit = sql::units(script)
        .ok()?
        .into_iter()
        .nth(journal.done.len())?;
    let checksum = Checksum::of_script(unit.body.sql).to_string();
    journal
        .running
        .as_ref()
        .filter(|running| running.checksum == checksum)?;
    let place = sql::place(script, sql::nth_character(script, unit.body.start));
    Some(SentStatement {
        file: journal.direction.file(&journal.name),
        place,
        statement: unit.statements_before + 1,
        statements: sql::count(script),
        summary: unit.body.summary(),
        excerpt: sql::excerpt(script, place),
        look: look(&unit.body),
    })
}

/// What tells a person whether `statement` took effect.
fn look(statement: &Statement<'_>) -> String {
    let words: Vec<&str> = statement.tokens().take(3).collect();
    let is = |at: usize, word: &str| {
        words
            .get(at)
            .is_some_and(|token| token.eq_ignore_ascii_case(word))
    };
    let listed = [
        ("subscription", "pg_subscription"),
        ("database", "pg_database"),
        ("tablespace", "pg_tablespace"),
    ];
    match listed.iter().find(|(kind, _)| is(1, kind)) {
        Some((_, catalog)) => format!("SELECT * FROM {catalog} shows what there is"),
        None if is(0, "call") => {
            let name = statement.sql[4..]
                .split('(')
                .next()
                .unwrap_or_default()
                .trim()
                .replace('\'', "''");
            format!("SELECT prosrc FROM pg_proc WHERE oid = '{name}'::regproc shows what it does")
        }
        None if is(0, "do") => "its text says what it does, up to each COMMIT".into(),
        None => "in the catalog, or in the data that it changes".into(),
    }
}

/// A statement for an index that failed, when the script has something else in its place now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AbandonedIndex {
    /// The step that has its row in the journal.
    pub step: i64,
    /// The parts before it.
    pub done: usize,
    /// `SET search_path` as the file had it, where that is known: in our words, because nothing
    /// that is read from the ledger may run, and with pg_catalog first, so that no other schema's
    /// function or operator is taken.
    pub settings: String,
    /// The statement as it was; empty where nobody has its text any more.
    pub sql: String,
    /// The indexes before its first try.
    pub before: Vec<u32>,
}

/// The statement for an index that failed and was mended away.
pub(crate) fn earlier(
    row: Option<&MigrationRow>,
    direction: Direction,
    parts: &[JournalPart],
) -> Option<AbandonedIndex> {
    let journal = row?
        .journal
        .as_ref()
        .filter(|journal| journal.direction == direction)?;
    let tried = journal.tried.as_ref()?;
    let (step, done) = (journal.step, journal.done.len());
    if parts
        .get(done)
        .is_some_and(|(checksum, _)| *checksum == tried.checksum)
    {
        return None;
    }
    let units = journal
        .script
        .as_deref()
        .and_then(|script| sql::units(script).ok())
        .unwrap_or_default();
    let stood = units
        .get(done)
        .filter(|unit| Checksum::of_script(unit.body.sql).to_string() == tried.checksum);
    let (settings, sql) = match stood {
        Some(unit) => (search_path(&unit.settings), unit.body.sql.to_owned()),
        None => (
            String::new(),
            tried
                .sql
                .as_deref()
                .filter(|sql| is_the_tried(sql, &tried.checksum))
                .unwrap_or_default()
                .to_owned(),
        ),
    };
    Some(AbandonedIndex {
        step,
        done,
        settings,
        sql,
        before: tried.before.clone(),
    })
}

/// The text is the one statement that was tried. Others may be able to write it into the ledger,
/// and with settings before it those would run.
fn is_the_tried(sql: &str, checksum: &str) -> bool {
    Checksum::of_script(sql).to_string() == checksum && sql::split(sql).len() == 1
}

fn search_path(settings: &[Statement<'_>]) -> String {
    let Some(schemas) = settings.iter().rev().find_map(Statement::search_path) else {
        return String::new();
    };
    let listed: Vec<String> = schemas
        .iter()
        .map(|name| format!(", \"{}\"", name.replace('"', "\"\"")))
        .collect();
    format!("SET search_path = pg_catalog{};\n", listed.concat())
}

/// The Diesel table says that a script is through which the journal says is not.
pub(crate) fn is_contradicted(row: &MigrationRow) -> bool {
    row.journal.as_ref().is_some_and(|journal| {
        let has_begun = !journal.done.is_empty() || journal.running.is_some();
        has_begun
            && match journal.direction {
                Direction::Up => row.is_applied() && row.recorded.is_none(),
                Direction::Down => row.is_reverted_elsewhere(),
            }
    })
}

/// The migrations of which nobody knows whether they are wholly applied, or reverted.
pub(super) fn contradicted(rows: &[MigrationRow]) -> impl Iterator<Item = PlanRefusal> + '_ {
    journals(rows)
        .filter(|(row, _)| is_contradicted(row))
        .map(|(row, journal)| PlanRefusal::Contradicted {
            version: row.version.clone(),
            direction: journal.direction,
            done: journal.done.len(),
        })
}

/// The migrations that are half rolled back; only rolling back goes on from there.
pub(super) fn half_reverted(rows: &[MigrationRow]) -> impl Iterator<Item = PlanRefusal> + '_ {
    journals(rows)
        .filter(|(row, journal)| row.is_applied() && journal.direction == Direction::Down)
        .map(|(row, journal)| PlanRefusal::HalfReverted {
            version: row.version.clone(),
            done: journal.done.len(),
        })
}

/// The migrations that are half applied; nothing they stand on may go.
pub(super) fn half_applied(rows: &[MigrationRow]) -> impl Iterator<Item = PlanRefusal> + '_ {
    journals(rows)
        .filter(|(row, journal)| {
            !row.is_applied() && journal.direction == Direction::Up && !journal.done.is_empty()
        })
        .map(|(row, journal)| PlanRefusal::HalfApplied {
            version: row.version.clone(),
            done: journal.done.len(),
        })
}

/// The migrations that are half applied and that this binary does not carry, so it cannot go on
/// with them.
pub(super) fn half_applied_elsewhere<'a>(
    catalog: &'a MigrationSet,
    rows: &'a [MigrationRow],
) -> impl Iterator<Item = PlanRefusal> + 'a {
    half_applied(rows).filter_map(|refusal| match refusal {
        PlanRefusal::HalfApplied { version, done } if catalog.get(&version).is_none() => {
            Some(PlanRefusal::HalfAppliedElsewhere { version, done })
        }
        _ => None,
    })
}

fn journals(rows: &[MigrationRow]) -> impl Iterator<Item = (&MigrationRow, &JournalRecord)> {
    rows.iter()
        .filter_map(|row| Some((row, row.journal.as_ref()?)))
}

/// Where a script with these parts goes on. A part that is not done yet may have been mended.
///
/// # Errors
/// [`PlanRefusal::JournalDiffers`] when a part that ran is no longer what it was,
/// [`PlanRefusal::JournalWithoutParts`] when the script is to run in one transaction now.
pub(crate) fn resume(
    row: Option<&MigrationRow>,
    direction: Direction,
    parts: &[JournalPart],
) -> Result<ResumePoint, PlanRefusal> {
    let Some((row, journal)) = row.and_then(|row| {
        Some((
            row,
            row.journal
                .as_ref()
                .filter(|journal| journal.direction == direction)?,
        ))
    }) else {
        return Ok(ResumePoint::default());
    };
    let running = journal.running.as_ref().map(|part| &part.checksum);
    let differs = journal
        .done
        .iter()
        .chain(running)
        .enumerate()
        .find(|(n, ran)| parts.get(*n).map(|(checksum, _)| checksum) != Some(ran));
    match differs {
        Some(_) if parts.is_empty() => Err(PlanRefusal::JournalWithoutParts {
            version: row.version.clone(),
        }),
        Some((n, _)) => Err(PlanRefusal::JournalDiffers {
            version: row.version.clone(),
            statement: n + 1,
        }),
        None => Ok(ResumePoint {
            step: Some(journal.step),
            done: journal.done.len(),
            interrupted: journal.running.is_some(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migration::{RunningPart, TriedPart};

    fn row(done: &[&str], running: Option<(&str, bool)>) -> MigrationRow {
        let running = running.map(|(checksum, in_doubt)| RunningPart {
            checksum: checksum.into(),
            in_doubt,
            failed: false,
        });
        let done = done.iter().map(|c| (*c).to_owned()).collect();
        let (tried, script) = (None, None);
        let journal = JournalRecord {
            step: 7,
            direction: Direction::Up,
            name: "1_a".into(),
            done,
            running,
            tried,
            script,
        };
        MigrationRow {
            version: "1".parse().unwrap(),
            run_on: None,
            recorded: None,
            journal: Some(journal),
        }
    }

    fn parts(parts: &[&str]) -> Vec<JournalPart> {
        parts
            .iter()
            .map(|p| ((*p).to_owned(), "transaction"))
            .collect()
    }

    #[test]
    fn a_script_goes_on_after_what_is_done() {
        let go_on =
            |row: &MigrationRow, given: &[&str]| resume(Some(row), Direction::Up, &parts(given));
        let expected = |done, interrupted| {
            Ok(ResumePoint {
                step: Some(7),
                done,
                interrupted,
            })
        };
        assert_eq!(
            go_on(&row(&["a", "b"], None), &["a", "b", "c"]),
            expected(2, false)
        );
        assert_eq!(
            go_on(&row(&["a"], Some(("b", false))), &["a", "b"]),
            expected(1, true)
        );
        assert_eq!(
            go_on(&row(&["a"], None), &["a", "mended"]),
            expected(1, false)
        );
        assert_eq!(
            resume(Some(&row(&["a"], None)), Direction::Down, &parts(&["x"])),
            Ok(ResumePoint::default())
        );
        assert_eq!(
            resume(None, Direction::Up, &parts(&["x"])),
            Ok(ResumePoint::default())
        );
    }

    #[test]
    fn what_ran_may_not_have_changed() {
        let statement = |row: &MigrationRow, given: &[&str]| match resume(
            Some(row),
            Direction::Up,
            &parts(given),
        ) {
            Err(PlanRefusal::JournalDiffers { statement, .. }) => statement,
            other => panic!("{other:?}"),
        };
        assert_eq!(statement(&row(&["a", "b"], None), &["a", "x"]), 2);
        assert_eq!(statement(&row(&["a", "b"], None), &["a"]), 2);
        assert_eq!(statement(&row(&[], Some(("a", false))), &["x"]), 1);
        let one = resume(Some(&row(&["a"], None)), Direction::Up, &[]).unwrap_err();
        assert!(
            one.to_string().contains("metadata.toml")
                && !one.to_string().contains("no longer what it was"),
            "{one}"
        );
    }

    /// In the words of the script that ran: the binary's may have been changed since.
    #[test]
    fn doubt_is_told_with_what_was_sent_and_where() {
        let script = "SELECT 1;\n  CALL app.work(1);";
        let running = Checksum::of_script("CALL app.work(1)").to_string();
        let mut rows = [row(&["a"], Some((&running, true)))];
        let refusal = |rows: &[MigrationRow]| in_doubt(rows).next().unwrap().to_string();
        assert!(
            refusal(&rows).contains("part 2 of the up of migration 1 was sent"),
            "{}",
            refusal(&rows)
        );
        rows[0].journal.as_mut().unwrap().script = Some(script.into());
        insta::assert_snapshot!(refusal(&rows), @"part 2 of the up of migration 1 (1_a/up.sql, \
            line 2, column 3, statement 2 of 2) was sent outside a transaction, and its end is not \
            known: CALL app.work(1). Look whether it took effect (SELECT prosrc FROM pg_proc WHERE \
            oid = 'app.work'::regproc shows what it does), and say so (Resolve): that it was \
            applied, that it was not, or that doing it again does no harm");
        assert_eq!(in_doubt(&[row(&["a"], Some((&running, false)))]).count(), 0);
    }

    #[test]
    fn an_index_build_that_was_mended_away_is_remembered() {
        let mut row = row(&["a"], None);
        let build = "CREATE INDEX CONCURRENTLY i ON t (n)";
        let journal = row.journal.as_mut().unwrap();
        let checksum = Checksum::of_script(build).to_string();
        journal.tried = Some(TriedPart {
            checksum: checksum.clone(),
            before: vec![7],
            sql: None,
        });
        journal.script = Some(format!(
            "SET search_path = app; SET ROLE other; SELECT 1; {build};"
        ));
        let of =
            |row: &MigrationRow, parts: &[JournalPart]| earlier(Some(row), Direction::Up, parts);
        let (settings, sql) = (
            "SET search_path = pg_catalog, \"app\";\n".to_owned(),
            build.to_owned(),
        );
        let expected = AbandonedIndex {
            step: 7,
            done: 1,
            settings,
            sql,
            before: vec![7],
        };
        for given in [&["a", "mended"][..], &["a"], &[]] {
            assert_eq!(of(&row, &parts(given)), Some(expected.clone()));
        }
        assert_eq!(of(&row, &parts(&["a", &checksum])), None);
        // A later release has mended it before, and could not remove what it left.
        let journal = row.journal.as_mut().unwrap();
        journal.script = Some("SELECT 1; SELECT 2;".into());
        assert_eq!(of(&row, &parts(&["a"])).unwrap().sql, "");
        row.journal.as_mut().unwrap().tried.as_mut().unwrap().sql = Some(build.into());
        assert_eq!(of(&row, &parts(&["a"])).unwrap().sql, build);
    }
}
