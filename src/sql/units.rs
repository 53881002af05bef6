//! Splits a script that is not one transaction into units: statements that run together in a
//! transaction, and statements that have to run alone outside one.

use std::{ops::Deref, sync::Arc};

use crate::runtime::blocking::in_place;

use super::{
    NonTransactional, SessionLoss, Statement, StatementKind, TextPosition, nth_character, place,
    split, statements,
};

/// The reason that a statement cannot run, regardless of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hazard {
    /// It would end the transaction that holds the ledger's rows, or one that the file never began
    /// or never commits.
    EndsTransaction,
    /// COPY … FROM STDIN or TO STDOUT needs a client that sends or receives the data.
    NeedsClient,
    /// DISCARD ALL cannot run in a transaction. Outside of one it would release schemad's advisory
    /// lock.
    Discards,
    /// It cannot run in a transaction, and the file declares that it runs in one.
    NeedsNoTransaction,
    /// psql's own commands are not SQL.
    NeedsPsql,
    /// It needs session state that only a statement of the same part could have set, or sets some
    /// without effect.
    LosesSession(SessionLoss),
}

/// A part of a script that takes effect as a whole or not at all, with the settings before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScriptUnit<'a> {
    /// The SET statements of the file before it. They are repeated, because every unit begins with
    /// a fresh session.
    pub settings: UnitSettings<'a>,
    /// The statement, or the statements between a BEGIN and its COMMIT.
    pub body: Statement<'a>,
    /// The number of statements in the file before the body, including BEGIN and COMMIT.
    pub statements_before: usize,
    /// The number of statements in the body.
    pub statements: usize,
    /// The first statement of the body that calls set_config() in a form that is not repeated
    /// before the later units.
    pub sets_otherwise: Option<Statement<'a>>,
    /// The way in which it runs.
    pub work: UnitWork<'a>,
}

/// The settings of one unit. They are a slice of a list that all units of the script share. A
/// script may have ten thousand units, each with the settings of all before it.
#[derive(Clone, Debug)]
pub struct UnitSettings<'a> {
    all: Arc<[Statement<'a>]>,
    from: usize,
    to: usize,
}

impl<'a> Deref for UnitSettings<'a> {
    type Target = [Statement<'a>];

    fn deref(&self) -> &Self::Target {
        &self.all[self.from..self.to]
    }
}

impl PartialEq for UnitSettings<'_> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for UnitSettings<'_> {}

/// The way in which a unit runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnitWork<'a> {
    /// In a transaction, begun by the file's own BEGIN or a plain one.
    InTransaction {
        /// The file's own BEGIN, for example `BEGIN ISOLATION LEVEL SERIALIZABLE`.
        begin: Option<&'a str>,
        /// The modes of SET TRANSACTION, if the first statement is one. They have to be given with
        /// BEGIN, because the guard runs before that statement.
        modes: Option<&'a str>,
    },
    /// Alone, outside a transaction.
    Outside(NonTransactional<'a>),
}

/// Returns the modes of SET TRANSACTION, if a script for one transaction begins with that
/// statement.
pub fn transaction_modes(sql: &str) -> Option<&str> {
    // A cheap check that excludes most files.
    super::split::first_word(sql).filter(|word| word.eq_ignore_ascii_case("set"))?;
    statements(sql).next()?.transaction_modes()
}

/// Returns whether a script has transactions of its own, BEGIN … COMMIT. It then runs as it is
/// written.
pub fn has_own_transactions(sql: &str) -> bool {
    in_place(sql.len(), || begins_and_commits(sql))
}

fn begins_and_commits(sql: &str) -> bool {
    if !mentions(sql, &["begin", "start"]) {
        return false;
    }
    let mut begun = false;
    statements(sql).any(|statement| match statement.kind() {
        StatementKind::Begin => {
            begun = true;
            false
        }
        StatementKind::Commit => begun,
        _ => false,
    })
}

/// Returns the first statement of a script for one transaction that cannot run there, and its
/// position.
pub fn hazard(sql: &str) -> Option<(Hazard, TextPosition)> {
    in_place(sql.len(), || find_hazard(sql))
}

fn find_hazard(sql: &str) -> Option<(Hazard, TextPosition)> {
    const WORDS: [&str; 15] = [
        "commit",
        "end",
        "rollback",
        "abort",
        "prepare",
        "copy",
        "concurrently",
        "vacuum",
        "system",
        "cluster",
        "database",
        "tablespace",
        "reindex",
        "discard",
        "\\",
    ];
    if !mentions(sql, &WORDS) {
        return None; // The common case.
    }
    let found = statements(sql).find_map(|statement| {
        let hazard =
            match statement.kind() {
                StatementKind::Commit | StatementKind::Ends => Hazard::EndsTransaction,
                StatementKind::Discard => Hazard::Discards,
                kind => always(kind)
                    .or(matches!(kind, StatementKind::Outside(_))
                        .then_some(Hazard::NeedsNoTransaction))?,
            };
        Some((hazard, statement))
    });
    found.map(|(hazard, statement)| (hazard, place_of(sql, &statement)))
}

/// Returns the position of a BEGIN in a script for one transaction. There is no COMMIT for it, or
/// the script would have its own transactions. The server only warns about the nested BEGIN, and
/// commits its statements with the rest of the script.
pub fn lone_begin(sql: &str) -> Option<TextPosition> {
    in_place(sql.len(), || {
        let found = mentions(sql, &["begin", "start"])
            .then(|| statements(sql).find(|statement| statement.kind() == StatementKind::Begin))
            .flatten();
        found.map(|statement| place_of(sql, &statement))
    })
}

fn always(kind: StatementKind<'_>) -> Option<Hazard> {
    match kind {
        StatementKind::Streams => Some(Hazard::NeedsClient),
        StatementKind::Meta => Some(Hazard::NeedsPsql),
        _ => None,
    }
}

pub(super) fn place_of(sql: &str, statement: &Statement<'_>) -> TextPosition {
    place(sql, nth_character(sql, statement.start))
}

/// Returns the units of a script that is not one transaction, in order.
///
/// # Errors
/// Returns the first statement that cannot run, and its position.
pub fn units(sql: &str) -> Result<Vec<ScriptUnit<'_>>, (Hazard, TextPosition)> {
    in_place(sql.len(), || cut(sql))
}

