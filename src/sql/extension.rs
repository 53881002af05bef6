//! CREATE EXTENSION, for whoever has to run it in a migration's place.

use super::Statement;

/// What a CREATE EXTENSION asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CreateExtension<'a> {
    /// As the catalog has it.
    pub name: String,
    /// Its schema as the statement writes it.
    pub schema: Option<&'a str>,
    /// IF NOT EXISTS.
    pub is_optional: bool,
}

impl<'a> CreateExtension<'a> {
    /// Of `CREATE EXTENSION [IF NOT EXISTS] name [[WITH] SCHEMA schema] …`; `None` for any other
    /// statement.
    pub(crate) fn of(statement: &Statement<'a>) -> Option<Self> {
        let is = |token: &&str, word: &str| token.eq_ignore_ascii_case(word);
        let mut tokens = statement.tokens().peekable();
        for word in ["create", "extension"] {
            tokens.next().filter(|token| is(token, word))?;
        }
        let is_optional = tokens.next_if(|token| is(token, "if")).is_some();
        if is_optional {
            tokens.nth(1)?; // NOT EXISTS
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

    /// What stands behind the name, and what to do in the file after somebody has run the
    /// statement: ` WITH SCHEMA x`, and half a sentence.
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
