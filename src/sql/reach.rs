//! What reaches outside the database it runs in: roles, other databases, the server's settings and files, other servers. Told by
//! words, also inside the bodies of DO blocks and functions; what is put together at run time ([`is_dynamic`]) nobody can tell.

use super::{Place, Statement, nth_character, place, split};

/// A statement that reaches outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// Where it begins.
    pub place: Place,
    /// Which it is, from 1.
    pub statement: usize,
    /// What it reaches.
    pub what: &'static str,
}

/// The statements of `sql` that reach outside, in order.
pub fn reaches(sql: &str) -> Vec<Reach> {
    let statements = split(sql).into_iter().enumerate();
    statements
        .filter_map(|(index, statement)| {
            let what = reach_of(&statement)?;
            Some(Reach { place: place(sql, nth_character(sql, statement.start)), statement: index + 1, what })
        })
        .collect()
}

/// True where a body puts statements together at run time: EXECUTE in a DO block or a routine.
pub fn is_dynamic(sql: &str) -> bool {
    let executes = |statement: &Statement<'_>| {
        let tokens: Vec<&str> = statement.tokens().collect();
        has_body(&tokens) && tokens.iter().filter_map(|token| body(token)).any(|body| executes(&body))
    };
    split(sql).iter().any(executes)
}

/// True where a statement drops a role.
pub fn drops_roles(sql: &str) -> bool {
    let drops =
        |tokens: &[&str]| is(tokens[0], "drop") && ["role", "user", "group"].iter().any(|what| is(tokens[1], what));
    split(sql).iter().any(|statement| statement.tokens().collect::<Vec<_>>().get(..2).is_some_and(drops))
}

/// EXECUTE FUNCTION belongs to CREATE TRIGGER.
fn executes(body: &str) -> bool {
    let tokens: Vec<&str> = Statement { sql: body, start: 0 }.tokens().collect();
    tokens.iter().enumerate().any(|(at, token)| {
        let next = tokens.get(at + 1).copied().unwrap_or_default();
        token.eq_ignore_ascii_case("execute") && !is(next, "function") && !is(next, "procedure") && !is(next, "on")
    })
}

fn reach_of(statement: &Statement<'_>) -> Option<&'static str> {
    let tokens: Vec<&str> = statement.tokens().collect();
    head(&tokens).or_else(|| call(&tokens)).or_else(|| {
        let bodies = tokens.iter().filter(|_| has_body(&tokens)).filter_map(|token| body(token));
        bodies.into_iter().find_map(|body| in_body(&body))
    })
}

/// A body's statements begin after these words and signs.
const BEFORE: [&str; 7] = [";", "begin", "then", "else", "loop", ">>", "$$"];

fn in_body(body: &str) -> Option<&'static str> {
    let tokens: Vec<&str> = Statement { sql: body, start: 0 }.tokens().collect();
    let begins = |at: usize| at == 0 || BEFORE.iter().any(|word| is(tokens[at - 1], word));
    let stands = (0..tokens.len()).filter(|at| begins(*at)).find_map(|at| {
        let end = tokens[at..].iter().position(|token| *token == ";").map_or(tokens.len(), |n| at + n);
        head(&tokens[at..end])
    });
    // EXECUTE 'CREATE ROLE …', and a body within the body.
    let quoted = || tokens.iter().filter_map(|token| self::body(token)).find_map(|inner| in_body(&inner));
    stands.or_else(|| call(&tokens)).or_else(quoted)
}

fn has_body(tokens: &[&str]) -> bool {
    let word = |at: usize, word: &str| tokens.get(at).is_some_and(|token| is(token, word));
    word(0, "do")
        || word(0, "create") && tokens.iter().take(4).any(|token| is(token, "function") || is(token, "procedure"))
}

/// What stands in dollars or quotes.
fn body(token: &str) -> Option<String> {
    if let Some(tagged) = token.strip_prefix('$') {
        let tag = tagged.find('$').map_or(token.len(), |at| at + 2);
        return token.get(tag..token.len().checked_sub(tag)?).map(ToOwned::to_owned);
    }
    let inner = token.trim_start_matches(['e', 'E']).strip_prefix('\'')?.strip_suffix('\'')?;
    Some(inner.replace("''", "'"))
}

fn is(token: &str, word: &str) -> bool {
    token.eq_ignore_ascii_case(word)
}

