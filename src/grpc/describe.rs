//! A snapshot as DescribeSchema tells it: object by object, each with what is its own.

use std::collections::HashMap;

use super::{
    pb::{self, SchemaObjectKind as Kind},
    request::{Filter, Place},
};
use crate::schema::{
    Acl, Column, Composite, Constraint, ConstraintKind, Domain, Enabled, Enum, Extension, Generated, Identity, Index,
    Persistence, Policy, Range, Relation, Routine, Sequence, Size, Snapshot, Table, TableKind, Trigger, View, ViewKind,
};

/// How long a text may be: the whole, up to a megabyte, or so short that thousands of them fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Texts {
    /// 1 MiB.
    Whole,
    /// 256 bytes.
    Cut,
}

impl Texts {
    fn limit(self) -> usize {
        match self {
            Self::Whole => 1 << 20,
            Self::Cut => 256,
        }
    }
}

/// An object that is described.
#[derive(Clone, Copy, Debug)]
pub enum Object<'a> {
    /// An extension.
    Extension(&'a Extension),
    /// A table.
    Table(&'a Table),
    /// A view.
    View(&'a View),
    /// A sequence.
    Sequence(&'a Sequence),
    /// An enum type.
    Enum(&'a Enum),
    /// A domain.
    Domain(&'a Domain),
    /// A composite type.
    Composite(&'a Composite),
    /// A range type.
    Range(&'a Range),
    /// A routine.
    Routine(&'a Routine),
}

impl<'a> Object<'a> {
    fn kind(&self) -> Kind {
        match self {
            Self::Extension(_) => Kind::Extension,
            Self::Table(_) => Kind::Table,
            Self::View(view) if view.kind == ViewKind::Materialized => Kind::MaterializedView,
            Self::View(_) => Kind::View,
            Self::Sequence(_) => Kind::Sequence,
            Self::Enum(_) => Kind::EnumType,
            Self::Domain(_) => Kind::Domain,
            Self::Composite(_) => Kind::CompositeType,
            Self::Range(_) => Kind::RangeType,
            Self::Routine(_) => Kind::Routine,
        }
    }

    /// Schema, name, arguments.
    fn names(&self) -> (&'a str, &'a str, &'a str) {
        let of = |relation: &'a Relation| (relation.schema.as_str(), relation.name.as_str(), "");
        match self {
            Self::Extension(of) => (&of.schema, &of.name, ""),
            Self::Table(table) => of(&table.relation),
            Self::View(view) => of(&view.relation),
            Self::Sequence(sequence) => of(&sequence.relation),
            Self::Composite(composite) => of(&composite.relation),
            Self::Enum(of) => (&of.schema, &of.name, ""),
            Self::Domain(of) => (&of.schema, &of.name, ""),
            Self::Range(of) => (&of.schema, &of.name, ""),
            Self::Routine(of) => (&of.schema, &of.name, &of.arguments),
        }
    }

    /// What has a size.
    pub fn relation(&self) -> Option<&'a Relation> {
        match self {
            Self::Table(table) => Some(&table.relation),
            Self::View(view) if view.kind == ViewKind::Materialized => Some(&view.relation),
            _ => None,
        }
    }
}

/// What a filter wants of a snapshot, in the order of the list.
pub struct Listing<'a> {
    objects: Vec<(Place, Object<'a>)>,
    constraints: HashMap<&'a Relation, Vec<&'a Constraint>>,
    /// Foreign keys by the table that they refer to.
    referencing: HashMap<Relation, Vec<&'a Constraint>>,
    indexes: HashMap<&'a Relation, Vec<&'a Index>>,
    triggers: HashMap<&'a Relation, Vec<&'a Trigger>>,
    policies: HashMap<&'a Relation, Vec<&'a Policy>>,
}

impl<'a> Listing<'a> {
    /// Sorts what the filter wants.
    pub fn new(snapshot: &'a Snapshot, filter: &Filter) -> Self {
        let all = (snapshot.extensions.iter().map(Object::Extension))
            .chain(snapshot.tables.iter().map(Object::Table))
            .chain(snapshot.views.iter().map(Object::View))
            .chain(snapshot.sequences.iter().map(Object::Sequence))
            .chain(snapshot.enums.iter().map(Object::Enum))
            .chain(snapshot.domains.iter().map(Object::Domain))
            .chain(snapshot.composites.iter().map(Object::Composite))
            .chain(snapshot.ranges.iter().map(Object::Range))
            .chain(snapshot.routines.iter().map(Object::Routine));
        let wanted = all.filter_map(|object| {
            let (kind, (schema, name, arguments)) = (object.kind(), object.names());
            filter
                .wants(kind, schema, name)
                .then(|| ((kind.into(), schema.into(), name.into(), arguments.into()), object))
        });
        let mut objects: Vec<(Place, Object<'a>)> = wanted.collect();
        objects.sort_by(|(a, _), (b, _)| a.cmp(b));
        let foreign = snapshot.constraints.iter().filter(|constraint| constraint.kind == ConstraintKind::ForeignKey);
        Self {
            objects,
            constraints: by(&snapshot.constraints, |constraint| &constraint.table),
            referencing: by(foreign, |constraint| {
                constraint.references.as_deref().and_then(Relation::parse).unwrap_or_default()
            }),
            indexes: by(&snapshot.indexes, |index| &index.table),
            triggers: by(&snapshot.triggers, |trigger| &trigger.table),
            policies: by(&snapshot.policies, |policy| &policy.table),
        }
    }

    /// What comes after a place.
    pub fn after(&self, place: Option<&Place>) -> std::slice::Iter<'_, (Place, Object<'a>)> {
        let begin = place.map_or(0, |place| self.objects.partition_point(|(at, _)| at <= place));
        self.objects[begin..].iter()
    }

    /// One object with all that is its own.
    pub fn message(&self, object: &Object<'a>, sizes: &HashMap<Relation, Size>, texts: Texts) -> pb::SchemaObject {
        let mut cut = Cut { limit: texts.limit(), did: false };
        let (schema, name, arguments) = object.names();
        let mut message = pb::SchemaObject {
            kind: object.kind().into(),
            schema: schema.into(),
            name: name.into(),
            arguments: arguments.into(),
            ..own(object, &mut cut)
        };
        if let Object::Table(Table { relation, .. }) | Object::View(View { relation, .. }) = object {
            self.add_parts(relation, &mut message, &mut cut);
        }
        if let Some(relation) = object.relation() {
            let size = sizes.get(relation).copied().unwrap_or_default();
            (message.row_estimate, message.total_bytes) = (size.rows.unwrap_or(-1), size.bytes);
        }
        message.truncated = cut.did;
        message
    }

    fn add_parts(&self, relation: &Relation, message: &mut pb::SchemaObject, cut: &mut Cut) {
        fn all<'m, T>(map: &'m HashMap<&Relation, Vec<&'m T>>, of: &Relation) -> impl Iterator<Item = &'m T> {
            map.get(of).into_iter().flatten().copied()
        }
        message.constraints = all(&self.constraints, relation).map(|one| constraint(one, cut)).collect();
        message.indexes = all(&self.indexes, relation).map(|one| index(one, cut)).collect();
        message.triggers = all(&self.triggers, relation).map(|one| trigger(one, cut)).collect();
        message.policies = all(&self.policies, relation).map(|one| policy(one, cut)).collect();
        let referencing = self.referencing.get(relation).into_iter().flatten();
        message.referenced_by = referencing
            .map(|one| pb::SchemaConstraint { table: one.table.to_string(), ..constraint(one, cut) })
            .collect();
    }
}

fn by<'a, K: std::hash::Hash + Eq, T>(
    items: impl IntoIterator<Item = &'a T>,
    key: impl Fn(&'a T) -> K,
) -> HashMap<K, Vec<&'a T>> {
    let mut map: HashMap<K, Vec<&'a T>> = HashMap::new();
    for item in items {
        map.entry(key(item)).or_default().push(item);
    }
    map
}

/// Cuts texts, and remembers that it did.
struct Cut {
    limit: usize,
    did: bool,
}

impl Cut {
    fn text(&mut self, text: &str) -> String {
        if text.len() <= self.limit {
            return text.to_owned();
        }
        self.did = true;
        text[..text.floor_char_boundary(self.limit)].to_owned()
    }

    fn maybe(&mut self, text: Option<&String>) -> String {
        text.map(|text| self.text(text)).unwrap_or_default()
    }
}

/// What an object says of itself.
fn own(object: &Object<'_>, cut: &mut Cut) -> pb::SchemaObject {
    let with = |owner: &str, acl: &Acl, comment: String| pb::SchemaObject {
        owner: owner.into(),
        access: acl.0.clone().unwrap_or_default(),
        comment,
        ..pb::SchemaObject::default()
    };
    match object {
        Object::Extension(of) => pb::SchemaObject {
            definition: of.version.clone(),
            comment: cut.maybe(of.comment.as_ref()),
            ..pb::SchemaObject::default()
        },
        Object::Table(of) => table(of, with(&of.owner, &of.acl, cut.maybe(of.comment.as_ref())), cut),
        Object::View(of) => pb::SchemaObject {
            columns: of.columns.iter().map(|one| column(one, cut)).collect(),
            definition: cut.text(&of.definition),
            options: of.options.0.clone(),
            flags: of.unpopulated.then(|| "not populated".into()).into_iter().collect(),
            ..with(&of.owner, &of.acl, cut.maybe(of.comment.as_ref()))
        },
        Object::Sequence(of) => {
            pb::SchemaObject { definition: sequence(of), ..with(&of.owner, &of.acl, cut.maybe(of.comment.as_ref())) }
        }
        Object::Enum(of) => {
            pb::SchemaObject { labels: of.labels.clone(), ..with(&of.owner, &of.acl, cut.maybe(of.comment.as_ref())) }
        }
        Object::Domain(of) => pb::SchemaObject {
            definition: cut.text(&domain(of)),
            ..with(&of.owner, &of.acl, cut.maybe(of.comment.as_ref()))
        },
        Object::Composite(of) => pb::SchemaObject {
            columns: of.columns.iter().map(|one| column(one, cut)).collect(),
            ..with(&of.owner, &of.acl, cut.maybe(of.comment.as_ref()))
        },
        Object::Range(of) => pb::SchemaObject {
            definition: of.subtype.clone(),
            ..with(&of.owner, &of.acl, cut.maybe(of.comment.as_ref()))
        },
        Object::Routine(of) => pb::SchemaObject {
            definition: cut.text(&of.definition),
            returns: cut.maybe(of.returns.as_ref()),
            ..with(&of.owner, &of.acl, cut.maybe(of.comment.as_ref()))
        },
    }
}

fn table(table: &Table, common: pb::SchemaObject, cut: &mut Cut) -> pb::SchemaObject {
    let flags = [
        (table.persistence == Persistence::Unlogged, "unlogged"),
        (table.kind == TableKind::Foreign, "foreign"),
        (table.row_security, "row security"),
        (table.force_row_security, "force row security"),
    ];
    pb::SchemaObject {
        columns: table.columns.iter().map(|one| column(one, cut)).collect(),
        parents: table.parents.clone(),
        partition_bound: cut.maybe(table.partition_bound.as_ref()),
        partition_by: table.partition_by.clone().unwrap_or_default(),
        options: [table.options.0.as_slice(), &table.foreign_options.0].concat(),
        flags: flags.iter().filter(|(is, _)| *is).map(|(_, word)| (*word).to_owned()).collect(),
        ..common
    }
}

fn sequence(of: &Sequence) -> String {
    let cycle = if of.cycle { " CYCLE" } else { "" };
    let owned = match (&of.owned_by, of.identity) {
        (Some(column), true) => format!(", identity of {column}"),
        (Some(column), false) => format!(", owned by {column}"),
        (None, _) => String::new(),
    };
    format!(
        "{} from {} by {}, {} to {}, cache {}{cycle}{owned}",
        of.r#type, of.start, of.increment, of.min, of.max, of.cache
    )
}

fn domain(of: &Domain) -> String {
    let not_null = if of.not_null { " NOT NULL" } else { "" };
    let default = of.default.as_ref().map(|default| format!(" DEFAULT {default}")).unwrap_or_default();
    let constraints: String = of.constraints.iter().map(|constraint| format!(" CONSTRAINT {constraint}")).collect();
    format!("{}{not_null}{default}{constraints}", of.base)
}

fn column(of: &Column, cut: &mut Cut) -> pb::SchemaColumn {
    pb::SchemaColumn {
        name: of.name.clone(),
        r#type: of.r#type.clone(),
        not_null: of.not_null,
        default: cut.maybe(of.default.as_ref()),
        identity: match of.identity {
            Identity::No => "",
            Identity::Always => "always",
            Identity::ByDefault => "by default",
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
    }
}

fn constraint(of: &Constraint, cut: &mut Cut) -> pb::SchemaConstraint {
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
        columns: of.columns.clone(),
        references: of.references.clone().unwrap_or_default(),
        referenced_columns: of.referenced_columns.clone(),
        table: String::new(),
    }
}

fn index(of: &Index, cut: &mut Cut) -> pb::SchemaIndex {
    pb::SchemaIndex {
        name: of.name.clone(),
        definition: cut.text(&of.definition),
        unique: of.unique,
        invalid: of.invalid,
        constraint: of.constraint.clone().unwrap_or_default(),
    }
}

fn trigger(of: &Trigger, cut: &mut Cut) -> pb::SchemaTrigger {
    pb::SchemaTrigger {
        name: of.name.clone(),
        definition: cut.text(&of.definition),
        enabled: match of.enabled {
            Enabled::Origin => "origin",
            Enabled::Disabled => "disabled",
            Enabled::Replica => "replica",
            Enabled::Always => "always",
        }
        .into(),
    }
}

fn policy(of: &Policy, cut: &mut Cut) -> pb::SchemaPolicy {
    pb::SchemaPolicy {
        name: of.name.clone(),
        command: format!("{:?}", of.command).to_lowercase(),
        restrictive: of.restrictive,
        roles: of.roles.clone(),
        using: cut.maybe(of.using.as_ref()),
        check: cut.maybe(of.check.as_ref()),
    }
}
