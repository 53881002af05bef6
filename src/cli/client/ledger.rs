//! `schemad ledger`.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::operate;
use crate::cli::{
    client::connection::{ClientArgs, ReadArgs},
    exit::CommandExit,
    output::{self, OutputFormat, progress, table, tell_done},
};
use crate::pb;

/// What a person does to the ledger itself.
#[derive(Debug, Args)]
pub(crate) struct LedgerArgs {
    #[command(subcommand)]
    act: LedgerCommand,
}

#[derive(Debug, Subcommand)]
enum LedgerCommand {
    /// Vouch for the down scripts that the ledger keeps, as they are, with the daemon's signing
    /// key. What was said is kept.
    Sign(SignArgs),
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("target").required(true).args(["version", "all"]))]
struct SignArgs {
    /// The down of this migration, whatever signature it has; may be repeated.
    #[arg(long, value_name = "VERSION", value_parser = operate::version)]
    version: Vec<String>,
    /// The downs of all applied migrations that the daemon carries just so, or that one of its keys
    /// signed before. Others have to be read, and named.
    #[arg(long)]
    all: bool,
    /// Why, for those who look later.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    common: ClientArgs,
}

impl LedgerArgs {
    pub(crate) async fn run(self) -> CommandExit {
        match self.act {
            LedgerCommand::Sign(sign) => sign.run().await,
        }
    }
}

impl SignArgs {
    async fn run(self) -> CommandExit {
        let request = pb::SignLedgerRequest {
            versions: self.version,
            all: self.all,
            reason: self.reason,
            ..Default::default()
        };
        let read = ReadArgs::with_timeout(self.common.clone(), Duration::from_secs(60));
        let response = match read
            .call(async |mut client| client.sign_ledger(request).await)
            .await
        {
            Err(exit) => return exit,
            Ok(response) => response,
        };
        if self.common.output == OutputFormat::Json
            && let Err(exit) = output::json(&response, "schemad.v1.SignLedgerResponse")
        {
            return exit;
        }
        if self.common.output != OutputFormat::Json || !output::is_printed() {
            show(&response);
        }
        match response.refused.len() {
            0 => CommandExit::DONE,
            n => CommandExit::refused(format!("{n} down(s) were not signed")),
        }
    }
}

fn show(response: &pb::SignLedgerResponse) {
    let id = response
        .operation
        .as_ref()
        .map(|operation| operation.id.as_str())
        .unwrap_or_default();
    tell_done(&format!(
        "Signed {} down(s) (operation {id}).",
        response.signed.len()
    ));
    if !response.refused.is_empty() {
        let rows = response
            .refused
            .iter()
            .map(|refused| vec![refused.version.clone(), refused.message.clone()]);
        progress(&table(&["NOT SIGNED", "WHY"], rows));
    }
}
