//! Statements that cannot run in a transaction, and the names in them. After a crash the names are
//! used to determine whether the statement took effect. Of PostgreSQL's grammar only the words
//! around those names are parsed. A name that the server's parse_ident() cannot read (U&"…") is of
//! no use.

use super::Statement;

/// A statement that cannot run in a transaction, by the way to determine whether it took effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NonTransactional<'a> {
    /// CREATE INDEX CONCURRENTLY. The names are as written.
    CreateIndex {
        /// The index. `None` if the server chooses the name.
        index: Option<&'a str>,
        /// The table, perhaps with its schema.
        table: &'a str,
    },
    /// DROP INDEX CONCURRENTLY.
    DropIndex {
        /// The index, perhaps with its schema, as written.
        index: &'a str,
    },
    /// REINDEX … CONCURRENTLY. Repeating it does no harm after the copies that a failed one leaves
    /// have been dropped.
    Reindex,
    /// ALTER TABLE … DETACH PARTITION … CONCURRENTLY. A failure leaves it half done. The names are
    /// as written.
    Detach {
        /// The partitioned table.
        table: &'a str,
        /// The partition.
        partition: &'a str,
    },
    /// CREATE or DROP, DATABASE or TABLESPACE. A catalog lists the object by name.
    Shared {
        /// Whether it is CREATE.
        creates: bool,
        /// Whether it is a TABLESPACE.
        is_tablespace: bool,
        /// The name, as written.
        name: &'a str,
    },
    /// A READ ONLY block of the file's own. The journal cannot be written in it. Repeating it does
    /// no harm.
    ReadOnlyBlock,
    /// VACUUM, REINDEX, ALTER SYSTEM or CLUSTER. Repeating it does no harm.
    Repeatable,
    /// Only a person can determine whether it took effect.
    Unknown,
}

impl NonTransactional<'_> {
    /// Returns the ledger's name for the way to determine whether the statement took effect.
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

/// The number of words that are read. The last name that matters is always among them.
const WORDS: usize = 32;

impl<'a> Statement<'a> {
    /// Returns how the statement runs if it cannot run in a transaction. Returns `None` if it can,
    /// or if only the server can tell.
    pub(super) fn outside(&self) -> Option<NonTransactional<'a>> {
        let mut words = StatementWords {
            sql: self.sql,
            tokens: self.tokens().take(WORDS).collect(),
            at: 0,
        };
        let named =
            |found: Option<NonTransactional<'a>>| Some(found.unwrap_or(NonTransactional::Unknown));
        match () {
            () if words.take(&["create", "index", "concurrently"])
                || words.take(&["create", "unique", "index", "concurrently"]) =>
            {
                named(words.create_index())
            }
            () if words.take(&["drop", "index", "concurrently"]) => named(
                words
                    .existing(StatementWords::name)
                    .map(|index| NonTransactional::DropIndex { index }),
            ),
            () if words.take(&["alter", "system"]) || words.take(&["vacuum"]) => {
                Some(NonTransactional::Repeatable)
            }
            () if words.take(&["alter", "table"])
                && self.has(&["detach"])
                && self.has(&["concurrently"]) =>
            {
                named(words.detach())
            }
            () if words.take(&["cluster"]) => words
                .is_cluster_of_all()
                .then_some(NonTransactional::Repeatable),
            () if words.take(&["reindex"]) && self.has(&["concurrently"]) => {
                Some(NonTransactional::Reindex)
            }
            () if self.repeats() && self.has(&["database", "system", "schema"]) => {
                Some(NonTransactional::Repeatable)
            }
            () if words.take(&["create", "database"]) => Some(words.shared(true, false)),
            () if words.take(&["create", "tablespace"]) => Some(words.shared(true, true)),
            () if words.take(&["drop", "database"]) => Some(words.shared(false, false)),
            () if words.take(&["drop", "tablespace"]) => Some(words.shared(false, true)),
            () => None,
        }
    }

    /// Returns whether repeating the statement does no harm. If the server refuses it in a
    /// transaction (as it does for a partitioned table), there is no need to determine afterwards
    /// whether it took effect.
    pub fn repeats(&self) -> bool {
        let first = self.tokens().next().unwrap_or_default();
        ["reindex", "cluster", "vacuum"]
            .iter()
            .any(|word| first.eq_ignore_ascii_case(word))
    }
}

/// The words of a statement, read from the left.
struct StatementWords<'a> {
    sql: &'a str,
    tokens: Vec<&'a str>,
    at: usize,
}

impl<'a> StatementWords<'a> {
    /// Consumes these words if they come next. Otherwise consumes nothing.
    fn take(&mut self, words: &[&str]) -> bool {
        let next = self.tokens[self.at..].iter().take(words.len());
        let come = next.len() == words.len()
            && next
                .zip(words)
                .all(|(token, word)| token.eq_ignore_ascii_case(word));
        self.at += if come { words.len() } else { 0 };
        come
    }

