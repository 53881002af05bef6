//! What a statement does to the transaction it runs in, told by its words. A statement that is missing here and cannot run in
//! a transaction is found out by trying: the server refuses it (25001, 2D000) before it has done anything.

use super::Statement;

/// What a statement does to the transaction it runs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind<'a> {
    /// Runs in a transaction like any other.
    Plain,
    /// BEGIN or START TRANSACTION.
    Begin,
    /// COMMIT or END.
    Commit,
    /// ROLLBACK, ABORT, PREPARE TRANSACTION, COMMIT AND CHAIN: ends the transaction otherwise.
    Ends,
    /// SET, RESET, SELECT set_config(…): holds for the statements after it.
    Session,
    /// DISCARD ALL ends the session's settings, and schemad's own lock with them.
    Discard,
    /// COPY … FROM STDIN or TO STDOUT needs a client that sends or takes the data.
    Streams,
    /// `\connect` and the like are psql's, not SQL.
    Meta,
    /// Cannot run in a transaction.
    Outside(Outside<'a>),
}

/// A statement that cannot run in a transaction, and how it can be told afterwards whether it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outside<'a> {
    /// CREATE INDEX CONCURRENTLY. Names as they are written.
    CreateIndex {
        /// None: the server makes one up.
        index: Option<&'a str>,
        /// The table, perhaps with its schema.
        table: &'a str,
    },
    /// DROP INDEX CONCURRENTLY.
    DropIndex {
        /// The index, perhaps with its schema, as it is written.
        index: &'a str,
    },
    /// REINDEX … CONCURRENTLY: doing it again does no harm, once the copies are gone that a failed one leaves.
    Reindex,
    /// ALTER TABLE … DETACH PARTITION … CONCURRENTLY, which a failure leaves half done. Names as they are written.
    Detach {
        /// The partitioned table.
        table: &'a str,
        /// The partition.
        partition: &'a str,
    },
    /// CREATE or DROP, DATABASE or TABLESPACE, which the catalog lists by name.
    Shared {
        /// CREATE.
        creates: bool,
        /// TABLESPACE.
        is_tablespace: bool,
        /// As it is written.
        name: &'a str,
    },
    /// A block of the file's own that is READ ONLY: the journal cannot be written in it, and doing it again does no harm.
    ReadOnlyBlock,
    /// Doing it again does no harm: VACUUM, REINDEX, ALTER SYSTEM, CLUSTER.
    Repeatable,
    /// Nobody can tell but a person.
    Unknown,
}

impl Outside<'_> {
    /// The ledger's word for how it can be told whether the statement took effect.
    pub fn settles_by(self) -> &'static str {
        match self {
            Self::CreateIndex { .. } => "create_index",
            Self::DropIndex { .. } => "drop_index",
            Self::Reindex => "reindex",
            Self::Detach { .. } => "detach",
            Self::Shared { .. } => "catalog",
            Self::ReadOnlyBlock | Self::Repeatable => "repeat",
            Self::Unknown => "nothing",
        }
    }
}

/// All that BEGIN and START TRANSACTION may say.
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

/// All that COMMIT and END may say, but for COMMIT PREPARED with its name.
const END: [&str; 7] = ["commit", "end", "work", "transaction", "and", "no", "chain"];

