//! What a signing key means for operations: a down from the ledger runs only when its signature
//! verifies, and a SignLedger vouches for those that have none. The text that is verified is the
//! one that runs: it is read once.

use std::collections::HashMap;

use super::{
    Operations,
    prepare::{PreparedStep, script_missing},
};
use crate::operation::registry::OperationsInner;
use crate::{
    failure::{Failure, Reason},
    ledger::{self, LedgerSnapshot, signatures::NewSignatures},
    migration::{
        Checksum, MigrationRow, Script, ScriptMode, Version,
        set::MigrationSet,
        signature::{DownSigner, SignatureProblem},
    },
    planner::{self, PlanRefusal, SchemaProblem, SigningPlan, StepScript, UnsignedDown},
    postgres::pool::PooledReader,
};

impl OperationsInner {
    /// What signs and verifies, where there is a key and a ledger.
    pub(super) fn signer<'a>(&'a self, snapshot: &'a LedgerSnapshot) -> Option<DownSigner<'a>> {
        Some(self.signing.as_ref()?.signer(&snapshot.ledger.as_ref()?.id))
    }
}

/// Refuses downs from the ledger that nobody vouches for; before anything runs.
pub(super) fn verify(
    signer: Option<DownSigner<'_>>,
    steps: &[PreparedStep],
    rows: &[MigrationRow],
) -> Result<(), PlanRefusal> {
    let Some(signer) = signer else { return Ok(()) };
    let rows: HashMap<&Version, &MigrationRow> =
        rows.iter().map(|row| (&row.version, row)).collect();
    steps
        .iter()
        .filter(|step| step.from_ledger)
        .try_for_each(|step| {
            let verified = signer.verify(
                &step.version,
                &step.script,
                rows.get(&step.version).and_then(|row| mac(row)),
            );
            verified.map_err(|unverified| PlanRefusal::SignatureInvalid {
                version: step.version.clone(),
                unverified,
            })
        })
}

fn mac(row: &MigrationRow) -> Option<&[u8]> {
    row.recorded.as_ref()?.mac.as_deref()
}

impl Operations {
    /// The texts that [`Self::unverified`] needs. Without a key, none.
    pub(crate) fn signed_texts(&self, snapshot: &LedgerSnapshot) -> Vec<Checksum> {
        self.0
            .signer(snapshot)
            .map_or_else(Vec::new, |_| signed_texts(&self.0.catalog, &snapshot.rows))
    }

    /// The downs that a rollback would refuse, for those who look beforehand. Without a key there
    /// are none.
    pub(crate) fn unverified(
        &self,
        snapshot: &LedgerSnapshot,
        texts: Vec<Option<String>>,
    ) -> Vec<SchemaProblem> {
        self.0.signer(snapshot).map_or_else(Vec::new, |signer| {
            unverified(signer, &self.0.catalog, &snapshot.rows, texts)
        })
    }
}

/// The texts of the downs that only the ledger has and that are signed; the others need none to be
/// refused.
pub(crate) fn signed_texts(catalog: &MigrationSet, rows: &[MigrationRow]) -> Vec<Checksum> {
    let signed = |(row, (checksum, _)): (&MigrationRow, (Checksum, ScriptMode))| {
        row.recorded.as_ref()?.mac.as_ref().map(|_| checksum)
    };
    planner::stored_downs(catalog, rows)
        .filter_map(signed)
        .collect()
}

/// The downs that only the ledger has and that do not verify; `texts` as [`signed_texts`] asks for
/// them.
pub(crate) fn unverified(
    signer: DownSigner<'_>,
    catalog: &MigrationSet,
    rows: &[MigrationRow],
    texts: Vec<Option<String>>,
) -> Vec<SchemaProblem> {
    let mut texts = texts.into_iter();
    let refused =
        |(row, (checksum, mode)): (&MigrationRow, (Checksum, ScriptMode))| -> Option<Failure> {
            let version = &row.version;
            let Some(mac) = mac(row) else {
                return Some(invalid(version, SignatureProblem::Missing));
            };
            let Some(sql) = texts.next().flatten() else {
                return Some(script_missing(version, checksum));
            };
            let script = Script {
                sql: sql.into(),
                checksum,
                mode,
            };
            signer
                .verify(version, &script, Some(mac))
                .err()
                .map(|unverified| invalid(version, unverified))
        };
    planner::stored_downs(catalog, rows)
        .filter_map(refused)
        .map(not_to_be_rolled_back)
        .collect()
}

