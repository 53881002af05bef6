//! What every kind of object has in common: a kind, a name that is the same in every database, and
//! whose part it is.

use std::{borrow::Cow, fmt};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::name::identifier;
use crate::schema::row::RowReader;

macro_rules! kinds {
    ($($(#[$meta:meta])* $kind:ident = $words:literal,)*) => {
        /// The kinds of objects that are compared.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Kind { $($(#[$meta])* $kind,)* }

        impl Kind {
            /// All of them, in the order in which differences are told.
            pub const ALL: &[Self] = &[$(Self::$kind),*];

            /// As people say it, for example "materialized view".
            pub fn words(self) -> &'static str {
                match self { $(Self::$kind => $words,)* }
            }
        }
    };
}

kinds! {
    /// CREATE SCHEMA.
    Schema = "schema",
    /// CREATE EXTENSION, without its members.
    Extension = "extension",
    /// CREATE TYPE … AS ENUM.
    Enum = "enum type",
    /// CREATE DOMAIN.
    Domain = "domain",
    /// CREATE TYPE … AS (…).
    Composite = "composite type",
    /// CREATE TYPE … AS RANGE.
    Range = "range type",
    /// CREATE TYPE with functions of its own, and types that are only announced.
    BaseType = "base type",
    /// CREATE FUNCTION, PROCEDURE and AGGREGATE.
    Routine = "routine",
    /// CREATE SEQUENCE, and those behind serial and identity columns.
    Sequence = "sequence",
    /// Tables of every sort: plain, partitioned, foreign.
    Table = "table",
    /// A column of a table, of a view or of a composite type.
    Column = "column",
    /// CREATE VIEW and MATERIALIZED VIEW.
    View = "view",
    /// Checks, foreign keys, primary keys, unique and exclusion constraints of tables.
    Constraint = "constraint",
    /// CREATE INDEX, and those behind constraints.
    Index = "index",
    /// CREATE STATISTICS.
    Statistics = "statistics",
    /// CREATE TRIGGER.
    Trigger = "trigger",
    /// CREATE RULE.
    Rule = "rule",
    /// CREATE POLICY.
    Policy = "policy",
    /// CREATE EVENT TRIGGER.
    EventTrigger = "event trigger",
    /// CREATE CAST.
    Cast = "cast",
    /// CREATE OPERATOR.
    Operator = "operator",
    /// CREATE OPERATOR FAMILY, with what was added to it.
    OperatorFamily = "operator family",
    /// CREATE OPERATOR CLASS.
    OperatorClass = "operator class",
    /// CREATE COLLATION.
    Collation = "collation",
    /// CREATE CONVERSION.
    Conversion = "conversion",
    /// CREATE LANGUAGE.
    Language = "language",
    /// CREATE TRANSFORM.
    Transform = "transform",
    /// CREATE ACCESS METHOD.
    AccessMethod = "access method",
    /// CREATE TEXT SEARCH CONFIGURATION, DICTIONARY, PARSER and TEMPLATE.
    TextSearch = "text search object",
    /// CREATE FOREIGN DATA WRAPPER.
    ForeignDataWrapper = "foreign data wrapper",
    /// CREATE SERVER.
    ForeignServer = "foreign server",
    /// CREATE PUBLICATION.
    Publication = "publication",
    /// ALTER DEFAULT PRIVILEGES.
    DefaultPrivileges = "default privileges",
    /// GRANT and REVOKE on what came with PostgreSQL or with an extension.
    Rights = "rights on",
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words())
    }
}

/// A name in the order in which objects are listed: schema, name, and what tells apart those of one
/// name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ObjectKey<'a> {
    /// Empty for what lies in no schema.
    pub schema: &'a str,
    /// The table's name for what is part of one.
    pub name: &'a str,
    /// The part's own name, or a routine's argument types.
    pub rest: &'a str,
}

impl<'a> ObjectKey<'a> {
    /// A name in a schema.
    pub(crate) fn of(schema: &'a str, name: &'a str) -> Self {
        Self {
            schema,
            name,
            rest: "",
        }
    }
}

/// One kind of object.
pub(super) trait SchemaObject: RowReader + Eq + Serialize + DeserializeOwned {
    /// Which.
    const KIND: Kind;

    /// Its query for a server of this major version. $1 are the schemas that are left out.
    fn query(major: u32) -> Cow<'static, str>;

    /// Properties that another one says already: told by nobody twice.
    const IMPLIED: &'static [&'static str] = &[];

    /// How it is found again in another database.
    fn key(&self) -> ObjectKey<'_>;

    /// The table that it is part of, by schema and name.
    fn part_of(&self) -> Option<(&str, &str)> {
        None
    }

    /// What it should be called.
    fn name(&self) -> String {
        let ObjectKey { schema, name, rest } = self.key();
        let parts = [schema, name, rest];
        let parts: Vec<String> = parts
            .iter()
            .filter(|part| !part.is_empty())
            .map(|part| identifier(part))
            .collect();
        parts.join(".")
    }
}
