//! What the parts of a script that is not one transaction lose between them: each part begins with a clean session and the file's own SET
//! statements, so temporary tables, prepared statements, cursors, and what holds for one transaction only do not reach the next.

use std::collections::HashMap;

use super::{
    Kind, Place, Statement, split,
    units::{mentions, place_of},
};
use crate::blocking::in_place;

/// What a statement relies on that a part of the file before it had, or what it does for those behind it in vain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Loss {
    /// It uses a temporary table, view or sequence of an earlier part.
    Temporary,
    /// It uses a prepared statement of an earlier part.
    Prepared,
    /// It uses a cursor of an earlier part.
    Cursor,
    /// currval() or lastval(), and nothing of its part advances a sequence before it.
    Sequence,
    /// SET LOCAL, SET CONSTRAINTS or SET TRANSACTION outside of BEGIN … COMMIT.
    Local,
    /// `SELECT set_config(…)` that is not repeated before the parts behind it.
    Setting,
}

/// Without one of these words no part of a script misses what another had.
const LEAVE_SOMETHING: [&str; 11] = [
    "temp",
    "temporary",
    "pg_temp",
    "prepare",
    "declare",
    "currval",
    "lastval",
    "local",
    "constraints",
    "transaction",
    "set_config",
];

/// The first statement of a script that is not one transaction which relies on what another part of it had in its session, or leaves
/// something there in vain; and where it is.
pub fn loses_session(sql: &str) -> Option<(Loss, Place)> {
    in_place(sql.len(), || find(sql))
}

fn find(sql: &str) -> Option<(Loss, Place)> {
    if !mentions(sql, &LEAVE_SOMETHING) {
        return None; // as most files
    }
    let statements = split(sql);
    let (mut losses, mut part, mut is_in_block) = (Losses::default(), 0, false);
    for (index, statement) in statements.iter().enumerate() {
        match statement.kind() {
            Kind::Begin => is_in_block = true,
            Kind::Commit => (is_in_block, part) = (false, part + 1),
            // What sets something is repeated before the parts behind it.
            Kind::Session | Kind::Discard | Kind::Ends => {}
            _ => {
                if let Some((loss, at)) = losses.pass(statement, index, part, is_in_block) {
                    return Some((loss, place_of(sql, &statements[at])));
                }
                part += usize::from(!is_in_block);
            }
        }
    }
    None
}

/// A word of SQL without its quotes, in lower case where it has none.
fn name(token: &str) -> String {
    match token.strip_prefix('"') {
        Some(quoted) => quoted.strip_suffix('"').unwrap_or(quoted).replace("\"\"", "\""),
        None => token.to_lowercase(),
    }
}

fn is(token: Option<&&str>, words: &[&str]) -> bool {
    token.is_some_and(|token| words.iter().any(|word| token.eq_ignore_ascii_case(word)))
}

/// What `statement` leaves in its session that has a name.
fn left_by(statement: &Statement<'_>) -> Option<(Loss, String)> {
    const TEMPORARY: [&str; 2] = ["temp", "temporary"];
    let head: Vec<&str> = statement.tokens().take(12).collect();
    let named = |loss, at: usize| head.get(at).map(|token| (loss, name(token)));
    if is(head.first(), &["prepare"]) {
        return named(Loss::Prepared, 1);
    }
    if is(head.first(), &["declare"]) {
        return named(Loss::Cursor, 1);
    }
    let mut at = 1;
    let mut skip = |words: &[&str]| {
        let found = is(head.get(at), words);
        at += usize::from(found);
        found
    };
    if is(head.first(), &["create"]) {
        let _ = skip(&["or"]) && skip(&["replace"]);
        let _ = skip(&["global", "local"]);
        let mut is_temporary = skip(&TEMPORARY);
        let _ = skip(&["recursive"]);
        if !skip(&["table", "view", "sequence"]) {
            return None;
        }
        let _ = skip(&["if"]) && skip(&["not"]) && skip(&["exists"]);
        is_temporary |= skip(&["pg_temp"]) && skip(&["."]);
        return is_temporary.then(|| named(Loss::Temporary, at)).flatten();
    }
    // SELECT … INTO TEMP t
    let mut tokens = statement.tokens().skip_while(|token| !token.eq_ignore_ascii_case("into")).skip(1).peekable();
    let is_select = is(head.first(), &["select", "with"]);
    if is_select && tokens.next_if(|token| is(Some(token), &TEMPORARY)).is_some() {
        let _ = tokens.next_if(|token| token.eq_ignore_ascii_case("table"));
        return tokens.next().map(|token| (Loss::Temporary, name(token)));
    }
    None
}

