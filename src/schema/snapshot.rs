//! All that was read, a list a kind. One macro names the lists, so that reading, sorting, comparing
//! and the fingerprint cannot forget one.

use serde::{Deserialize, Serialize};
use tokio_postgres::{Row, types::Type};

use super::{
    AccessMethod, BaseType, Cast, Collation, Composite, Constraint, Conversion, DefaultPrivileges,
    Difference, Domain, Enum, EventTrigger, Extension, ForeignDataWrapper, ForeignServer, Index,
    Language, Namespace, Operator, OperatorClass, OperatorFamily, Policy, Publication, Range,
    RewriteRule, Rights, Routine, Sequence, Statistics, Table, TextSearch, Transform, Trigger,
    View,
    diff::{Wholes, compare},
    object::SchemaObject,
};
use crate::postgres::DatabaseError;
use crate::schema::{
    query::CatalogQuery,
    row::{Cells, Context, Unread},
};

/// Bytes of an object, as a rule of thumb: names, a definition, columns.
pub(super) const OBJECT: usize = 512;

macro_rules! lists {
    ($($(#[$meta:meta])* $list:ident: $object:ident,)*) => {
        /// The schema of a database at one moment. Every list is sorted by schema, name and what
        /// tells apart those of one name.
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct Snapshot {
            /// The server's major version, for example 15.
            pub server_major: u32,
            $($(#[$meta])* #[serde(skip_serializing_if = "Vec::is_empty")] pub $list: Vec<$object>,)*
            /// What there is and is not compared, with how many: "2 subscriptions".
            #[serde(skip_serializing_if = "Vec::is_empty")]
            pub not_compared: Vec<String>,
        }

        /// The answers to the queries of all lists.
        pub(super) struct Answers { $($list: Vec<Row>,)* }

        impl Answers {
            /// Sends all queries at once; the server answers in turn.
            pub(super) async fn ask(on: CatalogQuery<'_>, major: u32, left_out: &[String]) -> Result<Self, DatabaseError> {
                let ask = async |query: std::borrow::Cow<'static, str>| {
                    on.ask(&query, &[(&left_out, Type::TEXT_ARRAY)]).await
                };
                let ($($list,)*) = tokio::try_join!($(ask(<$object as SchemaObject>::query(major)),)*)?;
                Ok(Self { $($list,)* })
            }

            /// How many objects there are.
            pub(super) fn len(&self) -> usize {
                0 $(+ self.$list.len())*
            }

            /// Reads and sorts them.
            pub(super) fn read(self, context: &mut Context) -> Result<Snapshot, DatabaseError> {
                Ok(Snapshot { $($list: sorted(self.$list, context)?,)* ..Snapshot::default() })
            }
        }

        impl Snapshot {
            /// About how many bytes it takes.
            pub(crate) fn bytes(&self) -> usize {
                OBJECT * (0 $(+ self.$list.len())*)
            }

            /// All differences in the lists, a list after the other.
            pub(super) fn compare(&self, after: &Self, wholes: &Wholes<'_>) -> Vec<Difference> {
                let mut differences = Vec::new();
                $(compare(&self.$list, &after.$list, wholes, &mut differences);)*
                differences
            }

            /// Hands every object's serialised form to `each`, a list after the other, with the
            /// list's name.
            pub(super) fn walk(&self, mut each: impl FnMut(&'static str, Result<serde_json::Value, serde_json::Error>)) {
                $(self.$list.iter().for_each(|object| each(stringify!($list), serde_json::to_value(object)));)*
            }
        }
    };
}

lists! {
    /// Schemas.
    schemas: Namespace,
    /// Extensions.
    extensions: Extension,
    /// Enum types.
    enums: Enum,
    /// Domains.
    domains: Domain,
    /// Composite types.
    composites: Composite,
    /// Range types.
    ranges: Range,
    /// Base types, and those that are only announced.
    base_types: BaseType,
    /// Functions, procedures, aggregates.
    routines: Routine,
    /// Sequences.
    sequences: Sequence,
    /// Tables.
    tables: Table,
    /// Views, materialised or not.
    views: View,
    /// Constraints of tables.
    constraints: Constraint,
    /// Indexes.
    indexes: Index,
    /// Extended statistics.
    statistics: Statistics,
    /// Triggers.
    triggers: Trigger,
    /// Rules.
    rules: RewriteRule,
    /// Row security policies.
    policies: Policy,
    /// Event triggers.
    event_triggers: EventTrigger,
    /// Casts.
    casts: Cast,
    /// Operators.
    operators: Operator,
    /// Operator families.
    operator_families: OperatorFamily,
    /// Operator classes.
    operator_classes: OperatorClass,
    /// Collations.
    collations: Collation,
    /// Conversions.
    conversions: Conversion,
    /// Procedural languages.
    languages: Language,
    /// Transforms.
    transforms: Transform,
    /// Access methods.
    access_methods: AccessMethod,
    /// Configurations, dictionaries, parsers and templates of text search.
    text_search: TextSearch,
    /// Foreign data wrappers.
    foreign_data_wrappers: ForeignDataWrapper,
    /// Foreign servers.
    foreign_servers: ForeignServer,
    /// Publications.
    publications: Publication,
    /// Default privileges.
    default_privileges: DefaultPrivileges,
    /// Rights on what came with PostgreSQL or with an extension.
    rights: Rights,
}

fn sorted<T: SchemaObject>(rows: Vec<Row>, context: &mut Context) -> Result<Vec<T>, DatabaseError> {
    let mut objects = Vec::with_capacity(rows.len());
    for row in rows {
        match T::read(&mut Cells::new(&row, context)) {
            Ok(object) => objects.push(object),
            Err(Unread::LeftOut) => {}
            Err(Unread::Failed(error)) => return Err(error),
        }
    }
    objects.sort_unstable_by(|a: &T, b: &T| a.key().cmp(&b.key()));
    Ok(objects)
}
