//! Detects session state that is lost between the parts of a script that is not one transaction.
//! Each part begins with a clean session and the file's own SET statements. Temporary tables,
//! prepared statements, cursors, and settings for a single transaction do not reach the next part.

use std::collections::{HashMap, HashSet};

use super::{
    Statement, StatementKind, TextPosition, split,
    units::{mentions, place_of},
};
use crate::runtime::blocking::in_place;

/// The kind of session state that a statement needs from an earlier part, or sets for later parts
/// without effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SessionLoss {
    /// A temporary table, view or sequence of an earlier part is used.
    Temporary,
    /// A prepared statement of an earlier part is used.
    Prepared,
    /// A cursor of an earlier part is used.
    Cursor,
    /// currval() or lastval() is called, and no statement of the same part advances a sequence
    /// before.
    Sequence,
    /// SET LOCAL, SET CONSTRAINTS or SET TRANSACTION is used outside of BEGIN … COMMIT.
    Local,
    /// `SELECT set_config(…)` is used in a form that is not repeated before the later parts.
    Setting,
}

/// The words without one of which a script loses no session state.
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

/// Finds the first statement of a script that is not one transaction which needs session state of
/// another part, or sets it without effect. Returns the kind of state and the position.
pub(crate) fn loses_session(sql: &str) -> Option<(SessionLoss, TextPosition)> {
    in_place(sql.len(), || find(sql))
}

