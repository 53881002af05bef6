//! A rehearsal in this process.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    time::{Duration, Instant},
};

use clap::Args;
use diesel::{migration::MigrationSource, pg::Pg};
use diesel_migrations::FileBasedMigrations;
use tokio::sync::watch;

use super::{server_dir, show::RehearsalDisplay};
use crate::{
    api::rehearsals::RehearsalCounts,
    cli::{
        env_file,
        exit::{CommandExit, INTERRUPTED},
        file_name::FileNameParser,
        local::{
            settings::{self, EnvFileUrls, UrlSource},
            source,
        },
        open_file,
        output::{self, OutputFormat, WARN, styled},
    },
    failure::{Failure, Reason, status::status_from_failure},
    migration::{folder, set::MigrationSet},
    postgres::{
        DatabaseUrl, pooler,
        private_server::{PrivatePostgres, PrivateServerError, find_programs},
        scratch::ScratchMaker,
        session::MigrationSession,
    },
    rehearse::{self, OutsideEffects, RehearsalSelection, RehearsalSettings, rehearse},
    runner::{LockWait, RunControl, StopReason},
    runtime::shutdown,
};

/// Said at each option: a heading for the next ones would hold for those of the commands, too,
/// which come after these.
const HEADING: &str = "Without a daemon";

#[derive(Debug, Args)]
pub(crate) struct LocalRehearseArgs {
    /// A folder of migrations (NAME/up.sql and NAME/down.sql), instead of those that are compiled
    /// into this program.
    #[arg(help_heading = HEADING, long, env = "SCHEMAD_DIR", value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Rehearse schemad's example migrations, which are compiled into a schemad that was built as
    /// it is.
    #[arg(help_heading = HEADING, long, env = "SCHEMAD_EXAMPLE")]
    example: bool,
    /// A server to make scratch databases on, instead of a private one that is gone afterwards
    /// [env: SCRATCH_DATABASE_URL]. The database that it names is not touched.
    #[arg(help_heading = HEADING, long, value_name = "URL")]
    scratch_database_url: Option<String>,
    /// A file that holds it [env: SCRATCH_DATABASE_URL_FILE].
    #[arg(help_heading = HEADING, long, value_name = "FILE", conflicts_with = "scratch_database_url", value_parser = FileNameParser)]
    scratch_database_url_file: Option<PathBuf>,
    /// That server is thrown away afterwards: migrations may reach outside their database (roles,
    /// other databases, files).
    #[arg(help_heading = HEADING, long)]
    throwaway_server: bool,
    /// Where private servers keep their data while they run [default: schemad/rehearse in the state
    /// folder of the user; for root /var/lib/schemad/rehearse].
    #[arg(help_heading = HEADING, long, env = "SCHEMAD_REHEARSE_DIR", value_name = "DIR")]
    server_dir: Option<PathBuf>,
    /// Libraries that the private server loads at its start, with commas between them: for
    /// extensions that want to be in shared_preload_libraries, such as timescaledb.
    #[arg(help_heading = HEADING, long, value_name = "LIBRARY", value_delimiter = ',')]
    preload: Vec<String>,
}

impl LocalRehearseArgs {
    /// True where one of these was given as an argument.
    pub(crate) fn is_given(&self) -> bool {
        env_file::is_flag("SCHEMAD_DIR")
            || self.scratch_database_url.is_some()
            || self.throwaway_server
            || !self.preload.is_empty()
    }

