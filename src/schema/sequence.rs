//! Sequences. How far they have counted is data.

use std::borrow::Cow;

use super::{
    Relation,
    object::{Kind, ObjectKey, SchemaObject},
    sql::{comment, comment_of},
    table::Persistence,
};
use crate::schema::row::{Acl, record};

record! {
    /// A sequence.
    pub struct Sequence {
        /// Its name.
        pub relation: Relation,
        /// How it lasts (PostgreSQL 15).
        pub persistence: Persistence,
        /// smallint, integer or bigint.
        pub r#type: String,
        /// START.
        pub start: i64,
        /// MINVALUE.
        pub min: i64,
        /// MAXVALUE.
        pub max: i64,
        /// INCREMENT.
        pub increment: i64,
        /// CACHE.
        pub cache: i64,
        /// CYCLE.
        pub cycle: bool,
        /// OWNED BY this column.
        pub owned_by: Option<String>,
        /// It is the column's identity.
        pub identity: bool,
        /// Its owner.
        pub owner: String,
        /// Who may do what.
        pub acl: Acl,
        /// COMMENT ON SEQUENCE.
        pub comment: Option<String>,
    }
}

impl SchemaObject for Sequence {
    const KIND: Kind = Kind::Sequence;

    fn query(_: u32) -> Cow<'static, str> {
        format!(
            "SELECT c.oid, c.relpersistence::text, format_type(s.seqtypid, NULL), s.seqstart, \
             s.seqmin, s.seqmax, s.seqincrement, s.seqcache, s.seqcycle, d.refobjid::regclass || \
             '.' || quote_ident(a.attname), coalesce(d.deptype = 'i', false), \
             pg_get_userbyid(c.relowner)::text, c.relacl::text[], CASE WHEN c.relacl IS NOT NULL \
             THEN acldefault('s', c.relowner)::text[] END, {} FROM pg_sequence s JOIN pg_class c \
             ON c.oid = s.seqrelid LEFT JOIN (pg_depend d JOIN pg_attribute a ON a.attrelid = \
             d.refobjid AND a.attnum = d.refobjsubid) ON d.classid = 'pg_class'::regclass AND \
             d.objid = c.oid AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i') \
             AND d.refobjsubid > 0 {} WHERE c.oid >= 16384",
            comment(),
            comment_of("pg_class", "c.oid"),
        )
        .into()
    }

    fn key(&self) -> ObjectKey<'_> {
        ObjectKey::of(&self.relation.schema, &self.relation.name)
    }
}
