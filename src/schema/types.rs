//! Types of people's own.

use std::borrow::Cow;

use super::{
    Relation,
    column::Column,
    object::{Kind, ObjectKey, SchemaObject},
    sql::{comment, comment_of, made_in_schema},
};
use crate::schema::row::{Acl, record};

/// The rights on a type, as it has them and as a new one would.
const ACL: &str = "t.typacl::text[], CASE WHEN t.typacl IS NOT NULL THEN acldefault('T', \
     t.typowner)::text[] END";

record! {
    /// An enum type.
    pub struct Enum {
        /// Its schema.
        pub schema: String,
        /// Its name.
        pub name: String,
        /// In their order.
        pub labels: Vec<String>,
        /// Its owner.
        pub owner: String,
        /// Who may use it.
        pub acl: Acl,
        /// COMMENT ON TYPE.
        pub comment: Option<String>,
    }
}

impl SchemaObject for Enum {
    const KIND: Kind = Kind::Enum;

    fn query(_: u32) -> Cow<'static, str> {
        format!(
            "SELECT n.nspname::text, t.typname::text, e.labels, pg_get_userbyid(t.typowner)::text, \
             {ACL}, {} FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace LEFT JOIN \
             (SELECT l.enumtypid, array_agg(l.enumlabel::text ORDER BY l.enumsortorder) AS labels \
             FROM pg_enum l GROUP BY l.enumtypid) e ON e.enumtypid = t.oid {} WHERE t.typtype = \
             'e' AND {}",
            comment(),
            comment_of("pg_type", "t.oid"),
            made_in_schema("pg_type", "t.oid"),
        )
        .into()
    }

    fn key(&self) -> ObjectKey<'_> {
        ObjectKey::of(&self.schema, &self.name)
    }
}

record! {
    /// A domain.
    pub struct Domain {
        /// Its schema.
        pub schema: String,
        /// Its name.
        pub name: String,
        /// The type below it, with modifiers.
        pub base: String,
        /// Where it is not the base type's.
        pub collation: Option<String>,
        /// The default's expression.
        pub default: Option<String>,
        /// NOT NULL.
        pub not_null: bool,
        /// By name: `name CHECK (…)`, and in PostgreSQL 18 NOT NULL constraints; with the comment
        /// where there is one.
        pub constraints: Vec<String>,
        /// Its owner.
        pub owner: String,
        /// Who may use it.
        pub acl: Acl,
        /// COMMENT ON DOMAIN.
        pub comment: Option<String>,
    }
}

impl SchemaObject for Domain {
    const KIND: Kind = Kind::Domain;

    fn query(_: u32) -> Cow<'static, str> {
        format!(
            "SELECT n.nspname::text, t.typname::text, format_type(t.typbasetype, t.typtypmod), \
             CASE WHEN t.typcollation <> b.typcollation THEN t.typcollation::regcollation::text \
             END, pg_get_expr(t.typdefaultbin, 'pg_type'::regclass), t.typnotnull, k.checks, \
             pg_get_userbyid(t.typowner)::text, {ACL}, {} FROM pg_type t JOIN pg_namespace n ON \
             n.oid = t.typnamespace JOIN pg_type b ON b.oid = t.typbasetype LEFT JOIN (SELECT \
             c.contypid, array_agg(quote_ident(c.conname) || ' ' || pg_get_constraintdef(c.oid) || \
             coalesce(', comment ' || quote_literal(cd.description), '') ORDER BY c.conname \
             COLLATE \"C\") AS checks FROM pg_constraint c LEFT JOIN pg_description cd ON \
             cd.classoid = 'pg_constraint'::regclass AND cd.objoid = c.oid AND cd.objsubid = 0 \
             WHERE c.contypid <> 0 GROUP BY c.contypid) k ON k.contypid = t.oid {} WHERE t.typtype \
             = 'd' AND {}",
            comment(),
            comment_of("pg_type", "t.oid"),
            made_in_schema("pg_type", "t.oid"),
        )
        .into()
    }

    fn key(&self) -> ObjectKey<'_> {
        ObjectKey::of(&self.schema, &self.name)
    }
}

record! {
    /// A composite type.
    pub struct Composite {
        /// Its name.
        pub relation: Relation,
        /// Its attributes in their order.
        pub columns: Vec<Column>,
        /// Its owner.
        pub owner: String,
        /// Who may use it.
        pub acl: Acl,
        /// COMMENT ON TYPE.
        pub comment: Option<String>,
    }
}

impl SchemaObject for Composite {
    const KIND: Kind = Kind::Composite;

    fn query(_: u32) -> Cow<'static, str> {
        format!(
            "SELECT c.oid, c.oid, pg_get_userbyid(t.typowner)::text, {ACL}, {} FROM pg_class c \
             JOIN pg_type t ON t.oid = c.reltype {} WHERE c.relkind = 'c' AND c.oid >= 16384",
            comment(),
            comment_of("pg_type", "t.oid"),
        )
        .into()
    }

    fn key(&self) -> ObjectKey<'_> {
        ObjectKey::of(&self.relation.schema, &self.relation.name)
    }
}

