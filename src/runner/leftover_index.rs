//! What a statement for an index left that failed in an earlier try and is no longer in the file:
//! the step begins with it.

use std::time::Duration;

use super::{
    RunControl, RunnableStep, ScriptError, StepError, StepObserver,
    journaled::{CurrentPart, JournaledScript, left_out},
};
use crate::runner::{
    catalog_evidence::CatalogEvidence,
    non_transactional::{StatementTimeouts, look, note, reset, sent, set},
};
use crate::{
    ledger::journals,
    migration::Checksum,
    planner::{AbandonedIndex, ResumePoint},
    postgres::{lock::LockedSession, session::ServerNotice},
    runner::response,
    sql::{self, NonTransactional, ScriptUnit, UnitWork},
};

/// Removes the invalid indexes, and tells what is for a person to mend. What waits for a lock in
/// vain is tried again with the step.
pub(super) async fn clear_away(
    session: &mut LockedSession,
    step: &RunnableStep<'_>,
    earlier: &AbandonedIndex,
    index: usize,
    orders: &RunControl,
    observer: &impl StepObserver,
) -> Result<(), StepError> {
    let text = format!("{}{}", earlier.settings, earlier.sql);
    let units = sql::units(&text).unwrap_or_default();
    if let Some((unit, what)) = units.last().and_then(outside) {
        let then = RunnableStep {
            sql: &text,
            earlier: None,
            journaled: None,
            ..step.clone()
        };
        let journaled = JournaledScript {
            units: Vec::new(),
            resume: ResumePoint::default(),
            statement_timeout: Duration::ZERO,
        };
        let part = CurrentPart {
            step: &then,
            journaled: &journaled,
            unit,
            number: 1,
            index,
            left: step.lock_wait,
        };
        let found = match look(session, &part, what, Some(earlier.before.clone())).await {
            Ok(found) => found,
            Err(StepError::Sql(ScriptError { error, .. })) => {
                session.clean().await.map_err(StepError::Lost)?;
                let told = format!(
                    "cannot look for what {} left, which an earlier try began: {error}",
                    unit.body.summary()
                );
                observer.notice(index, warning(told));
                CatalogEvidence::default()
            }
            Err(broken) => return Err(broken),
        };
        for half_dropped in &found.half_dropped {
            observer.notice(index, warning(half_dropped_by(half_dropped)));
        }
        for invalid in &found.invalid {
            remove(session, &part, invalid, orders, observer).await?;
        }
    }
    forget(session, step, earlier).await
}

async fn remove(
    session: &mut LockedSession,
    part: &CurrentPart<'_>,
    index: &str,
    orders: &RunControl,
    observer: &impl StepObserver,
) -> Result<(), StepError> {
    set(session, part, StatementTimeouts::NONE).await?;
    let drop = format!("DROP INDEX CONCURRENTLY {index}");
    let told = match sent(session, part, &drop, Some(part.left), orders, observer).await {
        Ok(()) => note(format!(
            "removed the invalid index {index}, which an earlier try left"
        )),
        Err(StepError::Sql(ScriptError { error, .. })) if !error.is_lock_conflict() => {
            session.clean().await.map_err(StepError::Lost)?;
            warning(format!(
                "the invalid index {index}, which an earlier try left, stays ({error}): {drop}"
            ))
        }
        Err(broken) => return Err(broken),
    };
    left_out(session, part, observer);
    observer.notice(part.index, told);
    reset(session).await
}

/// PostgreSQL has no way back from there, and what the file says now may need the index.
fn half_dropped_by(index: &str) -> String {
    format!(
        "the index {index} is invalid: an earlier try began to drop it, and the file no longer \
         does. DROP INDEX CONCURRENTLY {index} removes it; where it is needed, build it again"
    )
}

/// Nothing is left, or it was told: the journal's row is that of the part which stands there now.
async fn forget(
    session: &LockedSession,
    step: &RunnableStep<'_>,
    earlier: &AbandonedIndex,
) -> Result<(), StepError> {
    let unit = step
        .journaled
        .as_ref()
        .and_then(|journaled| journaled.units.get(earlier.done));
    let now = unit.map(|unit| {
        (
            Checksum::of_script(unit.body.sql).to_string(),
            unit.settles_by(),
        )
    });
    // The step has taken the journal over, unless it is one transaction.
    let of = if step.journaled.is_some() {
        step.id
    } else {
        earlier.step
    };
    journals::forget_tried(session.ledger(), of, earlier.done, now)
        .await
        .map_err(response::of_our_own)
}

fn outside<'a, 'u>(unit: &'u ScriptUnit<'a>) -> Option<(&'u ScriptUnit<'a>, NonTransactional<'a>)> {
    match unit.work {
        UnitWork::Outside(what) => Some((unit, what)),
        UnitWork::InTransaction { .. } => None,
    }
}

fn warning(message: String) -> ServerNotice {
    ServerNotice {
        severity: "WARNING".into(),
        ..note(message)
    }
}
