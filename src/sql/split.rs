//! Splits SQL into statements as psql does. It uses tokens and not a grammar, so that a statement
//! this release of schemad does not know is still one statement. The tokens are squawk's.

use squawk_lexer::{LiteralKind, TokenKind, tokenize};

use crate::runtime::blocking::in_place;

/// A statement, from its first word to its last. Comments before it and the semicolon after it are
/// not included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statement<'a> {
    /// The text.
    pub sql: &'a str,
    /// The byte where the statement begins in the script.
    pub start: usize,
}

impl<'a> Statement<'a> {
    /// Returns the byte where the statement ends in the script. A semicolon may follow.
    pub fn end(&self) -> usize {
        self.start + self.sql.len()
    }

    /// Returns the beginning of the statement, on one line of at most 80 characters.
    pub fn summary(&self) -> String {
        const LONGEST: usize = 80;
        let is_secret = || {
            self.holds_secret()
                || self
                    .tokens()
                    .any(|token| token.to_ascii_lowercase().contains("password"))
        };
        // This includes CREATE ROLE, a user mapping and a subscription's connection. Their secrets
        // must not appear in events.
        if in_place(self.sql.len(), is_secret) {
            // A body in quotes or dollar quotes is one token, and could contain the password.
            let is_word = |token: &&str| {
                token.len() < LONGEST / 2 && token.chars().all(|c| c.is_alphanumeric() || c == '_')
            };
            let words: Vec<_> = self.tokens().take(2).take_while(is_word).collect();
            return words.join(" ") + " …";
        }
        let mut summary = String::new();
        for word in self.sql.split_whitespace() {
            if !summary.is_empty() {
                summary.push(' ');
            }
            summary.push_str(word);
            if summary.chars().count() > LONGEST {
                return summary.chars().take(LONGEST - 1).chain(['…']).collect();
            }
        }
        summary
    }

    /// Returns the tokens, without white space and comments.
    pub fn tokens(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        significant(self.sql).map(|(_, _, text)| text)
    }
}

/// Returns the statements of `sql`. As on the server, empty ones do not count.
pub fn split(sql: &str) -> Vec<Statement<'_>> {
    in_place(sql.len(), || statements(sql).collect())
}

/// Returns the statements of `sql` lazily, so that a caller that needs only the first ones does not
/// split the whole script.
pub(crate) fn statements(sql: &str) -> impl Iterator<Item = Statement<'_>> {
    let mut open: Option<(usize, usize)> = None;
    let mut nesting = SplitNesting::default();
    let mut tokens = significant(sql).peekable();
    // The rest of the line of a psql command is not SQL and may open a quote. So the text after
    // that line is tokenized again.
    let mut from = 0;
    let mut command: Option<Statement<'_>> = None;
    let statement = move |(start, end): (usize, usize)| Statement {
        sql: &sql[start..end],
        start,
    };
    std::iter::from_fn(move || {
        if command.is_some() {
            return command.take();
        }
        while let Some((kind, at, text)) = tokens.next() {
            let at = from + at;
            if kind == TokenKind::Unknown && text == "\\" {
                // A psql command extends to the end of its line. It ends the statement before it as
                // a semicolon does. SQL has no backslash outside of quotes.
                let before = open.take();
                nesting = SplitNesting::default();
                from = at + sql[at..].find('\n').unwrap_or(sql.len() - at);
                tokens = significant(&sql[from..]).peekable();
                let line = sql[at..from].trim_end_matches([' ', '\t', '\r', '\x0b', '\x0c']);
                let found = Statement {
                    sql: line,
                    start: at,
                };
                if before.is_none() {
                    return Some(found);
                }
                command = Some(found);
                return before.map(statement);
            } else if kind == TokenKind::Semi && nesting.is_top_level() {
                nesting = SplitNesting::default();
                if open.is_some() {
                    return open.take().map(statement);
                }
            } else {
                nesting.pass(
                    kind,
                    text,
                    tokens.peek().map(|(kind, _, text)| (*kind, *text)),
                );
                open = Some((open.map_or(at, |(start, _)| start), at + text.len()));
            }
        }
        open.take().map(statement)
    })
}

