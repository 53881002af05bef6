//! What a statement for an index left that failed in an earlier try and is no longer in the file:
//! the step begins with it.

use std::time::Duration;

use super::{
    Broken, Observer, Orders, ScriptError, Step,
    journaled::{Journaled, Part, left_out},
};
use crate::runner::{
    catalog_evidence::Found,
    non_transactional::{Timeouts, look, note, reset, sent, set},
};
use crate::{
    ledger::journals,
    migration::Checksum,
    planner::{Earlier, Resume},
    postgres::{lock::LockedSession, session::Notice},
    runner::response,
    sql::{self, Outside, Unit, Work},
};

/// Removes the invalid indexes, and tells what is for a person to mend. What waits for a lock in
/// vain is tried again with the step.
pub(super) async fn clear_away(
    session: &mut LockedSession,
    step: &Step<'_>,
    earlier: &Earlier,
    index: usize,
    orders: &Orders,
    observer: &impl Observer,
) -> Result<(), Broken> {
    let text = format!("{}{}", earlier.settings, earlier.sql);
    let units = sql::units(&text).unwrap_or_default();
    if let Some((unit, what)) = units.last().and_then(outside) {
        let then = Step {
            sql: &text,
            earlier: None,
            journaled: None,
            ..step.clone()
        };
        let journaled = Journaled {
            units: Vec::new(),
            resume: Resume::default(),
            statement_timeout: Duration::ZERO,
        };
        let part = Part {
            step: &then,
            journaled: &journaled,
            unit,
            number: 1,
            index,
            left: step.lock_wait,
        };
        let found = match look(session, &part, what, Some(earlier.before.clone())).await {
            Ok(found) => found,
            Err(Broken::Sql(ScriptError { error, .. })) => {
                session.clean().await.map_err(Broken::Lost)?;
                let told = format!(
                    "cannot look for what {} left, which an earlier try began: {error}",
                    unit.body.summary()
                );
                observer.notice(index, warning(told));
                Found::default()
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
    part: &Part<'_>,
    index: &str,
    orders: &Orders,
    observer: &impl Observer,
) -> Result<(), Broken> {
    set(session, part, Timeouts::NONE).await?;
    let drop = format!("DROP INDEX CONCURRENTLY {index}");
    let told = match sent(session, part, &drop, Some(part.left), orders, observer).await {
        Ok(()) => note(format!(
            "removed the invalid index {index}, which an earlier try left"
        )),
        Err(Broken::Sql(ScriptError { error, .. })) if !error.is_lock_conflict() => {
            session.clean().await.map_err(Broken::Lost)?;
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
async fn forget(session: &LockedSession, step: &Step<'_>, earlier: &Earlier) -> Result<(), Broken> {
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

fn outside<'a, 'u>(unit: &'u Unit<'a>) -> Option<(&'u Unit<'a>, Outside<'a>)> {
    match unit.work {
        Work::Outside(what) => Some((unit, what)),
        Work::InTransaction { .. } => None,
    }
}

fn warning(message: String) -> Notice {
    Notice {
        severity: "WARNING".into(),
        ..note(message)
    }
}
