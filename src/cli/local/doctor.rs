//! `schemad doctor`.

use clap::Args;
use diesel::{migration::MigrationSource, pg::Pg};

use super::{
    settings::{Databases, EnvFile, Leases},
    signing::Signing,
    source::{self, Destination, Folder},
};
use crate::cli::{
    exit::Exit,
    open_file,
    output::{self, BAD, GOOD, Output, WARN, line, say, styled},
};
use crate::{
    doctor::{self, Check, Plan, Report, Status},
    migration::set::Catalog,
};

/// Look at the database the way the daemon will use it, and say what it would stumble over. Writes
/// nothing, asks no daemon.
#[derive(Debug, Args)]
pub(crate) struct Doctor {
    #[command(flatten)]
    folder: Folder,
    #[command(flatten)]
    databases: Databases,
    /// Runs the migrations, as for `serve`.
    #[arg(long, env = "SCHEMAD_ROLE", value_name = "NAME")]
    role: Option<String>,
    #[command(flatten)]
    signing: Signing,
    #[command(flatten)]
    leases: Leases,
    /// How to answer; `json` is one object.
    #[arg(long, env = "SCHEMAD_OUTPUT", value_enum, default_value_t)]
    output: Output,
}

impl Doctor {
    pub(crate) async fn run(self, source: &dyn MigrationSource<Pg>) -> Exit {
        self.examine(source).await.unwrap_or_else(|exit| exit)
    }

    async fn examine(self, source: &dyn MigrationSource<Pg>) -> Result<Exit, Exit> {
        let (database, migration_database) = self
            .databases
            .read(EnvFile::Counts)?
            .ok_or_else(|| Exit::usage("no database: set DATABASE_URL or DATABASE_URL_FILE"))?;
        let url_files = self
            .databases
            .files(EnvFile::Counts)
            .into_iter()
            .chain(self.leases.files(EnvFile::Counts));
        url_files
            .chain(self.signing.files().to_vec())
            .for_each(|file| open_file::warn_if_readable(&file));
        let catalog = self.folder.catalog(source, Destination::Private)?;
        let (signing, leases) = (
            self.signing.keys()?,
            self.leases.read(None, EnvFile::Counts)?,
        );
        let plan = Plan {
            database,
            migration_database,
            role: self.role.clone(),
            signing,
            leases,
        };
        let mut report = doctor::examine(&plan, &catalog).await;
        report.checks.insert(0, self.migrations(&catalog));
        match self.output {
            Output::Table => say(&show(&report.checks)),
            Output::Json => output::say_json(&json(&report)?),
        }
        Ok(match report.status() {
            _ if report.unreachable => Exit::unavailable("the database cannot be reached"),
            Status::Fail => Exit::refused("the daemon could not work like this; see FAIL"),
            Status::Ok | Status::Warn => Exit::DONE,
        })
    }
}

impl Doctor {
    /// The set that a daemon with these settings would carry.
    fn migrations(&self, catalog: &Catalog) -> Check {
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
            _ if !unfit.is_empty() => Check {
                check: CHECK,
                status: Status::Warn,
                found,
                todo: unfit,
            },
            true => Check {
                check: CHECK,
                status: Status::Warn,
                found: format!("{found}: schemad's own example"),
                todo: vec![
                    "give the folder of yours with --dir or SCHEMAD_DIR; `serve` refuses the \
                     example without --example"
                        .into(),
                ],
            },
            false if !todo.is_empty() => Check {
                check: CHECK,
                status: Status::Warn,
                found,
                todo,
            },
            false => Check {
                check: CHECK,
                status: Status::Ok,
                found,
                todo,
            },
        }
    }
}

fn json(report: &Report) -> Result<String, Exit> {
    let object = serde_json::json!({ "status": report.status(), "checks": report.checks });
    serde_json::to_string(&object)
        .map_err(|error| Exit::unknown(format!("the answer cannot be shown: {error}")))
}

/// A line each, and under it what to do.
fn show(checks: &[Check]) -> String {
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
            Status::Ok => GOOD,
            Status::Warn => WARN,
            Status::Fail => BAD,
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
            Check {
                check,
                status,
                found: found.into(),
                todo,
            }
        };
        let checks = [
            check("server", Status::Ok, "PostgreSQL 15.18", &[]),
            check(
                "role",
                Status::Warn,
                "app is SUPERUSER, which is more than schemad needs",
                &["log in as another"],
            ),
            check(
                "rights",
                Status::Fail,
                "MISSING_RIGHT: \u{1b}[2J",
                &["GRANT a TO b", "GRANT c TO d"],
            ),
        ];
        let text = anstream::adapter::strip_str(&show(&checks)).to_string();
        insta::assert_snapshot!(text);
    }
}
