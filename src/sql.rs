//! A look at SQL without a server: where the statements are, what line a character is on, and which statements can
//! never run inside a step.

use squawk_syntax::{SourceFile, SyntaxKind, SyntaxNode, ast::AstNode as _};

/// Line and column, both from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// From 1.
    pub line: usize,
    /// In characters from 1.
    pub column: usize,
}

/// Where the `nth` character (from 1) of `sql` is.
pub fn place(sql: &str, nth: usize) -> Place {
    let mut place = Place { line: 1, column: 1 };
    for c in sql.chars().take(nth.saturating_sub(1)) {
        place = match c {
            '\n' => Place { line: place.line + 1, column: 1 },
            _ => Place { column: place.column + 1, ..place },
        };
    }
    place
}

/// A statement that cannot run inside a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hazard {
    /// COMMIT, END, ROLLBACK, ABORT or PREPARE TRANSACTION would end the transaction that holds the ledger's rows.
    EndsTransaction,
    /// COPY … FROM STDIN or TO STDOUT needs a client that sends or takes the data.
    NeedsClient,
}

/// The first statement of `sql` that cannot run inside a step, and where it is.
pub fn hazard(sql: &str) -> Option<(Hazard, Place)> {
    if !may_be_hazardous(sql) {
        return None;
    }
    statements(sql).find_map(|statement| {
        let hazard = match statement.kind() {
            SyntaxKind::COMMIT_TRANSACTION | SyntaxKind::ROLLBACK_TRANSACTION | SyntaxKind::PREPARE_TRANSACTION => {
                Hazard::EndsTransaction
            }
            SyntaxKind::COPY if streams_data(&statement) => Hazard::NeedsClient,
            _ => return None,
        };
        let bytes: usize = start(&statement);
        Some((hazard, place(sql, sql[..bytes].chars().count() + 1)))
    })
}

/// How many statements `sql` holds; `None` when it cannot be parsed.
pub fn count(sql: &str) -> Option<usize> {
    let parse = SourceFile::parse(sql);
    parse.errors().is_empty().then(|| statements(sql).count())
}

/// Where the `index`th statement (from 0) begins.
pub fn start_of(sql: &str, index: usize) -> Option<Place> {
    let statement = statements(sql).nth(index)?;
    Some(place(sql, sql[..start(&statement)].chars().count() + 1))
}

/// The statements at the top level; those inside functions and blocks belong to them.
fn statements(sql: &str) -> impl Iterator<Item = SyntaxNode> {
    let root = SourceFile::parse(sql).tree();
    root.syntax().children().filter(|node| node.kind() != SyntaxKind::EMPTY_STMT).collect::<Vec<_>>().into_iter()
}

/// Where a statement's first word is, in bytes; comments before it are not part of it.
fn start(statement: &SyntaxNode) -> usize {
    let first = statement
        .descendants_with_tokens()
        .filter_map(|element| element.into_token())
        .find(|token| !matches!(token.kind(), SyntaxKind::WHITESPACE | SyntaxKind::COMMENT));
    first.map_or(statement.text_range(), |token| token.text_range()).start().into()
}

fn streams_data(copy: &SyntaxNode) -> bool {
    copy.descendants_with_tokens().any(|e| matches!(e.kind(), SyntaxKind::STDIN_KW | SyntaxKind::STDOUT_KW))
}

/// Parsing takes a quarter of a millisecond a file; most files hold none of these words.
fn may_be_hazardous(sql: &str) -> bool {
    const WORDS: [&str; 6] = ["commit", "end", "rollback", "abort", "prepare", "copy"];
    sql.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| WORDS.iter().any(|w| w.eq_ignore_ascii_case(word)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_that_end_the_transaction_are_found_with_their_place() {
        for (sql, line, column) in [
            ("CREATE TABLE t (); COMMIT;", 1, 20),
            ("-- ein é\n/* x */ ROLLBACK", 2, 9),
            ("SELECT 1;\n  END;", 2, 3),
            ("abort work", 1, 1),
            ("BEGIN; SELECT 1; COMMIT AND CHAIN;", 1, 18),
            ("SELECT 1; PREPARE TRANSACTION 'x'", 1, 11),
        ] {
            assert_eq!(hazard(sql), Some((Hazard::EndsTransaction, Place { line, column })), "{sql}");
        }
    }

    #[test]
    fn copies_that_need_a_client_are_found() {
        for sql in ["COPY t FROM STDIN", "COPY t FROM stdin WITH (FORMAT csv);", "COPY (SELECT 1) TO STDOUT"] {
            assert_eq!(hazard(sql).map(|(h, _)| h), Some(Hazard::NeedsClient), "{sql}");
        }
    }

    #[test]
    fn look_alikes_are_left_alone() {
        for sql in [
            "SAVEPOINT a; ROLLBACK TO SAVEPOINT a; RELEASE a",
            "BEGIN",
            "PREPARE p AS SELECT 1; EXECUTE p",
            "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $$ BEGIN COMMIT; RETURN 1; END $$",
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
    fn places_count_characters() {
        assert_eq!(place("a\né b", 5), Place { line: 2, column: 3 });
        assert_eq!(place("a", 1), Place { line: 1, column: 1 });
        assert_eq!(start_of("SELECT 1; -- x\n  SELECT 2", 1), Some(Place { line: 2, column: 3 }));
        assert_eq!(count("SELECT 1;; SELECT 2;"), Some(2));
    }
}
