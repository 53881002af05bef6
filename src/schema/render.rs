//! Differences in words: lines for people, one line for a log.

use std::fmt;

use anstyle::Style;
use serde_json::{Map, Value};

use super::{
    diff::{Change, Difference},
    object::Kind,
};

/// How the lines for people look.
#[derive(Clone, Copy, Debug, Default)]
pub struct Styles {
    /// Of what was added.
    pub added: Style,
    /// Of what was removed.
    pub removed: Style,
    /// Of what changed.
    pub changed: Style,
}

/// Differences that one line names.
const NAMED: usize = 3;

/// Characters of a value in one line.
const SHORT: usize = 60;

/// Lines for people: `+` was added, `-` was removed, `~` changed. Texts of several lines are shown
/// where they differ.
pub fn for_people(differences: &[Difference], styles: &Styles) -> String {
    let mut lines = Vec::new();
    for difference in differences {
        let Difference { kind, name, change } = difference;
        match change {
            Change::Added { to } => lines.push(paint(
                styles.added,
                &format!("+ {kind} {name}{}", summary(*kind, to)),
            )),
            Change::Removed { from } => {
                lines.push(paint(
                    styles.removed,
                    &format!("- {kind} {name}{}", summary(*kind, from)),
                ));
            }
            Change::Reordered { from, to } => {
                let [from, to] = moved(from, to);
                let order = format!("~ {kind} {name}: order of columns {from} → {to}");
                lines.push(paint(styles.changed, &order));
            }
            Change::Changed { property, from, to } => {
                let ([from, to], property) = (both(property, from, to), property.replace('_', " "));
                if from.contains('\n') || to.contains('\n') {
                    lines.push(paint(
                        styles.changed,
                        &format!("~ {kind} {name}: {property}"),
                    ));
                    let (gone, new) = where_they_differ(&from, &to);
                    lines.extend(
                        gone.iter()
                            .map(|line| paint(styles.removed, &format!("  - {line}"))),
                    );
                    lines.extend(
                        new.iter()
                            .map(|line| paint(styles.added, &format!("  + {line}"))),
                    );
                } else {
                    lines.push(paint(
                        styles.changed,
                        &format!("~ {kind} {name}: {property} {from} → {to}"),
                    ));
                }
            }
        }
    }
    lines.join("\n")
}

/// All differences in one line: the first by name, and how many more.
pub fn in_one_line<'a>(differences: impl IntoIterator<Item = &'a Difference>) -> String {
    let mut differences = differences.into_iter();
    let named: Vec<String> = differences
        .by_ref()
        .take(NAMED)
        .map(ToString::to_string)
        .collect();
    match differences.count() {
        _ if named.is_empty() => "no difference".into(),
        0 => named.join("; "),
        more => format!("{}; and {more} more", named.join("; ")),
    }
}

impl fmt::Display for Difference {
    /// One line: "column public.t.a: type integer → bigint".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, name, change } = self;
        match change {
            Change::Added { .. } => write!(f, "{kind} {name} added"),
            Change::Removed { .. } => write!(f, "{kind} {name} removed"),
            Change::Reordered { .. } => write!(f, "{kind} {name}: order of columns"),
            Change::Changed { property, from, to } => {
                let ([from, to], property) = (both(property, from, to), property.replace('_', " "));
                if from.contains('\n') || to.contains('\n') {
                    write!(f, "{kind} {name}: {property} changed")
                } else {
                    write!(
                        f,
                        "{kind} {name}: {property} {} → {}",
                        short(&from),
                        short(&to)
                    )
                }
            }
        }
    }
}

fn paint(style: Style, line: &str) -> String {
    format!("{style}{line}{style:#}")
}

/// What a reader wants to know of an object that is there on one side only.
fn summary(kind: Kind, fields: &Map<String, Value>) -> String {
    let text = |name: &str| fields.get(name).and_then(Value::as_str);
    let yes = |name: &str| fields.get(name) == Some(&Value::Bool(true));
    match kind {
        Kind::Column => {
            let mut words = vec![text("type").unwrap_or_default().to_owned()];
            words.extend(yes("not_null").then(|| "NOT NULL".into()));
            words.extend(text("default").map(|default| format!("DEFAULT {default}")));
            format!(" {}", words.join(" "))
        }
        Kind::Enum => fields
            .get("labels")
            .map(|labels| format!(" ({})", words(labels)))
            .unwrap_or_default(),
        Kind::Constraint | Kind::Index | Kind::Statistics | Kind::Trigger | Kind::Rule => {
            text("definition")
                .map(|definition| format!("  {}", one_line(definition)))
                .unwrap_or_default()
        }
        _ => String::new(),
    }
}

/// What is left out of a yes-or-no property is a no, and of rights, what the owner and PUBLIC have
/// by default.
fn both(property: &str, from: &Value, to: &Value) -> [String; 2] {
    let is_yes_or_no = [from, to].iter().any(|value| value.is_boolean());
    [from, to].map(|value| match value {
        Value::Null if is_yes_or_no => "no".into(),
        Value::Null if property == "acl" => "the default".into(),
        value => words(value),
    })
}

/// The columns between what both orders begin with and what both end with; … stands for those.
fn moved(from: &[String], to: &[String]) -> [String; 2] {
    let (begin, end) = in_common(from, to);
    [from, to].map(|columns| {
        let middle = columns[begin..columns.len() - end]
            .iter()
            .map(String::as_str);
        let left_out = |count: usize| (count > 0).then_some("…");
        left_out(begin)
            .into_iter()
            .chain(middle)
            .chain(left_out(end))
            .collect::<Vec<_>>()
            .join(", ")
    })
}

