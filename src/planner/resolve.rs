//! What a person settles that schemad cannot know: whether a statement took effect, that a half
//! done script is given up, or that an applied up was changed on purpose.

use super::{PlanRefusal, journal::is_contradicted, state::table_lost};
use crate::migration::{JournalRecord, Migration, MigrationRow, Version, set::MigrationSet};

/// What to settle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolveRequest {
    /// Of this migration. `None`: of Diesel's table.
    pub version: Option<Version>,
    /// How.
    pub outcome: ResolveOutcome,
    /// Why, in the words of whoever asks; kept in the ledger.
    pub reason: String,
}

/// How something is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResolveOutcome {
    /// The statement in doubt took effect: the script goes on after it. Of one that Diesel's table
    /// says is through: it is.
    Applied,
    /// It did not: the script goes on with it.
    NotApplied,
    /// Nobody knows, and doing it again does no harm.
    Retry,
    /// What ran of a half done script was undone by hand: an up begins anew, a down is as if it had
    /// never begun.
    StartOver,
    /// The embedded up of an applied migration is taken for the one that ran.
    Accept,
    /// Of Diesel's table that is gone or empty: the ledger is right, and what it lists is listed
    /// there again.
    RestoreTable,
    /// Of Diesel's table that is gone or empty: it is right, and nothing is applied any more.
    NothingApplied,
}

impl ResolveOutcome {
    /// Each of them.
    pub const ALL: [Self; 7] = [
        Self::Applied,
        Self::NotApplied,
        Self::Retry,
        Self::StartOver,
        Self::Accept,
        Self::RestoreTable,
        Self::NothingApplied,
    ];

    /// What a person can say of a statement whose end is not known.
    pub const OF_A_DOUBT: [Self; 3] = [Self::Applied, Self::NotApplied, Self::Retry];

    /// Several, as a failure's metadata `resolve` names them.
    pub fn list(outcomes: &[Self]) -> String {
        outcomes
            .iter()
            .map(|outcome| outcome.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// Those of such a list.
    pub fn of_list(list: &str) -> Vec<Self> {
        list.split(", ")
            .filter_map(|word| {
                Self::ALL
                    .into_iter()
                    .find(|outcome| outcome.as_str() == word)
            })
            .collect()
    }

    /// The ledger's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::NotApplied => "not applied",
            Self::Retry => "retry",
            Self::StartOver => "start over",
            Self::Accept => "accept",
            Self::RestoreTable => "restore table",
            Self::NothingApplied => "nothing applied",
        }
    }
}

/// What the ledger has to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LedgerResolution {
    /// The running part of this step's journal is done, or is to be run again.
    Statement {
        /// The row of the step.
        step: i64,
        /// It took effect.
        done: bool,
    },
    /// The journal of this step is over.
    StartOver {
        /// The row of the step.
        step: i64,
    },
    /// This is the up that counts as applied.
    Accept(Migration),
    /// Diesel's table gets the ledger's rows again, and is created where it is gone.
    RestoreTable,
    /// The ledger forgets what Diesel's table does not list.
    NothingApplied,
}

/// Plans a Resolve.
///
/// # Errors
/// [`PlanRefusal::UnknownVersion`], or [`PlanRefusal::NothingToResolve`] with what there is
/// instead.
pub(crate) fn plan_resolve(
    catalog: &MigrationSet,
    rows: &[MigrationRow],
    request: &ResolveRequest,
) -> Result<LedgerResolution, PlanRefusal> {
    let Some(version) = &request.version else {
        return match (table_lost(rows), request.outcome) {
            (Some(_), ResolveOutcome::RestoreTable) => Ok(LedgerResolution::RestoreTable),
            (Some(_), _) => Ok(LedgerResolution::NothingApplied),
            (None, _) => Err(PlanRefusal::TableNotLost),
        };
    };
    let row = rows.iter().find(|row| row.version == *version);
    if row.is_none() && catalog.get(version).is_none() {
        return Err(PlanRefusal::UnknownVersion(version.clone()));
    }
    let journal = row.and_then(|row| row.journal.as_ref());
    let running = journal.filter(|journal| journal.running.is_some());
    let contradicted = journal.filter(|_| row.is_some_and(is_contradicted));
    let settled = match request.outcome {
        ResolveOutcome::Applied if running.is_none() => {
            contradicted.map(|journal| LedgerResolution::StartOver { step: journal.step })
        }
        ResolveOutcome::Applied => running.map(|journal| LedgerResolution::Statement {
            step: journal.step,
            done: true,
        }),
        ResolveOutcome::NotApplied | ResolveOutcome::Retry => {
            running.map(|journal| LedgerResolution::Statement {
                step: journal.step,
                done: false,
            })
        }
        ResolveOutcome::StartOver if contradicted.is_some() => None,
        ResolveOutcome::StartOver => {
            journal.map(|journal| LedgerResolution::StartOver { step: journal.step })
        }
        ResolveOutcome::RestoreTable | ResolveOutcome::NothingApplied => None,
        ResolveOutcome::Accept => {
            edited(catalog, row).map(|migration| LedgerResolution::Accept(migration.clone()))
        }
    };
    settled.ok_or_else(|| PlanRefusal::NothingToResolve {
        version: version.clone(),
        outcome: request.outcome,
        instead: match contradicted {
            Some(JournalRecord { running: None, .. }) => {
                "Diesel's table contradicts its journal: mend its row there first, or applied \
                 where all of it is done"
            }
            _ => instead(journal, edited(catalog, row).is_some()),
        },
    })
}