/// What an earlier part left under a name that `statement` uses now.
fn used_by(statement: &Statement<'_>, left: &HashMap<(Loss, String), usize>, part: usize) -> Option<Loss> {
    let is_gone = |loss, token: &str| left.get(&(loss, name(token))).is_some_and(|made| *made < part);
    let mut tokens = statement.tokens();
    let first = tokens.next()?;
    if is(Some(&first), &["execute", "deallocate"]) {
        let named = tokens.find(|token| !token.eq_ignore_ascii_case("prepare"))?;
        return is_gone(Loss::Prepared, named).then_some(Loss::Prepared);
    }
    if is(Some(&first), &["fetch", "move", "close"]) {
        return tokens.any(|token| is_gone(Loss::Cursor, token)).then_some(Loss::Cursor);
    }
    statement.tokens().any(|token| is_gone(Loss::Temporary, token)).then_some(Loss::Temporary)
}

/// It calls one of the functions of these names.
fn calls(statement: &Statement<'_>, functions: &[&str]) -> bool {
    let mut tokens = statement.tokens().peekable();
    while let Some(token) = tokens.next() {
        if is(Some(&token), functions) && tokens.peek() == Some(&"(") {
            return true;
        }
    }
    false
}

/// `SELECT [pg_catalog.]set_config(`
fn only_sets(statement: &Statement<'_>) -> bool {
    let mut tokens = statement.tokens().filter(|token| !token.eq_ignore_ascii_case("pg_catalog") && *token != ".");
    is(tokens.next().as_ref(), &["select"]) && is(tokens.next().as_ref(), &["set_config"])
}

/// Finds what the parts of a script lose between them.
#[derive(Default)]
struct Losses {
    /// Temporary relations, prepared statements and cursors so far, and which part left each.
    left: HashMap<(Loss, String), usize>,
    /// The part whose statements are passed, and whether one of them may have advanced a sequence.
    part: usize,
    may_advance: bool,
    /// The first statement of a part of its own that only sets something: in vain where another part follows.
    sets: Option<usize>,
}

