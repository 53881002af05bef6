//! `schemad list`.

use clap::Args;

use crate::cli::{
    client::connection::ReadArgs,
    exit::CommandExit,
    output::{self, OutputFormat, fitted_table, say},
};
use crate::pb;

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    read: ReadArgs,
}

impl ListArgs {
    pub(crate) async fn run(self) -> CommandExit {
        self.print().await.err().unwrap_or(CommandExit::DONE)
    }

    /// All pages: one table, or one JSON object a page.
    async fn print(self) -> Result<(), CommandExit> {
        let (mut page_token, mut rows) = (String::new(), Vec::new());
        loop {
            let request = pb::ListMigrationsRequest {
                page_size: 1000,
                page_token,
                ..Default::default()
            };
            let page = self
                .read
                .call(async |mut client| client.list_migrations(request).await)
                .await?;
            if self.read.common.output == OutputFormat::Json {
                output::json(&page, "schemad.v1.ListMigrationsResponse")?;
            }
            page_token = page.next_page_token;
            rows.extend(page.migrations.iter().map(row));
            if page_token.is_empty() {
                break;
            }
        }
        if self.read.common.output == OutputFormat::Table {
            let header = [
                "VERSION",
                "NAME",
                "STATE",
                "APPLIED",
                "TOOK",
                "REVERSIBLE",
                "RUNS",
            ];
            say(&fitted_table(
                &header,
                rows,
                &["TOOK", "REVERSIBLE", "RUNS", "APPLIED"],
                "NAME",
            ));
        }
        Ok(())
    }
}

fn row(migration: &pb::Migration) -> Vec<String> {
    vec![
        migration.version.clone(),
        migration.name.clone(),
        state(migration),
        output::time(migration.apply_time.as_ref()),
        output::duration(migration.apply_duration.as_ref()),
        reversible(migration),
        runs(
            migration.up_mode(),
            migration.up_mode_reason(),
            migration.up_parts,
        ),
    ]
}

/// How a script runs, and why so; empty where that is not known.
pub(crate) fn runs(mode: pb::MigrationMode, reason: pb::ModeReason, parts: i32) -> String {
    let why = match reason {
        pb::ModeReason::Metadata => " (metadata.toml)",
        pb::ModeReason::OwnTransactions => " (its BEGIN and COMMIT)",
        pb::ModeReason::Unspecified => "",
    };
    match (mode, parts) {
        (pb::MigrationMode::Unspecified, _) => String::new(),
        (pb::MigrationMode::Transactional, _) => "in one transaction".into(),
        (pb::MigrationMode::NonTransactional, 0) => format!("statement by statement{why}"),
        (pb::MigrationMode::NonTransactional, 1) => format!("in 1 part{why}"),
        (pb::MigrationMode::NonTransactional, parts) => format!("in {parts} parts{why}"),
    }
}

/// One word, and what is odd about it.
pub(crate) fn state(migration: &pb::Migration) -> String {
    let word = migration
        .state()
        .as_str_name()
        .trim_start_matches("MIGRATION_STATE_")
        .to_lowercase()
        .replace('_', " ");
    match (migration.edited, migration.embedded) {
        (true, _) => format!("{word}, edited since"),
        (_, true) if migration.reversible_from.len() > 1 && downs_differ(migration) => {
            format!("{word}, down edited since")
        }
        (_, false) => format!("{word}, not in this daemon"),
        _ => word,
    }
}

/// Where a script is.
pub(crate) fn source(source: pb::ScriptSource) -> String {
    match source {
        pb::ScriptSource::Binary => "daemon".into(),
        other => other
            .as_str_name()
            .trim_start_matches("SCRIPT_SOURCE_")
            .to_lowercase(),
    }
}

fn downs_differ(migration: &pb::Migration) -> bool {
    let (ledger, own) = (
        &migration.recorded_down_checksum,
        &migration.embedded_down_checksum,
    );
    !ledger.is_empty() && !own.is_empty() && ledger != own
}

/// From where it can be rolled back.
pub(crate) fn reversible(migration: &pb::Migration) -> String {
    let sources: Vec<String> = migration.reversible_from().map(source).collect();
    if sources.is_empty() {
        "no".into()
    } else {
        sources.join(", ")
    }
}
