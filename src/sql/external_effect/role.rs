//! Finds statements that change the role that a script runs as. The search is by words, so
//! statements that are built at run time are not found.

use super::{NextMatch, ScriptWords, body, call::FunctionCalls, is};

/// The settings for the role and the session's user.
const SETTINGS: [&str; 2] = ["role", "session_authorization"];

/// The caches of the searches for a SET of the role.
#[derive(Default)]
pub(super) struct RoleChange {
    set: NextMatch,
    atomic: NextMatch,
}

impl ScriptWords<'_> {
    /// Returns how the statement from word `from` to word `end` changes the role, by its first
    /// words. Must be called in the order of the statements.
    pub(super) fn changes_role(&self, from: usize, end: usize) -> Option<&'static str> {
        let tokens = &self.tokens[from..end];
        let word = |at: usize| tokens.get(at).copied().unwrap_or_default();
        let any = |at: usize, words: &[&str]| words.iter().any(|expected| is(word(at), expected));
        let names_it = |at: usize| {
            is_setting(word(at)) || any(at, &["session"]) && any(at + 1, &["authorization"])
        };
        if any(0, &["reset"]) && names_it(1) {
            return Some("takes back the role");
        }
        if any(0, &["set"]) && (names_it(1) || any(1, &["local", "session"]) && names_it(2)) {
            return Some("sets another role");
        }
        let routine = any(0, &["create", "alter"])
            && tokens.iter().take(4).any(|token| {
                ["function", "procedure", "routine"]
                    .iter()
                    .any(|what| is(token, what))
            });
        let later = any(0, &["alter"]) && any(1, &["role", "user", "database"]);
        if routine || later {
            let count = self.tokens.len();
            let is_set = |at: usize| {
                is(self.tokens[at], "set")
                    && self.tokens.get(at + 1).is_some_and(|name| is_setting(name))
            };
            // An UPDATE in a BEGIN ATOMIC body has a SET, too.
            let is_atomic = |at: usize| is(self.tokens[at], "atomic");
            let set = self.role.set.find(from, end, count, is_set)?;
            let in_a_body = self
                .role
                .atomic
                .find(from, end, count, is_atomic)
                .is_some_and(|atomic| atomic < set);
            return (!in_a_body).then_some("sets another role");
        }
        None
    }
}

impl FunctionCalls<'_> {
    /// Returns whether set_config('role', …) is called, or the view pg_settings is updated, which
    /// does the same.
    pub(super) fn changes_role(&self) -> Option<&'static str> {
        let tokens = self.tokens;
        let is_named = |token: &str| body(&token).is_some_and(is_setting);
        let sets = |at: usize| {
            is(tokens[at].trim_matches('"'), "set_config")
                && tokens.get(at + 1) == Some(&"(")
                && tokens.get(at + 2).is_some_and(|token| is_named(token))
        };
        let updates =
            |at: usize| is(tokens[at].trim_matches('"'), "pg_settings") && self.is_updated(at);
        let places = || 0..tokens.len();
        let is_there = places().any(sets)
            || places().any(updates) && tokens.iter().any(|token| is_named(token));
        is_there.then_some("sets another role")
    }
}

fn is_setting(token: &str) -> bool {
    SETTINGS
        .iter()
        .any(|name| is(token.trim_matches('"'), name))
}

#[cfg(test)]
mod tests {
    use super::super::{TextPosition, first_role_change};

    #[test]
    fn a_change_of_the_role_is_found_where_it_stands() {
        for sql in [
            "RESET ROLE",
            "reset /* x */ role",
            "SET ROLE NONE",
            "SET LOCAL ROLE app",
            "SET SESSION ROLE app",
            "SET role = 'app'",
            "SET \"role\" TO app",
            "SET SESSION AUTHORIZATION app",
            "SET LOCAL SESSION AUTHORIZATION DEFAULT",
            "RESET SESSION AUTHORIZATION",
            "SET session_authorization = app",
            "RESET session_authorization",
            "SELECT set_config('role', 'none', true)",
            "SELECT pg_catalog.set_config('Role', 'none', false)",
            "INSERT INTO t SELECT set_config(E'r\\x6fle', 'none', false)",
            "UPDATE pg_settings SET setting = 'none' WHERE name = 'role'",
            "UPDATE pg_catalog.pg_settings SET setting = 'none' WHERE name = 'role'",
            "DO $$ BEGIN RESET ROLE; END $$",
            "DO $$ BEGIN IF true THEN SET LOCAL ROLE app; END IF; END $$",
            "DO $$ BEGIN EXECUTE 'SET ROLE app'; END $$",
            "DO $$ BEGIN EXECUTE format('SET ROLE %I', 'app'); END $$",
            "DO $$ BEGIN PERFORM set_config('role', 'none', true); END $$",
            "CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN RESET ROLE; END $$",
            "CREATE FUNCTION f() RETURNS int LANGUAGE sql SET role = app AS 'SELECT 1'",
            "CREATE OR REPLACE PROCEDURE p() LANGUAGE sql SET role TO app BEGIN ATOMIC SELECT 1; \
             END",
            "ALTER FUNCTION f() SET role = app",
            "ALTER ROLE app SET role = other",
            "ALTER DATABASE d SET role = other",
        ] {
            let found = first_role_change(&format!("SELECT 1;\n  {sql};"));
            assert_eq!(
                found.map(|found| found.place),
                Some(TextPosition { line: 2, column: 3 }),
                "{sql}"
            );
        }
    }

    #[test]
    fn what_only_looks_like_it_is_left_alone() {
        for sql in [
            "UPDATE users SET role = 'admin'",
            "INSERT INTO users VALUES (1) ON CONFLICT (id) DO UPDATE SET role = excluded.role",
            "INSERT INTO t VALUES ('SET ROLE app'), ('role')",
            "COMMENT ON TABLE t IS 'RESET ROLE'",
            "ALTER TABLE users ALTER COLUMN role SET DEFAULT 'user'",
            "ALTER TABLE users ALTER role SET NOT NULL",
            "RESET ALL",
            "SET search_path = role",
            "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
            "DO $$ BEGIN UPDATE users SET role = 'admin'; END $$",
            "DO $$ BEGIN EXECUTE 'UPDATE users SET role = $1' USING 'admin'; END $$",
            "CREATE FUNCTION f() RETURNS void BEGIN ATOMIC UPDATE users SET role = 'a'; END",
            "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.role := 'a'; \
             RETURN NEW; END $$",
            "SELECT set_config('search_path', 'role', false)",
            "SELECT name FROM pg_settings WHERE name = 'role'",
            "CREATE ROLE app",
            "GRANT app TO other",
        ] {
            assert_eq!(first_role_change(sql), None, "{sql}");
        }
    }
}
