//! `schemad resolve`.

use std::time::Duration;

use clap::Args;

use super::{
    client::{Common, Read},
    exit::Exit,
    output::{self, Output, say},
};
use crate::grpc::pb;

/// Settle what only a person can know about a migration. Runs no SQL of any migration; what was said is kept.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("outcome").required(true)
    .args(["applied", "not_applied", "retry", "start_over", "accept"]))]
pub(super) struct Resolve {
    /// The migration.
    version: String,
    /// The statement in doubt took effect: the script goes on after it. Or the script is through, as Diesel's table says.
    #[arg(long)]
    applied: bool,
    /// The statement in doubt did not take effect: the script goes on with it.
    #[arg(long)]
    not_applied: bool,
    /// Nobody knows whether it took effect, and doing it again does no harm.
    #[arg(long)]
    retry: bool,
    /// What ran of a half done script was undone by hand: an up begins anew, a down is as if it had never begun.
    #[arg(long)]
    start_over: bool,
    /// The up was changed after it was applied, and what this release carries counts as what ran.
    #[arg(long)]
    accept: bool,
    /// Why, for those who look later.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    common: Common,
}

impl Resolve {
    pub(super) async fn run(self) -> Exit {
        let outcome = match () {
            () if self.applied => pb::ResolveOutcome::Applied,
            () if self.not_applied => pb::ResolveOutcome::NotApplied,
            () if self.retry => pb::ResolveOutcome::Retry,
            () if self.start_over => pb::ResolveOutcome::StartOver,
            () => pb::ResolveOutcome::Accept,
        };
        let request = pb::ResolveRequest {
            version: self.version.clone(),
            outcome: outcome.into(),
            reason: self.reason,
            ..Default::default()
        };
        let read = Read::with_timeout(self.common.clone(), Duration::from_secs(60));
        match read.call(async |mut client| client.resolve(request).await).await {
            Err(exit) => exit,
            Ok(response) if self.common.output == Output::Json => {
                output::json(&response, "schemad.v1.ResolveResponse").err().unwrap_or(Exit::DONE)
            }
            Ok(response) => {
                let id = response.operation.map(|operation| operation.id).unwrap_or_default();
                say(&format!("Resolved {} (operation {id}).", output::line(&self.version)));
                Exit::DONE
            }
        }
    }
}
