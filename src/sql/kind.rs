//! Classifies a statement by its effect on the transaction that it runs in, by its words. A
//! statement that cannot run in a transaction and is not listed here is detected when it is tried:
//! the server refuses it (25001, 2D000) before it has done anything.

use super::{NonTransactional, Statement};

/// The effect of a statement on the transaction that it runs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatementKind<'a> {
    /// Runs in a transaction like any other.
    Plain,
    /// BEGIN or START TRANSACTION.
    Begin,
    /// COMMIT or END.
    Commit,
    /// ROLLBACK, ABORT, PREPARE TRANSACTION, COMMIT AND CHAIN: ends the transaction in another way.
    Ends,
    /// SET, RESET, SELECT set_config(…): in force for the statements after it.
    Session,
    /// DISCARD ALL: resets the session's settings, and releases schemad's advisory lock.
    Discard,
    /// COPY … FROM STDIN or TO STDOUT: needs a client that sends or receives the data.
    Streams,
    /// A psql command, for example `\connect`. It is not SQL.
    Meta,
    /// A statement that cannot run in a transaction.
    Outside(NonTransactional<'a>),
}

/// All words that are allowed in BEGIN and START TRANSACTION.
const BEGIN: [&str; 17] = [
    "begin",
    "start",
    "transaction",
    "work",
    "isolation",
    "level",
    "serializable",
    "repeatable",
    "read",
    "committed",
    "uncommitted",
    "write",
    "only",
    "not",
    "deferrable",
    ",",
    "",
];

/// All words that are allowed in COMMIT and END, except COMMIT PREPARED with its name.
const END: [&str; 7] = ["commit", "end", "work", "transaction", "and", "no", "chain"];

