//! What happens when something else does: triggers, event triggers, rules; and policies, which
//! decide which rows there are.

use std::borrow::Cow;

use super::{
    Relation,
    name::identifier,
    object::{Kind, ObjectKey, SchemaObject},
    sql::{comment, comment_of, made},
};
use crate::schema::row::{letters, record};

letters! {
    /// When a trigger or a rule fires.
    pub enum Enabled {
        /// In ordinary sessions.
        #[default] Origin = "O",
        /// Never.
        Disabled = "D",
        /// Where changes are replayed.
        Replica = "R",
        /// In both.
        Always = "A",
    }
}

record! {
    /// A trigger.
    pub struct Trigger {
        /// The table or view.
        pub table: Relation,
        /// Its name.
        pub name: String,
        /// As the server writes it.
        pub definition: String,
        /// When it fires.
        pub enabled: Enabled,
        /// COMMENT ON TRIGGER.
        pub comment: Option<String>,
    }
}

impl SchemaObject for Trigger {
    const KIND: Kind = Kind::Trigger;

    /// Those of a partition that follow from its table's only where they are enabled otherwise.
    fn query(_: u32) -> Cow<'static, str> {
        format!(
            "SELECT t.tgrelid, t.tgname::text, pg_get_triggerdef(t.oid), t.tgenabled::text, {} \
             FROM pg_trigger t LEFT JOIN pg_trigger p ON p.oid = t.tgparentid {} WHERE t.tgrelid \
             >= 16384 AND t.tgname !~ '^RI_ConstraintTrigger_' AND (NOT t.tgisinternal AND \
             t.tgparentid = 0 OR t.tgenabled <> p.tgenabled)",
            comment(),
            comment_of("pg_trigger", "t.oid"),
        )
        .into()
    }

    fn key(&self) -> ObjectKey<'_> {
        ObjectKey {
            schema: &self.table.schema,
            name: &self.table.name,
            rest: &self.name,
        }
    }

    fn part_of(&self) -> Option<(&str, &str)> {
        Some((&self.table.schema, &self.table.name))
    }
}

record! {
    /// An event trigger.
    pub struct EventTrigger {
        /// Its name.
        pub name: String,
        /// For example ddl_command_end.
        pub event: String,
        /// WHEN TAG IN these.
        pub tags: Vec<String>,
        /// What it calls.
        pub function: String,
        /// When it fires.
        pub enabled: Enabled,
        /// Its owner.
        pub owner: String,
        /// COMMENT ON EVENT TRIGGER.
        pub comment: Option<String>,
    }
}

impl SchemaObject for EventTrigger {
    const KIND: Kind = Kind::EventTrigger;

    fn query(_: u32) -> Cow<'static, str> {
        format!(
            "SELECT t.evtname::text, t.evtevent::text, t.evttags, t.evtfoid::regprocedure::text, \
             t.evtenabled::text, pg_get_userbyid(t.evtowner)::text, {} FROM pg_event_trigger t {} \
             WHERE {}",
            comment(),
            comment_of("pg_event_trigger", "t.oid"),
            made("pg_event_trigger", "t.oid"),
        )
        .into()
    }

    fn key(&self) -> ObjectKey<'_> {
        ObjectKey::of("", &self.name)
    }

    fn name(&self) -> String {
        identifier(&self.name)
    }
}

record! {
    /// A rule.
    pub struct RewriteRule {
        /// The table or view.
        pub table: Relation,
        /// Its name.
        pub name: String,
        /// As the server writes it.
        pub definition: String,
        /// When it applies.
        pub enabled: Enabled,
        /// COMMENT ON RULE.
        pub comment: Option<String>,
    }
}

impl SchemaObject for RewriteRule {
    const KIND: Kind = Kind::Rule;

    fn query(_: u32) -> Cow<'static, str> {
        format!(
            "SELECT r.ev_class, r.rulename::text, pg_get_ruledef(r.oid), r.ev_enabled::text, {} \
             FROM pg_rewrite r {} WHERE r.ev_class >= 16384 AND r.rulename <> '_RETURN'",
            comment(),
            comment_of("pg_rewrite", "r.oid"),
        )
        .into()
    }

    fn key(&self) -> ObjectKey<'_> {
        ObjectKey {
            schema: &self.table.schema,
            name: &self.table.name,
            rest: &self.name,
        }
    }

    fn part_of(&self) -> Option<(&str, &str)> {
        Some((&self.table.schema, &self.table.name))
    }
}

letters! {
    /// What a policy is for.
    pub enum PolicyCommand {
        /// Everything.
        #[default] All = "*",
        /// SELECT.
        Select = "r",
        /// INSERT.
        Insert = "a",
        /// UPDATE.
        Update = "w",
        /// DELETE.
        Delete = "d",
    }
}

record! {
    /// A row security policy.
    pub struct Policy {
        /// The table.
        pub table: Relation,
        /// Its name.
        pub name: String,
        /// FOR what.
        pub command: PolicyCommand,
        /// AS RESTRICTIVE.
        pub restrictive: bool,
        /// TO whom, by name; `public`: everybody.
        pub roles: Vec<String>,
        /// USING.
        pub using: Option<String>,
        /// WITH CHECK.
        pub check: Option<String>,
        /// COMMENT ON POLICY.
        pub comment: Option<String>,
    }
}

impl SchemaObject for Policy {
    const KIND: Kind = Kind::Policy;

    fn query(_: u32) -> Cow<'static, str> {
        format!(
            "SELECT p.polrelid, p.polname::text, p.polcmd::text, NOT p.polpermissive, ARRAY(SELECT \
             CASE r WHEN 0 THEN 'public' ELSE pg_get_userbyid(r)::text END AS name FROM \
             unnest(p.polroles) r ORDER BY 1), pg_get_expr(p.polqual, p.polrelid), \
             pg_get_expr(p.polwithcheck, p.polrelid), {} FROM pg_policy p {} WHERE p.polrelid >= \
             16384",
            comment(),
            comment_of("pg_policy", "p.oid"),
        )
        .into()
    }

    fn key(&self) -> ObjectKey<'_> {
        ObjectKey {
            schema: &self.table.schema,
            name: &self.table.name,
            rest: &self.name,
        }
    }

    fn part_of(&self) -> Option<(&str, &str)> {
        Some((&self.table.schema, &self.table.name))
    }
}
