//! What reaches other servers, and what others see of this one; and rights on what nobody here
//! made.

use std::borrow::Cow;

use super::{
    object::{Kind, ObjectKey, SchemaObject},
    sql::{comment, comment_of, made},
};
use crate::schema::row::{Acl, Sorted, record};

record! {
    /// A foreign data wrapper.
    pub struct ForeignDataWrapper {
        /// Its name.
        pub name: String,
        /// What runs it.
        pub handler: Option<String>,
        /// What checks options.
        pub validator: Option<String>,
        /// Its options.
        pub options: Sorted,
        /// Its owner.
        pub owner: String,
        /// Who may use it.
        pub acl: Acl,
        /// COMMENT ON FOREIGN DATA WRAPPER.
        pub comment: Option<String>,
    }
}

impl SchemaObject for ForeignDataWrapper {
    const KIND: Kind = Kind::ForeignDataWrapper;

    fn query(_: u32) -> Cow<'static, str> {
        format!(
            "SELECT f.fdwname::text, nullif(f.fdwhandler, 0)::regprocedure::text, \
             nullif(f.fdwvalidator, 0)::regprocedure::text, f.fdwoptions, \
             pg_get_userbyid(f.fdwowner)::text, f.fdwacl::text[], acldefault('F', \
             f.fdwowner)::text[], {} FROM pg_foreign_data_wrapper f {} WHERE {}",
            comment(),
            comment_of("pg_foreign_data_wrapper", "f.oid"),
            made("pg_foreign_data_wrapper", "f.oid"),
        )
        .into()
    }

    fn key(&self) -> ObjectKey<'_> {
        ObjectKey::of("", &self.name)
    }
}

record! {
    /// A foreign server.
    pub struct ForeignServer {
        /// Its name.
        pub name: String,
        /// Its wrapper.
        pub wrapper: String,
        /// TYPE.
        pub r#type: Option<String>,
        /// VERSION.
        pub version: Option<String>,
        /// Its options.
        pub options: Sorted,
        /// Who has a user mapping; how each logs in is nobody else's business.
        pub user_mappings: Vec<String>,
        /// Its owner.
        pub owner: String,
        /// Who may use it.
        pub acl: Acl,
        /// COMMENT ON SERVER.
        pub comment: Option<String>,
    }
}

impl SchemaObject for ForeignServer {
    const KIND: Kind = Kind::ForeignServer;

    fn query(_: u32) -> Cow<'static, str> {
        format!(
            "SELECT s.srvname::text, f.fdwname::text, s.srvtype, s.srvversion, s.srvoptions, \
             ARRAY(SELECT u.usename::text FROM pg_user_mappings u WHERE u.srvid = s.oid ORDER BY \
             1), pg_get_userbyid(s.srvowner)::text, s.srvacl::text[], acldefault('S', \
             s.srvowner)::text[], {} FROM pg_foreign_server s JOIN pg_foreign_data_wrapper f ON \
             f.oid = s.srvfdw {} WHERE {}",
            comment(),
            comment_of("pg_foreign_server", "s.oid"),
            made("pg_foreign_server", "s.oid"),
        )
        .into()
    }

    fn key(&self) -> ObjectKey<'_> {
        ObjectKey::of("", &self.name)
    }
}

record! {
    /// A publication.
    pub struct Publication {
        /// Its name.
        pub name: String,
        /// FOR ALL TABLES.
        pub all_tables: bool,
        /// Its tables, with columns and a condition where they are given.
        pub tables: Sorted,
        /// TABLES IN SCHEMA (PostgreSQL 15).
        pub schemas: Vec<String>,
        /// insert, update, delete, truncate, via root, generated columns (PostgreSQL 18).
        pub publishes: Vec<String>,
        /// Its owner.
        pub owner: String,
        /// COMMENT ON PUBLICATION.
        pub comment: Option<String>,
    }
}

impl SchemaObject for Publication {
    const KIND: Kind = Kind::Publication;