/// Finds a quote or comment that is opened and never closed. Returns its kind, and the byte where
/// it begins.
pub fn unterminated(sql: &str) -> Option<(&'static str, usize)> {
    let unterminated = |(kind, at, _): (TokenKind, usize, &str)| {
        let what = match kind {
            TokenKind::BlockComment { terminated: false } => Some("/* comment"),
            TokenKind::QuotedIdent {
                terminated: false, ..
            } => Some("quoted identifier"),
            TokenKind::Literal { kind } => match kind {
                LiteralKind::Str { terminated: false }
                | LiteralKind::EscStr { terminated: false }
                | LiteralKind::UnicodeEscStr { terminated: false }
                | LiteralKind::NationalStr { terminated: false }
                | LiteralKind::BitStr { terminated: false }
                | LiteralKind::ByteStr { terminated: false } => Some("quoted string"),
                LiteralKind::DollarQuotedString { terminated: false } => {
                    Some("dollar-quoted string")
                }
                _ => None,
            },
            _ => None,
        };
        what.map(|what| (what, at))
    };
    in_place(sql.len(), || tokens(sql).find_map(unterminated))
}

/// Returns the byte of the semicolon that follows byte `at`, if it is the next token.
pub(crate) fn semicolon_after(sql: &str, at: usize) -> Option<usize> {
    let (kind, offset, _) = significant(&sql[at..]).next()?;
    (kind == TokenKind::Semi).then_some(at + offset)
}

/// Returns the comments before the first word, with their delimiters.
pub(super) fn leading_comments(sql: &str) -> impl Iterator<Item = &str> {
    let leading = |kind: &TokenKind| {
        matches!(
            kind,
            TokenKind::Whitespace | TokenKind::LineComment | TokenKind::BlockComment { .. }
        )
    };
    tokens(sql)
        .take_while(move |(kind, ..)| leading(kind))
        .map(|(.., text)| text)
}

/// Returns the first word. Comments and empty statements are skipped.
pub(super) fn first_word(sql: &str) -> Option<&str> {
    significant(sql)
        .map(|(_, _, text)| text)
        .find(|text| *text != ";")
}

/// Returns the kind, byte offset and text of every token except white space and comments.
fn significant(sql: &str) -> impl Iterator<Item = (TokenKind, usize, &str)> {
    tokens(sql).filter(|(kind, ..)| {
        !matches!(
            kind,
            TokenKind::Whitespace | TokenKind::LineComment | TokenKind::BlockComment { .. }
        )
    })
}

/// Returns the kind, byte offset and text of every token. An E'…' string and its continuation on
/// later lines are one token. squawk's lexer reads the continuation as a plain string, in which a
/// backslash escapes nothing.
fn tokens(sql: &str) -> impl Iterator<Item = (TokenKind, usize, &str)> {
    let (mut rest, mut at) = (tokenize(sql), 0);
    std::iter::from_fn(move || {
        let token = rest.next()?;
        let (mut kind, start) = (token.kind, at);
        at += token.len as usize;
        while kind
            == (TokenKind::Literal {
                kind: LiteralKind::EscStr { terminated: true },
            })
            && let Some(quote) = continuation(sql, at)
        {
            let end = end_of_escaped(sql, quote + 1);
            kind = TokenKind::Literal {
                kind: LiteralKind::EscStr {
                    terminated: end.is_some(),
                },
            };
            at = end.unwrap_or(sql.len());
            rest = tokenize(&sql[at..]);
        }
        Some((kind, start, &sql[start..at]))
    })
}