impl<'a> Statement<'a> {
    /// What it does to its transaction.
    pub fn kind(&self) -> Kind<'a> {
        if self.sql.starts_with('\\') {
            return Kind::Meta;
        }
        let mut head = [""; 4];
        for (slot, token) in head.iter_mut().zip(self.tokens()) {
            *slot = token;
        }
        let is = |at: usize, words: &[&str]| words.iter().any(|word| head[at].eq_ignore_ascii_case(word));
        match () {
            () if (is(0, &["begin"]) || is(0, &["start"]) && is(1, &["transaction"])) && self.only(&BEGIN) => {
                Kind::Begin
            }
            () if is(0, &["commit", "end"]) && self.only(&END) => self.commit(),
            () if is(0, &["abort"])
                || is(0, &["commit", "rollback"]) && is(1, &["prepared"])
                || is(0, &["prepare"]) && is(1, &["transaction"]) =>
            {
                Kind::Ends
            }
            () if is(0, &["rollback"]) && !self.has(&["to"]) => Kind::Ends,
            () if is(0, &["set"]) && !is(1, &["local", "transaction", "constraints"]) => Kind::Session,
            () if is(0, &["reset"]) || self.is_set_config() => Kind::Session,
            () if is(0, &["discard"]) && is(1, &["all"]) => Kind::Discard,
            () if is(0, &["copy"]) && self.has(&["stdin", "stdout"]) => Kind::Streams,
            () if is(0, &["create"]) && (is(1, &["index"]) || is(1, &["unique"]) && is(2, &["index"])) => {
                self.create_index()
            }
            () if is(0, &["drop"]) && is(1, &["index"]) && is(2, &["concurrently"]) => self.drop_index(),
            () if is(0, &["vacuum"]) || is(0, &["alter"]) && is(1, &["system"]) => Kind::Outside(Outside::Repeatable),
            () if is(0, &["cluster"]) && self.tokens().count() == 1 => Kind::Outside(Outside::Repeatable),
            () if is(0, &["reindex"]) && self.has(&["concurrently"]) => Kind::Outside(Outside::Reindex),
            () if is(0, &["reindex"]) && self.has(&["database", "system", "schema"]) => {
                Kind::Outside(Outside::Repeatable)
            }
            () if is(0, &["create", "drop"]) && is(1, &["database", "tablespace"]) => self.shared(),
            () if is(0, &["alter"]) && is(1, &["table"]) && self.has(&["detach"]) && self.has(&["concurrently"]) => {
                self.detach()
            }
            () => Kind::Plain,
        }
    }

    /// SELECT [pg_catalog.]set_config(literal, literal, false) and nothing more: repeating it does no harm.
    fn is_set_config(&self) -> bool {
        let is_value =
            |token: &str| token.starts_with('\'') || ["true", "false"].iter().any(|b| token.eq_ignore_ascii_case(b));
        let mut tokens = self.tokens().peekable();
        let mut next = |word: &str| tokens.next().is_some_and(|token| token.eq_ignore_ascii_case(word));
        let named = next("select") && (next("set_config") || next(".") && next("set_config"));
        let arguments: Vec<&str> = tokens.collect();
        let values = arguments.iter().filter(|token| is_value(token)).count();
        named && values == 3 && arguments.len() == 7 // with two parentheses and two commas
    }

    /// The modes of a SET TRANSACTION, which say how a transaction has to begin.
    pub fn transaction_modes(&self) -> Option<&'a str> {
        let mut tokens = self.tokens();
        let mut next = |word: &str| tokens.next().is_some_and(|token| token.eq_ignore_ascii_case(word));
        let sets = next("set") && next("transaction");
        let first = tokens.next().filter(|token| sets && !token.eq_ignore_ascii_case("snapshot"))?;
        Some(&self.sql[first.as_ptr() as usize - self.sql.as_ptr() as usize..])
    }

    /// True for BEGIN READ ONLY and SET TRANSACTION READ ONLY.
    pub(super) fn is_read_only(&self) -> bool {
        self.has(&["only"])
    }

    fn commit(&self) -> Kind<'a> {
        match self.has(&["chain", "prepared"]) && !self.has(&["no"]) {
            true => Kind::Ends,
            false => Kind::Commit,
        }
    }

    /// CREATE [UNIQUE] INDEX CONCURRENTLY [[IF NOT EXISTS] name] ON [ONLY] table
    fn create_index(&self) -> Kind<'a> {
        let mut tokens = self.tokens().skip_while(|t| !t.eq_ignore_ascii_case("index")).skip(1).peekable();
        if tokens.next_if(|t| t.eq_ignore_ascii_case("concurrently")).is_none() {
            return Kind::Plain;
        }
        if tokens.next_if(|t| t.eq_ignore_ascii_case("if")).is_some() {
            tokens.nth(1);
        }
        let index = tokens.next_if(|t| !t.eq_ignore_ascii_case("on"));
        let after_on = tokens.skip(1).skip_while(|t| t.eq_ignore_ascii_case("only"));
        Kind::Outside(Outside::CreateIndex { index, table: self.qualified(after_on) })
    }

    /// ALTER TABLE [IF EXISTS] table DETACH PARTITION partition CONCURRENTLY
    fn detach(&self) -> Kind<'a> {
        let mut table = self.tokens().skip(2).peekable();
        if table.next_if(|t| t.eq_ignore_ascii_case("if")).is_some() {
            table.next();
        }
        let partition = self.tokens().skip_while(|t| !t.eq_ignore_ascii_case("detach")).skip(2);
        Kind::Outside(Outside::Detach { table: self.qualified(table), partition: self.qualified(partition) })
    }

    /// CREATE|DROP DATABASE|TABLESPACE [IF EXISTS] name
    fn shared(&self) -> Kind<'a> {
        let mut tokens = self.tokens();
        let creates = tokens.next().is_some_and(|word| word.eq_ignore_ascii_case("create"));
        let is_tablespace = tokens.next().is_some_and(|word| word.eq_ignore_ascii_case("tablespace"));
        let mut tokens = tokens.peekable();
        if !creates && tokens.next_if(|word| word.eq_ignore_ascii_case("if")).is_some() {
            tokens.next();
        }
        match tokens.next() {
            // The server's parse_ident() reads no U&"…".
            Some(name) if !name.contains('&') => Kind::Outside(Outside::Shared { creates, is_tablespace, name }),
            _ => Kind::Outside(Outside::Unknown),
        }
    }

    fn drop_index(&self) -> Kind<'a> {
        let mut tokens = self.tokens().skip(3).peekable();
        if tokens.next_if(|t| t.eq_ignore_ascii_case("if")).is_some() {
            tokens.next();
        }
        Kind::Outside(Outside::DropIndex { index: self.qualified(tokens) })
    }

    /// The name that `tokens` begins with: parts joined by dots, as it is written.
    fn qualified(&self, mut tokens: impl Iterator<Item = &'a str>) -> &'a str {
        let offset = |token: &str| token.as_ptr() as usize - self.sql.as_ptr() as usize;
        let Some(first) = tokens.next() else { return "" };
        let mut end = offset(first) + first.len();
        while tokens.next() == Some(".")
            && let Some(part) = tokens.next()
        {
            end = offset(part) + part.len();
        }
        &self.sql[offset(first)..end]
    }

    /// True when there is nothing but these words: `begin raise 'x'` is a mistake and begins nothing.
    fn only(&self, words: &[&str]) -> bool {
        self.tokens().all(|token| words.iter().any(|word| token.eq_ignore_ascii_case(word)))
    }

    fn has(&self, words: &[&str]) -> bool {
        self.tokens().any(|token| words.iter().any(|word| token.eq_ignore_ascii_case(word)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::split;
    use super::*;

    fn kind(sql: &str) -> Kind<'_> {
        split(sql)[0].kind()
    }

    #[test]
    fn transaction_control_is_told_from_its_look_alikes() {
        for (sql, expected) in [
            ("BEGIN ISOLATION LEVEL SERIALIZABLE", Kind::Begin),
            ("start transaction", Kind::Begin),
            ("COMMIT AND NO CHAIN", Kind::Commit),
            ("END", Kind::Commit),
            ("COMMIT AND CHAIN", Kind::Ends),
            ("COMMIT PREPARED 'x'", Kind::Ends),
            ("begin raise 'x'", Kind::Plain),
            ("end $$", Kind::Plain),
            ("abort work", Kind::Ends),
            ("ROLLBACK", Kind::Ends),
            ("ROLLBACK TO SAVEPOINT a", Kind::Plain),
            ("PREPARE TRANSACTION 'x'", Kind::Ends),
            ("PREPARE p AS SELECT 1", Kind::Plain),
            ("CREATE TABLE \"end\" (commit int)", Kind::Plain),
            ("SET search_path = a", Kind::Session),
            ("SET LOCAL search_path = a", Kind::Plain),
            ("SELECT pg_catalog.set_config('search_path', '', false)", Kind::Session),
            ("SELECT set_config('a.b', 'c', false)", Kind::Session),
            ("SELECT set_config('a.b', f(), false)", Kind::Plain),
            ("SELECT set_config('a.b', 'c', false), 1", Kind::Plain),
            ("COPY t FROM stdin WITH (FORMAT csv)", Kind::Streams),
            ("COPY t FROM '/tmp/x'", Kind::Plain),
            ("\\connect x", Kind::Meta),
        ] {
            assert_eq!(kind(sql), expected, "{sql}");
        }
    }

    #[test]
    fn statements_that_need_no_transaction_are_known_with_their_names() {
        let shared = |creates, is_tablespace, name| Kind::Outside(Outside::Shared { creates, is_tablespace, name });
        let create = |index, table| Kind::Outside(Outside::CreateIndex { index, table });
        for (sql, expected) in [
            ("CREATE INDEX CONCURRENTLY i ON t (a)", create(Some("i"), "t")),
            (
                "create unique index concurrently if not exists \"I x\" on only s . \"T\" using gin (a)",
                create(Some("\"I x\""), "s . \"T\""),
            ),
            ("CREATE INDEX CONCURRENTLY ON /* x */ s.t(a)", create(None, "s.t")),
            ("CREATE INDEX concurrently_used ON t (a)", Kind::Plain),
            ("DROP INDEX CONCURRENTLY IF EXISTS s.i", Kind::Outside(Outside::DropIndex { index: "s.i" })),
            ("DROP INDEX i", Kind::Plain),
            ("VACUUM (ANALYZE) t", Kind::Outside(Outside::Repeatable)),
            ("REINDEX INDEX CONCURRENTLY i", Kind::Outside(Outside::Reindex)),
            ("REINDEX SCHEMA s", Kind::Outside(Outside::Repeatable)),
            ("REINDEX TABLE t", Kind::Plain),
            ("CLUSTER", Kind::Outside(Outside::Repeatable)),
            ("CLUSTER t USING i", Kind::Plain),
            ("CREATE DATABASE x OWNER o", shared(true, false, "x")),
            ("DROP DATABASE IF EXISTS \"X y\" WITH (FORCE)", shared(false, false, "\"X y\"")),
            ("create tablespace s location '/x'", shared(true, true, "s")),
            ("DROP TABLESPACE s", shared(false, true, "s")),
            ("CREATE DATABASE U&\"d\\0061t\"", Kind::Outside(Outside::Unknown)),
            ("DISCARD ALL", Kind::Discard),
            ("DISCARD TEMP", Kind::Plain),
            (
                "ALTER TABLE IF EXISTS s.t DETACH PARTITION \"p q\" CONCURRENTLY",
                Kind::Outside(Outside::Detach { table: "s.t", partition: "\"p q\"" }),
            ),
            ("ALTER TABLE t DETACH PARTITION p", Kind::Plain),
            ("REFRESH MATERIALIZED VIEW CONCURRENTLY v", Kind::Plain),
            ("DO $$ BEGIN COMMIT; END $$", Kind::Plain),
        ] {
            assert_eq!(kind(sql), expected, "{sql}");
        }
    }
}
