//! Functions, procedures and aggregates.

use std::borrow::Cow;

use super::{
    name::identifier,
    object::{Kind, ObjectKey, SchemaObject},
    sql::{comment, comment_of, made_in_schema},
};
use crate::schema::row::{Acl, letters, record};

letters! {
    /// The sorts of routines.
    pub enum RoutineKind {
        /// CREATE FUNCTION.
        #[default] Function = "f",
        /// CREATE PROCEDURE.
        Procedure = "p",
        /// CREATE AGGREGATE.
        Aggregate = "a",
        /// CREATE FUNCTION … WINDOW.
        Window = "w",
    }
}

record! {
    /// A routine.
    pub struct Routine {
        /// Its schema.
        pub schema: String,
        /// Its name.
        pub name: String,
        /// The types of its input arguments.
        pub arguments: String,
        /// Which sort.
        pub kind: RoutineKind,
        /// What it returns; none for a procedure.
        pub returns: Option<String>,
        /// CREATE OR REPLACE … as the server writes it; an aggregate's parts.
        pub definition: String,
        /// Its owner.
        pub owner: String,
        /// Who may call it.
        pub acl: Acl,
        /// COMMENT ON FUNCTION.
        pub comment: Option<String>,
    }
}

/// Everything that CREATE AGGREGATE can say.
const AGGREGATE: &str = "concat_ws(', ', 'arguments ' || pg_get_function_arguments(p.oid), 'kind ' \
    || g.aggkind::text, 'sfunc ' || nullif(g.aggtransfn, 0)::regprocedure, 'stype ' || \
    format_type(g.aggtranstype, NULL), 'sspace ' || nullif(g.aggtransspace, 0), 'finalfunc ' || \
    nullif(g.aggfinalfn, 0)::regprocedure, CASE WHEN g.aggfinalextra THEN 'finalfunc_extra' END, \
    'finalfunc_modify ' || g.aggfinalmodify::text, 'combinefunc ' || nullif(g.aggcombinefn, \
    0)::regprocedure, 'serialfunc ' || nullif(g.aggserialfn, 0)::regprocedure, 'deserialfunc ' || \
    nullif(g.aggdeserialfn, 0)::regprocedure, 'initcond ' || quote_literal(g.agginitval), 'msfunc \
    ' || nullif(g.aggmtransfn, 0)::regprocedure, 'minvfunc ' || nullif(g.aggminvtransfn, \
    0)::regprocedure, 'mstype ' || format_type(nullif(g.aggmtranstype, 0), NULL), 'msspace ' || \
    nullif(g.aggmtransspace, 0), 'mfinalfunc ' || nullif(g.aggmfinalfn, 0)::regprocedure, CASE \
    WHEN g.aggmfinalextra THEN 'mfinalfunc_extra' END, 'mfinalfunc_modify ' || \
    g.aggmfinalmodify::text, 'minitcond ' || quote_literal(g.aggminitval), 'sortop ' || \
    nullif(g.aggsortop, 0)::regoperator, 'parallel ' || p.proparallel::text)";

impl SchemaObject for Routine {
    const KIND: Kind = Kind::Routine;
    const IMPLIED: &'static [&'static str] = &["returns"];

    /// The constructors of range types are left out: they come with their type.
    fn query(_: u32) -> Cow<'static, str> {
        format!(
            "SELECT n.nspname::text, p.proname::text, oidvectortypes(p.proargtypes), \
             p.prokind::text, pg_get_function_result(p.oid), CASE WHEN p.prokind = 'a' THEN \
             {AGGREGATE} ELSE pg_get_functiondef(p.oid) END, pg_get_userbyid(p.proowner)::text, \
             p.proacl::text[], CASE WHEN p.proacl IS NOT NULL THEN acldefault('f', \
             p.proowner)::text[] END, {} FROM pg_proc p JOIN pg_namespace n ON n.oid = \
             p.pronamespace LEFT JOIN pg_aggregate g ON g.aggfnoid = p.oid {} WHERE NOT EXISTS \
             (SELECT FROM pg_depend i WHERE i.classid = 'pg_proc'::regclass AND i.objid = p.oid \
             AND i.deptype = 'i') AND {}",
            comment(),
            comment_of("pg_proc", "p.oid"),
            made_in_schema("pg_proc", "p.oid"),
        )
        .into()
    }

    fn key(&self) -> ObjectKey<'_> {
        ObjectKey {
            schema: &self.schema,
            name: &self.name,
            rest: &self.arguments,
        }
    }

    fn name(&self) -> String {
        format!(
            "{}.{}({})",
            identifier(&self.schema),
            identifier(&self.name),
            self.arguments
        )
    }
}
