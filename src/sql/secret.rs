//! Detects statements that hold a password, by their words. If one fails, neither its text nor the
//! server's quotation of it is shown. Failures are stored in the ledger, in events and in logs, and
//! their readers may not be entitled to know the password.

use std::{borrow::Cow, collections::BTreeSet};

use super::{Statement, split};

/// The text that replaces a line of a statement that holds a password.
pub const NOT_SHOWN: &str = "(not shown: it belongs to a statement that holds a password)";

/// The depth to which quoted bodies are analysed. A deeper one counts as secret if it contains
/// "passw".
const DEEPEST: usize = 3;

/// Words that are common in connection strings and are not treated as secrets.
const OF_CONNECTIONS: [&str; 17] = [
    "host",
    "hostaddr",
    "port",
    "user",
    "dbname",
    "password",
    "sslmode",
    "require",
    "prefer",
    "disable",
    "verify",
    "full",
    "connect_timeout",
    "application_name",
    "localhost",
    "postgres",
    "postgresql",
];

impl Statement<'_> {
    /// Returns whether the statement holds a password, or may hold one if its author misspelt the
    /// keyword: statements about roles, user mappings, foreign servers, subscriptions and dblink,
    /// and blocks and functions that contain one of these.
    pub fn holds_secret(&self) -> bool {
        self.holds_secret_at(0)
    }

    fn holds_secret_at(&self, depth: usize) -> bool {
        let words: Vec<&str> = self.tokens().take(4).collect();
        let is = |at: usize, names: &[&str]| {
            words
                .get(at)
                .is_some_and(|word| names.iter().any(|name| word.eq_ignore_ascii_case(name)))
        };
        let has_literal = || self.tokens().any(is_literal);
        let says_password = || {
            self.tokens()
                .any(|token| token.to_ascii_lowercase().contains("passw"))
        };
        if is(0, &["create", "alter"]) {
            let is_mapping = is(1, &["user"]) && is(2, &["mapping"]);
            if is_mapping || is(1, &["server", "subscription"]) {
                return has_literal();
            }
            if is(1, &["role", "user", "group"]) {
                // ALTER ROLE … SET search_path = '…' holds no password.
                let sets = is(0, &["alter"])
                    && self.tokens().any(|token| token.eq_ignore_ascii_case("set"));
                return !sets || says_password();
            }
        }
        if self.gives_password() {
            return true;
        }
        let is_dblink = || {
            self.tokens()
                .any(|token| token.to_ascii_lowercase().starts_with("dblink"))
        };
        self.tokens()
            .filter(|token| is_literal(token))
            .any(|literal| holds_secret(&contents(literal), depth))
            || has_literal() && is_dblink()
    }

    /// Returns whether a password is given as a literal. It may follow the word, in any statement:
    /// `OPTIONS (password 'x')`, `f(password => 'x')`, `SET password = 'x'`. Or it may be the value
    /// for a column or a setting of that name: `INSERT INTO t (name, password) VALUES …`,
    /// `set_config('app.password', …)`.
    fn gives_password(&self) -> bool {
        let mut tokens = self.tokens();
        if tokens
            .next()
            .is_some_and(|first| first.eq_ignore_ascii_case("insert"))
        {
            let columns = tokens
                .skip_while(|token| *token != "(")
                .take_while(|token| *token != ")");
            let names =
                |token: &str| !is_literal(token) && token.to_ascii_lowercase().contains("passw");
            if columns.into_iter().any(names) && self.tokens().any(is_literal) {
                return true;
            }
        }
        let mut sets = 0;
        for token in self.tokens() {
            sets = match sets {
                _ if token.eq_ignore_ascii_case("set_config") => 1,
                1 if token == "(" => 2,
                2 if is_literal(token) && token.to_ascii_lowercase().contains("passw") => {
                    return true;
                }
                _ => 0,
            };
        }
        let mut follows = false;
        for token in self.tokens() {
            if follows && is_literal(token) {
                return true;
            }
            follows = !is_literal(token) && token.to_ascii_lowercase().contains("passw")
                || follows && is_sign(token);
        }
        false
    }

    /// Returns the words that must not be shown: those in literals, and those after the word
    /// "password".
    fn secrets(&self, depth: usize) -> BTreeSet<String> {
        let mut secrets = BTreeSet::new();
        let mut follows_password = false;
        for token in self.tokens() {
            if is_literal(token) {
                let text = contents(token);
                let inner = secrets_in(&text, depth);
                if inner.is_empty() {
                    add_words(&text, &mut secrets);
                }
                secrets.extend(inner);
            } else if follows_password {
                add_words(token, &mut secrets);
            }
            follows_password =
                token.to_ascii_lowercase().contains("passw") || follows_password && is_sign(token);
        }
        secrets
    }
}

