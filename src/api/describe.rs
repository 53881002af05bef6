//! A snapshot as DescribeSchema tells it: object by object, each with what is its own.

mod parts;
mod publications;

use std::collections::HashMap;

use publications::PublicationIndex;

use parts::{
    Truncation, column, constraint, domain, index, policy, range, rule, sequence, statistics,
    table, trigger,
};

use super::request::{ObjectFilter, PageCursor};
use crate::pb::{self, SchemaObjectKind as Kind};
use crate::schema::{
    Acl, BaseType, Composite, Constraint, ConstraintKind, Domain, Enum, Extension, Index, Policy,
    Range, Relation, RewriteRule, Routine, Sequence, Size, Snapshot, Statistics, Table, Trigger,
    View, ViewKind,
};

/// How long texts and lists may be: whole, texts up to a megabyte; or so short that an object fits
/// into a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TextLength {
    /// Texts of 1 MiB.
    Whole,
    /// Texts of 256 bytes, and lists of 2 MiB, all in all.
    Cut,
}

impl TextLength {
    fn cut(self) -> Truncation {
        let (limit, room) = match self {
            Self::Whole => (1 << 20, usize::MAX),
            Self::Cut => (256, 2 << 20),
        };
        Truncation {
            limit,
            room,
            did: false,
        }
    }
}

/// An object that is described.
#[derive(Clone, Copy, Debug)]
pub(crate) enum DescribedObject<'a> {
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
    /// A base type.
    Base(&'a BaseType),
    /// A routine.
    Routine(&'a Routine),
}

impl<'a> DescribedObject<'a> {
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
            Self::Base(_) => Kind::BaseType,
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
            Self::Base(of) => (&of.schema, &of.name, ""),
            Self::Routine(of) => (&of.schema, &of.name, &of.arguments),
        }
    }

    /// What has a size.
    pub(crate) fn relation(&self) -> Option<&'a Relation> {
        match self {
            Self::Table(table) => Some(&table.relation),
            Self::View(view) if view.kind == ViewKind::Materialized => Some(&view.relation),
            _ => None,
        }
    }
}

/// What a filter wants of a snapshot, in the order of the list.
pub(crate) struct SchemaListing<'a> {
    objects: Vec<(PageCursor, DescribedObject<'a>)>,
    constraints: HashMap<&'a Relation, Vec<&'a Constraint>>,
    /// Foreign keys by the table that they refer to.
    referencing: HashMap<Relation, Vec<&'a Constraint>>,
    indexes: HashMap<&'a Relation, Vec<&'a Index>>,
    triggers: HashMap<&'a Relation, Vec<&'a Trigger>>,
    policies: HashMap<&'a Relation, Vec<&'a Policy>>,
    rules: HashMap<&'a Relation, Vec<&'a RewriteRule>>,
    statistics: HashMap<&'a Relation, Vec<&'a Statistics>>,
    /// Partitions and inheriting tables by their parents.
    children: HashMap<Relation, Vec<&'a Relation>>,
    publications: PublicationIndex<'a>,
}