/// What a statement reaches, by how it begins.
fn head(tokens: &[&str]) -> Option<&'static str> {
    let any = |at: usize, words: &[&str]| tokens.get(at).is_some_and(|token| words.iter().any(|word| is(token, word)));
    let find = |word: &str| tokens.iter().position(|token| is(token, word));
    let (created, on_shared) = (any(0, &["create", "alter", "drop"]), || {
        let on = find("on")?;
        any(on + 1, &["database", "role", "tablespace", "parameter"]).then_some(on)
    });
    Some(match () {
        () if created && any(1, &["user"]) && any(2, &["mapping"]) => "a foreign server",
        () if created && any(1, &["role", "user", "group"]) => "roles, which all databases of the server share",
        () if any(0, &["drop", "reassign"]) && any(1, &["owned"]) => "what a role owns, also outside this database",
        // GRANT a TO b, REVOKE a FROM b: a membership. With ON it is a right on an object.
        () if any(0, &["grant", "revoke"]) && find("on").is_none() => "memberships of roles, which all databases share",
        () if any(0, &["grant", "revoke", "comment", "security"]) && on_shared().is_some() => {
            "something that all databases of the server share"
        }
        () if any(0, &["alter"]) && any(1, &["system"]) => "the server's settings",
        () if created && any(1, &["database"]) => "other databases of the server",
        () if created && any(1, &["tablespace"]) => "the server's tablespaces",
        () if created && any(1, &["subscription"]) => "another server (a subscription)",
        () if any(0, &["create", "alter"]) && any(1, &["server"]) => "another server (a foreign server)",
        () if any(0, &["import"]) && any(1, &["foreign"]) => "another server (IMPORT FOREIGN SCHEMA)",
        () if any(0, &["copy"]) && find("program").is_some() => "a program on the server",
        () if any(0, &["copy"]) && copies_a_file(tokens) => "a file on the server",
        () if any(0, &["load"]) => "a library on the server",
        () if any(0, &["create"]) && is_untrusted(tokens) => "whatever an untrusted language can",
        () => return None,
    })
}

/// COPY … FROM or TO, and then a text.
fn copies_a_file(tokens: &[&str]) -> bool {
    tokens.windows(2).any(|pair| (is(pair[0], "from") || is(pair[0], "to")) && pair[1].contains('\''))
}

/// A routine in C or in a language whose name says that it is not trusted.
fn is_untrusted(tokens: &[&str]) -> bool {
    let name = |token: &str| token.trim_matches(['\'', '"']).to_ascii_lowercase();
    let untrusted = |name: String| {
        ["c", "internal", "plsh"].contains(&name.as_str()) || name.starts_with("pl") && name.ends_with('u')
    };
    has_body(tokens) && tokens.windows(2).any(|pair| is(pair[0], "language") && untrusted(name(pair[1])))
}

/// Functions that reach outside; with a `_` at its end, all whose names begin so.
const FUNCTIONS: [&str; 26] = [
    "dblink",
    "dblink_",
    "lo_export",
    "lo_import",
    "pg_cancel_backend",
    "pg_copy_",
    "pg_create_logical_replication_slot",
    "pg_create_physical_replication_slot",
    "pg_create_restore_point",
    "pg_drop_replication_slot",
    "pg_file_",
    "pg_hba_file_rules",
    "pg_logical_slot_",
    "pg_ls_",
    "pg_promote",
    "pg_read_binary_file",
    "pg_read_file",
    "pg_reload_conf",
    "pg_replication_",
    "pg_rotate_logfile",
    "pg_stat_file",
    "pg_stat_reset_shared",
    "pg_switch_wal",
    "pg_terminate_backend",
    "pg_wal_replay_",
    "postgres_fdw_",
];

