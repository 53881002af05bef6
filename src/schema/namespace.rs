//! Schemas, extensions, and what new objects are allowed by default.

use std::borrow::Cow;

use super::{
    object::{Kind, ObjectKey, SchemaObject},
    sql::{comment, comment_of, compared, made},
};
use crate::schema::row::{Acl, Sorted, record};

record! {
    /// A schema.
    pub struct Namespace {
        /// Its name, unquoted.
        pub name: String,
        /// Its owner.
        pub owner: String,
        /// Who may do what.
        pub acl: Acl,
        /// COMMENT ON SCHEMA.
        pub comment: Option<String>,
    }
}

impl SchemaObject for Namespace {
    const KIND: Kind = Kind::Schema;

    fn query(_: u32) -> Cow<'static, str> {
        // The schema public is older than whatever anybody made.
        format!(
            "SELECT n.nspname::text, pg_get_userbyid(n.nspowner)::text, n.nspacl::text[], \
             acldefault('n', n.nspowner)::text[], {} FROM pg_namespace n {} WHERE ({} OR n.oid < \
             16384) AND {}",
            comment(),
            comment_of("pg_namespace", "n.oid"),
            made("pg_namespace", "n.oid"),
            compared("n"),
        )
        .into()
    }

    fn key(&self) -> ObjectKey<'_> {
        ObjectKey::of(&self.name, "")
    }
}

record! {
    /// An extension. What it brought is not compared: that follows from its version.
    pub struct Extension {
        /// Its name.
        pub name: String,
        /// The schema of its members.
        pub schema: String,
        /// Its version.
        pub version: String,
        /// COMMENT ON EXTENSION, unless it came with the database.
        pub comment: Option<String>,
    }
}

impl SchemaObject for Extension {
    const KIND: Kind = Kind::Extension;

    fn query(_: u32) -> Cow<'static, str> {
        format!(
            "SELECT x.extname::text, n.nspname::text, x.extversion, CASE WHEN x.oid >= 16384 THEN \
             {} END FROM pg_extension x JOIN pg_namespace n ON n.oid = x.extnamespace {}",
            comment(),
            comment_of("pg_extension", "x.oid")
        )
        .into()
    }

    fn key(&self) -> ObjectKey<'_> {
        ObjectKey::of("", &self.name)
    }
}

record! {
    /// What ALTER DEFAULT PRIVILEGES says for one role, schema and kind of object.
    pub struct DefaultPrivileges {
        /// Whose new objects.
        pub role: String,
        /// In which schema; none: in all.
        pub schema: Option<String>,
        /// tables, sequences, functions, types, schemas or large objects.
        pub objects: String,
        /// The rights, sorted.
        pub rights: Sorted,
    }
}

impl SchemaObject for DefaultPrivileges {
    const KIND: Kind = Kind::DefaultPrivileges;

    fn query(_: u32) -> Cow<'static, str> {
        format!(
            "SELECT pg_get_userbyid(a.defaclrole)::text, n.nspname::text, CASE a.defaclobjtype \
             WHEN 'r' THEN 'tables' WHEN 'S' THEN 'sequences' WHEN 'f' THEN 'functions' WHEN 'T' \
             THEN 'types' WHEN 'n' THEN 'schemas' WHEN 'L' THEN 'large objects' ELSE \
             a.defaclobjtype::text END, a.defaclacl::text[] FROM pg_default_acl a LEFT JOIN \
             pg_namespace n ON n.oid = a.defaclnamespace WHERE n.oid IS NULL OR {}",
            compared("n")
        )
        .into()
    }

    fn key(&self) -> ObjectKey<'_> {
        ObjectKey {
            schema: self.schema.as_deref().unwrap_or_default(),
            name: &self.role,
            rest: &self.objects,
        }
    }
}
