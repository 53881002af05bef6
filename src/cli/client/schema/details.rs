//! One object after the other with all that is its own: what `\d+` shows.

use super::{bytes, overview::kind, qualified, rows};
use crate::{
    cli::output::{BAD, BOLD, DIM, line, plain, styled, table},
    pb::{SchemaColumn, SchemaIndex, SchemaObject, SchemaObjectKind as Kind},
    schema::identifier,
};

/// All objects.
pub(crate) fn show(objects: &[SchemaObject]) -> String {
    if objects.is_empty() {
        return "No extension, table, type, view, sequence or routine has such a name.".into();
    }
    objects.iter().map(one).collect::<Vec<_>>().join("\n\n")
}

fn one(of: &SchemaObject) -> String {
    let mut lines = vec![head(of)];
    lines.extend((!of.comment.is_empty()).then(|| plain(&of.comment)));
    if !of.labels.is_empty() {
        lines.push(line(&labels(&of.labels)));
    }
    if !of.columns.is_empty() {
        let stored = of.columns.iter().any(|column| !stored(column).is_empty());
        let headings: &[&str] = if stored {
            &["COLUMN", "TYPE", "NULL", "DEFAULT", "STORAGE", "COMMENT"]
        } else {
            &["COLUMN", "TYPE", "NULL", "DEFAULT", "COMMENT"]
        };
        lines.push(table(
            headings,
            of.columns.iter().map(|of| column(of, stored)),
        ));
    }
    list(
        &mut lines,
        "Constraints",
        of.constraints
            .iter()
            .map(|c| with(format!("{}  {}", c.name, c.definition), [], &c.comment)),
    );
    list(
        &mut lines,
        "Indexes",
        of.indexes
            .iter()
            .filter(|of| of.constraint.is_empty() || has_more(of))
            .map(|of| {
                let targets = (!of.statistics_targets.is_empty())
                    .then(|| format!("statistics {}", of.statistics_targets.join(", ")));
                let tablespace =
                    (!of.tablespace.is_empty()).then(|| format!("tablespace {}", of.tablespace));
                let special = of
                    .invalid
                    .then(|| "INVALID".into())
                    .into_iter()
                    .chain(of.flags.iter().cloned());
                with(
                    of.definition.clone(),
                    special.chain(targets).chain(tablespace),
                    &of.comment,
                )
            }),
    );
    list(
        &mut lines,
        "Referenced by",
        of.referenced_by
            .iter()
            .map(|c| format!("{}: {}  {}", c.table, c.name, c.definition)),
    );
    list(
        &mut lines,
        "Triggers",
        of.triggers
            .iter()
            .map(|of| with(of.definition.clone(), unusual(&of.enabled), &of.comment)),
    );
    list(
        &mut lines,
        "Rules",
        of.rules
            .iter()
            .map(|of| with(of.definition.clone(), unusual(&of.enabled), &of.comment)),
    );
    list(
        &mut lines,
        "Statistics",
        of.statistics.iter().map(|of| {
            with(
                of.definition.clone(),
                of.target.map(|target| format!("target {target}")),
                &of.comment,
            )
        }),
    );
    list(
        &mut lines,
        "Policies",
        of.policies.iter().map(|policy| {
            let kind = if policy.restrictive {
                "restrictive "
            } else {
                ""
            };
            let using = if policy.using.is_empty() {
                String::new()
            } else {
                format!("  USING ({})", policy.using)
            };
            let check = if policy.check.is_empty() {
                String::new()
            } else {
                format!("  WITH CHECK ({})", policy.check)
            };
            let roles = policy.roles.join(", ");
            let text = format!(
                "{}  {kind}for {} to {roles}{using}{check}",
                policy.name, policy.command
            );
            with(text, [], &policy.comment)
        }),
    );
    list(
        &mut lines,
        if of.partition_by.is_empty() {
            "Children"
        } else {
            "Partitions"
        },
        of.children.iter().cloned(),
    );
    list(
        &mut lines,
        "Publications",
        of.publications.iter().map(|name| identifier(name)),
    );
    list(&mut lines, "Options", of.options.iter().cloned());
    let of_columns = of.columns.iter().flat_map(|column| {
        column
            .access
            .iter()
            .map(|access| format!("{access}  (column {})", identifier(&column.name)))
    });
    list(
        &mut lines,
        "Access",
        of.access.iter().cloned().chain(of_columns),
    );
    lines.extend((!of.definition.is_empty()).then(|| plain(of.definition.trim_end())));
    lines.extend(
        of.truncated
            .then(|| styled(BAD, "Long texts and lists were cut.")),
    );
    lines.join("\n")
}

