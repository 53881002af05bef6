//! Columns, constraints and the other parts of objects as messages.

use prost::Message;

use crate::{
    pb,
    schema::{
        Column, Constraint, ConstraintKind, Domain, Enabled, Generated, IdentityColumn, Index,
        Persistence, Policy, Range, ReplicaIdentity, RewriteRule, Sequence, Statistics, Table,
        TableKind, Trigger,
    },
};

/// Cuts texts and lists, and remembers that it did.
pub(crate) struct Truncation {
    /// Bytes of a text.
    pub limit: usize,
    /// Bytes of all lists that are left.
    pub room: usize,
    pub did: bool,
}

impl Truncation {
    /// As many as there is room for.
    pub(super) fn list(&mut self, all: &[String]) -> Vec<String> {
        all.iter()
            .take_while(|text| self.takes(self.room, text.len()))
            .cloned()
            .collect()
    }

    /// The same, each converted.
    pub(super) fn each<T, M: Message>(
        &mut self,
        all: impl Iterator<Item = T>,
        mut convert: impl FnMut(T, &mut Self) -> M,
    ) -> Vec<M> {
        let mut some = Vec::new();
        for one in all {
            let room = self.room;
            let message = convert(one, self);
            // What it has taken for its own lists is part of it.
            if !self.takes(room, message.encoded_len()) {
                break;
            }
            some.push(message);
        }
        some
    }

    /// True where an entry fits into that room, of which it takes its part.
    fn takes(&mut self, room: usize, bytes: usize) -> bool {
        /// What stands before an entry on the wire, at most.
        const PREFIX: usize = 6;
        let left = room.checked_sub(bytes + PREFIX);
        self.did |= left.is_none();
        self.room = left.unwrap_or(0);
        left.is_some()
    }

    pub(super) fn text(&mut self, text: &str) -> String {
        if text.len() <= self.limit {
            return text.to_owned();
        }
        self.did = true;
        text[..text.floor_char_boundary(self.limit)].to_owned()
    }

    pub(super) fn maybe(&mut self, text: Option<&String>) -> String {
        text.map(|text| self.text(text)).unwrap_or_default()
    }
}

pub(crate) fn table(
    table: &Table,
    common: pb::SchemaObject,
    cut: &mut Truncation,
) -> pb::SchemaObject {
    let flags = [
        (table.persistence == Persistence::Unlogged, "unlogged"),
        (table.kind == TableKind::Foreign, "foreign"),
        (table.row_security, "row security"),
        (table.force_row_security, "force row security"),
        (table.detaching, "detaching"),
    ];
    pb::SchemaObject {
        columns: cut.each(table.columns.iter(), column),
        parents: cut.list(&table.parents),
        partition_bound: cut.maybe(table.partition_bound.as_ref()),
        partition_by: table.partition_by.clone().unwrap_or_default(),
        options: cut.list(&[table.options.0.as_slice(), &table.foreign_options.0].concat()),
        flags: those(&flags),
        of_type: table.of_type.clone().unwrap_or_default(),
        replica_identity: match table.replica_identity {
            ReplicaIdentity::PrimaryKey | ReplicaIdentity::Index => "",
            ReplicaIdentity::Nothing => "nothing",
            ReplicaIdentity::Full => "full",
        }
        .into(),
        access_method: table.access_method.clone().unwrap_or_default(),
        tablespace: table.tablespace.clone().unwrap_or_default(),
        server: table.server.clone().unwrap_or_default(),
        ..common
    }
}

/// The words for what is.
fn those(words: &[(bool, &str)]) -> Vec<String> {
    words
        .iter()
        .filter(|(is, _)| *is)
        .map(|(_, word)| (*word).to_owned())
        .collect()
}

/// `SUBTYPE = float8, MULTIRANGE_TYPE_NAME = app.floats`.
pub(crate) fn range(of: &Range) -> String {
    let parts = [
        ("SUBTYPE", Some(&of.subtype)),
        ("SUBTYPE_OPCLASS", of.operator_class.as_ref()),
        ("COLLATION", of.collation.as_ref()),
        ("CANONICAL", of.canonical.as_ref()),
        ("SUBTYPE_DIFF", of.difference.as_ref()),
        ("MULTIRANGE_TYPE_NAME", of.multirange.as_ref()),
    ];
    let parts = parts
        .iter()
        .filter_map(|(name, value)| Some(format!("{name} = {}", value.as_ref()?)));
    parts.collect::<Vec<_>>().join(", ")
}

pub(crate) fn sequence(of: &Sequence) -> String {
    let cycle = if of.cycle { " CYCLE" } else { "" };
    let owned = match (&of.owned_by, of.identity) {
        (Some(column), true) => format!(", identity of {column}"),
        (Some(column), false) => format!(", owned by {column}"),
        (None, _) => String::new(),
    };
    let unlogged = if of.persistence == Persistence::Unlogged {
        "unlogged "
    } else {
        ""
    };
    format!(
        "{unlogged}{} from {} by {}, {} to {}, cache {}{cycle}{owned}",
        of.r#type, of.start, of.increment, of.min, of.max, of.cache
    )
}

