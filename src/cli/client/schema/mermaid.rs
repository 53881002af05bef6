//! An ER diagram in Mermaid's language: tables, columns with their keys, foreign keys. Mermaid has
//! no escapes, so what its grammar does not take is replaced, and the name goes beside it as a
//! comment, as near as Mermaid can write it.

use std::collections::{HashMap, HashSet};

use crate::{
    pb::{SchemaColumn, SchemaConstraint, SchemaConstraintKind as Kind, SchemaObject},
    schema::Relation,
};

/// The diagram of these tables. Foreign keys to tables that are not among them are left out.
pub(crate) fn diagram(tables: &[SchemaObject]) -> String {
    let tables: Vec<&SchemaObject> = tables
        .iter()
        .filter(|table| !table.columns.is_empty())
        .collect();
    let same_schema = tables
        .windows(2)
        .all(|pair| pair[0].schema == pair[1].schema);
    let (mut entities, mut taken) = (HashMap::new(), HashSet::new());
    for table in &tables {
        let mut name = if same_schema {
            quoted(&table.name)
        } else {
            quoted(&format!("{}.{}", table.schema, table.name))
        };
        // Two names can become one.
        while !taken.insert(name.clone()) {
            name.insert(name.len() - 1, '_');
        }
        entities.insert((table.schema.as_str(), table.name.as_str()), name);
    }
    let mut lines = vec!["erDiagram".to_owned()];
    for table in &tables {
        lines.push(format!(
            "    {} {{",
            entities[&(table.schema.as_str(), table.name.as_str())]
        ));
        lines.extend(
            table
                .columns
                .iter()
                .map(|column| format!("        {}", attribute(table, column))),
        );
        lines.push("    }".into());
    }
    for table in &tables {
        for key in of_kind(table, Kind::ForeignKey) {
            let Some(target) = Relation::parse(&key.references) else {
                continue;
            };
            let from = entities.get(&(table.schema.as_str(), table.name.as_str()));
            let to = entities.get(&(target.schema.as_str(), target.name.as_str()));
            if let Some((from, to)) = from.zip(to) {
                lines.push(format!(
                    "    {to} {} {from} : {}",
                    cardinality(table, key),
                    quoted(&key.columns.join(", "))
                ));
            }
        }
    }
    lines.join("\n")
}

fn of_kind(table: &SchemaObject, kind: Kind) -> impl Iterator<Item = &SchemaConstraint> {
    table
        .constraints
        .iter()
        .filter(move |constraint| constraint.kind() == kind)
}

/// The table referred to, on the left: exactly one, or none where a column may be NULL. On the
/// right: any number, or one at most where the key is unique.
fn cardinality(table: &SchemaObject, key: &SchemaConstraint) -> String {
    let needed = |name: &String| {
        table
            .columns
            .iter()
            .any(|column| column.name == *name && column.not_null)
    };
    let one = if key.columns.iter().all(needed) {
        "||"
    } else {
        "|o"
    };
    let sorted = |columns: &[String]| {
        let mut columns = columns.to_vec();
        columns.sort();
        columns
    };
    let mut unique = of_kind(table, Kind::PrimaryKey).chain(of_kind(table, Kind::Unique));
    let many = if unique.any(|other| sorted(&other.columns) == sorted(&key.columns)) {
        "o|"
    } else {
        "o{"
    };
    format!("{one}--{many}")
}

/// `integer id PK`.
fn attribute(table: &SchemaObject, column: &SchemaColumn) -> String {
    let is = |kind, alone: bool| {
        of_kind(table, kind)
            .any(|key| key.columns.contains(&column.name) && (!alone || key.columns.len() == 1))
    };
    let keys = [
        (is(Kind::PrimaryKey, false), "PK"),
        (is(Kind::ForeignKey, false), "FK"),
        (is(Kind::Unique, true), "UK"),
    ];
    let keys: Vec<&str> = keys
        .iter()
        .filter(|(is, _)| *is)
        .map(|(_, word)| *word)
        .collect();
    let (r#type, name) = (
        word(column.r#type.trim_start_matches("public.")),
        word(&column.name),
    );
    let mut line = format!("{type} {name}");
    if !keys.is_empty() {
        line += &format!(" {}", keys.join(", "));
    }
    if name != column.name {
        line += &format!(" {}", quoted(&column.name));
    }
    line
}

/// What Mermaid takes for a type or a name: a letter, then letters, digits, `-`, `_`, brackets; and
/// no word for a key.
fn word(text: &str) -> String {
    let fits = |c: char| {
        c.is_ascii_alphanumeric() || "_-[]()".contains(c) || ('\u{c0}'..='\u{ffff}').contains(&c)
    };
    let word: String = text
        .chars()
        .map(|c| if fits(c) { c } else { '_' })
        .collect();
    let key = ["PK", "FK", "UK"]
        .iter()
        .any(|key| key.eq_ignore_ascii_case(&word));
    if word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_' || c >= '\u{c0}') && !key {
        word
    } else {
        format!("_{word}")
    }
}

/// In double quotes, without what ends them.
fn quoted(text: &str) -> String {
    let fits = |c: char| !c.is_control() && !"\"%\\".contains(c);
    format!(
        "\"{}\"",
        text.chars()
            .map(|c| if fits(c) { c } else { '_' })
            .collect::<String>()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_tables_are_two_whatever_becomes_of_their_names() {
        let table = |name: &str| SchemaObject {
            name: name.into(),
            columns: vec![SchemaColumn {
                name: "a".into(),
                r#type: "int".into(),
                ..SchemaColumn::default()
            }],
            ..SchemaObject::default()
        };
        let diagram = diagram(&[table("m%a"), table("m_a")]);
        assert!(
            diagram.contains("\"m_a\" {") && diagram.contains("\"m_a_\" {"),
            "{diagram}"
        );
    }

    #[test]
    fn words_and_names_are_what_the_grammar_takes() {
        for (text, expected) in [
            ("numeric(6,2)", "numeric(6_2)"),
            ("app.\"Odd Type\"[]", "app__Odd_Type_[]"),
            ("1st", "_1st"),
            ("pk", "_pk"),
            ("user-id", "user-id"),
            ("größe", "größe"),
            ("", "_"),
        ] {
            assert_eq!(word(text), expected);
        }
        assert_eq!(quoted("a\"b%c\\d e"), "\"a_b_c_d e\"");
    }
}
