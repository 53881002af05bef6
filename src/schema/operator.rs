//! What makes types work with operators, indexes and languages: casts, operators with their
//! families and classes, languages, transforms, access methods.

use std::borrow::Cow;

use super::{
    name::identifier,
    object::{Kind, ObjectKey, SchemaObject},
    sql::{comment, comment_of, made, made_in_schema},
};
use crate::schema::row::{Acl, Sorted, record};

record! {
    /// A cast.
    pub struct Cast {
        /// From which type.
        pub source: String,
        /// To which.
        pub target: String,
        /// By a function, by both types' input and output (`inout`), or as it is (`binary`).
        pub by: String,
        /// explicit, assignment or implicit.
        pub context: String,
        /// COMMENT ON CAST.
        pub comment: Option<String>,
    }
}

impl SchemaObject for Cast {
    const KIND: Kind = Kind::Cast;

    /// A range type's to its multirange type is left out: it comes with the type.
    fn query(_: u32) -> Cow<'static, str> {
        format!(
            "SELECT format_type(c.castsource, NULL), format_type(c.casttarget, NULL), CASE \
             c.castmethod WHEN 'i' THEN 'inout' WHEN 'b' THEN 'binary' ELSE \
             c.castfunc::regprocedure::text END, CASE c.castcontext WHEN 'e' THEN 'explicit' WHEN \
             'a' THEN 'assignment' ELSE 'implicit' END, {} FROM pg_cast c {} WHERE NOT EXISTS \
             (SELECT FROM pg_depend i WHERE i.classid = 'pg_cast'::regclass AND i.objid = c.oid \
             AND i.deptype = 'i') AND {}",
            comment(),
            comment_of("pg_cast", "c.oid"),
            made("pg_cast", "c.oid"),
        )
        .into()
    }

    fn key(&self) -> ObjectKey<'_> {
        ObjectKey::of(&self.source, &self.target)
    }

    fn name(&self) -> String {
        format!("({} AS {})", self.source, self.target)
    }
}

record! {
    /// An operator.
    pub struct Operator {
        /// Its schema.
        pub schema: String,
        /// For example `<`.
        pub name: String,
        /// The types of its operands, NONE for what it does not have.
        pub operands: String,
        /// What computes it.
        pub function: String,
        /// COMMUTATOR, NEGATOR, RESTRICT, JOIN, HASHES, MERGES, as far as they are given.
        pub properties: Vec<String>,
        /// Its owner.
        pub owner: String,
        /// COMMENT ON OPERATOR.
        pub comment: Option<String>,
    }
}

impl SchemaObject for Operator {
    const KIND: Kind = Kind::Operator;

    /// Those that are only announced, by another's COMMUTATOR, are left out.
    fn query(_: u32) -> Cow<'static, str> {
        format!(
            "SELECT n.nspname::text, o.oprname::text, concat_ws(', ', CASE o.oprleft WHEN 0 THEN \
             'NONE' ELSE format_type(o.oprleft, NULL) END, CASE o.oprright WHEN 0 THEN 'NONE' ELSE \
             format_type(o.oprright, NULL) END), o.oprcode::regprocedure::text, \
             array_remove(ARRAY['commutator ' || nullif(o.oprcom, 0)::regoperator, 'negator ' || \
             nullif(o.oprnegate, 0)::regoperator, 'restrict ' || nullif(o.oprrest, \
             0)::regprocedure, 'join ' || nullif(o.oprjoin, 0)::regprocedure, CASE WHEN \
             o.oprcanhash THEN 'hashes' END, CASE WHEN o.oprcanmerge THEN 'merges' END], NULL), \
             pg_get_userbyid(o.oprowner)::text, {} FROM pg_operator o JOIN pg_namespace n ON n.oid \
             = o.oprnamespace {} WHERE o.oprcode <> 0 AND {}",
            comment(),
            comment_of("pg_operator", "o.oid"),
            made_in_schema("pg_operator", "o.oid"),
        )
        .into()
    }

    fn key(&self) -> ObjectKey<'_> {
        ObjectKey {
            schema: &self.schema,
            name: &self.name,
            rest: &self.operands,
        }
    }

    fn name(&self) -> String {
        format!(
            "{}.{} ({})",
            identifier(&self.schema),
            self.name,
            self.operands
        )
    }
}

