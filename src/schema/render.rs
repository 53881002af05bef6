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

/// Lines for people: `+` was added, `-` was removed, `~` changed. Texts of several lines are shown where they differ.
pub fn for_people(differences: &[Difference], styles: &Styles) -> String {
    let mut lines = Vec::new();
    for difference in differences {
        let Difference { kind, name, change } = difference;
        match change {
            Change::Added { to } => lines.push(paint(styles.added, &format!("+ {kind} {name}{}", summary(*kind, to)))),
            Change::Removed { from } => {
                lines.push(paint(styles.removed, &format!("- {kind} {name}{}", summary(*kind, from))));
            }
            Change::Reordered { from, to } => {
                let order = format!("~ {kind} {name}: order of columns {} → {}", from.join(", "), to.join(", "));
                lines.push(paint(styles.changed, &order));
            }
            Change::Changed { property, from, to } => {
                let ([from, to], property) = (both(from, to), property.replace('_', " "));
                if from.contains('\n') || to.contains('\n') {
                    lines.push(paint(styles.changed, &format!("~ {kind} {name}: {property}")));
                    let (gone, new) = where_they_differ(&from, &to);
                    lines.extend(gone.iter().map(|line| paint(styles.removed, &format!("  - {line}"))));
                    lines.extend(new.iter().map(|line| paint(styles.added, &format!("  + {line}"))));
                } else {
                    lines.push(paint(styles.changed, &format!("~ {kind} {name}: {property} {from} → {to}")));
                }
            }
        }
    }
    lines.join("\n")
}

/// All differences in one line: the first by name, and how many more.
pub fn in_one_line(differences: &[Difference]) -> String {
    let named: Vec<String> = differences.iter().take(NAMED).map(ToString::to_string).collect();
    match differences.len().saturating_sub(NAMED) {
        _ if differences.is_empty() => "no difference".into(),
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
                let ([from, to], property) = (both(from, to), property.replace('_', " "));
                write!(f, "{kind} {name}: {property} {} → {}", short(&from), short(&to))
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
        Kind::Enum => fields.get("labels").map(|labels| format!(" ({})", words(labels))).unwrap_or_default(),
        Kind::Constraint | Kind::Index | Kind::Statistics | Kind::Trigger | Kind::Rule => {
            text("definition").map(|definition| format!("  {}", one_line(definition))).unwrap_or_default()
        }
        _ => String::new(),
    }
}

/// What is left out of a yes-or-no property is a no.
fn both(from: &Value, to: &Value) -> [String; 2] {
    let no = [from, to].iter().any(|value| value.is_boolean());
    [from, to].map(|value| if no && value.is_null() { "no".into() } else { words(value) })
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

/// The lines between what both begin with and what both end with.
fn where_they_differ<'a>(from: &'a str, to: &'a str) -> (Vec<&'a str>, Vec<&'a str>) {
    let (from, to): (Vec<_>, Vec<_>) = (from.lines().collect(), to.lines().collect());
    let begin = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
    let end = from[begin..].iter().rev().zip(to[begin..].iter().rev()).take_while(|(a, b)| a == b).count();
    (from[begin..from.len() - end].to_vec(), to[begin..to.len() - end].to_vec())
}
