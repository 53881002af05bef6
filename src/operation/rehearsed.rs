//! `--require-rehearsed`: an up runs only when its rehearsal, with exactly this up and this down,
//! ended well.

use super::prepare::PreparedStep;
use crate::operation::registry::OperationsInner;
use crate::{
    failure::{Failure, Reason},
    ledger::rehearsals::{self, RehearsedScripts},
    migration::{Direction, Script},
    postgres::pool::PooledReader,
    rehearse::Verdict,
};

/// The ledger keeps verdicts from this version on.
const SINCE: i32 = 4;

impl OperationsInner {
    /// Refuses ups without a good verdict, where that is asked for. A rollback needs none: whoever
    /// rolls back has no choice.
    pub(super) async fn is_rehearsed(
        &self,
        steps: &[PreparedStep],
        reader: &mut PooledReader,
        ledger_version: i32,
    ) -> Result<(), Failure> {
        let ups: Vec<&PreparedStep> = steps
            .iter()
            .filter(|step| step.name.direction == Direction::Up)
            .collect();
        if !self.require_rehearsed || ups.is_empty() {
            return Ok(());
        }
        let identity = |script: &Script| (script.checksum, script.mode);
        let scripts =
            |step: &&PreparedStep| (identity(&step.script), step.down.as_ref().map(identity));
        let of: Vec<RehearsedScripts<'_>> = ups
            .iter()
            .map(|step| (&step.version, scripts(step)))
            .map(|(version, (up, down))| RehearsedScripts { version, up, down })
            .collect();
        let found = match ledger_version {
            ..SINCE => vec![None; of.len()],
            _ => rehearsals::verdicts(reader, &of).await?,
        };
        // A newer daemon's verdict that this one does not know is none.
        let found = found.into_iter().map(|word| Verdict::parse(&word?));
        match ups
            .iter()
            .zip(found)
            .find(|(_, verdict)| !verdict.is_some_and(Verdict::is_good))
        {
            None => Ok(()),
            Some((step, verdict)) => Err(refused(step, verdict)),
        }
    }
}

fn refused(step: &PreparedStep, verdict: Option<Verdict>) -> Failure {
    let why = match verdict {
        Some(verdict) => format!("its rehearsal ended with {verdict}"),
        None => "it was not rehearsed with exactly these scripts".to_owned(),
    };
    let message = format!(
        "{} is not applied: {why}, and this daemon applies only what restores (its setting \
         SCHEMAD_REQUIRE_REHEARSED). Have it rehearsed by this daemon (Rehearse)",
        step.name.name
    );
    let failure = Failure::new(Reason::NotRehearsed, message).with("version", &step.version);
    match verdict {
        Some(verdict) => failure.with("verdict", verdict),
        None => failure,
    }
}
