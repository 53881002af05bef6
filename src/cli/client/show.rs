//! `schemad show`.

use clap::Args;

use super::{list, operate::version};
use crate::cli::{
    client::connection::ReadArgs,
    exit::CommandExit,
    output::{self, BOLD, OutputFormat, line, plain, say_data, styled},
};
use crate::{pb, text::escape::in_locale};

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// The migration: its folder's name, or its version, which is what stands before the first _
    /// there, without any -.
    #[arg(value_parser = version)]
    version: String,
    #[command(flatten)]
    read: ReadArgs,
}

impl ShowArgs {
    pub(crate) async fn run(self) -> CommandExit {
        self.print().await.err().unwrap_or(CommandExit::DONE)
    }

    async fn print(self) -> Result<(), CommandExit> {
        let request = pb::GetMigrationRequest {
            version: self.version.clone(),
            ..Default::default()
        };
        let response = self
            .read
            .call(async |mut client| client.get_migration(request).await)
            .await?;
        if self.read.common.output == OutputFormat::Json {
            return output::json(&response, "schemad.v1.GetMigrationResponse");
        }
        let migration = response
            .migration
            .ok_or_else(|| CommandExit::unknown("the daemon sent an empty migration"))?;
        say_data(&show(&migration));
        Ok(())
    }
}

fn show(migration: &pb::Migration) -> String {
    let facts = [
        ("Version", migration.version.clone()),
        ("Name", migration.name.clone()),
        ("State", list::state(migration)),
        ("Applied", output::time(migration.apply_time.as_ref())),
        ("Took", output::duration(migration.apply_duration.as_ref())),
        ("Operation", migration.operation.clone()),
        ("By", migration.principal.clone()),
        ("Reversible", list::reversible(migration)),
        (
            "Up runs",
            list::runs(
                migration.up_mode(),
                migration.up_mode_reason(),
                migration.up_parts,
            ),
        ),
        (
            "Down runs",
            list::runs(
                migration.down_mode(),
                migration.down_mode_reason(),
                migration.down_parts,
            ),
        ),
        // As the daemon carries them, and as they were when it was applied.
        ("Up is", migration.embedded_up_checksum.clone()),
        ("Down is", migration.embedded_down_checksum.clone()),
        ("Up was", migration.recorded_up_checksum.clone()),
        ("Down was", migration.recorded_down_checksum.clone()),
    ];
    let mut lines: Vec<String> = facts
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(label, value)| format!("{label:<10}  {}", in_locale(&line(value))))
        .collect();
    let of_daemon = |recorded: &str, file: &str| match recorded {
        "" => file.to_owned(),
        _ => format!("{file} as the daemon carries it"),
    };
    for (label, sql) in [
        (
            of_daemon(&migration.recorded_up_sql, "up.sql"),
            &migration.up_sql,
        ),
        (
            "up.sql as it was applied".to_owned(),
            &migration.recorded_up_sql,
        ),
        (
            of_daemon(&migration.recorded_down_sql, "down.sql"),
            &migration.down_sql,
        ),
        (
            "down.sql as it was when the up was applied, in the ledger".to_owned(),
            &migration.recorded_down_sql,
        ),
    ] {
        if !sql.is_empty() {
            lines.push(format!(
                "\n{}\n{}",
                styled(BOLD, &label),
                plain(sql.trim_end())
            ));
        }
    }
    if migration.truncated {
        lines.push("(cut after 1 MiB)".into());
    }
    lines.join("\n")
}
