//! `schemad doctor`.

use clap::Args;
use diesel::{migration::MigrationSource, pg::Pg};

use super::{
    settings::{DatabaseArgs, EnvFileUrls, LeaseServerArgs},
    signing::SigningArgs,
    source::{self, FolderArgs, MigrationDestination},
};
use crate::cli::{
    exit::CommandExit,
    open_file,
    output::{self, BAD, GOOD, OutputFormat, WARN, line, say, styled},
};
use crate::{
    doctor::{self, CheckResult, CheckStatus, DoctorReport, DoctorSettings},
    migration::set::MigrationSet,
};

/// Look at the database the way the daemon will use it, and say what it would stumble over. Writes
/// nothing, asks no daemon.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    folder: FolderArgs,
    #[command(flatten)]
    databases: DatabaseArgs,
    /// Runs the migrations, as for `serve`.
    #[arg(long, env = "SCHEMAD_ROLE", value_name = "NAME")]
    role: Option<String>,
    #[command(flatten)]
    signing: SigningArgs,
    #[command(flatten)]
    leases: LeaseServerArgs,
    /// How to answer; `json` is one object.
    #[arg(long, env = "SCHEMAD_OUTPUT", value_enum, default_value_t)]
    output: OutputFormat,
}

impl DoctorArgs {
    pub(crate) async fn run(self, source: &dyn MigrationSource<Pg>) -> CommandExit {
        self.examine(source).await.unwrap_or_else(|exit| exit)
    }

    async fn examine(self, source: &dyn MigrationSource<Pg>) -> Result<CommandExit, CommandExit> {
        let (database, migration_database) =
            self.databases.read(EnvFileUrls::Counts)?.ok_or_else(|| {
                CommandExit::usage("no database: set DATABASE_URL or DATABASE_URL_FILE")
            })?;
        let url_files = self
            .databases
            .files(EnvFileUrls::Counts)
            .into_iter()
            .chain(self.leases.files(EnvFileUrls::Counts));
        url_files
            .chain(self.signing.files().to_vec())
            .for_each(|file| open_file::warn_if_readable(&file));
        let catalog = self.folder.catalog(source, MigrationDestination::Private)?;
        let (signing, leases) = (
            self.signing.keys()?,
            self.leases.read(None, EnvFileUrls::Counts)?,
        );
        let plan = DoctorSettings {
            database,
            migration_database,
            role: self.role.clone(),
            signing,
            leases,
        };
        let mut report = doctor::examine(&plan, &catalog).await;
        report.checks.insert(0, self.migrations(&catalog));
        match self.output {
            OutputFormat::Table => say(&show(&report.checks)),
            OutputFormat::Json => output::say_json(&json(&report)?),
        }
        Ok(match report.status() {
            _ if report.unreachable => CommandExit::unavailable("the database cannot be reached"),
            CheckStatus::Fail => {
                CommandExit::refused("the daemon could not work like this; see FAIL")
            }
            CheckStatus::Ok | CheckStatus::Warn => CommandExit::DONE,
        })
    }
}

impl DoctorArgs {
    /// The set that a daemon with these settings would carry.
    fn migrations(&self, catalog: &MigrationSet) -> CheckResult {
        const CHECK: &str = "migrations";
        let found = format!(
            "{} migration(s) {}, {}",
            catalog.len(),
            self.folder.place(),
            catalog.digest()
        );
        let todo: Vec<String> = self
            .folder
            .remarks()
            .iter()
            .map(ToString::to_string)
            .collect();
        let unfit = catalog
            .iter()
            .filter_map(|migration| catalog.unfit(&migration.version));
        let unfit: Vec<String> = unfit
            .map(|failure| format!("{}: {}", failure.reason, failure.message))
            .collect();
        match source::is_example(catalog) {
            _ if !unfit.is_empty() => CheckResult {
                check: CHECK,
                status: CheckStatus::Warn,
                found,
                todo: unfit,
            },
            true => CheckResult {
                check: CHECK,
                status: CheckStatus::Warn,
                found: format!("{found}: schemad's own example"),
                todo: vec![
                    "give the folder of yours with --dir or SCHEMAD_DIR; `serve` refuses the \
                     example without --example"
                        .into(),
                ],
            },
            false if !todo.is_empty() => CheckResult {
                check: CHECK,
                status: CheckStatus::Warn,
                found,
                todo,
            },
            false => CheckResult {
                check: CHECK,
                status: CheckStatus::Ok,
                found,
                todo,
            },
        }
    }
}

fn json(report: &DoctorReport) -> Result<String, CommandExit> {
    let object = serde_json::json!({ "status": report.status(), "checks": report.checks });
    serde_json::to_string(&object)
        .map_err(|error| CommandExit::unknown(format!("the answer cannot be shown: {error}")))
}

/// A line each, and under it what to do.
fn show(checks: &[CheckResult]) -> String {
    const CHECK: &str = "CHECK";
    let width = checks
        .iter()
        .map(|check| check.check.len())
        .chain([CHECK.len()])
        .max()
        .unwrap_or_default();
    // Behind "WARN", the check's name, and two blanks each.
    let at = 4 + 2 + width + 2;
    let mut lines = vec![format!("{:6}{CHECK:width$}  FOUND", "")];
    for check in checks {
        let style = match check.status {
            CheckStatus::Ok => GOOD,
            CheckStatus::Warn => WARN,
            CheckStatus::Fail => BAD,
        };
        let status = styled(style, &format!("{:4}", check.status.as_str()));
        lines.push(format!(
            "{status}  {:width$}  {}",
            check.check,
            output::hanging(&line(&check.found), at)
        ));
        let todo = |todo: &String| format!("{:at$}-> {}", "", output::hanging(&line(todo), at + 3));
        lines.extend(check.todo.iter().map(todo));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_reads_well() {
        let check = |check, status, found: &str, todo: &[&str]| {
            let todo = todo.iter().map(|todo| (*todo).to_owned()).collect();
            CheckResult {
                check,
                status,
                found: found.into(),
                todo,
            }
        };
        let checks = [
            check("server", CheckStatus::Ok, "PostgreSQL 15.18", &[]),
            check(
                "role",
                CheckStatus::Warn,
                "app is SUPERUSER, which is more than schemad needs",
                &["log in as another"],
            ),
            check(
                "rights",
                CheckStatus::Fail,
                "MISSING_RIGHT: \u{1b}[2J",
                &["GRANT a TO b", "GRANT c TO d"],
            ),
        ];
        let text = anstream::adapter::strip_str(&show(&checks)).to_string();
        insta::assert_snapshot!(text);
    }
}