impl<'a> Statement<'a> {
    /// Returns the statement's effect on its transaction.
    pub fn kind(&self) -> StatementKind<'a> {
        if self.sql.starts_with('\\') {
            return StatementKind::Meta;
        }
        let mut head = [""; 4];
        for (slot, token) in head.iter_mut().zip(self.tokens()) {
            *slot = token;
        }
        let is = |at: usize, words: &[&str]| {
            words.iter().any(|word| head[at].eq_ignore_ascii_case(word))
        };
        match () {
            () if (is(0, &["begin"]) || is(0, &["start"]) && is(1, &["transaction"]))
                && self.only(&BEGIN) =>
            {
                StatementKind::Begin
            }
            () if is(0, &["commit", "end"]) && self.only(&END) => self.commit(),
            () if is(0, &["abort"])
                || is(0, &["commit", "rollback"]) && is(1, &["prepared"])
                || is(0, &["prepare"]) && is(1, &["transaction"]) =>
            {
                StatementKind::Ends
            }
            () if is(0, &["rollback"]) && !self.has(&["to"]) => StatementKind::Ends,
            () if is(0, &["set"]) && !is(1, &["local", "transaction", "constraints"]) => {
                StatementKind::Session
            }
            () if is(0, &["reset"]) || self.is_set_config() => StatementKind::Session,
            () if is(0, &["discard"]) && is(1, &["all"]) => StatementKind::Discard,
            () if is(0, &["copy"]) && self.has(&["stdin", "stdout"]) => StatementKind::Streams,
            () => self
                .outside()
                .map_or(StatementKind::Plain, StatementKind::Outside),
        }
    }

    /// Returns whether the statement is nothing but
    /// `SELECT [pg_catalog.]set_config(literal, literal, true|false) [[AS] name]`. Repeating it
    /// does no harm.
    fn is_set_config(&self) -> bool {
        let is_value = |token: &str| {
            token.starts_with('\'')
                || ["true", "false"]
                    .iter()
                    .any(|b| token.eq_ignore_ascii_case(b))
        };
        let mut tokens = self.tokens().peekable();
        let mut next = |word: &str| {
            tokens
                .next_if(|token| token.eq_ignore_ascii_case(word))
                .is_some()
        };
        // A function of another schema may do anything.
        let named = next("select") && (!next("pg_catalog") || next(".")) && next("set_config");
        let arguments: Vec<&str> = tokens.collect();
        // Three values, two parentheses and two commas.
        let (call, alias) = arguments.split_at(arguments.len().min(7));
        let values = call.iter().filter(|token| is_value(token)).count();
        let is_alias = match alias {
            [] => true,
            [name] => *name != ",",
            [word, _] => word.eq_ignore_ascii_case("as"),
            _ => false,
        };
        named && values == 3 && call.last() == Some(&")") && is_alias
    }

    /// Returns whether the statement calls set_config(), or sets the search_path in a DO block, in
    /// a form that is not repeated before the statements after it.
    pub fn sets_otherwise(&self) -> bool {
        let first = self.tokens().next().unwrap_or_default();
        let is = |words: &[&str]| words.iter().any(|word| first.eq_ignore_ascii_case(word));
        let text = || self.sql.to_ascii_lowercase();
        let sets =
            || text().contains("set_config") || is(&["do"]) && text().contains("search_path");
        !is(&["create", "alter", "comment"]) && self.kind() == StatementKind::Plain && sets()
    }

    /// Returns whether the statement itself writes rows: INSERT, UPDATE, DELETE, TRUNCATE.
    pub fn writes(&self) -> bool {
        const WORDS: [&str; 4] = ["insert", "update", "delete", "truncate"];
        let first = self.tokens().next().unwrap_or_default();
        WORDS.iter().any(|word| first.eq_ignore_ascii_case(word))
    }

    /// Returns whether the statement only changes definitions. It runs no code of the file's author
    /// except the expressions in it. `SELECT 1`, a placeholder for no statement at all, counts as
    /// well.
    pub fn defines(&self) -> bool {
        const WORDS: [&str; 6] = ["create", "alter", "drop", "comment", "grant", "revoke"];
        let mut tokens = self.tokens();
        let first = tokens.next().unwrap_or_default();
        let is_number = |token: &str| token.chars().all(|c| c.is_ascii_digit());
        WORDS.iter().any(|word| first.eq_ignore_ascii_case(word))
            || first.eq_ignore_ascii_case("select")
                && tokens.next().is_some_and(is_number)
                && tokens.next().is_none()
    }

    /// Returns the modes of a SET TRANSACTION. They have to be given when the transaction begins.
    pub fn transaction_modes(&self) -> Option<&'a str> {
        let mut tokens = self.tokens();
        let mut next = |word: &str| {
            tokens
                .next()
                .is_some_and(|token| token.eq_ignore_ascii_case(word))
        };
        let sets = next("set") && next("transaction");
        let first = tokens
            .next()
            .filter(|token| sets && !token.eq_ignore_ascii_case("snapshot"))?;
        Some(&self.sql[first.as_ptr() as usize - self.sql.as_ptr() as usize..])
    }

    /// Returns whether a BEGIN or SET TRANSACTION is READ ONLY.
    pub(super) fn is_read_only(&self) -> bool {
        self.has(&["only"])
    }

    fn commit(&self) -> StatementKind<'a> {
        if self.has(&["chain", "prepared"]) && !self.has(&["no"]) {
            StatementKind::Ends
        } else {
            StatementKind::Commit
        }
    }

    /// Returns whether the statement has no other words than these. `begin raise 'x'` is a mistake
    /// and does not begin a transaction.
    fn only(&self, words: &[&str]) -> bool {
        self.tokens()
            .all(|token| words.iter().any(|word| token.eq_ignore_ascii_case(word)))
    }

    /// Returns whether one of these words occurs in the statement.
    pub fn has(&self, words: &[&str]) -> bool {
        self.tokens()
            .any(|token| words.iter().any(|word| token.eq_ignore_ascii_case(word)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::split;
    use super::*;

    fn kind(sql: &str) -> StatementKind<'_> {
        split(sql)[0].kind()
    }

    #[test]
    fn what_only_defines_is_told_from_what_does_more() {
        for sql in [
            "CREATE TABLE t (at timestamptz DEFAULT now())",
            "/* x */ drop view v",
            "SELECT 1",
            "Comment ON TABLE t IS ''",
        ] {
            assert!(split(sql)[0].defines(), "{sql}");
        }
        for sql in [
            "SELECT f()",
            "SELECT 1, f()",
            "INSERT INTO t VALUES (1)",
            "DO 'BEGIN END'",
            "SET a = 1",
            "CALL p()",
            "SELECT x",
        ] {
            assert!(!split(sql)[0].defines(), "{sql}");
        }
    }

    #[test]
    fn transaction_control_is_told_from_its_look_alikes() {
        for (sql, expected) in [
            ("BEGIN ISOLATION LEVEL SERIALIZABLE", StatementKind::Begin),
            ("start transaction", StatementKind::Begin),
            ("COMMIT AND NO CHAIN", StatementKind::Commit),
            ("END", StatementKind::Commit),
            ("COMMIT AND CHAIN", StatementKind::Ends),
            ("COMMIT PREPARED 'x'", StatementKind::Ends),
            ("begin raise 'x'", StatementKind::Plain),
            ("end $$", StatementKind::Plain),
            ("abort work", StatementKind::Ends),
            ("ROLLBACK", StatementKind::Ends),
            ("ROLLBACK TO SAVEPOINT a", StatementKind::Plain),
            ("PREPARE TRANSACTION 'x'", StatementKind::Ends),
            ("PREPARE p AS SELECT 1", StatementKind::Plain),
            ("CREATE TABLE \"end\" (commit int)", StatementKind::Plain),
            ("SET search_path = a", StatementKind::Session),
            ("SET LOCAL search_path = a", StatementKind::Plain),
            (
                "SELECT pg_catalog.set_config('search_path', '', false)",
                StatementKind::Session,
            ),
            (
                "SELECT set_config('a.b', 'c', false)",
                StatementKind::Session,
            ),
            ("SELECT set_config('a.b', f(), false)", StatementKind::Plain),
            (
                "SELECT evil.set_config('a.b', 'c', false)",
                StatementKind::Plain,
            ),
            (
                "SELECT pg_catalog set_config('a.b', 'c', false)",
                StatementKind::Plain,
            ),
            (
                "SELECT set_config('a.b', 'c', false), 1",
                StatementKind::Plain,
            ),
            (
                "SELECT set_config('a.b', 'c', false) AS x",
                StatementKind::Session,
            ),
            (
                "SELECT set_config('a.b', 'c', false) \"x y\"",
                StatementKind::Session,
            ),
            (
                "SELECT set_config('a.b', 'c', false) FROM t",
                StatementKind::Plain,
            ),
            (
                "COPY t FROM stdin WITH (FORMAT csv)",
                StatementKind::Streams,
            ),
            ("COPY t FROM '/tmp/x'", StatementKind::Plain),
            ("\\connect x", StatementKind::Meta),
        ] {
            assert_eq!(kind(sql), expected, "{sql}");
        }
    }
}