fn find(sql: &str) -> Option<(SessionLoss, TextPosition)> {
    if !mentions(sql, &LEAVE_SOMETHING) {
        return None; // The common case.
    }
    let statements = split(sql);
    let (mut losses, mut part, mut is_in_block) = (LossFinder::default(), 0, false);
    for (index, statement) in statements.iter().enumerate() {
        match statement.kind() {
            StatementKind::Begin => is_in_block = true,
            StatementKind::Commit => (is_in_block, part) = (false, part + 1),
            // These settings are repeated before the later parts.
            StatementKind::Session | StatementKind::Discard | StatementKind::Ends => {}
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

/// Returns an identifier without its quotes, or in lower case if it has none.
fn name(token: &str) -> String {
    match token.strip_prefix('"') {
        Some(quoted) => quoted
            .strip_suffix('"')
            .unwrap_or(quoted)
            .replace("\"\"", "\""),
        None => token.to_lowercase(),
    }
}

fn is(token: Option<&&str>, words: &[&str]) -> bool {
    token.is_some_and(|token| words.iter().any(|word| token.eq_ignore_ascii_case(word)))
}

/// Returns the kind and the name of a temporary relation, prepared statement or cursor that
/// `statement` creates.
fn left_by(statement: &Statement<'_>) -> Option<(SessionLoss, String)> {
    const TEMPORARY: [&str; 2] = ["temp", "temporary"];
    let head: Vec<&str> = statement.tokens().take(12).collect();
    let named = |loss, at: usize| head.get(at).map(|token| (loss, name(token)));
    if is(head.first(), &["prepare"]) {
        return named(SessionLoss::Prepared, 1);
    }
    if is(head.first(), &["declare"]) {
        return named(SessionLoss::Cursor, 1);
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
        return is_temporary
            .then(|| named(SessionLoss::Temporary, at))
            .flatten();
    }
    // SELECT … INTO TEMP t
    let mut tokens = statement
        .tokens()
        .skip_while(|token| !token.eq_ignore_ascii_case("into"))
        .skip(1)
        .peekable();
    let is_select = is(head.first(), &["select", "with"]);
    if is_select
        && tokens
            .next_if(|token| is(Some(token), &TEMPORARY))
            .is_some()
    {
        let _ = tokens.next_if(|token| token.eq_ignore_ascii_case("table"));
        return tokens
            .next()
            .map(|token| (SessionLoss::Temporary, name(token)));
    }
    None
}

/// Returns the kind of something that an earlier part created and `statement` uses.
fn used_by(
    statement: &Statement<'_>,
    left: &HashMap<(SessionLoss, String), usize>,
    part: usize,
) -> Option<SessionLoss> {
    let is_gone = |loss, token: &str| {
        left.get(&(loss, name(token)))
            .is_some_and(|made| *made < part)
    };
    let mut tokens = statement.tokens();
    let first = tokens.next()?;
    if is(Some(&first), &["execute", "deallocate"]) {
        let named = tokens.find(|token| !token.eq_ignore_ascii_case("prepare"))?;
        return is_gone(SessionLoss::Prepared, named).then_some(SessionLoss::Prepared);
    }
    if is(Some(&first), &["fetch", "move", "close"]) {
        return tokens
            .any(|token| is_gone(SessionLoss::Cursor, token))
            .then_some(SessionLoss::Cursor);
    }
    relations(statement)
        .iter()
        .any(|token| is_gone(SessionLoss::Temporary, token))
        .then_some(SessionLoss::Temporary)
}

/// Returns the names in positions where only a relation can be, after FROM, INTO and the like.
/// Other uses of the name of a temporary table are skipped: a column, an alias, a table of another
/// schema, a common table expression, and the object that the statement itself creates or drops
/// with IF EXISTS.
fn relations<'a>(statement: &Statement<'a>) -> Vec<&'a str> {
    const BEFORE: [&str; 16] = [
        "from",
        "join",
        "into",
        "update",
        "table",
        "view",
        "sequence",
        "only",
        "lock",
        "truncate",
        "copy",
        "analyze",
        "vacuum",
        "references",
        "on",
        "using",
    ];
    let tokens: Vec<&str> = statement.tokens().collect();
    let at = |n: usize| tokens.get(n);
    let creates = is(at(0), &["create"]);
    let is_relation = |n: usize| {
        // A table of another schema is skipped, unless the schema is pg_temp.
        let start = if is(n.checked_sub(1).and_then(at), &["."]) {
            n.saturating_sub(2)
        } else {
            n
        };
        let is_others = start != n && !is(at(start), &["pg_temp"]);
        let Some(before) = start.checked_sub(1) else {
            return false;
        };
        let is_made = creates && is(at(before), &["table", "view", "sequence"]);
        let is_comparison =
            is(at(before), &["from"]) && is(before.checked_sub(1).and_then(at), &["distinct"]);
        is(at(before), &BEFORE)
            && !is_others
            && !is_made
            && !is_comparison
            && !is(at(n + 1), &["."])
    };
    let is_expression = |token: &str| {
        (0..tokens.len()).any(|n| {
            name(tokens[n]) == name(token)
                && is(at(n + 1), &["as"])
                && is(at(n + 2), &["(", "materialized", "not"])
        })
    };
    let has_expressions = is(at(0), &["with"]);
    let found = (1..tokens.len())
        .filter(|n| is_relation(*n))
        .map(|n| tokens[n]);
    found
        .filter(|token| !has_expressions || !is_expression(token))
        .collect()
}

/// Returns the table that an INSERT fills, without its schema.
fn filled_by(statement: &Statement<'_>) -> Option<String> {
    let mut tokens = statement
        .tokens()
        .skip_while(|token| !token.eq_ignore_ascii_case("insert"))
        .skip(2)
        .peekable();
    let mut table = tokens.next()?;
    while tokens.next_if_eq(&".").is_some() {
        table = tokens.next()?;
    }
    Some(name(table))
}

/// Returns whether the statement reads a sequence value that only an earlier part has set. This is
/// `SELECT currval(…)` as the first statement of its part, or currval() of the sequence of a table
/// that an earlier part has filled. In other cases a default or a function of the statement itself
/// may have advanced the sequence.
fn asks_in_vain(statement: &Statement<'_>, filled: &HashSet<String>) -> bool {
    const ASK: [&str; 2] = ["currval", "lastval"];
    if statement.defines() || calls(statement, &["nextval", "setval"]) || !calls(statement, &ASK) {
        return false;
    }
    let tokens: Vec<&str> = statement.tokens().collect();
    let is_first = is(tokens.first(), &["select"]) && is(tokens.get(1), &ASK);
    let own = filled_by(statement);
    let of_filled = tokens
        .windows(3)
        .filter(|three| is(three.first(), &["currval"]) && three[1] == "(")
        .any(|three| {
            let sequence = three[2]
                .trim_matches('\'')
                .rsplit('.')
                .next()
                .unwrap_or_default()
                .replace('"', "");
            // The sequence of a serial or identity column is called TABLE_COLUMN_seq.
            let tables = sequence.match_indices('_').map(|(end, _)| &sequence[..end]);
            tables.clone().all(|table| Some(table) != own.as_deref()) && { tables }
                .any(|table| filled.contains(table))
        });
    is_first || of_filled
}

/// Returns whether the statement calls one of these functions.
fn calls(statement: &Statement<'_>, functions: &[&str]) -> bool {
    let mut tokens = statement.tokens().peekable();
    while let Some(token) = tokens.next() {
        if is(Some(&token), functions) && tokens.peek() == Some(&"(") {
            return true;
        }
    }
    false
}

/// Returns whether the statement begins with `SELECT [pg_catalog.]set_config(`.
fn only_sets(statement: &Statement<'_>) -> bool {
    let mut tokens = statement
        .tokens()
        .filter(|token| !token.eq_ignore_ascii_case("pg_catalog") && *token != ".");
    is(tokens.next().as_ref(), &["select"]) && is(tokens.next().as_ref(), &["set_config"])
}

/// Finds the session state that is lost between the parts of a script.
#[derive(Default)]
struct LossFinder {
    /// The temporary relations, prepared statements and cursors so far, each with the part that
    /// created it.
    left: HashMap<(SessionLoss, String), usize>,
    /// The current part, and whether one of its statements may have advanced a sequence.
    part: usize,
    may_advance: bool,
    /// The tables that were filled so far.
    filled: HashSet<String>,
    /// The index of a statement that is a part of its own and only sets something. It has no effect
    /// if another part follows.
    sets: Option<usize>,
}

impl LossFinder {
    /// Processes the next statement. `index` is its index in the file, and `part` is the part that
    /// it belongs to. Returns the state that is lost and the index of the statement responsible,
    /// which may be an earlier one.
    fn pass(
        &mut self,
        statement: &Statement<'_>,
        index: usize,
        part: usize,
        is_in_block: bool,
    ) -> Option<(SessionLoss, usize)> {
        if part != self.part {
            (self.part, self.may_advance) = (part, false);
        }
        if let Some(sets) = self.sets {
            return Some((SessionLoss::Setting, sets));
        }
        let mut head = statement.tokens();
        let is_local = is(head.next().as_ref(), &["set"])
            && is(
                head.next().as_ref(),
                &["local", "constraints", "transaction"],
            )
            && !is_in_block;
        if is_local {
            return Some((SessionLoss::Local, index));
        }
        if !is_in_block && statement.kind() == StatementKind::Plain && only_sets(statement) {
            self.sets = Some(index);
        }
        if !self.left.is_empty()
            && let Some(loss) = used_by(statement, &self.left, part)
        {
            return Some((loss, index));
        }
        if !self.may_advance && asks_in_vain(statement, &self.filled) {
            return Some((SessionLoss::Sequence, index));
        }
        // An INSERT advances the sequence of its table. A function may advance any sequence.
        self.may_advance |= calls(statement, &["nextval", "setval"])
            || !statement.defines() && statement.kind() == StatementKind::Plain;
        if statement.has(&["insert"]) {
            self.filled.extend(filled_by(statement));
        }
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
        use SessionLoss::{Cursor, Local, Prepared, Sequence, Setting, Temporary};
        for (sql, loss, line) in [
            (
                "CREATE TEMP TABLE t (n int);\nINSERT INTO t VALUES (1);",
                Temporary,
                2,
            ),
            (
                "create local temporary table if not exists T as SELECT 1;\nTABLE t",
                Temporary,
                2,
            ),
            (
                "CREATE TABLE pg_temp.t (n int);\nSELECT 1 FROM pg_temp.T",
                Temporary,
                2,
            ),
            (
                "CREATE OR REPLACE TEMP VIEW \"a \"\"b\" AS SELECT 1;\nVACUUM x;\nTABLE \"a \
                 \"\"b\"",
                Temporary,
                3,
            ),
            (
                "WITH x AS (SELECT 1) SELECT * INTO TEMP TABLE t FROM x;\nSELECT 1 FROM t",
                Temporary,
                2,
            ),
            (
                "BEGIN; CREATE TEMP SEQUENCE s; COMMIT;\nBEGIN;\nSELECT 1 FROM s; COMMIT",
                Temporary,
                3,
            ),
            ("PREPARE p AS SELECT 1;\nEXECUTE p", Prepared, 2),
            ("PREPARE p AS SELECT 1;\nDEALLOCATE PREPARE P", Prepared, 2),
            (
                "BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT 1; COMMIT;\nFETCH ALL FROM c",
                Cursor,
                2,
            ),
            (
                "INSERT INTO a DEFAULT VALUES;\nINSERT INTO b VALUES (currval('a_id_seq'))",
                Sequence,
                2,
            ),
            (
                "BEGIN; CREATE TABLE t (); SELECT lastval(); COMMIT",
                Sequence,
                1,
            ),
            (
                "INSERT INTO app.a DEFAULT VALUES;\nUPDATE b SET a = currval('app.a_id_seq')",
                Sequence,
                2,
            ),
            ("CREATE TEMP TABLE t (n int);\nDROP TABLE t", Temporary, 2),
            (
                "CREATE TEMP TABLE t (n int);\nINSERT INTO pg_temp.t VALUES (1)",
                Temporary,
                2,
            ),
            (
                "CREATE TEMP TABLE t (n int);\nDELETE FROM x USING t",
                Temporary,
                2,
            ),
            ("SET LOCAL search_path = app;\nCREATE TABLE t ()", Local, 1),
            ("SELECT 1;\nSET CONSTRAINTS ALL DEFERRED", Local, 2),
            ("VACUUM t;\nSET TRANSACTION READ ONLY", Local, 2),
            (
                "SELECT 1;\nSELECT set_config('search_path', 'a' || 'b', false);\nCREATE TABLE t \
                 ()",
                Setting,
                2,
            ),
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
            "BEGIN; INSERT INTO a DEFAULT VALUES; INSERT INTO b VALUES (currval('a_id_seq')); \
             COMMIT",
            "SELECT nextval('s'), currval('s')",
            "SELECT set_config('search_path', 'app', false); CREATE TABLE t ()",
            "VACUUM t; SELECT set_config('search_path', 'a' || 'b', false)",
            "BEGIN; SELECT set_config('search_path', 'a' || 'b', true); CREATE TABLE t (); COMMIT; \
             VACUUM t",
            "CREATE FUNCTION f() RETURNS bigint LANGUAGE sql AS 'SELECT currval(''s'')'; SELECT 1",
            "SELECT 1 AS currval",
            // Created again, of another schema, a column, an alias, or dropped with IF EXISTS.
            "BEGIN; CREATE TEMP TABLE t ON COMMIT DROP AS SELECT 1 n; COMMIT; BEGIN; CREATE TEMP \
             TABLE t ON COMMIT DROP AS SELECT 2 n; TABLE t; COMMIT",
            "CREATE TEMP TABLE users AS SELECT 1; VACUUM app.users; SELECT 1 FROM app.users",
            "CREATE TEMP TABLE batch (n int); CREATE INDEX CONCURRENTLY i ON events (batch); \
             UPDATE e SET batch = 1 WHERE batch IS DISTINCT FROM batch",
            "CREATE TEMP TABLE t (n int); DROP TABLE IF EXISTS t; CREATE TABLE t (n int)",
            "CREATE TEMP TABLE t (n int); WITH t AS (SELECT 1) SELECT 1 FROM t",
            "CREATE TABLE b (a_id bigint DEFAULT currval('a_id_seq')); ALTER TABLE b ALTER a_id \
             SET DEFAULT lastval()",
            "INSERT INTO a DEFAULT VALUES; INSERT INTO t (root) VALUES (currval('t_id_seq'))",
            "INSERT INTO t (root) VALUES (currval('t_id_seq')); INSERT INTO t (root) VALUES \
             (currval('public.t_id_seq'))",
            "WITH x AS (INSERT INTO a DEFAULT VALUES RETURNING 1) INSERT INTO b SELECT \
             currval('a_id_seq') FROM x",
        ] {
            assert_eq!(loses_session(sql), None, "{sql}");
        }
    }
}
