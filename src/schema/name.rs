//! Names of relations, and identifiers as PostgreSQL writes them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A table, a view, a sequence or a composite type, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Relation {
    /// Its schema, unquoted.
    pub schema: String,
    /// Its name, unquoted.
    pub name: String,
}

impl Relation {
    /// From a qualified name as PostgreSQL writes it, for example `public."Users"`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = vec![String::new()];
        let (mut quoted, mut chars) = (false, text.chars().peekable());
        while let Some(c) = chars.next() {
            let part = parts.last_mut()?;
            match c {
                '"' if quoted && chars.peek() == Some(&'"') => {
                    chars.next();
                    part.push('"');
                }
                '"' => quoted = !quoted,
                '.' if !quoted => parts.push(String::new()),
                c => part.push(c),
            }
        }
        let [schema, name] = <[String; 2]>::try_from(parts).ok()?;
        Some(Self { schema, name })
    }
}

impl fmt::Display for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", identifier(&self.schema), identifier(&self.name))
    }
}

/// The keywords that SQL takes for themselves where they are not quoted: all but the unreserved
/// ones of PostgreSQL 18 (pg_get_keywords). An older server's quote_ident leaves a few of them
/// bare.
const KEYWORDS: &str = "all analyse analyze and any array as asc asymmetric authorization between \
    bigint binary bit boolean both case cast char character check coalesce collate collation \
    column concurrently constraint create cross current_catalog current_date current_role \
    current_schema current_time current_timestamp current_user dec decimal default deferrable desc \
    distinct do else end except exists extract false fetch float for foreign freeze from full \
    grant greatest group grouping having ilike in initially inner inout int integer intersect \
    interval into is isnull join json json_array json_arrayagg json_exists json_object \
    json_objectagg json_query json_scalar json_serialize json_table json_value lateral leading \
    least left like limit localtime localtimestamp merge_action national natural nchar none \
    normalize not notnull null nullif numeric offset on only or order out outer overlaps overlay \
    placing position precision primary real references returning right row select session_user \
    setof similar smallint some substring symmetric system_user table tablesample then time \
    timestamp to trailing treat trim true union unique user using values varchar variadic verbose \
    when where window with xmlattributes xmlconcat xmlelement xmlexists xmlforest xmlnamespaces \
    xmlparse xmlpi xmlroot xmlserialize xmltable";

/// An identifier as SQL has to write it: in quotes when it is a keyword, or has anything but small
/// letters, digits and underscores.
pub(crate) fn identifier(name: &str) -> String {
    let plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        && !KEYWORDS.split(' ').any(|keyword| keyword == name);
    if plain {
        name.to_owned()
    } else {
        format!("\"{}\"", name.replace('"', "\"\""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_where_they_have_to_be_and_read_back() {
        for (schema, name, text) in [
            ("public", "users", "public.users"),
            ("public", "user", "public.\"user\""),
            ("app", "Größe", "app.\"Größe\""),
            ("a.b", "c\"d", "\"a.b\".\"c\"\"d\""),
            ("_1", "1", "_1.\"1\""),
        ] {
            let relation = Relation {
                schema: schema.into(),
                name: name.into(),
            };
            assert_eq!(relation.to_string(), text);
            assert_eq!(Relation::parse(text), Some(relation));
        }
        assert_eq!(Relation::parse("users"), None);
        assert_eq!(Relation::parse("a.b.c"), None);
    }
}
