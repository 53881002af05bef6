//! Parses CREATE EXTENSION, to advise an operator who has to run it in place of a migration.

use super::Statement;

/// A parsed CREATE EXTENSION.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CreateExtension<'a> {
    /// The extension's name, in the form of the catalog.
    pub name: String,
    /// The schema, as the statement writes it.
    pub schema: Option<&'a str>,
    /// Whether it has IF NOT EXISTS.
    pub is_optional: bool,
}

impl<'a> CreateExtension<'a> {
    /// Parses `CREATE EXTENSION [IF NOT EXISTS] name [[WITH] SCHEMA schema] …`. Returns `None` for
    /// any other statement.
    pub(crate) fn of(statement: &Statement<'a>) -> Option<Self> {
        let is = |token: &&str, word: &str| token.eq_ignore_ascii_case(word);
        let mut tokens = statement.tokens().peekable();
        for word in ["create", "extension"] {
            tokens.next().filter(|token| is(token, word))?;
        }
        let is_optional = tokens.next_if(|token| is(token, "if")).is_some();
        if is_optional {
            tokens.nth(1)?; // Skips NOT EXISTS.
        }
        let name = tokens.next()?;
        let name = match name
            .strip_prefix('"')
            .and_then(|name| name.strip_suffix('"'))
        {
            Some(quoted) => quoted.replace("\"\"", "\""),
            None => name.to_lowercase(),
        };
        let schema = tokens.skip_while(|token| !is(token, "schema")).nth(1);
        Some(Self {
            name,
            schema,
            is_optional,
        })
    }

    /// Returns the clause after the name, ` WITH SCHEMA x` or nothing. Also returns half a
    /// sentence: the change to make in the file after the operator has run the statement.
    pub(crate) fn advice(&self) -> (String, &'static str) {
        let schema = self
            .schema
            .map_or_else(String::new, |schema| format!(" WITH SCHEMA {schema}"));
        (
            schema,
            if self.is_optional {
                "the file finds it then"
            } else {
                "write IF NOT EXISTS into the file"
            },
        )
    }
}