record! {
    /// An operator family.
    pub struct OperatorFamily {
        /// Its schema.
        pub schema: String,
        /// Its name.
        pub name: String,
        /// For which sort of index.
        pub access_method: String,
        /// Its operators and functions with their numbers, and the operator class that brought
        /// each, if one did.
        pub members: Sorted,
        /// Its owner.
        pub owner: String,
        /// COMMENT ON OPERATOR FAMILY.
        pub comment: Option<String>,
    }
}

impl SchemaObject for OperatorFamily {
    const KIND: Kind = Kind::OperatorFamily;

    fn query(_: u32) -> Cow<'static, str> {
        let class = |catalog: &str, oid: &str| {
            format!(
                "coalesce((SELECT ' of ' || quote_ident(oc.opcname) FROM pg_depend d JOIN \
                 pg_opclass oc ON oc.oid = d.refobjid WHERE d.classid = '{catalog}'::regclass AND \
                 d.objid = {oid} AND d.refclassid = 'pg_opclass'::regclass LIMIT 1), '')"
            )
        };
        format!(
            "SELECT n.nspname::text, f.opfname::text, a.amname::text, ARRAY(SELECT 'operator ' || \
             o.amopstrategy || ' ' || o.amopopr::regoperator || CASE WHEN o.amopsortfamily <> 0 \
             THEN ' for order by ' || (SELECT quote_ident(s.opfname) FROM pg_opfamily s WHERE \
             s.oid = o.amopsortfamily) ELSE '' END || {} AS member FROM pg_amop o WHERE \
             o.amopfamily = f.oid UNION ALL SELECT 'function ' || p.amprocnum || ' (' || \
             format_type(p.amproclefttype, NULL) || ', ' || format_type(p.amprocrighttype, NULL) \
             || ') ' || p.amproc::regprocedure || {} FROM pg_amproc p WHERE p.amprocfamily = \
             f.oid), pg_get_userbyid(f.opfowner)::text, {} FROM pg_opfamily f JOIN pg_namespace n \
             ON n.oid = f.opfnamespace JOIN pg_am a ON a.oid = f.opfmethod {} WHERE {}",
            class("pg_amop", "o.oid"),
            class("pg_amproc", "p.oid"),
            comment(),
            comment_of("pg_opfamily", "f.oid"),
            made_in_schema("pg_opfamily", "f.oid"),
        )
        .into()
    }

    fn key(&self) -> ObjectKey<'_> {
        ObjectKey {
            schema: &self.schema,
            name: &self.name,
            rest: &self.access_method,
        }
    }
}

record! {
    /// An operator class.
    pub struct OperatorClass {
        /// Its schema.
        pub schema: String,
        /// Its name.
        pub name: String,
        /// For which sort of index.
        pub access_method: String,
        /// For which type.
        pub r#type: String,
        /// Used where none is named.
        pub default: bool,
        /// Its family.
        pub family: String,
        /// What it brought into a family that came with PostgreSQL or an extension; one's own says
        /// it of itself.
        pub members: Sorted,
        /// What an index stores, where that is not the type.
        pub storage: Option<String>,
        /// Its owner.
        pub owner: String,
        /// COMMENT ON OPERATOR CLASS.
        pub comment: Option<String>,
    }
}

impl SchemaObject for OperatorClass {
    const KIND: Kind = Kind::OperatorClass;

    fn query(_: u32) -> Cow<'static, str> {
        let of_class = |catalog: &str, oid: &str| {
            format!(
                "JOIN pg_depend d ON d.classid = '{catalog}'::regclass AND d.objid = {oid} \
                 AND d.refclassid = 'pg_opclass'::regclass AND d.refobjid = c.oid"
            )
        };
        format!(
            "SELECT n.nspname::text, c.opcname::text, a.amname::text, format_type(c.opcintype, \
             NULL), c.opcdefault, format('%I.%I', fn.nspname, f.opfname), CASE WHEN NOT ({}) THEN \
             ARRAY(SELECT 'operator ' || o.amopstrategy || ' ' || o.amopopr::regoperator FROM \
             pg_amop o {} UNION ALL SELECT 'function ' || p.amprocnum || ' ' || \
             p.amproc::regprocedure FROM pg_amproc p {}) END, CASE WHEN c.opckeytype <> 0 THEN \
             format_type(c.opckeytype, NULL) END, pg_get_userbyid(c.opcowner)::text, {} FROM \
             pg_opclass c JOIN pg_namespace n ON n.oid = c.opcnamespace JOIN pg_am a ON a.oid = \
             c.opcmethod JOIN pg_opfamily f ON f.oid = c.opcfamily JOIN pg_namespace fn ON fn.oid \
             = f.opfnamespace {} WHERE {}",
            made("pg_opfamily", "f.oid"),
            of_class("pg_amop", "o.oid"),
            of_class("pg_amproc", "p.oid"),
            comment(),
            comment_of("pg_opclass", "c.oid"),
            made_in_schema("pg_opclass", "c.oid"),
        )
        .into()
    }

    fn key(&self) -> ObjectKey<'_> {
        ObjectKey {
            schema: &self.schema,
            name: &self.name,
            rest: &self.access_method,
        }
    }
}