/// It is in nobody's way but a rollback's.
fn not_to_be_rolled_back(mut failure: Failure) -> SchemaProblem {
    let version = failure.metadata.remove("version").unwrap_or_default();
    SchemaProblem {
        reason: failure.reason.as_str(),
        version,
        message: failure.message,
        blocking: false,
        outcomes: Vec::new(),
    }
}

fn invalid(version: &Version, unverified: SignatureProblem) -> Failure {
    PlanRefusal::SignatureInvalid {
        version: version.clone(),
        unverified,
    }
    .into()
}

/// Signs what is in order.
///
/// # Errors
/// SIGNING_KEY_MISSING, or the database's.
pub(super) async fn sign(
    signer: Option<DownSigner<'_>>,
    reader: &mut PooledReader,
    signing: SigningPlan,
) -> Result<NewSignatures, Failure> {
    let Some(signer) = signer else {
        return Err(Failure::new(
            Reason::SigningKeyMissing,
            "this daemon has no signing key, so it cannot sign (its setting \
             SCHEMAD_SIGNING_KEY_FILE)",
        ));
    };
    let stored = |unsigned: &UnsignedDown| matches!(unsigned.script, StepScript::Ledger(..));
    let wanted: Vec<Checksum> = signing
        .wanted
        .iter()
        .filter(|u| stored(u))
        .map(|u| u.script.checksum())
        .collect();
    let mut texts = ledger::read::scripts(reader, wanted).await?.into_iter();
    let refused = signing
        .refused
        .into_iter()
        .map(|(version, why)| (version.to_string(), why.to_owned()));
    let mut signatures = NewSignatures {
        signed: Vec::new(),
        refused: refused.collect(),
    };
    for unsigned in signing.wanted {
        let script = match &unsigned.script {
            StepScript::Binary(script) => Ok(script.clone()),
            StepScript::Ledger(checksum, mode) => {
                stored_script(texts.next().flatten(), *checksum, *mode)
            }
        };
        let version = unsigned.version.to_string();
        match script
            .map_err(str::to_owned)
            .and_then(|script| signature(signer, &unsigned, &script))
        {
            Ok(mac) => signatures.signed.push((version, mac)),
            Err(why) => signatures.refused.push((version, why)),
        }
    }
    Ok(signatures)
}

/// A text that is not what its checksum says was not put there by schemad.
fn stored_script(
    text: Option<String>,
    checksum: Checksum,
    mode: ScriptMode,
) -> Result<Script, &'static str> {
    let sql = text.ok_or("schemad.scripts does not hold its text: somebody deleted it")?;
    if Checksum::of_script(&sql) == checksum {
        Ok(Script {
            sql: sql.into(),
            checksum,
            mode,
        })
    } else {
        Err("its text in schemad.scripts is not what its checksum says: somebody changed it")
    }
}

/// Vouches for what somebody named, what the binary itself carries, and what one of the keys signed
/// before. Anything else may be what whoever can write the ledger put there, having taken the
/// signature away, and is not signed with all the others.
fn signature(
    signer: DownSigner<'_>,
    unsigned: &UnsignedDown,
    down: &Script,
) -> Result<Vec<u8>, String> {
    let verified = signer.verify(&unsigned.version, down, unsigned.mac.as_deref());
    let what = match verified {
        Err(what) if !unsigned.named && !unsigned.carried => what,
        _ => return Ok(signer.sign(&unsigned.version, down)),
    };
    let what = match what {
        SignatureProblem::Missing => "it has no signature",
        SignatureProblem::Wrong => "it has a signature that none of this daemon's keys made",
    };
    Err(format!(
        "{what}, and this daemon does not carry it ({}); read it, and name it to sign it all the \
         same",
        down.checksum
    ))
}