/// Returns the byte of the quote that continues a string which ended at byte `at`. Between them is
/// white space with a line break, and possibly `--` comments (quotecontinue in PostgreSQL's
/// scan.l).
fn continuation(sql: &str, at: usize) -> Option<usize> {
    let mut quote = at;
    for token in tokenize(&sql[at..]) {
        match token.kind {
            TokenKind::Whitespace | TokenKind::LineComment => quote += token.len as usize,
            _ => break,
        }
    }
    (sql[quote..].starts_with('\'') && sql[at..quote].contains(['\n', '\r'])).then_some(quote)
}

/// Returns the byte after the closing quote of a string with backslash escapes. `from` is inside
/// the string.
fn end_of_escaped(sql: &str, from: usize) -> Option<usize> {
    let mut bytes = sql.bytes().enumerate().skip(from).peekable();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'\\' => drop(bytes.next()),
            // Two quotes in a row are an escaped quote.
            b'\'' if bytes.next_if(|(_, next)| *next == b'\'').is_none() => return Some(at + 1),
            _ => {}
        }
    }
    None
}

/// The nesting at a token. A semicolon does not end a statement inside parentheses (CREATE RULE) or
/// in the BEGIN ATOMIC body of a routine.
#[derive(Default)]
struct SplitNesting {
    parentheses: usize,
    /// The number of words so far, up to the fourth.
    words: usize,
    /// Whether the words so far begin CREATE [OR REPLACE], and from the fourth on whether they
    /// create a routine.
    creates: bool,
    routine: bool,
    /// Whether the word before was BEGIN.
    after_begin: bool,
    /// The BEGIN ATOMIC body that the token is in.
    body: Option<RoutineBody>,
}

/// The BEGIN ATOMIC body of a routine. It ends with an END where a statement would begin. The END
/// of a CASE is inside a statement. CASE and END may also be the name of a column: after AS or a
/// dot, or where no CASE can begin or end.
#[derive(Default)]
struct RoutineBody {
    /// The number of open CASE expressions in the statement.
    cases: usize,
    /// Whether a statement has begun.
    is_inside: bool,
    /// Whether the token before was AS or a dot.
    names: bool,
}

impl SplitNesting {
    fn is_top_level(&self) -> bool {
        self.parentheses == 0 && self.body.is_none()
    }

    /// Processes a token. `next` is the token after it.
    fn pass(&mut self, kind: TokenKind, text: &str, next: Option<(TokenKind, &str)>) {
        let is = |word: &str| kind == TokenKind::Ident && text.eq_ignore_ascii_case(word);
        match kind {
            TokenKind::OpenParen => self.parentheses += 1,
            TokenKind::CloseParen => self.parentheses = self.parentheses.saturating_sub(1),
            TokenKind::Ident if self.body.is_none() => {
                self.words += 1;
                self.creates = match self.words {
                    1 => is("create"),
                    2 => self.creates && (is("or") || self.begins_routine(text)),
                    3 => self.creates && (is("replace") || self.routine),
                    4 => self.creates && (self.routine || self.begins_routine(text)),
                    _ => self.creates,
                };
                if self.routine && self.parentheses == 0 && self.after_begin && is("atomic") {
                    self.body = Some(RoutineBody::default());
                    return;
                }
            }
            _ => {}
        }
        self.after_begin = is("begin");
        if self
            .body
            .as_mut()
            .is_some_and(|body| body.is_ended_by(kind, text, next))
        {
            self.body = None;
        }
    }

    fn begins_routine(&mut self, word: &str) -> bool {
        self.routine =
            word.eq_ignore_ascii_case("function") || word.eq_ignore_ascii_case("procedure");
        self.routine
    }
}

impl RoutineBody {
    fn is_ended_by(
        &mut self,
        kind: TokenKind,
        text: &str,
        next: Option<(TokenKind, &str)>,
    ) -> bool {
        let is = |word: &str| kind == TokenKind::Ident && text.eq_ignore_ascii_case(word);
        if kind == TokenKind::Semi {
            *self = Self::default();
            return false;
        }
        if is("end") && !self.is_inside {
            return true;
        }
        match self.names {
            true => {}
            false if is("case") && begins_case(next) => self.cases += 1,
            false if is("end") => self.cases = self.cases.saturating_sub(1),
            false => {}
        }
        self.is_inside = true;
        self.names = is("as") || kind == TokenKind::Dot;
        false
    }
}