record! {
    /// A procedural language.
    pub struct Language {
        /// Its name.
        pub name: String,
        /// Everybody may use it.
        pub trusted: bool,
        /// What runs it.
        pub handler: Option<String>,
        /// What runs DO.
        pub inline: Option<String>,
        /// What checks new functions.
        pub validator: Option<String>,
        /// Its owner.
        pub owner: String,
        /// Who may use it.
        pub acl: Acl,
        /// COMMENT ON LANGUAGE.
        pub comment: Option<String>,
    }
}

impl SchemaObject for Language {
    const KIND: Kind = Kind::Language;

    fn query(_: u32) -> Cow<'static, str> {
        format!(
            "SELECT l.lanname::text, l.lanpltrusted, nullif(l.lanplcallfoid, \
             0)::regprocedure::text, nullif(l.laninline, 0)::regprocedure::text, \
             nullif(l.lanvalidator, 0)::regprocedure::text, pg_get_userbyid(l.lanowner)::text, \
             l.lanacl::text[], acldefault('l', l.lanowner)::text[], {} FROM pg_language l {} WHERE \
             {}",
            comment(),
            comment_of("pg_language", "l.oid"),
            made("pg_language", "l.oid"),
        )
        .into()
    }

    fn key(&self) -> ObjectKey<'_> {
        ObjectKey::of("", &self.name)
    }
}

record! {
    /// A transform.
    pub struct Transform {
        /// Of which type.
        pub r#type: String,
        /// For which language.
        pub language: String,
        /// FROM SQL WITH.
        pub from_sql: Option<String>,
        /// TO SQL WITH.
        pub to_sql: Option<String>,
        /// COMMENT ON TRANSFORM.
        pub comment: Option<String>,
    }
}

impl SchemaObject for Transform {
    const KIND: Kind = Kind::Transform;

    fn query(_: u32) -> Cow<'static, str> {
        format!(
            "SELECT format_type(t.trftype, NULL), l.lanname::text, nullif(t.trffromsql, \
             0)::regprocedure::text, nullif(t.trftosql, 0)::regprocedure::text, {} FROM \
             pg_transform t JOIN pg_language l ON l.oid = t.trflang {} WHERE {}",
            comment(),
            comment_of("pg_transform", "t.oid"),
            made("pg_transform", "t.oid"),
        )
        .into()
    }

    fn key(&self) -> ObjectKey<'_> {
        ObjectKey::of(&self.r#type, &self.language)
    }

    fn name(&self) -> String {
        format!(
            "FOR {} LANGUAGE {}",
            self.r#type,
            identifier(&self.language)
        )
    }
}

record! {
    /// An access method.
    pub struct AccessMethod {
        /// Its name.
        pub name: String,
        /// i: for indexes; t: for tables.
        pub r#type: String,
        /// What implements it.
        pub handler: String,
        /// COMMENT ON ACCESS METHOD.
        pub comment: Option<String>,
    }
}

impl SchemaObject for AccessMethod {
    const KIND: Kind = Kind::AccessMethod;

    fn query(_: u32) -> Cow<'static, str> {
        format!(
            "SELECT a.amname::text, a.amtype::text, a.amhandler::regprocedure::text, {} FROM pg_am \
             a {} WHERE {}",
            comment(),
            comment_of("pg_am", "a.oid"),
            made("pg_am", "a.oid"),
        )
        .into()
    }

    fn key(&self) -> ObjectKey<'_> {
        ObjectKey::of("", &self.name)
    }
}
