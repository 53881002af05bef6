//! The schema of a database as values: read from pg_catalog in one state ([`read()`]), in a form
//! that is equal exactly when the schema is ([`Snapshot::fingerprint`]), compared ([`diff()`]).
//! Nothing in it depends on oids, on the search_path, or on the order in which things were made,
//! except where that order is part of them: columns, labels, arguments. docs/schema.md says what is
//! compared.

pub(crate) mod collation;
mod column;
mod constraint;
mod diff;
mod fingerprint;
mod foreign;
mod name;
pub(crate) mod namespace;
mod not_compared;
mod object;
mod operator;
pub(crate) mod query;
mod read;
mod render;
mod routine;
pub(crate) mod row;
mod sequence;
mod snapshot;
mod sql;
mod table;
pub(crate) mod table_size;
mod trigger;
mod types;

pub(crate) use collation::{Collation, Conversion, TextSearch};
pub(crate) use column::{Column, Generated, IdentityColumn};
pub(crate) use constraint::{Constraint, ConstraintKind, Index, Statistics};
pub use diff::{Difference, diff};
pub(crate) use fingerprint::Fingerprint;
pub(crate) use foreign::{ForeignDataWrapper, ForeignServer, Publication, Rights};
pub(crate) use name::{Relation, identifier};
pub(crate) use namespace::{DefaultPrivileges, Extension, Namespace};
pub use object::Kind;
pub(crate) use operator::{
    AccessMethod, Cast, Language, Operator, OperatorClass, OperatorFamily, Transform,
};
pub(crate) use query::PreparedQueries;
pub use read::{Except, read};
pub(crate) use read::{SETTINGS, read_within};
pub use render::{Styles, for_people, in_one_line};
pub(crate) use routine::Routine;
pub(crate) use row::Acl;
#[cfg(test)]
pub(crate) use row::Sorted;
pub(crate) use sequence::Sequence;
pub use snapshot::Snapshot;
pub(crate) use table::{Persistence, ReplicaIdentity, TableKind, ViewKind};
pub use table::{Table, View};
pub(crate) use table_size::{Size, sizes};
pub(crate) use trigger::{Enabled, EventTrigger, Policy, RewriteRule, Trigger};
pub(crate) use types::{BaseType, Composite, Domain, Enum, Range};