    fn query(major: u32) -> Cow<'static, str> {
        let (columns, schemas) = match major {
            ..15 => ("", "NULL::text[]"),
            _ => (
                " || coalesce(' (' || (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY \
                 a.attname COLLATE \"C\") FROM pg_attribute a WHERE a.attrelid = r.prrelid AND \
                 a.attnum = ANY (r.prattrs)) || ')', '') || coalesce(' WHERE ' || \
                 pg_get_expr(r.prqual, r.prrelid), '')",
                "ARRAY(SELECT s.nspname::text FROM pg_publication_namespace ps JOIN pg_namespace s \
                 ON s.oid = ps.pnnspid WHERE ps.pnpubid = p.oid ORDER BY 1)",
            ),
        };
        let generated = if major < 18 {
            "NULL"
        } else {
            "CASE p.pubgencols WHEN 's' THEN 'stored generated columns' END"
        };
        format!(
            "SELECT p.pubname::text, p.puballtables, ARRAY(SELECT \
             r.prrelid::regclass::text{columns} FROM pg_publication_rel r WHERE r.prpubid = \
             p.oid), {schemas}, array_remove(ARRAY[CASE WHEN p.pubinsert THEN 'insert' END, CASE \
             WHEN p.pubupdate THEN 'update' END, CASE WHEN p.pubdelete THEN 'delete' END, CASE \
             WHEN p.pubtruncate THEN 'truncate' END, CASE WHEN p.pubviaroot THEN 'via root' END, \
             {generated}], NULL), pg_get_userbyid(p.pubowner)::text, {} FROM pg_publication p {} \
             WHERE {}",
            comment(),
            comment_of("pg_publication", "p.oid"),
            made("pg_publication", "p.oid"),
        )
        .into()
    }

    fn key(&self) -> ObjectKey<'_> {
        ObjectKey::of("", &self.name)
    }
}

record! {
    /// Rights on what came with PostgreSQL or with an extension, where they are no longer what
    /// came.
    pub struct Rights {
        /// The object, as pg_identify_object names it, for example `function
        /// pg_catalog.pg_sleep(double precision)`.
        pub object: String,
        /// Who may do what.
        pub rights: Sorted,
    }
}

impl SchemaObject for Rights {
    const KIND: Kind = Kind::Rights;

    fn query(_: u32) -> Cow<'static, str> {
        let part = |catalog: &str, prefix: &str, objtype: &str| {
            format!(
                "SELECT (SELECT i.type || ' ' || i.identity FROM \
                 pg_identify_object('{catalog}'::regclass, o.oid, 0) i), o.{prefix}acl::text[] \
                 FROM {catalog} o LEFT JOIN pg_init_privs p ON p.classoid = '{catalog}'::regclass \
                 AND p.objoid = o.oid AND p.objsubid = 0 WHERE o.{prefix}acl IS NOT NULL AND NOT \
                 ({}) AND ARRAY(SELECT unnest(o.{prefix}acl::text[]) ORDER BY 1) <> ARRAY(SELECT \
                 unnest(coalesce(p.initprivs, acldefault({objtype}, o.{prefix}owner))::text[]) \
                 ORDER BY 1)",
                made(catalog, "o.oid")
            )
        };
        let inside = |prefix: &str| {
            format!(" AND o.{prefix}namespace <> 'information_schema'::regnamespace")
        };
        // The schema public is compared with the others. What pg_dump does not look at either is
        // left alone.
        [
            part(
                "pg_class",
                "rel",
                "CASE o.relkind WHEN 'S' THEN 's' ELSE 'r' END::\"char\"",
            ) + &inside("rel"),
            part("pg_proc", "pro", "'f'") + &inside("pro"),
            part("pg_type", "typ", "'T'") + &inside("typ"),
            part("pg_language", "lan", "'l'"),
            part("pg_namespace", "nsp", "'n'")
                + " AND o.nspname NOT IN ('public', 'information_schema') AND o.nspname !~ \
                   '^pg_t(oast_t)?emp'",
        ]
        .join(" UNION ALL ")
        .into()
    }

    fn key(&self) -> ObjectKey<'_> {
        ObjectKey::of("", &self.object)
    }

    fn name(&self) -> String {
        self.object.clone()
    }
}
