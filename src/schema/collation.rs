//! How text is sorted, encoded and searched.

use std::borrow::Cow;

use super::{
    object::{Kind, ObjectKey, SchemaObject},
    sql::{comment, comment_of, made_in_schema},
};
use crate::schema::row::{Sorted, record};

record! {
    /// A collation. The version of the library that sorts is not the schema's.
    pub struct Collation {
        /// Its schema.
        pub schema: String,
        /// Its name.
        pub name: String,
        /// c: libc; i: ICU; b: built in; d: the database's.
        pub provider: String,
        /// LC_COLLATE, LC_CTYPE or the locale, and ICU's rules, as far as they are given.
        pub locale: Vec<String>,
        /// Texts that are not the same bytes can be equal.
        pub nondeterministic: bool,
        /// For this encoding only; -1: for all.
        pub encoding: i32,
        /// Its owner.
        pub owner: String,
        /// COMMENT ON COLLATION.
        pub comment: Option<String>,
    }
}

impl SchemaObject for Collation {
    const KIND: Kind = Kind::Collation;

    fn query(major: u32) -> Cow<'static, str> {
        let more = match major {
            ..15 => "",
            15 => ", 'locale ' || c.colliculocale",
            16 => ", 'locale ' || c.colliculocale, 'rules ' || c.collicurules",
            17.. => ", 'locale ' || c.colllocale, 'rules ' || c.collicurules",
        };
        format!(
            "SELECT n.nspname::text, c.collname::text, c.collprovider::text, \
             array_remove(ARRAY['collate ' || c.collcollate, 'ctype ' || c.collctype{more}], \
             NULL), NOT c.collisdeterministic, c.collencoding, pg_get_userbyid(c.collowner)::text, \
             {} FROM pg_collation c JOIN pg_namespace n ON n.oid = c.collnamespace {} WHERE {}",
            comment(),
            comment_of("pg_collation", "c.oid"),
            made_in_schema("pg_collation", "c.oid"),
        )
        .into()
    }

    fn key(&self) -> ObjectKey<'_> {
        ObjectKey::of(&self.schema, &self.name)
    }
}

record! {
    /// A conversion between encodings.
    pub struct Conversion {
        /// Its schema.
        pub schema: String,
        /// Its name.
        pub name: String,
        /// From which encoding.
        pub source: String,
        /// To which.
        pub target: String,
        /// What converts.
        pub function: String,
        /// Used by itself.
        pub default: bool,
        /// Its owner.
        pub owner: String,
        /// COMMENT ON CONVERSION.
        pub comment: Option<String>,
    }
}

impl SchemaObject for Conversion {
    const KIND: Kind = Kind::Conversion;

    fn query(_: u32) -> Cow<'static, str> {
        format!(
            "SELECT n.nspname::text, c.conname::text, pg_encoding_to_char(c.conforencoding)::text, \
             pg_encoding_to_char(c.contoencoding)::text, c.conproc::regprocedure::text, \
             c.condefault, pg_get_userbyid(c.conowner)::text, {} FROM pg_conversion c JOIN \
             pg_namespace n ON n.oid = c.connamespace {} WHERE {}",
            comment(),
            comment_of("pg_conversion", "c.oid"),
            made_in_schema("pg_conversion", "c.oid"),
        )
        .into()
    }

    fn key(&self) -> ObjectKey<'_> {
        ObjectKey::of(&self.schema, &self.name)
    }
}

record! {
    /// A configuration, dictionary, parser or template of text search.
    pub struct TextSearch {
        /// Its schema.
        pub schema: String,
        /// Its name.
        pub name: String,
        /// configuration, dictionary, parser or template.
        pub r#type: String,
        /// What it is made of.
        pub definition: Sorted,
        /// Its owner; parsers and templates have none.
        pub owner: Option<String>,
        /// COMMENT ON TEXT SEARCH.
        pub comment: Option<String>,
    }
}

impl SchemaObject for TextSearch {
    const KIND: Kind = Kind::TextSearch;

    fn query(_: u32) -> Cow<'static, str> {
        let part = |r#type: &str, catalog: &str, prefix: &str, definition: &str, owner: &str| {
            format!(
                "SELECT n.nspname::text, o.{prefix}name::text, '{type}', {definition}, {owner}, {} \
                 FROM {catalog} o JOIN pg_namespace n ON n.oid = o.{prefix}namespace {} WHERE {}",
                comment(),
                comment_of(catalog, "o.oid"),
                made_in_schema(catalog, "o.oid"),
            )
        };
        let configuration = "ARRAY[(SELECT format('parser %I.%I', pn.nspname, p.prsname) FROM \
                pg_ts_parser p JOIN pg_namespace pn ON pn.oid = p.prsnamespace WHERE p.oid = \
                o.cfgparser)] || ARRAY(SELECT (SELECT t.alias FROM ts_token_type(o.cfgparser) t \
                WHERE t.tokid = m.maptokentype) || ' with ' || \
                string_agg(m.mapdict::regdictionary::text, ', ' ORDER BY m.mapseqno) FROM \
                pg_ts_config_map m WHERE m.mapcfg = o.oid GROUP BY m.maptokentype)";
        let dictionary = "array_remove(ARRAY[(SELECT format('template %I.%I', tn.nspname, \
            t.tmplname) FROM pg_ts_template t JOIN pg_namespace tn ON tn.oid = t.tmplnamespace \
            WHERE t.oid = o.dicttemplate), o.dictinitoption], NULL)";
        let parser = "array_remove(ARRAY['start ' || o.prsstart::regprocedure, 'gettoken ' || \
            o.prstoken::regprocedure, 'end ' || o.prsend::regprocedure, 'headline ' || \
            nullif(o.prsheadline, 0)::regprocedure, 'lextypes ' || o.prslextype::regprocedure], \
            NULL)";
        let template = "array_remove(ARRAY['init ' || nullif(o.tmplinit, 0)::regprocedure, \
            'lexize ' || o.tmpllexize::regprocedure], NULL)";
        [
            part(
                "configuration",
                "pg_ts_config",
                "cfg",
                configuration,
                "pg_get_userbyid(o.cfgowner)::text",
            ),
            part(
                "dictionary",
                "pg_ts_dict",
                "dict",
                dictionary,
                "pg_get_userbyid(o.dictowner)::text",
            ),
            part("parser", "pg_ts_parser", "prs", parser, "NULL"),
            part("template", "pg_ts_template", "tmpl", template, "NULL"),
        ]
        .join(" UNION ALL ")
        .into()
    }

    fn key(&self) -> ObjectKey<'_> {
        ObjectKey {
            schema: &self.schema,
            name: &self.name,
            rest: &self.r#type,
        }
    }
}