impl Losses {
    /// Takes in the next statement (its number in the file is `index`), which is of that part. Returns what it loses, and where that
    /// is: the statement itself, or an earlier one.
    fn pass(
        &mut self,
        statement: &Statement<'_>,
        index: usize,
        part: usize,
        is_in_block: bool,
    ) -> Option<(Loss, usize)> {
        if part != self.part {
            (self.part, self.may_advance) = (part, false);
        }
        if let Some(sets) = self.sets {
            return Some((Loss::Setting, sets));
        }
        let mut head = statement.tokens();
        let is_local = is(head.next().as_ref(), &["set"])
            && is(head.next().as_ref(), &["local", "constraints", "transaction"])
            && !is_in_block;
        if is_local {
            return Some((Loss::Local, index));
        }
        if !is_in_block && statement.kind() == Kind::Plain && only_sets(statement) {
            self.sets = Some(index);
        }
        if !self.left.is_empty()
            && let Some(loss) = used_by(statement, &self.left, part)
        {
            return Some((loss, index));
        }
        let advances = calls(statement, &["nextval", "setval"]);
        if !self.may_advance && !advances && calls(statement, &["currval", "lastval"]) {
            return Some((Loss::Sequence, index));
        }
        // An INSERT advances its table's sequence; a function, whatever it likes.
        self.may_advance |= advances || !statement.defines() && statement.kind() == Kind::Plain;
        if let Some((loss, name)) = left_by(statement) {
            self.left.insert((loss, name), part);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_next_part_does_not_have_is_found() {
        use Loss::{Cursor, Local, Prepared, Sequence, Setting, Temporary};
        for (sql, loss, line) in [
            ("CREATE TEMP TABLE t (n int);\nINSERT INTO t VALUES (1);", Temporary, 2),
            ("create local temporary table if not exists T as SELECT 1;\nTABLE t", Temporary, 2),
            ("CREATE TABLE pg_temp.t (n int);\nSELECT 1 FROM pg_temp.T", Temporary, 2),
            ("CREATE OR REPLACE TEMP VIEW \"a \"\"b\" AS SELECT 1;\nVACUUM x;\nTABLE \"a \"\"b\"", Temporary, 3),
            ("WITH x AS (SELECT 1) SELECT * INTO TEMP TABLE t FROM x;\nSELECT 1 FROM t", Temporary, 2),
            ("BEGIN; CREATE TEMP SEQUENCE s; COMMIT;\nBEGIN;\nSELECT 1 FROM s; COMMIT", Temporary, 3),
            ("PREPARE p AS SELECT 1;\nEXECUTE p", Prepared, 2),
            ("PREPARE p AS SELECT 1;\nDEALLOCATE PREPARE P", Prepared, 2),
            ("BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT 1; COMMIT;\nFETCH ALL FROM c", Cursor, 2),
            ("INSERT INTO a DEFAULT VALUES;\nINSERT INTO b VALUES (currval('a_id_seq'))", Sequence, 2),
            ("BEGIN; CREATE TABLE t (); SELECT lastval(); COMMIT", Sequence, 1),
            ("SET LOCAL search_path = app;\nCREATE TABLE t ()", Local, 1),
            ("SELECT 1;\nSET CONSTRAINTS ALL DEFERRED", Local, 2),
            ("VACUUM t;\nSET TRANSACTION READ ONLY", Local, 2),
            ("SELECT 1;\nSELECT set_config('search_path', 'a' || 'b', false);\nCREATE TABLE t ()", Setting, 2),
        ] {
            let found = loses_session(sql).map(|(loss, place)| (loss, place.line));
            assert_eq!(found, Some((loss, line)), "{sql}");
        }
    }

    #[test]
    fn what_stays_together_or_is_not_used_again_is_left_alone() {
        for sql in [
            "BEGIN; CREATE TEMP TABLE t (n int); INSERT INTO t VALUES (1); COMMIT; VACUUM x",
            "CREATE TEMP TABLE t (n int); SELECT 't', \"T\" FROM u",
            "CREATE TABLE t (n int); INSERT INTO t VALUES (1)",
            "BEGIN; PREPARE p AS SELECT 1; EXECUTE p; COMMIT; SELECT p FROM x",
            "BEGIN; SET LOCAL search_path = app; CREATE TABLE t (); COMMIT",
            "BEGIN; INSERT INTO a DEFAULT VALUES; INSERT INTO b VALUES (currval('a_id_seq')); COMMIT",
            "SELECT nextval('s'), currval('s')",
            "SELECT set_config('search_path', 'app', false); CREATE TABLE t ()",
            "VACUUM t; SELECT set_config('search_path', 'a' || 'b', false)",
            "BEGIN; SELECT set_config('search_path', 'a' || 'b', true); CREATE TABLE t (); COMMIT; VACUUM t",
            "CREATE FUNCTION f() RETURNS bigint LANGUAGE sql AS 'SELECT currval(''s'')'; SELECT 1",
            "SELECT 1 AS currval",
        ] {
            assert_eq!(loses_session(sql), None, "{sql}");
        }
    }
}
