//! Everything at a glance: what `\dt`, `\dT+`, `\dv`, `\ds` and `\df` show.

use super::{
    bytes,
    details::{labels, r#type},
    qualified, rows,
};
use crate::{
    cli::output::{BOLD, styled, table},
    pb::{SchemaObject, SchemaObjectKind as Kind},
    schema::identifier,
};

/// A section a kind, without those that have nothing.
pub(crate) fn show(objects: &[SchemaObject]) -> String {
    let sections = [
        section(
            "Extensions",
            &["NAME", "VERSION"],
            objects,
            &[Kind::Extension],
            |of| vec![of.name.clone(), of.definition.clone()],
        ),
        section(
            "Tables",
            &["NAME", "COLUMNS", "ROWS", "SIZE", "OWNER", "NOTE"],
            objects,
            &[Kind::Table],
            |of| {
                let columns = of.columns.len().to_string();
                vec![
                    qualified(of),
                    columns,
                    rows(of.row_estimate),
                    bytes(of.total_bytes),
                    of.owner.clone(),
                    note(of),
                ]
            },
        ),
        section(
            "Types",
            &["NAME", "KIND", "VALUES", "OWNER"],
            objects,
            TYPES,
            |of| vec![qualified(of), kind(of), values(of), of.owner.clone()],
        ),
        section(
            "Views",
            &["NAME", "KIND", "OWNER", "NOTE"],
            objects,
            &[Kind::View, Kind::MaterializedView],
            |of| vec![qualified(of), kind(of), of.owner.clone(), note(of)],
        ),
        section(
            "Sequences",
            &["NAME", "SETTINGS"],
            objects,
            &[Kind::Sequence],
            |of| vec![qualified(of), of.definition.clone()],
        ),
        section(
            "Functions",
            &["NAME", "RETURNS", "OWNER"],
            objects,
            &[Kind::Routine],
            |of| {
                vec![
                    format!("{}({})", qualified(of), of.arguments),
                    of.returns.clone(),
                    of.owner.clone(),
                ]
            },
        ),
    ];
    let shown: Vec<String> = sections.into_iter().flatten().collect();
    if shown.is_empty() {
        "Nothing is there.".into()
    } else {
        shown.join("\n\n")
    }
}

const TYPES: &[Kind] = &[
    Kind::EnumType,
    Kind::Domain,
    Kind::CompositeType,
    Kind::RangeType,
    Kind::BaseType,
];

fn section(
    title: &str,
    header: &[&str],
    objects: &[SchemaObject],
    kinds: &[Kind],
    row: impl Fn(&SchemaObject) -> Vec<String>,
) -> Option<String> {
    let mut of_kind = objects
        .iter()
        .filter(|object| kinds.contains(&object.kind()))
        .peekable();
    of_kind.peek()?;
    Some(format!(
        "{}\n{}",
        styled(BOLD, title),
        table(header, of_kind.map(row))
    ))
}

/// "materialized view".
pub(crate) fn kind(object: &SchemaObject) -> String {
    let word = object
        .kind()
        .as_str_name()
        .trim_start_matches("SCHEMA_OBJECT_KIND_");
    word.trim_end_matches("_TYPE")
        .to_lowercase()
        .replace('_', " ")
}

fn values(of: &SchemaObject) -> String {
    match of.kind() {
        Kind::EnumType => labels(&of.labels),
        Kind::CompositeType => {
            let attributes = of
                .columns
                .iter()
                .map(|of| format!("{} {}", identifier(&of.name), r#type(of)));
            attributes.collect::<Vec<_>>().join(", ")
        }
        _ => of.definition.clone(),
    }
}

/// What is special, and the comment.
fn note(of: &SchemaObject) -> String {
    let partitioned =
        (!of.partition_by.is_empty()).then(|| format!("partitioned by {}", of.partition_by));
    let parents = match (of.parents.is_empty(), of.partition_bound.is_empty()) {
        (true, _) => None,
        (_, true) => Some(format!("inherits {}", of.parents.join(", "))),
        _ => Some(format!("partition of {}", of.parents.join(", "))),
    };
    let comment =
        (!of.comment.is_empty()).then(|| of.comment.lines().next().unwrap_or_default().to_owned());
    let words = of
        .flags
        .iter()
        .cloned()
        .chain(partitioned)
        .chain(parents)
        .chain(comment);
    words.collect::<Vec<_>>().join("; ")
}