record! {
    /// A range type, with its multirange type.
    pub struct Range {
        /// Its schema.
        pub schema: String,
        /// Its name.
        pub name: String,
        /// Of what.
        pub subtype: String,
        /// Where it is not the subtype's.
        pub collation: Option<String>,
        /// The operator class that orders it, where it is not the subtype's default.
        pub operator_class: Option<String>,
        /// The function that makes equal ranges look equal.
        pub canonical: Option<String>,
        /// The function that says how far two values are apart.
        pub difference: Option<String>,
        /// PostgreSQL 14.
        pub multirange: Option<String>,
        /// Its owner.
        pub owner: String,
        /// Who may use it.
        pub acl: Acl,
        /// COMMENT ON TYPE.
        pub comment: Option<String>,
    }
}

impl SchemaObject for Range {
    const KIND: Kind = Kind::Range;

    fn query(major: u32) -> Cow<'static, str> {
        let multirange = if major < 14 {
            "NULL"
        } else {
            "format_type(r.rngmultitypid, NULL)"
        };
        format!(
            "SELECT n.nspname::text, t.typname::text, format_type(r.rngsubtype, NULL), CASE WHEN \
             r.rngcollation <> s.typcollation THEN r.rngcollation::regcollation::text END, CASE \
             WHEN NOT o.opcdefault THEN format('%I.%I', oschema.nspname, o.opcname) END, CASE WHEN \
             r.rngcanonical <> 0 THEN r.rngcanonical::regprocedure::text END, CASE WHEN \
             r.rngsubdiff <> 0 THEN r.rngsubdiff::regprocedure::text END, {multirange}, \
             pg_get_userbyid(t.typowner)::text, {ACL}, {} FROM pg_range r JOIN pg_type t ON t.oid \
             = r.rngtypid JOIN pg_type s ON s.oid = r.rngsubtype JOIN pg_namespace n ON n.oid = \
             t.typnamespace JOIN pg_opclass o ON o.oid = r.rngsubopc JOIN pg_namespace oschema ON \
             oschema.oid = o.opcnamespace {} WHERE {}",
            comment(),
            comment_of("pg_type", "t.oid"),
            made_in_schema("pg_type", "t.oid"),
        )
        .into()
    }

    fn key(&self) -> ObjectKey<'_> {
        ObjectKey::of(&self.schema, &self.name)
    }
}

record! {
    /// A type with functions of its own, or one that is only announced.
    pub struct BaseType {
        /// Its schema.
        pub schema: String,
        /// Its name.
        pub name: String,
        /// Its functions and the rest of CREATE TYPE; none: it is only announced.
        pub definition: Option<String>,
        /// Its owner.
        pub owner: String,
        /// Who may use it.
        pub acl: Acl,
        /// COMMENT ON TYPE.
        pub comment: Option<String>,
    }
}

impl SchemaObject for BaseType {
    const KIND: Kind = Kind::BaseType;

    fn query(major: u32) -> Cow<'static, str> {
        let subscript = if major < 14 {
            ""
        } else {
            "'subscript ' || nullif(t.typsubscript, 0)::regprocedure,"
        };
        format!(
            "SELECT n.nspname::text, t.typname::text, CASE WHEN t.typisdefined THEN concat_ws(', \
             ', 'input ' || nullif(t.typinput, 0)::regprocedure, 'output ' || nullif(t.typoutput, \
             0)::regprocedure, 'receive ' || nullif(t.typreceive, 0)::regprocedure, 'send ' || \
             nullif(t.typsend, 0)::regprocedure, 'typmod_in ' || nullif(t.typmodin, \
             0)::regprocedure, 'typmod_out ' || nullif(t.typmodout, 0)::regprocedure, 'analyze ' \
             || nullif(t.typanalyze, 0)::regprocedure, {subscript} 'length ' || t.typlen, 'by \
             value ' || t.typbyval, 'alignment ' || t.typalign::text, 'storage ' || \
             t.typstorage::text, 'category ' || t.typcategory::text, 'preferred ' || \
             t.typispreferred, 'default ' || quote_literal(t.typdefault), 'element ' || CASE WHEN \
             t.typelem <> 0 THEN format_type(t.typelem, NULL) END, 'delimiter ' || \
             t.typdelim::text, 'collatable ' || (t.typcollation <> 0)) END, \
             pg_get_userbyid(t.typowner)::text, {ACL}, {} FROM pg_type t JOIN pg_namespace n ON \
             n.oid = t.typnamespace {} WHERE (t.typtype = 'p' OR t.typtype = 'b' AND NOT EXISTS \
             (SELECT FROM pg_type el WHERE el.oid = t.typelem AND el.typarray = t.oid)) AND {}",
            comment(),
            comment_of("pg_type", "t.oid"),
            made_in_schema("pg_type", "t.oid"),
        )
        .into()
    }

    fn key(&self) -> ObjectKey<'_> {
        ObjectKey::of(&self.schema, &self.name)
    }
}
