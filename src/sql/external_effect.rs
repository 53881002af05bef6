//! Finds statements with an effect outside the database that they run in: on roles, other
//! databases, the server's settings and files, or other servers. The search is by words, and
//! includes the bodies of DO blocks and functions. Statements that are built at run time cannot be
//! checked. For those see [`is_dynamic`].

mod call;
mod role;
#[cfg(test)]
mod tests;
mod words;

use std::{
    cell::{Cell, OnceCell},
    collections::HashMap,
};

use super::{Statement, TextPosition, nth_character, place, statements};
use call::{FunctionCalls, runs_text};
use words::words;

use crate::runtime::blocking::in_place;

/// A statement with an effect outside the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExternalEffect {
    /// The position where the statement begins, or the line within the body of a DO block or a
    /// routine.
    pub place: TextPosition,
    /// The object that the statement affects.
    pub what: &'static str,
}

/// The depth to which nested bodies are searched. In practice there are two levels. Every level is
/// read once more.
const DEEPEST: usize = 8;

/// Returns the first statement of `sql` with an effect outside the database. The time is linear in
/// the length of `sql`: no token is read more than a few times.
pub fn first_reach(sql: &str) -> Option<ExternalEffect> {
    first(&OUTSIDE, sql)
}

/// Returns the first statement of `sql` that changes the role it runs as. `what` is a verb and its
/// object.
pub fn first_role_change(sql: &str) -> Option<ExternalEffect> {
    first(&ROLE, sql)
}

/// A search in a script: by the beginning of each statement, and for function calls anywhere.
struct EffectSearch {
    head: for<'a> fn(&ScriptWords<'a>, usize, usize) -> Option<&'static str>,
    anywhere: for<'a> fn(&FunctionCalls<'a>) -> Option<&'static str>,
    /// The result for a body that is nested too deep to be searched.
    too_deep: &'static str,
}

const OUTSIDE: EffectSearch = EffectSearch {
    head: |text, from, end| text.head(from, end),
    anywhere: |calls| calls.reach(),
    too_deep: "what stands in quotes within quotes, deeper than anybody looks",
};

const ROLE: EffectSearch = EffectSearch {
    head: |text, from, end| text.changes_role(from, end),
    anywhere: |calls| calls.changes_role(),
    too_deep: "may set another role, in quotes within quotes, deeper than anybody looks",
};

fn first(question: &EffectSearch, sql: &str) -> Option<ExternalEffect> {
    in_place(sql.len(), || {
        statements(sql).find_map(|statement| {
            let what = found_in(question, &statement)?;
            let at = statement.start + line_in_body(question, &statement, what).unwrap_or_default();
            Some(ExternalEffect {
                place: place(sql, nth_character(sql, at)),
                what,
            })
        })
    })
}

/// Returns the byte in a statement where the line with `what` begins, if that line is in a body in
/// dollar quotes. Bisection finds the shortest beginning of the body that contains `what`.
fn line_in_body(question: &EffectSearch, statement: &Statement<'_>, what: &str) -> Option<usize> {
    statement
        .tokens()
        .filter(|token| token.starts_with('$'))
        .find_map(|token| {
            let tag = token[1..].find('$')? + 2;
            let body = token.get(tag..token.len().checked_sub(tag)?)?;
            let is_in = |text: &str| in_body(question, text, 1) == Some(what);
            if !is_in(body) {
                return None;
            }
            let lines: Vec<&str> = body.split_inclusive('\n').collect();
            let ends: Vec<usize> = lines
                .iter()
                .scan(0, |end, line| {
                    *end += line.len();
                    Some(*end)
                })
                .collect();
            let last = ends
                .partition_point(|end| !is_in(&body[..*end]))
                .min(lines.len() - 1);
            let indent = lines[last].len() - lines[last].trim_start().len();
            // The beginning of the statement is as precise as its first line.
            if last == 0 {
                return None;
            }
            Some(statement.sql.find(token)? + tag + ends[last] - lines[last].len() + indent)
        })
}

/// Returns whether a body builds statements at run time: EXECUTE in a DO block or a routine.
pub fn is_dynamic(sql: &str) -> bool {
    in_place(sql.len(), || {
        statements(sql).any(|statement| {
            let words = words(statement.sql);
            let tokens: Vec<&str> = words.iter().map(String::as_str).collect();
            has_body(&tokens) && tokens.iter().filter_map(|token| body(token)).any(executes)
        })
    })
}

/// Returns whether a statement drops a role.
pub fn drops_roles(sql: &str) -> bool {
    let drops = |statement: Statement<'_>| {
        let mut tokens = statement.tokens();
        tokens.next().is_some_and(|token| is(token, "drop"))
            && tokens
                .next()
                .is_some_and(|token| ["role", "user", "group"].iter().any(|what| is(token, what)))
    };
    in_place(sql.len(), || statements(sql).any(drops))
}