fn cut(sql: &str) -> Result<Vec<ScriptUnit<'_>>, (Hazard, TextPosition)> {
    let mut units: Vec<OpenUnit<'_>> = Vec::new();
    let mut settings = SettingsSoFar::default();
    let mut block: Option<OpenBlock<'_>> = None;
    let mut unused = false; // Whether there are settings after the last unit.
    let statements = split(sql);
    for (index, statement) in statements.iter().enumerate() {
        let kind = statement.kind();
        let refused = |hazard| Err((hazard, place_of(sql, statement)));
        if let Some(hazard) = always(kind) {
            return refused(hazard);
        }
        let before = units.len();
        match (kind, &mut block) {
            (StatementKind::Begin, None) => {
                block = Some(OpenBlock::begin(*statement, index));
            }
            (StatementKind::Commit, Some(_)) => {
                let Some(mut committed) = block.take() else {
                    continue;
                };
                let set = std::mem::take(&mut committed.settings);
                units.extend(committed.unit(sql, &settings, statement));
                settings.all.extend(set); // They stay in force.
            }
            (StatementKind::Begin | StatementKind::Commit | StatementKind::Ends, _) => {
                return refused(Hazard::EndsTransaction);
            }
            (StatementKind::Discard, Some(_)) => return refused(Hazard::Discards),
            // Every unit begins with a clean session, so DISCARD ALL only revokes the file's
            // settings.
            (StatementKind::Discard, None) => {
                settings.from = settings.all.len();
                unused = false;
            }
            (StatementKind::Outside(_), Some(_)) => return refused(Hazard::NeedsNoTransaction),
            (_, Some(block)) => {
                block.first.get_or_insert(*statement);
                block.last = *statement;
                block.statements += 1;
                block.sets_otherwise = block
                    .sets_otherwise
                    .or(Some(*statement).filter(Statement::sets_otherwise));
                if kind == StatementKind::Session {
                    block.settings.push(*statement);
                }
            }
            (StatementKind::Session, None) => {
                settings.all.push(*statement);
                unused = true;
            }
            (StatementKind::Outside(outside), None) => {
                units.push(settings.before(*statement, index, UnitWork::Outside(outside)));
            }
            (_, None) => {
                units.push(settings.before(
                    *statement,
                    index,
                    UnitWork::InTransaction {
                        begin: None,
                        modes: None,
                    },
                ));
            }
        }
        unused &= units.len() == before;
    }
    if let Some(block) = block {
        // The transaction would never be committed.
        return Err((Hazard::EndsTransaction, place_of(sql, &block.begin)));
    }
    // Settings after the last unit have no effect. They run nevertheless, so that an error in them
    // fails the migration.
    if let Some(last) = settings.all[settings.from..]
        .last()
        .copied()
        .filter(|_| unused)
    {
        let index = statements
            .iter()
            .take_while(|statement| statement.start < last.start)
            .count();
        let mut unit = settings.before(
            last,
            index,
            UnitWork::InTransaction {
                begin: None,
                modes: None,
            },
        );
        unit.to -= 1;
        units.push(unit);
    }
    let all: Arc<[Statement<'_>]> = settings.all.into();
    Ok(units.into_iter().map(|found| found.unit(&all)).collect())
}