/// Returns whether the CASE before the token `next` begins an expression. Otherwise it is the name
/// of a column.
fn begins_case(next: Option<(TokenKind, &str)>) -> bool {
    const AFTER_A_NAME: [&str; 17] = [
        "from",
        "where",
        "group",
        "having",
        "window",
        "order",
        "limit",
        "offset",
        "fetch",
        "for",
        "union",
        "intersect",
        "except",
        "into",
        "as",
        "on",
        "returning",
    ];
    match next {
        None
        | Some((TokenKind::Semi | TokenKind::Comma | TokenKind::CloseParen | TokenKind::Dot, _)) => {
            false
        }
        Some((TokenKind::Ident, word)) => !AFTER_A_NAME
            .iter()
            .any(|after| word.eq_ignore_ascii_case(after)),
        Some(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(sql: &str) -> Vec<&str> {
        split(sql)
            .into_iter()
            .map(|statement| statement.sql)
            .collect()
    }

    #[test]
    fn semicolons_end_statements_and_nothing_else_does() {
        for (sql, expected) in [
            ("", vec![]),
            (" ; -- x;\n ;", vec![]),
            ("SELECT 1; SELECT 2", vec!["SELECT 1", "SELECT 2"]),
            (
                "-- a;\nSELECT 1 /* ; /* ; */ ; */ -- ;\n;",
                vec!["SELECT 1"],
            ),
            (
                "SELECT ';', E'\\';', \";\", U&'\\003b;', B'1'; b",
                vec!["SELECT ';', E'\\';', \";\", U&'\\003b;', B'1'", "b"],
            ),
            // The continuation of a string on the next line follows the rules of its beginning.
            (
                "SELECT E'a'\n'b\\'; c'; d",
                vec!["SELECT E'a'\n'b\\'; c'", "d"],
            ),
            (
                "SELECT e'a' -- x '\n  \t'\\';'\r'\\''; d",
                vec!["SELECT e'a' -- x '\n  \t'\\';'\r'\\''", "d"],
            ),
            ("SELECT E'a' 'b\\'; c", vec!["SELECT E'a' 'b\\'", "c"]),
            (
                "SELECT E'a' /* \n */ 'b\\'; c",
                vec!["SELECT E'a' /* \n */ 'b\\'", "c"],
            ),
            ("SELECT 'a'\n'b\\'; c", vec!["SELECT 'a'\n'b\\'", "c"]),
            (
                "DO $x$ BEGIN; $$ ; $x$; a",
                vec!["DO $x$ BEGIN; $$ ; $x$", "a"],
            ),
            ("SELECT $1; b", vec!["SELECT $1", "b"]),
            (
                "CREATE RULE r AS ON INSERT TO t DO (DELETE FROM a; DELETE FROM b); c",
                vec![
                    "CREATE RULE r AS ON INSERT TO t DO (DELETE FROM a; DELETE FROM b)",
                    "c",
                ],
            ),
            ("SELECT 'open; x", vec!["SELECT 'open; x"]),
            ("SELECT é;\n\tü", vec!["SELECT é", "ü"]),
            (
                "\\connect a b;\nSELECT 1; \\q",
                vec!["\\connect a b;", "SELECT 1", "\\q"],
            ),
            (
                "\\echo 'open\nSELECT 1; \\echo /* \nb",
                vec!["\\echo 'open", "SELECT 1", "\\echo /*", "b"],
            ),
            (
                "SELECT 1 \\gexec\nSELECT (2 \\gset; x\n;",
                vec!["SELECT 1", "\\gexec", "SELECT (2", "\\gset; x"],
            ),
        ] {
            assert_eq!(texts(sql), expected, "{sql}");
        }
    }

    #[test]
    fn the_body_of_a_routine_is_part_of_it() {
        for head in [
            "CREATE FUNCTION f()",
            "create or replace procedure f()",
            "CREATE OR REPLACE FUNCTION s.f(a int)",
        ] {
            let body = format!(
                "{head} RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT (CASE 1 \
                 WHEN 1 THEN 2 END); END"
            );
            assert_eq!(
                texts(&format!("{body}; SELECT 2")),
                [body.as_str(), "SELECT 2"]
            );
        }
        assert_eq!(texts("BEGIN; SELECT 1; END; a").len(), 4);
        for inner in [
            "",
            "SELECT 1 AS end;",
            "SELECT 1 AS case; SELECT 2 AS case, 3 AS end;",
            "SELECT 1 end;",
            "SELECT 1 case;",
            "SELECT 1 case, 2 end FROM t; SELECT (SELECT 1 case);",
            "SELECT t.end, t.case FROM (SELECT 1 AS end, 2 AS case) t;",
            "SELECT CASE WHEN true THEN 1 END end, CASE x WHEN 1 THEN 2 ELSE CASE WHEN y THEN 3 \
             END END;",
            "SELECT CASE (1) WHEN 1 THEN 2 END; SELECT CASE 'a' WHEN 'a' THEN 2 END; SELECT CASE \
             -1 WHEN 1 THEN 2 END AS end;",
            "INSERT INTO t SELECT CASE WHEN true THEN 1 END RETURNING a AS end; DELETE FROM t;",
        ] {
            let body = format!("CREATE FUNCTION f() RETURNS int BEGIN ATOMIC {inner} END");
            assert_eq!(
                texts(&format!("{body}; SELECT 2; COMMIT")),
                [body.as_str(), "SELECT 2", "COMMIT"],
                "{inner}"
            );
        }
        assert_eq!(
            texts("CREATE FUNCTION begin(a int) RETURNS int AS $$$$; a").len(),
            2
        );
        assert_eq!(texts("CREATE TABLE function (begin int); a").len(), 2);
        assert_eq!(
            texts("CREATE FUNCTION f() RETURNS int RETURN 1; a").len(),
            2
        );
    }

    #[test]
    fn what_is_never_closed_is_found() {
        for (sql, expected) in [
            ("SELECT 1; SELECT 'it''s", Some(("quoted string", 17))),
            ("/* a /* b */", Some(("/* comment", 0))),
            ("DO $x$ $$ ", Some(("dollar-quoted string", 3))),
            ("SELECT \"a", Some(("quoted identifier", 7))),
            ("SELECT E'a'\n'b\\'; c", Some(("quoted string", 7))),
            ("SELECT 'a', $$b$$, \"c\" /* d */ -- '", None),
        ] {
            assert_eq!(unterminated(sql), expected, "{sql}");
        }
    }

    #[test]
    fn a_statement_knows_where_it_is() {
        let sql = "-- é\nSELECT 1 ; SELECT 2";
        let second = split(sql)[1];
        assert_eq!(
            (&sql[second.start..second.end()], second.tokens().count()),
            ("SELECT 2", 2)
        );
        assert_eq!(
            split("CREATE  TABLE\n\tt (n int)")[0].summary(),
            "CREATE TABLE t (n int)"
        );
        assert_eq!(
            split("CREATE ROLE a PASSWORD 'x'")[0].summary(),
            "CREATE ROLE …"
        );
        assert_eq!(
            split("DO $$ BEGIN EXECUTE 'ALTER ROLE a PASSWORD ''x'''; END $$")[0].summary(),
            "DO …"
        );
        assert_eq!(
            split(&format!("SELECT {}", "é ".repeat(100)))[0]
                .summary()
                .chars()
                .count(),
            80
        );
    }
}
