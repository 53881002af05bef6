//! Which stored downs a SignLedger signs, and which it cannot. Their texts lie in the database, so
//! whether each is what its checksum says is found out later.

use super::{PlanRefusal, StepScript};
use crate::migration::{MigrationRow, Version, set::MigrationSet};

/// What to sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignRequest {
    /// Which migrations' downs.
    pub target: SignTarget,
    /// Why, in the words of whoever asks; kept in the ledger.
    pub reason: String,
}

/// Which migrations' downs to sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SignTarget {
    /// Every applied one that this binary carries just so, or that one of the keys signed before.
    All,
    /// These, whatever signature they have.
    Versions(Vec<Version>),
}

impl SignTarget {
    /// In a few words, however many they are.
    pub fn summary(&self) -> String {
        const MOST: usize = 10;
        match self {
            Self::All => "all".into(),
            Self::Versions(versions) if versions.len() > MOST => {
                format!("{} versions", versions.len())
            }
            Self::Versions(versions) => versions
                .iter()
                .map(Version::as_str)
                .collect::<Vec<_>>()
                .join(", "),
        }
    }
}

/// What a SignLedger comes to.
#[derive(Clone, Debug, Default)]
pub(crate) struct SigningPlan {
    /// To be signed, if their texts are in order.
    pub wanted: Vec<UnsignedDown>,
    /// Named, and nothing that could be signed: the version, and why not.
    pub refused: Vec<(Version, &'static str)>,
}

/// A down to be signed.
#[derive(Clone, Debug)]
pub(crate) struct UnsignedDown {
    /// Of this migration.
    pub version: Version,
    /// Where it is. In the binary: of a migration that the same operation adopts.
    pub script: StepScript,
    /// The signature it has.
    pub mac: Option<Vec<u8>>,
    /// Somebody asked for this very one.
    pub named: bool,
    /// It is the binary's own down, so nobody has to read it.
    pub carried: bool,
}

/// Plans a SignLedger.
///
/// # Errors
/// [`PlanRefusal::UnknownVersion`].
pub(crate) fn plan_sign(
    catalog: &MigrationSet,
    rows: &[MigrationRow],
    request: &SignRequest,
) -> Result<SigningPlan, PlanRefusal> {
    let mut signing = SigningPlan::default();
    match &request.target {
        SignTarget::All => {
            let applied = rows.iter().filter(|row| row.is_applied());
            signing
                .wanted
                .extend(applied.filter_map(|row| unsigned(catalog, row, false)));
        }
        SignTarget::Versions(versions) => {
            for version in versions {
                let row = rows.iter().find(|row| row.version == *version);
                if row.is_none() && catalog.get(version).is_none() {
                    return Err(PlanRefusal::UnknownVersion(version.clone()));
                }
                match row.filter(|row| row.is_applied()) {
                    None => signing.refused.push((
                        version.clone(),
                        "it is not applied, so the ledger keeps no down of it",
                    )),
                    Some(row) => match unsigned(catalog, row, true) {
                        None => signing
                            .refused
                            .push((version.clone(), "it was applied without a down")),
                        Some(down) => signing.wanted.push(down),
                    },
                }
            }
        }
    }
    Ok(signing)
}

fn unsigned(catalog: &MigrationSet, row: &MigrationRow, named: bool) -> Option<UnsignedDown> {
    let own = catalog
        .get(&row.version)
        .and_then(|migration| migration.down.as_ref());
    let script = match &row.recorded {
        Some(recorded) => recorded
            .down
            .map(|(checksum, mode)| StepScript::Ledger(checksum, mode))?,
        None => StepScript::Binary(own?.clone()),
    };
    let carried =
        own.is_some_and(|own| (own.checksum, own.mode) == (script.checksum(), script.mode()));
    let mac = row
        .recorded
        .as_ref()
        .and_then(|recorded| recorded.mac.clone());
    Some(UnsignedDown {
        version: row.version.clone(),
        script,
        mac,
        named,
        carried,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::planner::tests::{applied, set, version};

    fn plan(target: SignTarget) -> Result<SigningPlan, PlanRefusal> {
        let mut rows = applied(&[1, 2]);
        rows[1].recorded.as_mut().unwrap().down = None;
        plan_sign(
            &set(&[1, 2, 3]),
            &rows,
            &SignRequest {
                target,
                reason: "r".into(),
            },
        )
    }

    #[test]
    fn all_are_those_that_have_a_down_and_named_ones_are_refused_without() {
        let all = plan(SignTarget::All).unwrap();
        assert_eq!(
            all.wanted
                .iter()
                .map(|u| (u.version.as_str(), u.named))
                .collect::<Vec<_>>(),
            [("1", false)]
        );
        assert!(all.refused.is_empty());
        let named = plan(SignTarget::Versions(vec![
            version(1),
            version(2),
            version(3),
        ]))
        .unwrap();
        assert_eq!(
            named
                .wanted
                .iter()
                .map(|u| (u.version.as_str(), u.named))
                .collect::<Vec<_>>(),
            [("1", true)]
        );
        assert_eq!(
            named
                .refused
                .iter()
                .map(|(v, _)| v.as_str())
                .collect::<Vec<_>>(),
            ["2", "3"]
        );
        let unknown = plan(SignTarget::Versions(vec![version(9)])).unwrap_err();
        assert_eq!(unknown, PlanRefusal::UnknownVersion(version(9)));
    }

    #[test]
    fn a_target_is_told_in_a_few_words() {
        let versions = |n| SignTarget::Versions((0..n).map(version).collect());
        assert_eq!(
            [SignTarget::All, versions(2), versions(11)].map(|t| t.summary()),
            ["all", "0, 1", "11 versions"]
        );
    }
}
