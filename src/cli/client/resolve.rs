//! `schemad resolve`.

use std::time::Duration;

use clap::Args;

use super::operate;
use crate::cli::{
    client::connection::{ClientArgs, ReadArgs},
    exit::CommandExit,
    output::{self, OutputFormat, tell_done},
};
use crate::pb;

/// Settle what only a person can know about a migration. Runs no SQL of any migration; what was
/// said is kept.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("outcome").required(true)
    .args(["applied", "not_applied", "retry", "start_over", "accept", "restore_diesel_table", "nothing_applied"]))]
pub(crate) struct ResolveArgs {
    /// The migration; not for what concerns Diesel's table.
    #[arg(value_parser = operate::version, required_unless_present_any = ["restore_diesel_table", "nothing_applied"],
        conflicts_with_all = ["restore_diesel_table", "nothing_applied"])]
    version: Option<String>,
    /// The statement in doubt took effect: the script goes on after it. Or the script is through,
    /// as Diesel's table says.
    #[arg(long)]
    applied: bool,
    /// The statement in doubt did not take effect: the script goes on with it.
    #[arg(long)]
    not_applied: bool,
    /// Nobody knows whether it took effect, and doing it again does no harm.
    #[arg(long)]
    retry: bool,
    /// What ran of a half done script was undone by hand: an up begins anew, a down is as if it had
    /// never begun.
    #[arg(long)]
    start_over: bool,
    /// The up was changed after it was applied, and what the daemon carries counts as what ran.
    #[arg(long)]
    accept: bool,
    /// Diesel's table is gone or empty by mistake: list in it again what the ledger lists as
    /// applied.
    #[arg(long)]
    restore_diesel_table: bool,
    /// Diesel's table is gone or empty because nothing is applied any more: the ledger forgets what
    /// it listed.
    #[arg(long)]
    nothing_applied: bool,
    /// Why, for those who look later.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    common: ClientArgs,
}

impl ResolveArgs {
    pub(crate) async fn run(self) -> CommandExit {
        let outcome = match () {
            () if self.applied => pb::ResolveOutcome::Applied,
            () if self.not_applied => pb::ResolveOutcome::NotApplied,
            () if self.retry => pb::ResolveOutcome::Retry,
            () if self.start_over => pb::ResolveOutcome::StartOver,
            () if self.restore_diesel_table => pb::ResolveOutcome::RestoreDieselTable,
            () if self.nothing_applied => pb::ResolveOutcome::NothingApplied,
            () => pb::ResolveOutcome::Accept,
        };
        let request = pb::ResolveRequest {
            version: self.version.clone().unwrap_or_default(),
            outcome: outcome.into(),
            reason: self.reason,
            ..Default::default()
        };
        let read = ReadArgs::with_timeout(self.common.clone(), Duration::from_secs(60));
        match read
            .call(async |mut client| client.resolve(request).await)
            .await
        {
            Err(exit) => exit,
            Ok(response) => {
                if self.common.output == OutputFormat::Json {
                    if let Err(exit) = output::json(&response, "schemad.v1.ResolveResponse") {
                        return exit;
                    }
                    if output::is_printed() {
                        return CommandExit::DONE;
                    }
                }
                let id = response
                    .operation
                    .map(|operation| operation.id)
                    .unwrap_or_default();
                let subject = self
                    .version
                    .as_deref()
                    .map_or_else(|| "Diesel's table".into(), output::line);
                tell_done(&format!("Resolved {subject} (operation {id})."));
                CommandExit::DONE
            }
        }
    }
}