pub(crate) fn domain(of: &Domain) -> String {
    let not_null = if of.not_null { " NOT NULL" } else { "" };
    let default = of
        .default
        .as_ref()
        .map(|default| format!(" DEFAULT {default}"))
        .unwrap_or_default();
    let constraints: String = of
        .constraints
        .iter()
        .map(|constraint| format!(" CONSTRAINT {constraint}"))
        .collect();
    let collation = of
        .collation
        .as_ref()
        .map(|collation| format!(" COLLATE {collation}"))
        .unwrap_or_default();
    format!("{}{collation}{not_null}{default}{constraints}", of.base)
}

pub(crate) fn column(of: &Column, cut: &mut Truncation) -> pb::SchemaColumn {
    pb::SchemaColumn {
        name: of.name.clone(),
        r#type: of.r#type.clone(),
        not_null: of.not_null,
        default: cut.maybe(of.default.as_ref()),
        identity: match of.identity {
            IdentityColumn::No => "",
            IdentityColumn::Always => "always",
            IdentityColumn::ByDefault => "by default",
        }
        .into(),
        generated: match of.generated {
            Generated::No => "",
            Generated::Stored => "stored",
            Generated::Virtual => "virtual",
        }
        .into(),
        collation: of.collation.clone().unwrap_or_default(),
        comment: cut.maybe(of.comment.as_ref()),
        access: cut.list(of.acl.0.as_deref().unwrap_or_default()),
        storage: of.storage.clone().unwrap_or_default(),
        compression: of.compression.clone().unwrap_or_default(),
        statistics_target: of.statistics,
        options: cut.list(&[of.options.0.as_slice(), &of.foreign_options.0].concat()),
        not_null_constraint: cut.maybe(of.not_null_constraint.as_ref()),
    }
}

pub(crate) fn constraint(of: &Constraint, cut: &mut Truncation) -> pb::SchemaConstraint {
    pb::SchemaConstraint {
        name: of.name.clone(),
        kind: match of.kind {
            ConstraintKind::Check => pb::SchemaConstraintKind::Check,
            ConstraintKind::ForeignKey => pb::SchemaConstraintKind::ForeignKey,
            ConstraintKind::PrimaryKey => pb::SchemaConstraintKind::PrimaryKey,
            ConstraintKind::Unique => pb::SchemaConstraintKind::Unique,
            ConstraintKind::Exclusion => pb::SchemaConstraintKind::Exclusion,
        }
        .into(),
        definition: cut.text(&of.definition),
        columns: cut.list(&of.columns),
        references: of.references.clone().unwrap_or_default(),
        referenced_columns: cut.list(&of.referenced_columns),
        table: String::new(),
        comment: cut.maybe(of.comment.as_ref()),
    }
}

pub(crate) fn index(of: &Index, cut: &mut Truncation) -> pb::SchemaIndex {
    pb::SchemaIndex {
        name: of.name.clone(),
        definition: cut.text(&of.definition),
        unique: of.unique,
        invalid: of.invalid,
        constraint: of.constraint.clone().unwrap_or_default(),
        flags: those(&[
            (of.clustered, "clustered"),
            (of.replica_identity, "replica identity"),
        ]),
        tablespace: of.tablespace.clone().unwrap_or_default(),
        comment: cut.maybe(of.comment.as_ref()),
        statistics_targets: cut.list(&of.statistics),
    }
}

pub(crate) fn rule(of: &RewriteRule, cut: &mut Truncation) -> pb::SchemaRule {
    pb::SchemaRule {
        name: of.name.clone(),
        definition: cut.text(&of.definition),
        enabled: enabled(of.enabled).into(),
        comment: cut.maybe(of.comment.as_ref()),
    }
}

pub(crate) fn statistics(of: &Statistics, cut: &mut Truncation) -> pb::SchemaStatistics {
    pb::SchemaStatistics {
        name: of.name.clone(),
        definition: cut.text(&of.definition),
        target: of.target,
        owner: of.owner.clone(),
        comment: cut.maybe(of.comment.as_ref()),
    }
}

pub(crate) fn trigger(of: &Trigger, cut: &mut Truncation) -> pb::SchemaTrigger {
    pb::SchemaTrigger {
        name: of.name.clone(),
        definition: cut.text(&of.definition),
        enabled: enabled(of.enabled).into(),
        comment: cut.maybe(of.comment.as_ref()),
    }
}

fn enabled(of: Enabled) -> &'static str {
    match of {
        Enabled::Origin => "origin",
        Enabled::Disabled => "disabled",
        Enabled::Replica => "replica",
        Enabled::Always => "always",
    }
}

pub(crate) fn policy(of: &Policy, cut: &mut Truncation) -> pb::SchemaPolicy {
    pb::SchemaPolicy {
        name: of.name.clone(),
        command: format!("{:?}", of.command).to_lowercase(),
        restrictive: of.restrictive,
        roles: cut.list(&of.roles),
        using: cut.maybe(of.using.as_ref()),
        check: cut.maybe(of.check.as_ref()),
        comment: cut.maybe(of.comment.as_ref()),
    }
}
