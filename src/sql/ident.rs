//! Quotes identifiers and strings for SQL when there is no server to quote them.

/// Reserved words, including those that may be the name of a function or a type. None of them is an
/// identifier without quotes (PostgreSQL 18, `pg_get_keywords()`, catcode R and T).
const RESERVED: &str = " all analyse analyze and any array as asc asymmetric authorization binary \
    both case cast check collate collation column concurrently constraint create cross \
    current_catalog current_date current_role current_schema current_time current_timestamp \
    current_user default deferrable desc distinct do else end except false fetch for foreign \
    freeze from full grant group having ilike in initially inner intersect into is isnull join \
    lateral leading left like limit localtime localtimestamp natural not notnull null offset on \
    only or order outer overlaps placing primary references returning right select session_user \
    similar some symmetric system_user table tablesample then to trailing true union unique user \
    using variadic verbose when where window with ";

/// Returns the identifier, quoted if necessary.
pub(crate) fn ident(name: &str) -> String {
    let plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        && !RESERVED.contains(&format!(" {name} "));
    if plain {
        name.into()
    } else {
        format!("\"{}\"", name.replace('"', "\"\""))
    }
}

/// Returns a string constant with the same meaning under either value of
/// standard_conforming_strings.
pub(crate) fn literal(text: &str) -> String {
    let text = text.replace('\'', "''");
    if text.contains('\\') {
        format!("E'{}'", text.replace('\\', "\\\\"))
    } else {
        format!("'{text}'")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_would_be_read_otherwise_is_quoted() {
        for name in ["app", "_a1", "users", "name"] {
            assert_eq!(ident(name), name);
        }
        for (name, quoted) in [
            ("user", "\"user\""),
            ("with", "\"with\""),
            ("App", "\"App\""),
            ("1a", "\"1a\""),
            ("a-b", "\"a-b\""),
            ("a\"b", "\"a\"\"b\""),
            ("", "\"\""),
            ("\u{e9}", "\"\u{e9}\""),
        ] {
            assert_eq!(ident(name), quoted);
        }
    }
}