/// A unit while the list of settings still grows. Its settings are those from `from` to `to`.
struct OpenUnit<'a> {
    from: usize,
    to: usize,
    body: Statement<'a>,
    statements_before: usize,
    statements: usize,
    sets_otherwise: Option<Statement<'a>>,
    work: UnitWork<'a>,
}

impl<'a> OpenUnit<'a> {
    fn unit(self, all: &Arc<[Statement<'a>]>) -> ScriptUnit<'a> {
        let Self {
            from,
            to,
            body,
            statements_before,
            statements,
            sets_otherwise,
            work,
        } = self;
        let settings = UnitSettings {
            all: all.clone(),
            from,
            to,
        };
        ScriptUnit {
            settings,
            body,
            statements_before,
            statements,
            sets_otherwise,
            work,
        }
    }
}

/// The SET statements so far. DISCARD ALL has revoked those before `from`.
#[derive(Default)]
struct SettingsSoFar<'a> {
    all: Vec<Statement<'a>>,
    from: usize,
}

impl<'a> SettingsSoFar<'a> {
    /// Returns the unit with this body and the settings so far.
    fn before(
        &self,
        body: Statement<'a>,
        statements_before: usize,
        work: UnitWork<'a>,
    ) -> OpenUnit<'a> {
        let sets_otherwise = Some(body).filter(Statement::sets_otherwise);
        OpenUnit {
            from: self.from,
            to: self.all.len(),
            body,
            statements_before,
            statements: 1,
            sets_otherwise,
            work,
        }
    }
}

/// An open BEGIN of the file.
struct OpenBlock<'a> {
    begin: Statement<'a>,
    first: Option<Statement<'a>>,
    last: Statement<'a>,
    /// The number of statements in the block.
    statements: usize,
    sets_otherwise: Option<Statement<'a>>,
    /// The SET statements in the block.
    settings: Vec<Statement<'a>>,
    /// The number of statements in the file before the BEGIN.
    index: usize,
}

impl<'a> OpenBlock<'a> {
    fn begin(begin: Statement<'a>, index: usize) -> Self {
        Self {
            begin,
            first: None,
            last: begin,
            statements: 0,
            sets_otherwise: None,
            settings: Vec::new(),
            index,
        }
    }

    /// Returns the unit for the block, or `None` if the block is empty.
    fn unit(
        self,
        sql: &'a str,
        settings: &SettingsSoFar<'a>,
        commit: &Statement<'a>,
    ) -> Option<OpenUnit<'a>> {
        let first = self.first?;
        let modes = first.transaction_modes();
        let (statements, sets_otherwise) = (self.statements, self.sets_otherwise);
        if self.begin.is_read_only() || modes.is_some() && first.is_read_only() {
            let body = Statement {
                sql: &sql[self.begin.start..commit.end()],
                start: self.begin.start,
            };
            let statements = statements + 2; // Plus BEGIN and COMMIT.
            let found = settings.before(
                body,
                self.index,
                UnitWork::Outside(NonTransactional::ReadOnlyBlock),
            );
            return Some(OpenUnit {
                statements,
                sets_otherwise,
                ..found
            });
        }
        let body = Statement {
            sql: &sql[first.start..self.last.end()],
            start: first.start,
        };
        let work = UnitWork::InTransaction {
            begin: Some(self.begin.sql),
            modes,
        };
        Some(OpenUnit {
            statements,
            sets_otherwise,
            ..settings.before(body, self.index + 1, work)
        })
    }
}