impl<'a> SchemaListing<'a> {
    /// Sorts what the filter wants.
    pub(crate) fn new(snapshot: &'a Snapshot, filter: &ObjectFilter) -> Self {
        let all = (snapshot.extensions.iter().map(DescribedObject::Extension))
            .chain(snapshot.tables.iter().map(DescribedObject::Table))
            .chain(snapshot.views.iter().map(DescribedObject::View))
            .chain(snapshot.sequences.iter().map(DescribedObject::Sequence))
            .chain(snapshot.enums.iter().map(DescribedObject::Enum))
            .chain(snapshot.domains.iter().map(DescribedObject::Domain))
            .chain(snapshot.composites.iter().map(DescribedObject::Composite))
            .chain(snapshot.ranges.iter().map(DescribedObject::Range))
            .chain(snapshot.base_types.iter().map(DescribedObject::Base))
            .chain(snapshot.routines.iter().map(DescribedObject::Routine));
        let wanted = all.filter_map(|object| {
            let (kind, (schema, name, arguments)) = (object.kind(), object.names());
            filter.wants(kind, schema, name).then(|| {
                (
                    (kind.into(), schema.into(), name.into(), arguments.into()),
                    object,
                )
            })
        });
        let mut objects: Vec<(PageCursor, DescribedObject<'a>)> = wanted.collect();
        objects.sort_by(|(a, _), (b, _)| a.cmp(b));
        let foreign = snapshot
            .constraints
            .iter()
            .filter(|constraint| constraint.kind == ConstraintKind::ForeignKey);
        Self {
            objects,
            constraints: by(&snapshot.constraints, |constraint| &constraint.table),
            referencing: by(foreign, |constraint| {
                constraint
                    .references
                    .as_deref()
                    .and_then(Relation::parse)
                    .unwrap_or_default()
            }),
            indexes: by(&snapshot.indexes, |index| &index.table),
            triggers: by(&snapshot.triggers, |trigger| &trigger.table),
            policies: by(&snapshot.policies, |policy| &policy.table),
            rules: by(&snapshot.rules, |rule| &rule.table),
            statistics: by(&snapshot.statistics, |statistics| &statistics.table),
            children: children(&snapshot.tables),
            publications: PublicationIndex::new(snapshot),
        }
    }

    /// What comes after a place.
    pub(crate) fn after(
        &self,
        place: Option<&PageCursor>,
    ) -> std::slice::Iter<'_, (PageCursor, DescribedObject<'a>)> {
        let begin = place.map_or(0, |place| {
            self.objects.partition_point(|(at, _)| at <= place)
        });
        self.objects[begin..].iter()
    }

    /// One object with all that is its own.
    pub(crate) fn message(
        &self,
        object: &DescribedObject<'a>,
        sizes: &HashMap<Relation, Size>,
        texts: TextLength,
    ) -> pb::SchemaObject {
        let mut cut = texts.cut();
        let (schema, name, arguments) = object.names();
        let mut message = pb::SchemaObject {
            kind: object.kind().into(),
            schema: schema.into(),
            name: name.into(),
            arguments: arguments.into(),
            ..own(object, &mut cut)
        };
        if let DescribedObject::Table(Table { relation, .. })
        | DescribedObject::View(View { relation, .. }) = object
        {
            self.add_parts(relation, &mut message, &mut cut);
        }
        if let DescribedObject::Table(table) = object {
            let children = self.children.get(&table.relation).into_iter().flatten();
            message.children =
                cut.list(&children.map(|child| child.to_string()).collect::<Vec<_>>());
            message.publications = cut.list(&self.publications.of(table));
        }
        if let Some(relation) = object.relation() {
            let size = sizes.get(relation).copied().unwrap_or_default();
            (message.row_estimate, message.total_bytes) = (size.rows.unwrap_or(-1), size.bytes);
        }
        message.truncated = cut.did;
        message
    }

    fn add_parts(&self, relation: &Relation, message: &mut pb::SchemaObject, cut: &mut Truncation) {
        fn all<'m, T>(
            map: &'m HashMap<&Relation, Vec<&'m T>>,
            of: &Relation,
        ) -> impl Iterator<Item = &'m T> {
            map.get(of).into_iter().flatten().copied()
        }
        message.constraints = cut.each(all(&self.constraints, relation), constraint);
        message.indexes = cut.each(all(&self.indexes, relation), index);
        message.triggers = cut.each(all(&self.triggers, relation), trigger);
        message.policies = cut.each(all(&self.policies, relation), policy);
        message.rules = cut.each(all(&self.rules, relation), rule);
        message.statistics = cut.each(all(&self.statistics, relation), statistics);
        let referencing = self
            .referencing
            .get(relation)
            .into_iter()
            .flatten()
            .copied();
        message.referenced_by = cut.each(referencing, |one, cut| pb::SchemaConstraint {
            table: one.table.to_string(),
            ..constraint(one, cut)
        });
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

fn children(tables: &[Table]) -> HashMap<Relation, Vec<&Relation>> {
    let mut map: HashMap<Relation, Vec<&Relation>> = HashMap::new();
    for table in tables {
        for parent in table
            .parents
            .iter()
            .filter_map(|parent| Relation::parse(parent))
        {
            map.entry(parent).or_default().push(&table.relation);
        }
    }
    map
}