/// A call of one of these functions, with a schema before it or not. A table of such a name is none.
fn call(tokens: &[&str]) -> Option<&'static str> {
    let reaching = |token: &str| {
        let name = token.trim_matches('"').to_ascii_lowercase();
        FUNCTIONS.iter().any(|function| name == *function || function.ends_with('_') && name.starts_with(function))
    };
    let calls = |at: usize| {
        let before = at.checked_sub(1).map_or("", |at| tokens[at]);
        let is_name = ["table", "exists", "into", "on", "references"].iter().any(|word| is(before, word));
        tokens[at + 1] == "(" && reaching(tokens[at]) && !is_name
    };
    (0..tokens.len().saturating_sub(1)).any(calls).then_some("the server's files, sessions or peers")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_reaches_outside_is_found_where_it_stands() {
        for sql in [
            "CREATE ROLE app",
            "create /* a */ user app password 'x'",
            "DROP GROUP g",
            "ALTER USER a SET search_path = b",
            "GRANT reader TO app",
            "REVOKE reader FROM app",
            "GRANT CONNECT ON DATABASE app TO x",
            "COMMENT ON DATABASE app IS 'x'",
            "ALTER DATABASE app SET timezone = 'UTC'",
            "CREATE DATABASE other",
            "ALTER SYSTEM SET work_mem = 1",
            "CREATE TABLESPACE t LOCATION '/x'",
            "CREATE SUBSCRIPTION s CONNECTION 'host=x' PUBLICATION p",
            "COPY t FROM PROGRAM 'curl x'",
            "COPY t (a) TO '/tmp/x' WITH CSV",
            "CREATE SERVER s FOREIGN DATA WRAPPER postgres_fdw",
            "CREATE USER MAPPING FOR a SERVER s",
            "SELECT * FROM public.dblink('host=x', 'SELECT 1') AS t(i int)",
            "SELECT dblink_connect('x')",
            "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_stat_activity",
            "INSERT INTO t SELECT pg_read_file('/etc/passwd')",
            "DROP OWNED BY app",
            "LOAD 'x'",
            "CREATE FUNCTION f() RETURNS int LANGUAGE plpython3u AS $$ import os $$",
            "CREATE FUNCTION f() RETURNS int AS 'lib', 'f' LANGUAGE C",
            "DO $$ BEGIN IF NOT EXISTS (SELECT 1) THEN CREATE ROLE app; END IF; END $$",
            "DO $x$ BEGIN EXECUTE 'CREATE ROLE app'; END $x$",
            "DO 'BEGIN PERFORM pg_reload_conf(); END'",
            "CREATE OR REPLACE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM dblink_exec('x', 'y'); END $$",
        ] {
            let found = reaches(&format!("SELECT 1;\n  {sql};"));
            assert_eq!(found.len(), 1, "{sql}");
            assert_eq!((found[0].place, found[0].statement), (Place { line: 2, column: 3 }, 2), "{sql}");
        }
    }

    #[test]
    fn what_stays_inside_is_left_alone() {
        for sql in [
            "CREATE TABLE role (user_role text)",
            "GRANT SELECT ON t TO app",
            "REVOKE ALL ON ALL TABLES IN SCHEMA public FROM app",
            "GRANT USAGE ON SCHEMA s TO app",
            "COMMENT ON TABLE t IS 'CREATE ROLE app'",
            "INSERT INTO t VALUES ('DROP DATABASE x')",
            "ALTER TABLE users ADD COLUMN role text",
            "CREATE EXTENSION dblink",
            "COPY t FROM STDIN",
            "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO app",
            "SET ROLE app",
            "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "DO $$ BEGIN CREATE TABLE t (); EXCEPTION WHEN duplicate_table THEN NULL; END $$",
            "CREATE FUNCTION f(a int) RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'DELETE FROM t WHERE a = $1' USING a; END $$",
            "CREATE TABLE lo_exports (id int)",
            "CREATE TABLE IF NOT EXISTS pg_copy_log (id int)",
            "INSERT INTO dblink_log (id) VALUES (1)",
        ] {
            assert_eq!(reaches(sql), [], "{sql}");
        }
    }

    #[test]
    fn what_is_put_together_at_run_time_is_flagged() {
        for sql in [
            "DO $$ BEGIN EXECUTE format('DROP TABLE %I', 'x'); END $$",
            "CREATE FUNCTION f(t text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'DROP TABLE ' || t; END $$",
        ] {
            assert!(is_dynamic(sql), "{sql}");
        }
        for sql in [
            "DO $$ BEGIN CREATE TRIGGER t BEFORE INSERT ON x EXECUTE FUNCTION f(); END $$",
            "CREATE TRIGGER t BEFORE INSERT ON x FOR EACH ROW EXECUTE PROCEDURE f()",
            "GRANT EXECUTE ON FUNCTION f() TO app",
        ] {
            assert!(!is_dynamic(sql), "{sql}");
        }
    }
}