/// Returns whether a body executes a string. EXECUTE FUNCTION belongs to CREATE TRIGGER.
fn executes(body: &str) -> bool {
    let words = words(body);
    words.iter().enumerate().any(|(at, token)| {
        let next = words.get(at + 1).map_or("", |next| next);
        is(token, "execute") && !is(next, "function") && !is(next, "procedure") && !is(next, "on")
    })
}

fn found_in(question: &EffectSearch, statement: &Statement<'_>) -> Option<&'static str> {
    let words = words(statement.sql);
    let tokens: Vec<&str> = words.iter().map(String::as_str).collect();
    let calls = FunctionCalls::new(&tokens);
    let text = ScriptWords::new(&tokens);
    (question.head)(&text, 0, tokens.len())
        .or_else(|| (question.anywhere)(&calls))
        .or_else(|| {
            let has_bodies = has_body(&tokens) || runs_text(&calls);
            let mut bodies = tokens
                .iter()
                .filter(|_| has_bodies)
                .filter_map(|token| body(token));
            bodies.find_map(|body| in_body(question, body, 1))
        })
}

/// The tokens after which a statement in a body begins.
const BEFORE: [&str; 6] = [";", "begin", "then", "else", "loop", ">>"];

fn in_body(question: &EffectSearch, body: &str, depth: usize) -> Option<&'static str> {
    if depth > DEEPEST {
        return Some(question.too_deep);
    }
    let words = words(body);
    let tokens: Vec<&str> = words.iter().map(String::as_str).collect();
    let text = ScriptWords::new(&tokens);
    let begins = |at: usize| at == 0 || BEFORE.iter().any(|word| is(tokens[at - 1], word));
    let mut end = 0;
    let stands = (0..tokens.len()).filter(|at| begins(*at)).find_map(|at| {
        if end <= at {
            end = tokens[at..]
                .iter()
                .position(|token| *token == ";")
                .map_or(tokens.len(), |n| at + n);
        }
        (question.head)(&text, at, end)
    });
    // EXECUTE 'CREATE ROLE …', or a body within the body.
    let mut bodies = tokens.iter().filter_map(|token| self::body(token));
    stands
        .or_else(|| (question.anywhere)(&FunctionCalls::new(&tokens)))
        .or_else(|| bodies.find_map(|body| in_body(question, body, depth + 1)))
}

fn has_body(tokens: &[&str]) -> bool {
    let word = |at: usize, word: &str| tokens.get(at).is_some_and(|token| is(token, word));
    word(0, "do")
        || word(0, "create")
            && tokens
                .iter()
                .take(4)
                .any(|token| is(token, "function") || is(token, "procedure"))
}

/// Returns the contents of a string.
fn body<'a>(token: &&'a str) -> Option<&'a str> {
    token.strip_prefix('\'')?.strip_suffix('\'')
}

fn is(token: &str, word: &str) -> bool {
    token.eq_ignore_ascii_case(word)
}

/// The words of a statement or of a body, in which statements begin in many places. Each kind of
/// word is searched for once, not once for each statement: a body of a megabyte has tens of
/// thousands of statements.
struct ScriptWords<'a> {
    tokens: &'a [&'a str],
    on: NextMatch,
    untrusted: NextMatch,
    role: role::RoleChange,
    /// The FROM and TO with a file or a program after them, by the number of open parentheses.
    copied: OnceCell<HashMap<i64, Vec<CopyEndpoint>>>,
    /// The number of open parentheses before each word.
    open: OnceCell<Vec<i64>>,
}

/// The last match of a search, cached for searches from ascending positions.
#[derive(Default)]
struct NextMatch(Cell<Option<usize>>);

impl NextMatch {
    /// Returns the first match at or after `at` and before `end`. `count` is the number of words.
    fn find(
        &self,
        at: usize,
        end: usize,
        count: usize,
        is_there: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let known = self.0.get().filter(|known| *known >= at);
        let next =
            known.unwrap_or_else(|| (at..count).find(|at| is_there(*at)).unwrap_or(usize::MAX));
        self.0.set(Some(next));
        Some(next).filter(|next| *next < end)
    }
}

/// The source or target of a COPY.
struct CopyEndpoint {
    at: usize,
    is_program: bool,
}