    pub(crate) async fn run(
        self,
        source: &dyn MigrationSource<Pg>,
        selection: RehearsalSelection,
        output: OutputFormat,
    ) -> Result<(), CommandExit> {
        let catalog = match source::named(self.dir.as_deref())? {
            None => {
                let catalog = MigrationSet::load(source).map_err(CommandExit::usage)?;
                if self.example {
                    catalog
                } else {
                    source::refuse_example(catalog)?
                }
            }
            Some(dir) => {
                let wrong =
                    |what: &str| CommandExit::usage(format!("--dir {}: {what}", dir.display()));
                let findings = folder::check(dir);
                let named = |error: &dyn std::fmt::Display| match &findings[..] {
                    [] => wrong(&error.to_string()),
                    findings => CommandExit::usage(
                        findings
                            .iter()
                            .map(ToString::to_string)
                            .collect::<Vec<_>>()
                            .join("\n  "),
                    ),
                };
                let found = FileBasedMigrations::from_path(dir).map_err(|error| named(&error))?;
                // Diesel passes over what it does not understand there.
                for finding in findings
                    .iter()
                    .filter(|finding| finding.path.ends_with("metadata.toml"))
                {
                    output::progress(&format!("{} {finding}", styled(WARN, "warning:")));
                }
                for remark in folder::remarks(dir) {
                    output::progress(&format!("{} {remark}", styled(WARN, "warning:")));
                }
                let catalog = MigrationSet::load_to_rehearse(&found)
                    .map_err(|set| wrong(&set.problems().join("\n  ")))?;
                if catalog.iter().next().is_none() {
                    return Err(wrong("there is no migration in it"));
                }
                catalog
            }
        };
        let name = "SCRATCH_DATABASE_URL";
        let source = UrlSource {
            name,
            value: self.scratch_database_url.as_deref(),
            file: self.scratch_database_url_file.as_deref(),
            env_file: EnvFileUrls::Counts,
        };
        if let Some(file) = source.file() {
            open_file::warn_if_readable(&file);
        }
        let given = source.read()?;
        let given = given.map(|text| settings::url(name, &text)).transpose()?;
        if given.is_some() && !self.preload.is_empty() {
            return Err(CommandExit::usage(
                "--preload is for the private server, and SCRATCH_DATABASE_URL names another",
            ));
        }
        let (server, url, outside) = match given {
            Some(url) if self.throwaway_server => (None, url, OutsideEffects::Allowed),
            Some(url) => (None, url, OutsideEffects::Refused),
            None => {
                let (server, url) =
                    private_server(server_dir(self.server_dir)?, self.preload).await?;
                (Some(server), url, OutsideEffects::Allowed)
            }
        };
        let pending: BTreeSet<_> = catalog
            .iter()
            .map(|migration| migration.version.clone())
            .collect();
        let selected = selection.of(&catalog, &pending);
        let begun = Instant::now();
        let (mut tally, mut show) = (
            RehearsalCounts::new(&catalog, pending),
            RehearsalDisplay::new(output),
        );
        let settings = RehearsalSettings {
            outside,
            role: None,
        };
        let result = interruptible(async |orders| {
            if server.is_none() {
                // The lock that keeps others from sweeping is a session's.
                pooler::prove_direct(&MigrationSession::open(&url).await?, &url).await?;
            }
            let mut scratch = ScratchMaker::open(&url).await?;
            let mut tell = |event: rehearse::RehearsalEvent| show.event(&tally.event(&event));
            let ended = rehearse(
                &mut scratch,
                &catalog,
                &selected,
                &settings,
                &orders,
                &mut tell,
            )
            .await;
            // What cannot be dropped now is swept later; the result is known.
            if let Err(error) = scratch.close().await
                && server.is_none()
            {
                output::progress(&format!(
                    "a scratch database is left, and dropped the next time: {error}"
                ));
            }
            ended
        })
        .await;
        match result {
            Ok(()) => {
                show.summary(&tally.summary(begun.elapsed()));
                tally
                    .result()
                    .map_err(|failure| CommandExit::from_status(&status_from_failure(&failure)))
            }
            Err(failure) => {
                show.broken_off();
                Err(match failure.reason {
                    Reason::Cancelled => CommandExit::interrupted(failure.message),
                    _ => CommandExit::from_status(&status_from_failure(&failure)),
                })
            }
        }
    }
}

/// Starts a server of one's own.
async fn private_server(
    dir: PathBuf,
    preload: Vec<String>,
) -> Result<(PrivatePostgres, DatabaseUrl), CommandExit> {
    if !cfg!(target_os = "linux") {
        return Err(CommandExit::usage(
            "the private PostgreSQL needs Linux; give SCRATCH_DATABASE_URL",
        ));
    }
    let programs = find_programs()
        .ok_or(PrivateServerError::NoPrograms)
        .map_err(CommandExit::usage)?;
    let started = tokio::task::spawn_blocking(move || {
        PrivatePostgres::start_fresh(&programs, &dir, &preload)
    });
    let server = started
        .await
        .map_err(CommandExit::unavailable)?
        .map_err(|error| match error {
            PrivateServerError::NoPrograms
            | PrivateServerError::NotOurs(_)
            | PrivateServerError::NobodyToRunAs => CommandExit::usage(error),
            PrivateServerError::InUse(_)
            | PrivateServerError::NoRoom(_)
            | PrivateServerError::NoRandom
            | PrivateServerError::Io { .. }
            | PrivateServerError::Program { .. } => CommandExit::unavailable(error),
        })?;
    let url = server.url("postgres").parse().map_err(CommandExit::usage)?;
    Ok((server, url))
}

/// How long the clean end of an interrupted rehearsal may take: a few databases are dropped.
/// Whoever sent SIGTERM sends SIGKILL after 30 s, as container runtimes do, or later.
const END_WITHIN: Duration = Duration::from_secs(10);

/// Runs something that ends well when it is told to, at Ctrl-C or SIGTERM.
///
/// A task of its own waits for the signal, because the work itself may be looking through a large
/// script just now, or printing into a pipe that nobody reads. Where the work does not end in time,
/// or at a second signal, the process does: the kernel stops a private server with it, and scratch
/// databases on another server are dropped by the next rehearsal.
async fn interruptible(
    work: impl AsyncFnOnce(RunControl) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let (halt, wait) = (
        watch::Sender::new(None),
        watch::Sender::new(LockWait::default()),
    );
    let orders = RunControl {
        halt: halt.subscribe(),
        wait: wait.subscribe(),
    };
    let impossible = |error: std::io::Error| {
        Failure::new(
            Reason::Internal,
            format!("cannot wait for signals: {error}"),
        )
    };
    let signalled = shutdown::signalled(shutdown::HangupAction::Ends).map_err(impossible)?;
    let (through, mut is_through) = watch::channel(false);
    tokio::spawn(async move {
        halt.send_replace(Some(StopReason::Cancelled(signalled.await.into())));
        if *is_through.borrow_and_update() {
            std::process::exit(INTERRUPTED); // only the result is still being printed
        }
        output::progress("ending; the scratch databases are dropped");
        tokio::time::sleep(END_WITHIN).await;
        output::progress(
            "it does not end by itself; what is left is removed by the next rehearsal",
        );
        std::process::exit(INTERRUPTED);
    });
    let ended = work(orders).await;
    through.send_replace(true);
    ended
}