/// Returns whether a text is a connection string with a password, or SQL with a statement that
/// holds one.
fn holds_secret(text: &str, depth: usize) -> bool {
    let lower = text.to_ascii_lowercase();
    let is_url = lower.split("://").skip(1).any(|rest| {
        let authority = rest.split(['/', '?', ' ']).next().unwrap_or_default();
        authority
            .rsplit_once('@')
            .is_some_and(|(user, _)| user.contains(':'))
    });
    let is_dsn = lower
        .split("password")
        .skip(1)
        .any(|rest| rest.trim_start().starts_with('='));
    // The form of a connection string and not of a condition: password=x, with no space between.
    let is_given = lower
        .split("password=")
        .skip(1)
        .any(|rest| rest.starts_with(|c: char| c.is_alphanumeric()));
    if is_url || is_given || is_dsn && lower.contains("host") {
        return true;
    }
    // A cheap check first, because most literals are short values.
    let may_be_sql = [
        "passw",
        "role",
        "user ",
        "mapping",
        "server",
        "subscription",
        "dblink",
    ];
    if depth < DEEPEST {
        may_be_sql.iter().any(|word| lower.contains(word))
            && split(&body(text))
                .iter()
                .any(|statement| statement.holds_secret_at(depth + 1))
    } else {
        lower.contains("passw")
    }
}

/// Returns the secrets of the statements in a body.
fn secrets_in(text: &str, depth: usize) -> BTreeSet<String> {
    if depth >= DEEPEST || !text.to_ascii_lowercase().contains("passw") {
        return BTreeSet::new();
    }
    secrets_of(&body(text), depth + 1)
}

fn secrets_of(sql: &str, depth: usize) -> BTreeSet<String> {
    let statements = split(sql);
    let holding = statements
        .iter()
        .filter(|statement| statement.holds_secret_at(depth));
    holding
        .flat_map(|statement| statement.secrets(depth))
        .collect()
}

/// Returns the body of a block or function as a list of statements. A semicolon is inserted after
/// each word that can precede a statement.
fn body(text: &str) -> String {
    let mut body = String::with_capacity(text.len());
    for word in text.split_inclusive(char::is_whitespace) {
        body.push_str(word);
        let is_before = [
            "begin", "execute", "then", "else", "loop", "perform", "return", "query",
        ];
        if is_before
            .iter()
            .any(|before| word.trim().eq_ignore_ascii_case(before))
        {
            body.push_str("; ");
        }
    }
    body
}

/// Returns whether the token can stand between a name and its value.
fn is_sign(token: &str) -> bool {
    token.chars().all(|c| matches!(c, '=' | ':' | '>'))
}

fn is_literal(token: &str) -> bool {
    let prefixed = token
        .strip_prefix(['e', 'E', 'u', 'U', 'n', 'N', 'b', 'B', 'x', 'X'])
        .unwrap_or(token);
    token.starts_with(['\'', '$']) && token.len() > 1
        || prefixed
            .strip_prefix('&')
            .unwrap_or(prefixed)
            .starts_with('\'')
}

/// Returns the text between the quotes.
fn contents(literal: &str) -> Cow<'_, str> {
    if let Some(after) = literal.strip_prefix('$') {
        let tag = after.find('$').map_or(literal.len(), |at| at + 2);
        let inner = literal.get(tag..).unwrap_or_default();
        return inner
            .strip_suffix(&literal[..tag.min(literal.len())])
            .unwrap_or(inner)
            .into();
    }
    let inner = literal.split_once('\'').map_or(literal, |(_, inner)| inner);
    inner
        .strip_suffix('\'')
        .unwrap_or(inner)
        .replace("''", "'")
        .into()
}

/// Adds the text as a whole, and its words of three letters and more.
fn add_words(text: &str, words: &mut BTreeSet<String>) {
    const SHORTEST: usize = 3;
    let lower = text.to_lowercase();
    let pieces = lower.split(|c: char| !c.is_alphanumeric() && c != '_');
    let is_secret = |piece: &&str| {
        piece.chars().count() >= SHORTEST
            && !OF_CONNECTIONS.contains(piece)
            && piece.parse::<u8>().is_err()
    };
    words.extend(pieces.filter(is_secret).map(str::to_owned));
    if lower.chars().count() >= SHORTEST {
        words.insert(lower);
    }
}

/// The words of a script that must not be shown.
#[derive(Debug, Default)]
pub struct SecretWords(BTreeSet<String>);

impl SecretWords {
    /// Returns the secret words of all statements in `sql` that hold a password.
    pub fn of(sql: &str) -> Self {
        Self(secrets_of(sql, 0))
    }

    /// Returns the secret words of the statements that a server's CONTEXT quotes, in lines of the
    /// form `SQL statement "…"`.
    pub fn of_context(context: &str) -> Self {
        let quoted = context.split("SQL statement \"").skip(1);
        let statements = quoted.map(|rest| {
            rest.rsplit_once('"')
                .map_or(rest, |(statement, _)| statement)
        });
        let mut all = Self::default();
        for statement in statements {
            all.0.extend(Self::of(statement).0);
        }
        all
    }