    fn next(&mut self) -> Option<&'a str> {
        let next = self.tokens.get(self.at).copied();
        self.at += 1;
        next
    }

    /// Reads a name that can be looked up on the server: parts joined by dots, as written.
    fn name(&mut self) -> Option<&'a str> {
        let offset = |token: &str| token.as_ptr() as usize - self.sql.as_ptr() as usize;
        // The lexer returns U&"…" as one token.
        let is_readable = |token: &&str| {
            token.starts_with('"')
                || token.starts_with(|c: char| c.is_alphabetic() || c == '_')
                    && !token.contains('"')
        };
        let first = self.next().filter(is_readable)?;
        let mut last = first;
        while self.take(&["."]) {
            last = self.next().filter(is_readable)?;
        }
        Some(&self.sql[offset(first)..offset(last) + last.len()])
    }

    /// PostgreSQL's relation_expr: `name`, `name *`, `ONLY name` or `ONLY (name)`.
    fn relation(&mut self) -> Option<&'a str> {
        let in_parentheses = self.take(&["only", "("]);
        if !in_parentheses {
            self.take(&["only"]);
        }
        let name = self.name()?;
        if in_parentheses {
            self.take(&[")"]).then_some(name)
        } else {
            self.take(&["*"]);
            Some(name)
        }
    }

    /// [IF EXISTS], and then a name that `read` reads.
    fn existing(&mut self, read: impl Fn(&mut Self) -> Option<&'a str>) -> Option<&'a str> {
        self.take(&["if", "exists"]);
        read(self)
    }

    /// [[IF NOT EXISTS] name] ON relation
    fn create_index(&mut self) -> Option<NonTransactional<'a>> {
        self.take(&["if", "not", "exists"]);
        if self.take(&["on"]) {
            return Some(NonTransactional::CreateIndex {
                index: None,
                table: self.relation()?,
            });
        }
        let index = self.name()?;
        let table = self.take(&["on"]).then(|| self.relation())??;
        Some(NonTransactional::CreateIndex {
            index: Some(index),
            table,
        })
    }

    /// [IF EXISTS] relation DETACH PARTITION name CONCURRENTLY
    fn detach(&mut self) -> Option<NonTransactional<'a>> {
        let table = self.existing(Self::relation)?;
        let partition = self.take(&["detach", "partition"]).then(|| self.name())??;
        self.take(&["concurrently"])
            .then_some(NonTransactional::Detach { table, partition })
    }

    /// [IF EXISTS] name
    fn shared(&mut self, creates: bool, is_tablespace: bool) -> NonTransactional<'a> {
        match self.existing(Self::name) {
            Some(name) => NonTransactional::Shared {
                creates,
                is_tablespace,
                name,
            },
            None => NonTransactional::Unknown,
        }
    }

    /// `[VERBOSE]` or `[(option, …)]` and no table.
    fn is_cluster_of_all(&mut self) -> bool {
        if self.take(&["("]) {
            while self.next().is_some_and(|token| token != ")") {}
        } else {
            self.take(&["verbose"]);
        }
        self.at >= self.tokens.len()
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{StatementKind, split},
        *,
    };

    fn kind(sql: &str) -> StatementKind<'_> {
        split(sql)[0].kind()
    }

    #[test]
    fn statements_that_need_no_transaction_are_known_with_their_names() {
        let shared = |creates, is_tablespace, name| {
            StatementKind::Outside(NonTransactional::Shared {
                creates,
                is_tablespace,
                name,
            })
        };
        let create =
            |index, table| StatementKind::Outside(NonTransactional::CreateIndex { index, table });
        for (sql, expected) in [
            (
                "CREATE INDEX CONCURRENTLY i ON t (a)",
                create(Some("i"), "t"),
            ),
            (
                "create unique index concurrently if not exists \"I x\" on only s . \"T\" using \
                 gin (a)",
                create(Some("\"I x\""), "s . \"T\""),
            ),
            (
                "CREATE INDEX CONCURRENTLY ON /* x */ s.t(a)",
                create(None, "s.t"),
            ),
            (
                "CREATE INDEX concurrently_used ON t (a)",
                StatementKind::Plain,
            ),
            (
                "DROP INDEX CONCURRENTLY IF EXISTS s.i",
                StatementKind::Outside(NonTransactional::DropIndex { index: "s.i" }),
            ),
            ("DROP INDEX i", StatementKind::Plain),
            (
                "VACUUM (ANALYZE) t",
                StatementKind::Outside(NonTransactional::Repeatable),
            ),
            (
                "REINDEX INDEX CONCURRENTLY i",
                StatementKind::Outside(NonTransactional::Reindex),
            ),
            (
                "REINDEX SCHEMA s",
                StatementKind::Outside(NonTransactional::Repeatable),
            ),
            ("REINDEX TABLE t", StatementKind::Plain),
            (
                "CLUSTER",
                StatementKind::Outside(NonTransactional::Repeatable),
            ),
            (
                "CLUSTER VERBOSE",
                StatementKind::Outside(NonTransactional::Repeatable),
            ),
            (
                "CLUSTER (VERBOSE, x)",
                StatementKind::Outside(NonTransactional::Repeatable),
            ),
            ("CLUSTER (VERBOSE) t", StatementKind::Plain),
            ("CLUSTER VERBOSE t USING i", StatementKind::Plain),
            (
                "VACUUM FULL VERBOSE t",
                StatementKind::Outside(NonTransactional::Repeatable),
            ),
            (
                "REINDEX (VERBOSE) TABLE CONCURRENTLY t",
                StatementKind::Outside(NonTransactional::Reindex),
            ),
            (
                "REINDEX (CONCURRENTLY) TABLE t",
                StatementKind::Outside(NonTransactional::Reindex),
            ),
            (
                "CREATE INDEX CONCURRENTLY i ON ONLY (s.t) (a)",
                create(Some("i"), "s.t"),
            ),
            (
                "CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS i ON ONLY(t)(a)",
                create(Some("i"), "t"),
            ),
            (
                "CREATE INDEX CONCURRENTLY i ON t * (a)",
                create(Some("i"), "t"),
            ),
            (
                "CREATE INDEX CONCURRENTLY ON ONLY t USING gin (a)",
                create(None, "t"),
            ),
            (
                "CREATE INDEX CONCURRENTLY if ON t (a)",
                create(Some("if"), "t"),
            ),
            (
                "CREATE INDEX CONCURRENTLY U&\"\\0061x\" ON t (a)",
                StatementKind::Outside(NonTransactional::Unknown),
            ),
            (
                "CREATE INDEX CONCURRENTLY i ON u&\"t\" (a)",
                StatementKind::Outside(NonTransactional::Unknown),
            ),
            (
                "CREATE INDEX CONCURRENTLY \"a & b\" ON é (a)",
                create(Some("\"a & b\""), "é"),
            ),
            (
                "DROP INDEX CONCURRENTLY s.U&\"i\"",
                StatementKind::Outside(NonTransactional::Unknown),
            ),
            ("CLUSTER t USING i", StatementKind::Plain),
            ("CREATE DATABASE x OWNER o", shared(true, false, "x")),
            (
                "DROP DATABASE IF EXISTS \"X y\" WITH (FORCE)",
                shared(false, false, "\"X y\""),
            ),
            ("create tablespace s location '/x'", shared(true, true, "s")),
            ("DROP TABLESPACE s", shared(false, true, "s")),
            (
                "CREATE DATABASE U&\"d\\0061t\"",
                StatementKind::Outside(NonTransactional::Unknown),
            ),
            ("DISCARD ALL", StatementKind::Discard),
            ("DISCARD TEMP", StatementKind::Plain),
            (
                "ALTER TABLE IF EXISTS s.t DETACH PARTITION \"p q\" CONCURRENTLY",
                StatementKind::Outside(NonTransactional::Detach {
                    table: "s.t",
                    partition: "\"p q\"",
                }),
            ),
            (
                "alter table only (s.t) detach partition p concurrently",
                StatementKind::Outside(NonTransactional::Detach {
                    table: "s.t",
                    partition: "p",
                }),
            ),
            (
                "ALTER TABLE IF EXISTS ONLY detach DETACH PARTITION s.p CONCURRENTLY",
                StatementKind::Outside(NonTransactional::Detach {
                    table: "detach",
                    partition: "s.p",
                }),
            ),
            (
                "ALTER TABLE if * DETACH PARTITION p CONCURRENTLY",
                StatementKind::Outside(NonTransactional::Detach {
                    table: "if",
                    partition: "p",
                }),
            ),
            (
                "ALTER TABLE t DETACH PARTITION U&\"p\" CONCURRENTLY",
                StatementKind::Outside(NonTransactional::Unknown),
            ),
            (
                "ALTER TABLE t DETACH PARTITION p FINALIZE",
                StatementKind::Plain,
            ),
            ("ALTER TABLE t DETACH PARTITION p", StatementKind::Plain),
            (
                "REFRESH MATERIALIZED VIEW CONCURRENTLY v",
                StatementKind::Plain,
            ),
            ("DO $$ BEGIN COMMIT; END $$", StatementKind::Plain),
        ] {
            assert_eq!(kind(sql), expected, "{sql}");
        }
    }
}