/// "table users  ~1234 rows, 96 KiB, owner app".
fn head(of: &SchemaObject) -> String {
    let arguments = if of.kind() == Kind::Routine {
        format!("({})", of.arguments)
    } else {
        String::new()
    };
    let mut words = Vec::new();
    if matches!(of.kind(), Kind::Table | Kind::MaterializedView) {
        words.push(if of.row_estimate < 0 {
            "rows unknown".into()
        } else {
            format!("{} rows", rows(of.row_estimate))
        });
        words.push(bytes(of.total_bytes));
    }
    words.extend((!of.returns.is_empty()).then(|| format!("returns {}", of.returns)));
    words.extend((!of.owner.is_empty()).then(|| format!("owner {}", of.owner)));
    words.extend(of.flags.iter().cloned());
    words.extend((!of.server.is_empty()).then(|| format!("server {}", identifier(&of.server))));
    words.extend((!of.of_type.is_empty()).then(|| format!("of type {}", of.of_type)));
    words.extend(
        (!of.replica_identity.is_empty())
            .then(|| format!("replica identity {}", of.replica_identity)),
    );
    words.extend(
        (!matches!(&*of.access_method, "" | "heap"))
            .then(|| format!("access method {}", of.access_method)),
    );
    words.extend((!of.tablespace.is_empty()).then(|| format!("tablespace {}", of.tablespace)));
    words.extend(
        (!of.partition_by.is_empty()).then(|| format!("partitioned by {}", of.partition_by)),
    );
    if !of.parents.is_empty() {
        let bound = format!(" {}", of.partition_bound);
        let word = if of.partition_bound.is_empty() {
            "inherits"
        } else {
            "partition of"
        };
        words.push(format!(
            "{word} {}{}",
            of.parents.join(", "),
            bound.trim_end()
        ));
    }
    let name = styled(
        BOLD,
        &line(&format!("{} {}{arguments}", kind(of), qualified(of))),
    );
    if words.is_empty() {
        name
    } else {
        format!("{name}  {}", styled(DIM, &line(&words.join(", "))))
    }
}

/// As they are, each in quotes where one of them could be taken for two.
pub(crate) fn labels(of: &[String]) -> String {
    let plain = of
        .iter()
        .all(|label| label.trim() == label && !label.is_empty() && !label.contains([',', '\'']));
    let quoted = |label: &String| {
        if plain {
            label.clone()
        } else {
            format!("'{}'", label.replace('\'', "''"))
        }
    };
    of.iter().map(quoted).collect::<Vec<_>>().join(", ")
}

/// What a column's storage has that its type does not bring.
fn stored(of: &SchemaColumn) -> String {
    let storage = (!of.storage.is_empty()).then(|| of.storage.clone());
    let compression = (!of.compression.is_empty()).then(|| of.compression.clone());
    let statistics = of
        .statistics_target
        .map(|target| format!("statistics {target}"));
    let all = storage
        .into_iter()
        .chain(compression)
        .chain(statistics)
        .chain(of.options.iter().cloned());
    all.collect::<Vec<_>>().join(", ")
}

/// True for an index of a constraint that has what the constraint does not say.
fn has_more(of: &SchemaIndex) -> bool {
    of.invalid || !of.flags.is_empty() || !of.tablespace.is_empty() || !of.comment.is_empty()
}

/// A definition, what is special about it, and its comment.
fn with(definition: String, special: impl IntoIterator<Item = String>, comment: &str) -> String {
    let special = special.into_iter().collect::<Vec<_>>().join(", ");
    let special = if special.is_empty() {
        special
    } else {
        format!("  ({special})")
    };
    let comment = if comment.is_empty() {
        String::new()
    } else {
        format!("  -- {comment}")
    };
    format!("{definition}{special}{comment}")
}

/// When a trigger or a rule fires, where that is not as usual.
fn unusual(enabled: &str) -> Option<String> {
    (enabled != "origin").then(|| enabled.to_owned())
}

/// `text COLLATE "C"`.
pub(crate) fn r#type(of: &SchemaColumn) -> String {
    let collation = if of.collation.is_empty() {
        String::new()
    } else {
        format!(" COLLATE {}", of.collation)
    };
    format!("{}{collation}", of.r#type)
}

fn column(of: &SchemaColumn, with_storage: bool) -> Vec<String> {
    let default = match (of.identity.as_str(), of.generated.as_str()) {
        ("", "") => of.default.clone(),
        ("", stored) => format!("generated {stored}: {}", of.default),
        (identity, _) => format!("identity {identity}"),
    };
    let null = match (of.not_null, of.not_null_constraint.as_str()) {
        (false, _) => "yes".into(),
        (true, "") => "no".into(),
        (true, constraint) => format!("no ({constraint})"),
    };
    let mut cells = vec![of.name.clone(), r#type(of), null, default];
    cells.extend(with_storage.then(|| stored(of)));
    cells.push(of.comment.clone());
    cells
}

fn list(lines: &mut Vec<String>, title: &str, items: impl Iterator<Item = String>) {
    let mut items = items.peekable();
    if items.peek().is_some() {
        lines.push(format!("{title}:"));
        lines.extend(
            items.map(|item| format!("  {}", plain(item.trim_end()).replace('\n', "\n  "))),
        );
    }
}