    /// Returns the words of both.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// Returns whether there are no secret words.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether a text contains one of the words.
    pub fn are_in(&self, text: &str) -> bool {
        let lower = text.to_lowercase();
        self.0.iter().any(|secret| lower.contains(secret))
    }
}

/// Returns whether the line of `sql` from byte `start` to byte `end` is part of a statement that
/// holds a password.
pub(super) fn is_on_line(sql: &str, start: usize, end: usize) -> bool {
    let overlaps = |statement: &&Statement<'_>| statement.start < end && statement.end() > start;
    split(sql)
        .iter()
        .filter(overlaps)
        .any(Statement::holds_secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(sql: &str) -> bool {
        split(sql).iter().any(Statement::holds_secret)
    }

    #[test]
    fn statements_with_a_password_are_told_from_those_about_one() {
        for sql in [
            "CREATE ROLE a PASSWORD 'x'",
            "create user a with encrypted password $$x$$",
            "ALTER GROUP a PASSWRD 'x'",
            "CREATE ROLE a PASSWORD x",
            "ALTER ROLE a SET x = 'y' PASSWORD 'z'",
            "CREATE USER MAPPING FOR a SERVER s OPTIONS (pass 'x')",
            "ALTER SERVER s OPTIONS (SET passwd 'x')",
            "CREATE SUBSCRIPTION s CONNECTION 'host=h password=x' PUBLICATION p",
            "SELECT dblink_connect('dbname=x')",
            "SELECT set_config('x.y', 'dbname=d user=u password=geheim', false), 1/0",
            "ALTER SYSTEM SET primary_conninfo = 'user=u password=geheim' x",
            "SELECT set_config('app.password', 'geheim', false), 1/0",
            "INSERT INTO app_users (name, password) VALUES ('bob', 'geheim')",
            "insert into t (\"Password_Hash\") select 'geheim'",
            "SELECT f('postgres://u:p@h/d')",
            "SELECT f('host=h password = x')",
            "DO $$ BEGIN EXECUTE 'CREATE ROLE a PASSWORD ''x'''; END $$",
            "DO $$ BEGIN IF true THEN CREATE ROLE a PASSWORD 'x'; END IF; END $$",
            "CREATE FOREIGN TABLE t (a int) SERVER s OPTIONS (password 'x')",
            "SELECT connect(password => 'x')",
            "UPDATE servers SET password='x'",
            "CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $f$ BEGIN ALTER ROLE a PASSWORD \
             'x'; END $f$",
        ] {
            assert!(holds(sql), "{sql}");
        }
        for sql in [
            "CREATE TABLE users (id int, password_hash text NOT NULL DEFAULT '')",
            "COMMENT ON COLUMN users.password IS 'the password of a user, hashed'",
            "ALTER ROLE a SET search_path = 'b'",
            "DROP ROLE a",
            "GRANT a TO b",
            "CREATE SERVER s FOREIGN DATA WRAPPER f",
            "SELECT 'https://example.org/a@b'",
            "CREATE FUNCTION is_password(p text) RETURNS bool LANGUAGE sql AS $$ SELECT length(p) \
             > 8 $$",
            "DO $$ BEGIN RAISE 'the user has no password'; END $$",
        ] {
            assert!(!holds(sql), "{sql}");
        }
    }

    #[test]
    fn what_must_not_be_shown_is_found_in_what_the_server_says() {
        let secrets = SecretWords::of(
            "CREATE SUBSCRIPTION s CONNECTION 'host=db1 password=geheim dbname=x'; SELECT 'open'",
        );
        assert!(secrets.are_in("missing \"=\" after \"Geheim\"") && secrets.are_in("x db1"));
        assert!(!secrets.are_in("could not connect: port 5432, host") && !secrets.are_in("open"));
        let secrets = SecretWords::of("CREATE ROLE a PASSWORD geheim");
        assert!(
            secrets.are_in("syntax error at or near \"geheim\"")
                && !secrets.are_in("role \"a\" exists")
        );
        let block = "DO $$ BEGIN EXECUTE 'CREATE ROLE app PASSWORD ''geheim'''; END $$";
        let secrets = SecretWords::of(block);
        assert!(
            secrets.are_in("near \"geheim\"") && !secrets.are_in("role \"app\" already exists")
        );
        let context = "SQL statement \"ALTER ROLE a PASSWORD 'geheim'\"\nPL/pgSQL function f() \
            line 1 at EXECUTE";
        assert!(SecretWords::of_context(context).are_in("geheim"));
        assert!(SecretWords::of_context("SQL statement \"SELECT 'x1y2'\"").is_empty());
    }
}
