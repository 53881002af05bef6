//! A down and the up after it in one transaction that is undone: when that tells what two
//! transactions would.

use crate::{
    failure::Failure,
    migration::{Migration, Script, ScriptMode},
    schema::Snapshot,
    sql,
};

/// What the scripts of a migration do, as far as they may be one transaction that is undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScriptTraits {
    /// They only define, and that nothing lasts longer.
    Defines,
    /// They write rows, too.
    Writes,
}

impl ScriptTraits {
    /// What the down and the up after it do; `None`: more, so they are not tried in one
    /// transaction.
    pub(crate) fn of(migration: &Migration, down: &Script) -> Option<Self> {
        let mut does = Self::Defines;
        for script in [&migration.up, down] {
            let statements = sql::split(&script.sql);
            if script.mode != ScriptMode::Transactional
                || !statements
                    .iter()
                    .all(|statement| statement.defines() || statement.writes())
                || sql::first_reach(&script.sql).is_some()
            {
                return None;
            }
            if statements.iter().any(sql::Statement::writes) {
                does = Self::Writes;
            }
        }
        Some(does)
    }

    /// True where nothing in that schema makes it something else in one transaction: event triggers
    /// see what is defined, and a constraint or trigger that can be deferred would have waited for
    /// the end of the down.
    pub(crate) fn is_the_same_in(self, schema: &Snapshot) -> bool {
        let can_wait = || {
            schema
                .constraints
                .iter()
                .any(|constraint| constraint.deferrable)
                || schema
                    .triggers
                    .iter()
                    .any(|trigger| trigger.definition.contains(" DEFERRABLE "))
        };
        schema.event_triggers.is_empty() && (self == Self::Defines || !can_wait())
    }

    /// True for what fails in any transaction. The rest may fail only because the down's is the
    /// same: the first use of an enum's new value does (55P04), or a row whose key is now().
    pub(crate) fn fails_anywhere(self, failure: &Failure) -> bool {
        /// Classes of SQLSTATEs: dependents, schemas, names and syntax.
        const CLASSES: [&str; 3] = ["2B", "3F", "42"];
        let sqlstate = failure.metadata.get("sqlstate").map_or("", |text| text);
        self == Self::Defines && CLASSES.iter().any(|class| sqlstate.starts_with(class))
    }
}