impl ScriptUnit<'_> {
    /// Returns the ledger's name for the way to determine after a crash whether the unit took
    /// effect.
    pub fn settles_by(&self) -> &'static str {
        match self.work {
            UnitWork::InTransaction { .. } => "transaction",
            UnitWork::Outside(outside) => outside.settles_by(),
        }
    }
}

/// Returns whether one of `words`, or any backslash, occurs in `sql`, in a comment or not. It is a
/// cheap check before an expensive one.
pub(crate) fn mentions(sql: &str, words: &[&str]) -> bool {
    sql.split(|c: char| !c.is_alphanumeric() && c != '_' && c != '\\')
        .any(|word| words.iter().any(|w| w.eq_ignore_ascii_case(word)) || word.contains('\\'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_that_cannot_run_in_one_transaction_are_found_with_their_place() {
        use Hazard::{EndsTransaction, NeedsClient, NeedsNoTransaction, NeedsPsql};
        for (sql, hazard_expected, line, column) in [
            ("CREATE TABLE t (); COMMIT;", EndsTransaction, 1, 20),
            ("-- ein é\n/* x */ ROLLBACK", EndsTransaction, 2, 9),
            ("SELECT 1;\n  END;", EndsTransaction, 2, 3),
            ("SELECT 1; PREPARE TRANSACTION 'x'", EndsTransaction, 1, 11),
            ("COPY t FROM STDIN", NeedsClient, 1, 1),
            ("COPY (SELECT 1) TO STDOUT", NeedsClient, 1, 1),
            (
                "SELECT 1;\nCREATE INDEX CONCURRENTLY i ON t (a);",
                NeedsNoTransaction,
                2,
                1,
            ),
            ("VACUUM t", NeedsNoTransaction, 1, 1),
            ("SELECT 1;\n\\i other.sql\n", NeedsPsql, 2, 1),
        ] {
            assert_eq!(
                hazard(sql),
                Some((hazard_expected, TextPosition { line, column })),
                "{sql}"
            );
        }
    }

    #[test]
    fn a_begin_that_nothing_commits_is_found() {
        assert_eq!(
            lone_begin("SELECT 1;\nBEGIN;\nSELECT 2;"),
            Some(TextPosition { line: 2, column: 1 })
        );
        for sql in [
            "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; END",
            "DO $$ BEGIN END $$",
            "SELECT 'BEGIN'",
        ] {
            assert_eq!(lone_begin(sql), None, "{sql}");
        }
    }

    #[test]
    fn look_alikes_are_left_alone() {
        for sql in [
            "SAVEPOINT a; ROLLBACK TO SAVEPOINT a; RELEASE a",
            "BEGIN",
            "PREPARE p AS SELECT 1; EXECUTE p",
            "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $$ BEGIN COMMIT; RETURN 1; END \
             $$",
            "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; END",
            "DO $x$ BEGIN PERFORM 1; END $x$; SELECT CASE WHEN true THEN 1 END",
            "SELECT 'COMMIT', \"rollback\" FROM t -- COMMIT",
            "/* COMMIT; /* nested */ END; */ SELECT E'\\'; COMMIT;'",
            "COPY t FROM '/tmp/x'",
            "CREATE TABLE \"end\" (commit int)",
        ] {
            assert_eq!(hazard(sql), None, "{sql}");
        }
    }

    #[test]
    fn a_script_is_cut_at_its_own_transactions() {
        let sql = "SET a = 1;\nCREATE TABLE t ();\nBEGIN ISOLATION LEVEL SERIALIZABLE;\n INSERT \
            INTO t DEFAULT VALUES; -- x\n SELECT 1;\nCOMMIT;\nBEGIN; END;\nRESET a;\nVACUUM t;";
        let units = units(sql).unwrap();
        let shown: Vec<_> = units
            .iter()
            .map(|u| {
                (
                    u.body.sql,
                    u.settings.len(),
                    u.statements_before,
                    u.settles_by(),
                )
            })
            .collect();
        assert_eq!(
            shown,
            [
                ("CREATE TABLE t ()", 1, 1, "transaction"),
                (
                    "INSERT INTO t DEFAULT VALUES; -- x\n SELECT 1",
                    1,
                    3,
                    "transaction"
                ),
                ("VACUUM t", 2, 9, "repeat"),
            ]
        );
        let begin = Some("BEGIN ISOLATION LEVEL SERIALIZABLE");
        assert_eq!(
            units[1].work,
            UnitWork::InTransaction { begin, modes: None }
        );
    }

    #[test]
    fn discard_all_takes_the_files_settings_back() {
        let of = |sql| {
            let units = units(sql).unwrap();
            units
                .iter()
                .map(|u| (u.body.sql.to_owned(), u.settings.len(), u.statements_before))
                .collect::<Vec<_>>()
        };
        let select = |settings, before| ("SELECT 1".to_owned(), settings, before);
        assert_eq!(of("SET a = 1; DISCARD ALL; SELECT 1"), [select(0, 2)]);
        assert_eq!(of("SET a = 1; SELECT 1; DISCARD ALL;"), [select(1, 1)]);
        let last = ("SET b = 2".to_owned(), 0, 3);
        assert_eq!(
            of("SET a = 1; SELECT 1; DISCARD ALL; SET b = 2; BEGIN; END"),
            [select(1, 1), last]
        );
        assert_eq!(
            units("BEGIN; DISCARD ALL; COMMIT").unwrap_err().0,
            Hazard::Discards
        );
        assert_eq!(
            hazard("SELECT 1;\nDISCARD ALL").unwrap(),
            (Hazard::Discards, TextPosition { line: 2, column: 1 })
        );
    }

    #[test]
    fn a_block_begins_as_its_first_statement_says() {
        let sql = "BEGIN;\nSET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT 1; COMMIT; \
            BEGIN READ ONLY; SELECT 2; END; SET a = 1; RESET a";
        let units = units(sql).unwrap();
        let modes = Some("ISOLATION LEVEL REPEATABLE READ");
        assert_eq!(
            units[0].work,
            UnitWork::InTransaction {
                begin: Some("BEGIN"),
                modes
            }
        );
        assert_eq!(
            (units[1].body.sql, units[1].settles_by()),
            ("BEGIN READ ONLY; SELECT 2; END", "repeat")
        );
        assert_eq!(
            (
                units[2].body.sql,
                units[2].settings.len(),
                units[2].statements_before
            ),
            ("RESET a", 1, 8)
        );
        assert_eq!(units.len(), 3);
    }

    #[test]
    fn what_a_block_sets_holds_after_it() {
        let units = units(
            "BEGIN; SET search_path = app; SET LOCAL work_mem = 1; COMMIT; CREATE TABLE t \
                (); SET a = 1;",
        )
        .unwrap();
        let shown: Vec<_> = units
            .iter()
            .map(|u| {
                (
                    u.body.sql,
                    u.settings.iter().map(|s| s.sql).collect::<Vec<_>>(),
                )
            })
            .collect();
        let set = "SET search_path = app";
        assert_eq!(
            shown[1..],
            [("CREATE TABLE t ()", vec![set]), ("SET a = 1", vec![set])]
        );
        assert_eq!(shown[0].1, [""; 0]);
    }

    #[test]
    fn what_cannot_be_cut_is_refused_with_its_place() {
        for (sql, hazard, line) in [
            ("SELECT 1;\nCOMMIT", Hazard::EndsTransaction, 2),
            ("BEGIN;\nSELECT 1", Hazard::EndsTransaction, 1),
            ("BEGIN;\nROLLBACK;", Hazard::EndsTransaction, 2),
            ("BEGIN;\nVACUUM;\nCOMMIT", Hazard::NeedsNoTransaction, 2),
            ("BEGIN;\nBEGIN;\nCOMMIT", Hazard::EndsTransaction, 2),
        ] {
            assert_eq!(
                units(sql).unwrap_err(),
                (hazard, TextPosition { line, column: 1 }),
                "{sql}"
            );
        }
    }

    #[test]
    fn only_a_block_that_is_committed_is_a_transaction_of_its_own() {
        for sql in [
            "BEGIN; SELECT 1; COMMIT;",
            "start transaction;\nSELECT 1; end",
        ] {
            assert!(has_own_transactions(sql), "{sql}");
        }
        for sql in [
            "BEGIN; SELECT 1;",
            "SELECT 1; COMMIT;",
            "DO $$ BEGIN END $$; SELECT 'COMMIT'",
            "COMMIT; BEGIN",
        ] {
            assert!(!has_own_transactions(sql), "{sql}");
        }
    }
}
