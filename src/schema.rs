//! The schema of a database as values: read from pg_catalog in one state ([`read`]), in a form that
//! is equal exactly when the schema is ([`Snapshot::fingerprint`]), compared ([`diff`]). Nothing in
//! it depends on oids, on the search_path, or on the order in which things were made, except where
//! that order is part of them: columns, labels, arguments. docs/schema.md says what is compared.

mod ask;
mod cells;
mod column;
mod constraint;
mod diff;
mod fingerprint;
mod foreign;
mod name;
mod not_compared;
mod object;
mod operator;
mod place;
mod read;
mod render;
mod routine;
mod sequence;
mod size;
mod snapshot;
mod sql;
mod table;
mod text;
mod trigger;
mod types;

pub use ask::Prepared;
pub use cells::{Acl, Sorted};
pub use column::{Column, Generated, Identity};
pub use constraint::{Constraint, ConstraintKind, Index, Statistics};
pub use diff::{Change, Difference, diff};
pub use fingerprint::Fingerprint;
pub use foreign::{ForeignDataWrapper, ForeignServer, Publication, Rights};
pub use name::{Relation, identifier};
pub use object::{Key, Kind};
pub use operator::{
    AccessMethod, Cast, Language, Operator, OperatorClass, OperatorFamily, Transform,
};
pub use place::{DefaultPrivileges, Extension, Schema};
pub use read::{Except, SETTINGS, read, read_within};
pub use render::{Styles, for_people, in_one_line};
pub use routine::{Routine, RoutineKind};
pub use sequence::Sequence;
pub use size::{Size, sizes};
pub use snapshot::Snapshot;
pub use table::{Persistence, ReplicaIdentity, Table, TableKind, View, ViewKind};
pub use text::{Collation, Conversion, TextSearch};
pub use trigger::{Command, Enabled, EventTrigger, Policy, Rule, Trigger};
pub use types::{BaseType, Composite, Domain, Enum, Range};
