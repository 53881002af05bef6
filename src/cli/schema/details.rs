//! One object after the other with all that is its own: what `\d+` shows.

use super::{bytes, overview::kind, qualified, rows};
use crate::{
    cli::output::{BAD, BOLD, DIM, plain, styled, table},
    grpc::pb::{SchemaColumn, SchemaObject, SchemaObjectKind as Kind},
};

/// All objects.
pub(super) fn show(objects: &[SchemaObject]) -> String {
    if objects.is_empty() {
        return "Nothing has such a name.".into();
    }
    objects.iter().map(one).collect::<Vec<_>>().join("\n\n")
}

fn one(of: &SchemaObject) -> String {
    let mut lines = vec![head(of)];
    lines.extend((!of.comment.is_empty()).then(|| plain(&of.comment)));
    if !of.labels.is_empty() {
        lines.push(plain(&of.labels.join(", ")));
    }
    if !of.columns.is_empty() {
        lines.push(table(&["COLUMN", "TYPE", "NULL", "DEFAULT", "COMMENT"], of.columns.iter().map(column)));
    }
    list(&mut lines, "Constraints", of.constraints.iter().map(|c| format!("{}  {}", c.name, c.definition)));
    list(
        &mut lines,
        "Indexes",
        of.indexes.iter().filter(|index| index.constraint.is_empty() || index.invalid).map(|index| {
            let invalid = if index.invalid { "  INVALID" } else { "" };
            format!("{}{invalid}", index.definition)
        }),
    );
    list(
        &mut lines,
        "Referenced by",
        of.referenced_by.iter().map(|c| format!("{}: {}  {}", c.table, c.name, c.definition)),
    );
    list(
        &mut lines,
        "Triggers",
        of.triggers.iter().map(|trigger| match trigger.enabled.as_str() {
            "origin" => trigger.definition.clone(),
            enabled => format!("{}  ({enabled})", trigger.definition),
        }),
    );
    list(
        &mut lines,
        "Policies",
        of.policies.iter().map(|policy| {
            let kind = if policy.restrictive { "restrictive " } else { "" };
            let using = if policy.using.is_empty() { String::new() } else { format!("  USING ({})", policy.using) };
            let check =
                if policy.check.is_empty() { String::new() } else { format!("  WITH CHECK ({})", policy.check) };
            format!("{}  {kind}for {} to {}{using}{check}", policy.name, policy.command, policy.roles.join(", "))
        }),
    );
    list(&mut lines, "Options", of.options.iter().cloned());
    list(&mut lines, "Access", of.access.iter().cloned());
    lines.extend((!of.definition.is_empty()).then(|| plain(of.definition.trim_end())));
    lines.extend(of.truncated.then(|| styled(BAD, "Long texts were cut.")));
    lines.join("\n")
}

/// "table users  ~1234 rows, 96 KiB, owner app".
fn head(of: &SchemaObject) -> String {
    let arguments = if of.kind() == Kind::Routine { format!("({})", of.arguments) } else { String::new() };
    let mut words = Vec::new();
    if matches!(of.kind(), Kind::Table | Kind::MaterializedView) {
        words.push(if of.row_estimate < 0 { "rows unknown".into() } else { format!("{} rows", rows(of.row_estimate)) });
        words.push(bytes(of.total_bytes));
    }
    words.extend((!of.returns.is_empty()).then(|| format!("returns {}", of.returns)));
    words.extend((!of.owner.is_empty()).then(|| format!("owner {}", of.owner)));
    words.extend(of.flags.iter().cloned());
    words.extend((!of.partition_by.is_empty()).then(|| format!("partitioned by {}", of.partition_by)));
    if !of.parents.is_empty() {
        let bound = format!(" {}", of.partition_bound);
        let word = if of.partition_bound.is_empty() { "inherits" } else { "partition of" };
        words.push(format!("{word} {}{}", of.parents.join(", "), bound.trim_end()));
    }
    let name = plain(&format!("{} {}{arguments}", kind(of), qualified(of)));
    format!("{}  {}", styled(BOLD, &name), styled(DIM, &plain(&words.join(", "))))
}

fn column(of: &SchemaColumn) -> Vec<String> {
    let collation = if of.collation.is_empty() { String::new() } else { format!(" COLLATE {}", of.collation) };
    let default = match (of.identity.as_str(), of.generated.as_str()) {
        ("", "") => of.default.clone(),
        ("", stored) => format!("generated {stored}: {}", of.default),
        (identity, _) => format!("identity {identity}"),
    };
    let null = if of.not_null { "no" } else { "yes" };
    vec![of.name.clone(), format!("{}{collation}", of.r#type), null.into(), default, of.comment.clone()]
}

fn list(lines: &mut Vec<String>, title: &str, items: impl Iterator<Item = String>) {
    let mut items = items.peekable();
    if items.peek().is_some() {
        lines.push(format!("{title}:"));
        lines.extend(items.map(|item| format!("  {}", plain(&item))));
    }
}
