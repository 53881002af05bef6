//! Parses the search_path that a statement sets, without running it.

use super::Statement;

impl Statement<'_> {
    /// Returns the schemas of `SET search_path`, `SET SCHEMA` or
    /// `SELECT set_config('search_path', …)`, with their names in the form of the catalog. Returns
    /// `None` for any other statement, and for a value that is not made of words and plain strings.
    pub fn search_path(&self) -> Option<Vec<String>> {
        let tokens: Vec<&str> = self.tokens().collect();
        let is = |at: usize, word: &str| {
            tokens
                .get(at)
                .is_some_and(|token| token.eq_ignore_ascii_case(word))
        };
        if is(0, "set") {
            let at = if is(1, "session") { 2 } else { 1 };
            if is(at, "schema") {
                return Some(vec![string(tokens.get(at + 1)?)?]);
            }
            let given = is(at, "search_path")
                && (is(at + 1, "=") || is(at + 1, "to"))
                && !is(at + 2, "default");
            let names = given.then(|| tokens.get(at + 2..))??;
            return names
                .split(|token| *token == ",")
                .map(|name| Some(name_of(<[&str; 1]>::try_from(name).ok()?[0])))
                .collect();
        }
        let named = tokens
            .iter()
            .position(|token| token.eq_ignore_ascii_case("set_config"))?;
        let is_it = string(tokens.get(named + 2)?)
            .is_some_and(|name| name.eq_ignore_ascii_case("search_path"));
        let value = is_it.then(|| tokens.get(named + 4))??;
        Some(
            string(value)?
                .split(',')
                .map(|name| name_of(name.trim()))
                .collect(),
        )
    }
}

/// Returns the name that a word, a quoted identifier or a string denotes.
fn name_of(written: &str) -> String {
    let quoted = written
        .strip_prefix('"')
        .and_then(|name| name.strip_suffix('"'))
        .map(|name| name.replace("\"\"", "\""));
    quoted
        .or_else(|| string(written))
        .unwrap_or_else(|| written.to_lowercase())
}

fn string(token: &str) -> Option<String> {
    Some(
        token
            .strip_prefix('\'')?
            .strip_suffix('\'')?
            .replace("''", "'"),
    )
}

#[cfg(test)]
mod tests {
    use crate::sql;

    #[test]
    fn it_is_read_in_every_form() {
        let path = |sql: &str| {
            sql::split(sql)[0]
                .search_path()
                .map(|names| names.join("|"))
        };
        for (sql, names) in [
            (
                "SET search_path = app, \"$user\", \"Odd\"\"\"",
                Some("app|$user|Odd\""),
            ),
            (
                "set session Search_Path to 'App, x', PUBLIC",
                Some("App, x|public"),
            ),
            ("SET SCHEMA 'it''s'", Some("it's")),
            (
                "SELECT pg_catalog.set_config('search_path', 'app, \"B\"', false)",
                Some("app|B"),
            ),
            ("SELECT set_config('role', 'app', false)", None),
            ("SET search_path TO DEFAULT", None),
            ("SET search_path = ", None),
            ("SET search_path = a b", None),
            ("SET role app", None),
            ("RESET search_path", None),
        ] {
            assert_eq!(path(sql).as_deref(), names, "{sql}");
        }
    }
}