/// The embedded migration, when its up is not the one that was applied.
fn edited<'a>(catalog: &'a MigrationSet, row: Option<&MigrationRow>) -> Option<&'a Migration> {
    let row = row.filter(|row| row.is_applied())?;
    let (recorded, _) = row.recorded.as_ref()?.up?;
    catalog
        .get(&row.version)
        .filter(|migration| migration.up.checksum != recorded)
}

fn instead(journal: Option<&JournalRecord>, edited: bool) -> &'static str {
    match journal {
        Some(JournalRecord {
            running: Some(_), ..
        }) => {
            "one of its statements is in doubt: applied, not applied, retry or start over settles \
             that"
        }
        Some(_) => {
            "it is half done: the next Apply (a down: the next Rollback) goes on, or start over"
        }
        None if edited => "its up was changed after it was applied: accept settles that",
        None => "nothing about it is in doubt",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migration::{
        Direction, RunningPart,
        set::tests::{Hand, Source},
    };

    fn catalog() -> MigrationSet {
        MigrationSet::load(&Source(vec![Hand("1_a", vec!["SELECT 1"], None)])).unwrap()
    }

    fn row(done: usize, running: bool) -> MigrationRow {
        let running = running.then(|| RunningPart {
            checksum: "c".into(),
            in_doubt: true,
            failed: false,
        });
        let done = vec!["d".to_owned(); done];
        let (tried, script) = (None, None);
        let journal = JournalRecord {
            step: 7,
            direction: Direction::Up,
            name: "1_a".into(),
            done,
            running,
            tried,
            script,
        };
        MigrationRow {
            version: "1".parse().unwrap(),
            run_on: None,
            recorded: None,
            journal: Some(journal),
        }
    }

    fn plan(
        rows: &[MigrationRow],
        outcome: ResolveOutcome,
    ) -> Result<LedgerResolution, PlanRefusal> {
        let request = ResolveRequest {
            version: Some("1".parse().unwrap()),
            outcome,
            reason: "r".into(),
        };
        plan_resolve(&catalog(), rows, &request)
    }

    #[test]
    fn a_statement_in_doubt_is_settled_either_way() {
        let doubt = [row(1, true)];
        assert_eq!(
            plan(&doubt, ResolveOutcome::Applied),
            Ok(LedgerResolution::Statement {
                step: 7,
                done: true
            })
        );
        assert_eq!(
            plan(&doubt, ResolveOutcome::NotApplied),
            Ok(LedgerResolution::Statement {
                step: 7,
                done: false
            })
        );
        assert_eq!(
            plan(&doubt, ResolveOutcome::Retry),
            Ok(LedgerResolution::Statement {
                step: 7,
                done: false
            })
        );
        assert_eq!(
            plan(&doubt, ResolveOutcome::StartOver),
            Ok(LedgerResolution::StartOver { step: 7 })
        );
    }

    #[test]
    fn what_is_not_there_cannot_be_settled_and_what_is_there_is_told() {
        let instead = |rows: &[MigrationRow], outcome| match plan(rows, outcome) {
            Err(PlanRefusal::NothingToResolve { instead, .. }) => instead,
            other => panic!("{other:?}"),
        };
        assert!(instead(&[row(1, false)], ResolveOutcome::Applied).contains("half done"));
        assert!(instead(&[row(1, true)], ResolveOutcome::Accept).contains("in doubt"));
        assert!(instead(&[], ResolveOutcome::Retry).contains("nothing"));
        let unknown = ResolveRequest {
            version: Some("9".parse().unwrap()),
            outcome: ResolveOutcome::Retry,
            reason: "r".into(),
        };
        let refused = plan_resolve(&catalog(), &[], &unknown);
        assert_eq!(
            refused,
            Err(PlanRefusal::UnknownVersion("9".parse().unwrap()))
        );
    }
}
