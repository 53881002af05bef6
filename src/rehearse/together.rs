//! A down and the up after it in one transaction that is undone: when that tells what two transactions would.

use crate::{
    failure::Failure,
    migration::{Migration, Mode, Script},
    sql,
};

/// True where the down and the up after it may be one transaction that is undone: they only define, and that nothing lasts longer.
pub(super) fn can_stay_open(migration: &Migration, down: &Script) -> bool {
    [&migration.up, down].iter().all(|script| {
        script.mode == Mode::Transactional
            && sql::split(&script.sql).iter().all(sql::Statement::defines)
            && sql::reaches(&script.sql).is_empty()
    })
}

/// True for what a definition fails with in any transaction: the rest may fail only because the down's is the same, as the first use
/// of an enum's new value does (55P04).
pub(super) fn fails_anywhere(failure: &Failure) -> bool {
    /// Classes of SQLSTATEs: dependents, schemas, names and syntax.
    const CLASSES: [&str; 3] = ["2B", "3F", "42"];
    let sqlstate = failure.metadata.get("sqlstate").map_or("", |text| text);
    CLASSES.iter().any(|class| sqlstate.starts_with(class))
}