/// What an object says of itself.
fn own(object: &DescribedObject<'_>, cut: &mut Truncation) -> pb::SchemaObject {
    let with = |owner: &str, acl: &Acl, comment: String| pb::SchemaObject {
        owner: owner.into(),
        access: acl.0.clone().unwrap_or_default(),
        comment,
        ..pb::SchemaObject::default()
    };
    match object {
        DescribedObject::Extension(of) => pb::SchemaObject {
            definition: of.version.clone(),
            comment: cut.maybe(of.comment.as_ref()),
            ..pb::SchemaObject::default()
        },
        DescribedObject::Table(of) => table(
            of,
            with(&of.owner, &of.acl, cut.maybe(of.comment.as_ref())),
            cut,
        ),
        DescribedObject::View(of) => pb::SchemaObject {
            columns: cut.each(of.columns.iter(), column),
            definition: cut.text(&of.definition),
            options: cut.list(&of.options.0),
            flags: of
                .unpopulated
                .then(|| "not populated".into())
                .into_iter()
                .collect(),
            access_method: of.access_method.clone().unwrap_or_default(),
            tablespace: of.tablespace.clone().unwrap_or_default(),
            ..with(&of.owner, &of.acl, cut.maybe(of.comment.as_ref()))
        },
        DescribedObject::Sequence(of) => pb::SchemaObject {
            definition: sequence(of),
            ..with(&of.owner, &of.acl, cut.maybe(of.comment.as_ref()))
        },
        DescribedObject::Enum(of) => pb::SchemaObject {
            labels: cut.list(&of.labels),
            ..with(&of.owner, &of.acl, cut.maybe(of.comment.as_ref()))
        },
        DescribedObject::Domain(of) => pb::SchemaObject {
            definition: cut.text(&domain(of)),
            ..with(&of.owner, &of.acl, cut.maybe(of.comment.as_ref()))
        },
        DescribedObject::Composite(of) => pb::SchemaObject {
            columns: cut.each(of.columns.iter(), column),
            ..with(&of.owner, &of.acl, cut.maybe(of.comment.as_ref()))
        },
        DescribedObject::Range(of) => pb::SchemaObject {
            definition: range(of),
            ..with(&of.owner, &of.acl, cut.maybe(of.comment.as_ref()))
        },
        DescribedObject::Base(of) => pb::SchemaObject {
            definition: of
                .definition
                .as_ref()
                .map_or_else(|| "only announced".into(), |text| cut.text(text)),
            ..with(&of.owner, &of.acl, cut.maybe(of.comment.as_ref()))
        },
        DescribedObject::Routine(of) => pb::SchemaObject {
            definition: cut.text(&of.definition),
            returns: cut.maybe(of.returns.as_ref()),
            ..with(&of.owner, &of.acl, cut.maybe(of.comment.as_ref()))
        },
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::{api::request, schema::Column};

    #[test]
    fn whatever_an_object_has_fits_into_a_message() {
        let name = |n: usize| format!("{n:063}");
        let relation = |n: usize| Relation {
            schema: name(0),
            name: name(n),
        };
        let rights: Vec<String> = (0..100)
            .map(|n| format!("{}=arwdDxt/{}", name(n), name(n)))
            .collect();
        let columns = (0..1600).map(|n| Column {
            name: name(n),
            default: Some("x".repeat(1000)),
            acl: Acl(Some(rights.clone())),
            ..Column::default()
        });
        let parent = Table {
            relation: relation(0),
            columns: columns.collect(),
            acl: Acl(Some(rights.clone())),
            ..Table::default()
        };
        let partition = |n| Table {
            relation: relation(n),
            parents: vec![relation(0).to_string()],
            ..Table::default()
        };
        let tables = std::iter::once(parent)
            .chain((1..40_000).map(partition))
            .collect();
        let snapshot = Snapshot {
            tables,
            ..Snapshot::default()
        };
        let filter = request::schema(pb::DescribeSchemaRequest::default()).unwrap();
        let listing = SchemaListing::new(&snapshot, &filter);
        let (_, object) = listing.after(None).next().unwrap();
        let whole = listing.message(object, &HashMap::new(), TextLength::Whole);
        let cut = listing.message(object, &HashMap::new(), TextLength::Cut);
        assert_eq!((whole.truncated, whole.children.len()), (false, 39_999));
        assert!(
            cut.truncated && !cut.columns.is_empty() && cut.encoded_len() < 3 << 20,
            "{}",
            cut.encoded_len()
        );
    }
}