fn words(value: &Value) -> String {
    match value {
        Value::Null => "none".into(),
        Value::Bool(yes) => if *yes { "yes" } else { "no" }.into(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.is_empty() => "nothing".into(),
        Value::Array(items) => items.iter().map(words).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn short(text: &str) -> String {
    let line = one_line(text);
    match line.char_indices().nth(SHORT) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// How many items both begin with, and how many of the rest both end with.
fn in_common<T: PartialEq>(from: &[T], to: &[T]) -> (usize, usize) {
    let begin = from.iter().zip(to).take_while(|(a, b)| a == b).count();
    let end = from[begin..]
        .iter()
        .rev()
        .zip(to[begin..].iter().rev())
        .take_while(|(a, b)| a == b)
        .count();
    (begin, end)
}

/// The lines between what both begin with and what both end with.
fn where_they_differ<'a>(from: &'a str, to: &'a str) -> (Vec<&'a str>, Vec<&'a str>) {
    let (from, to): (Vec<_>, Vec<_>) = (from.lines().collect(), to.lines().collect());
    let (begin, end) = in_common(&from, &to);
    (
        from[begin..from.len() - end].to_vec(),
        to[begin..to.len() - end].to_vec(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{Column, Constraint, Enum, Relation, Routine, Snapshot, Table, diff};

    fn relation(name: &str) -> Relation {
        Relation {
            schema: "public".into(),
            name: name.into(),
        }
    }

    fn table(name: &str, columns: &[(&str, &str, bool)]) -> Table {
        let column = |(name, r#type, not_null): &(&str, &str, bool)| Column {
            name: (*name).into(),
            r#type: (*r#type).into(),
            not_null: *not_null,
            ..Column::default()
        };
        Table {
            relation: relation(name),
            columns: columns.iter().map(column).collect(),
            ..Table::default()
        }
    }

    fn check(table: &str, definition: &str) -> Constraint {
        Constraint {
            table: relation(table),
            name: "positive".into(),
            definition: definition.into(),
            columns: vec![definition.into()],
            ..Constraint::default()
        }
    }

    fn routine(body: &str) -> Routine {
        let definition =
            format!("CREATE OR REPLACE FUNCTION public.f()\n RETURNS integer\nAS $$\n{body}\n$$");
        Routine {
            schema: "public".into(),
            name: "f".into(),
            definition,
            ..Routine::default()
        }
    }

    fn mood(labels: &[&str]) -> Enum {
        let labels = labels.iter().map(ToString::to_string).collect();
        Enum {
            schema: "public".into(),
            name: "Mood".into(),
            labels,
            ..Enum::default()
        }
    }

    fn before_and_after() -> (Snapshot, Snapshot) {
        let before = Snapshot {
            enums: vec![mood(&["sad", "ok"])],
            tables: vec![
                table(
                    "a",
                    &[
                        ("id", "integer", true),
                        ("x", "text", false),
                        ("gone", "text", false),
                        ("y", "text", false),
                    ],
                ),
                table("old", &[("id", "integer", true)]),
            ],
            constraints: vec![check("a", "CHECK (id > 0)"), check("old", "CHECK (id > 1)")],
            routines: vec![routine("BEGIN\n  RETURN 1;\nEND")],
            ..Snapshot::default()
        };
        let after = Snapshot {
            enums: vec![mood(&["sad", "ok", "happy"])],
            tables: vec![
                table(
                    "a",
                    &[
                        ("id", "bigint", true),
                        ("y", "text", true),
                        ("x", "text", false),
                        ("new", "text", true),
                    ],
                ),
                table("fresh", &[("id", "integer", true)]),
            ],
            constraints: vec![
                check("a", "CHECK (id > 9)"),
                check("fresh", "CHECK (id > 1)"),
            ],
            routines: vec![routine("BEGIN\n  RETURN 2;\nEND")],
            ..Snapshot::default()
        };
        (before, after)
    }

    #[test]
    fn differences_read_well() {
        let (before, after) = before_and_after();
        let differences = diff(&before, &after);
        insta::assert_snapshot!(for_people(&differences, &Styles::default()));
        insta::assert_snapshot!("in_one_line", in_one_line(&differences));
        let json: Vec<String> = differences
            .iter()
            .map(|one| serde_json::to_string(one).unwrap())
            .collect();
        insta::assert_snapshot!("as_json", json.join("\n"));
        let back: Vec<Difference> = json
            .iter()
            .map(|one| serde_json::from_str(one).unwrap())
            .collect();
        assert_eq!(back, differences);
        assert_eq!(
            differences.iter().filter(|one| one.is_order_only()).count(),
            1
        );
    }

    #[test]
    fn only_the_columns_that_moved_are_shown() {
        let columns = |names: &str| names.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let moved = |from: &str, to: &str| moved(&columns(from), &columns(to)).join(" → ");
        assert_eq!(moved("a b c d e", "a c b d e"), "…, b, c, … → …, c, b, …");
        assert_eq!(moved("a b c", "b c a"), "a, b, c → b, c, a");
    }

    #[test]
    fn rights_that_nobody_set_are_the_default() {
        let told = both("acl", &Value::Null, &Value::from(vec!["a=X/a"]));
        assert_eq!(told, ["the default", "a=X/a"]);
    }

    #[test]
    fn what_is_the_same_has_no_difference() {
        let (before, after) = before_and_after();
        assert_eq!(diff(&before, &before), []);
        assert_eq!(in_one_line(&[]), "no difference");
        assert_eq!(diff(&before, &after).len(), diff(&after, &before).len());
        assert_ne!(before.fingerprint(), after.fingerprint());
    }
}