impl<'a> ScriptWords<'a> {
    fn new(tokens: &'a [&'a str]) -> Self {
        Self {
            tokens,
            on: NextMatch::default(),
            untrusted: NextMatch::default(),
            role: role::RoleChange::default(),
            copied: OnceCell::new(),
            open: OnceCell::new(),
        }
    }

    /// Returns what the statement from word `from` to word `end` affects, by its first words. Must
    /// be called in the order of the statements.
    fn head(&self, from: usize, end: usize) -> Option<&'static str> {
        let tokens = &self.tokens[from..end];
        let any = |at: usize, words: &[&str]| {
            tokens
                .get(at)
                .is_some_and(|token| words.iter().any(|word| is(token, word)))
        };
        let on = || {
            self.on
                .find(from, end, self.tokens.len(), |at| is(self.tokens[at], "on"))
                .map(|at| at - from)
        };
        let created = any(0, &["create", "alter", "drop"]);
        let on_shared = || {
            let on = on()?;
            // GRANT … ON role TO x is about a table of that name.
            let is_named = tokens
                .get(on + 2)
                .is_some_and(|next| !["to", "from", ",", "."].iter().any(|word| is(next, word)));
            (is_named && any(on + 1, &["database", "role", "tablespace", "parameter"]))
                .then_some(on)
        };
        Some(match () {
            () if created && any(1, &["user"]) && any(2, &["mapping"]) => "a foreign server",
            () if created && any(1, &["role", "user", "group"]) => {
                "roles, which all databases of the server share"
            }
            () if any(0, &["drop", "reassign"]) && any(1, &["owned"]) => {
                "what a role owns, also outside this database"
            }
            // GRANT a TO b and REVOKE a FROM b change a membership. With ON it is a right on an
            // object.
            () if any(0, &["grant", "revoke"]) && !any(1, &["end"]) && on().is_none() => {
                "memberships of roles, which all databases share"
            }
            () if any(0, &["grant", "revoke", "comment", "security"]) && on_shared().is_some() => {
                "something that all databases of the server share"
            }
            () if any(0, &["alter"]) && any(1, &["system"]) => "the server's settings",
            () if created && any(1, &["database"]) => "other databases of the server",
            () if created && any(1, &["tablespace"]) => "the server's tablespaces",
            () if created && any(1, &["subscription"]) => "another server (a subscription)",
            () if any(0, &["create", "alter"]) && any(1, &["server"]) => {
                "another server (a foreign server)"
            }
            () if any(0, &["import"]) && any(1, &["foreign"]) => {
                "another server (IMPORT FOREIGN SCHEMA)"
            }
            () if any(0, &["copy"]) && self.copies(from, end, true) => "a program on the server",
            () if any(0, &["copy"]) && self.copies(from, end, false) => "a file on the server",
            () if any(0, &["load"])
                && tokens.get(1).is_some_and(|token| token.starts_with('\'')) =>
            {
                "a library on the server"
            }
            () if any(0, &["create", "do"]) && self.is_untrusted(from, end) => {
                "whatever an untrusted language can"
            }
            () => return None,
        })
    }

    /// Returns whether a COPY reads or writes a program, or a file if `program` is false. This is
    /// FROM or TO, perhaps PROGRAM, and then a string. A variable may be called copy, and the query
    /// of a COPY has a FROM of its own.
    fn copies(&self, from: usize, end: usize, program: bool) -> bool {
        let is_variable = self.tokens[from..end]
            .get(1)
            .is_some_and(|token| [":", "=", ":="].contains(token));
        let Some(depth) = self.open.get_or_init(|| self.count_parentheses()).get(from) else {
            return false;
        };
        let found = self.copied.get_or_init(|| self.find_copied());
        let of_depth = found.get(depth).map_or(&[][..], Vec::as_slice);
        let behind = &of_depth[of_depth.partition_point(|copied| copied.at <= from)..];
        let mut within = behind.iter().take_while(|copied| copied.at < end);
        !is_variable && within.any(|copied| copied.is_program == program)
    }

    fn count_parentheses(&self) -> Vec<i64> {
        let mut open = 0;
        self.tokens
            .iter()
            .map(|token| {
                let before = open;
                open += i64::from(*token == "(") - i64::from(*token == ")");
                before
            })
            .collect()
    }

    fn find_copied(&self) -> HashMap<i64, Vec<CopyEndpoint>> {
        let open = self.open.get_or_init(|| self.count_parentheses());
        let text_at = |at: usize| {
            self.tokens
                .get(at)
                .is_some_and(|token| token.starts_with('\''))
        };
        let mut found: HashMap<i64, Vec<CopyEndpoint>> = HashMap::new();
        for at in (0..self.tokens.len())
            .filter(|at| is(self.tokens[*at], "from") || is(self.tokens[*at], "to"))
        {
            let is_program = self
                .tokens
                .get(at + 1)
                .is_some_and(|token| is(token, "program"))
                && text_at(at + 2);
            if is_program || text_at(at + 1) {
                found
                    .entry(open[at])
                    .or_default()
                    .push(CopyEndpoint { at, is_program });
            }
        }
        found
    }

    /// Returns whether the statement has a body in C or in a language with the name of an untrusted
    /// one.
    fn is_untrusted(&self, from: usize, end: usize) -> bool {
        let name = |token: &str| token.trim_matches(['\'', '"']).to_ascii_lowercase();
        let untrusted = |name: String| {
            ["c", "internal", "plsh"].contains(&name.as_str())
                || name.starts_with("pl") && name.ends_with('u')
        };
        let names = |at: usize| {
            is(self.tokens[at], "language")
                && self
                    .tokens
                    .get(at + 1)
                    .is_some_and(|token| untrusted(name(token)))
        };
        has_body(&self.tokens[from..end])
            && self
                .untrusted
                .find(from, end, self.tokens.len(), names)
                .is_some_and(|at| at + 1 < end)
    }
}
