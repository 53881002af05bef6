//! `schemad serve`: the daemon.

use clap::Args;
use diesel::{migration::MigrationSource, pg::Pg};
use tokio::net::TcpListener;

use super::{
    settings::{DaemonArgs, DatabaseArgs, EnvFileUrls},
    source::{FolderArgs, MigrationDestination},
};
use crate::{
    Daemon,
    runtime::shutdown::{self, HangupAction},
};
use crate::{
    cli::{env_file, exit::CommandExit},
    telemetry::logging,
};

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    folder: FolderArgs,
    #[command(flatten)]
    databases: DatabaseArgs,
    /// Apply everything pending as soon as the database is there.
    #[arg(long, env = "SCHEMAD_APPLY_ON_START")]
    apply_on_start: bool,
    #[command(flatten)]
    settings: DaemonArgs,
}

impl ServeArgs {
    pub(crate) async fn run(self, source: &dyn MigrationSource<Pg>) -> CommandExit {
        self.serve(source).await.err().unwrap_or(CommandExit::DONE)
    }

    async fn serve(self, source: &dyn MigrationSource<Pg>) -> Result<(), CommandExit> {
        self.settings.check()?;
        let databases = self.databases.read(EnvFileUrls::Counts)?.ok_or_else(|| {
            CommandExit::usage(
                "no database: set DATABASE_URL or DATABASE_URL_FILE (.env.example shows \
                the forms), or try `schemad dev`",
            )
        })?;
        logging::init(self.settings.log_level, self.settings.log_format);
        let mut url_files = self.databases.files(EnvFileUrls::Counts);
        url_files.extend(self.settings.lease_files(EnvFileUrls::Counts));
        self.settings.warn_of_open_files(&url_files);
        env_file::log_warnings();
        let settings =
            self.settings
                .daemon(databases, self.apply_on_start, None, EnvFileUrls::Counts)?;
        let daemon = Daemon::around(
            self.folder.catalog(source, MigrationDestination::Named)?,
            settings,
        )
        .map_err(CommandExit::usage)?;
        let (main, admin) = listeners(&self.settings).await?;
        serve_until_signalled(daemon, main, admin, HangupAction::GoesOn).await
    }
}

/// Binds both listeners, so that a taken port ends the start with one line.
pub(crate) async fn listeners(
    settings: &DaemonArgs,
) -> Result<(TcpListener, TcpListener), CommandExit> {
    let bind = async |flag: &str, address: std::net::SocketAddr| {
        TcpListener::bind(address).await.map_err(|error| {
            CommandExit::usage(format!("{flag} {address}: {error}{}", elsewhere(&error)))
        })
    };
    Ok((
        bind("--listen", settings.listen).await?,
        bind("--admin-listen", settings.admin_listen).await?,
    ))
}

/// What to do when somebody has the port.
fn elsewhere(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            ". Another daemon perhaps; --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0 take any \
             free ports"
        }
        _ => "",
    }
}

/// Serves until SIGTERM or SIGINT, perhaps SIGHUP.
pub(crate) async fn serve_until_signalled(
    daemon: Daemon,
    main: TcpListener,
    admin: TcpListener,
    hangup: HangupAction,
) -> Result<(), CommandExit> {
    let signalled = shutdown::signalled(hangup).map_err(CommandExit::unavailable)?;
    let signal = async {
        // Outside the macro, which evaluates nothing while its level is off.
        let signal = signalled.await;
        tracing::info!(event = "daemon.stopping", signal, "stopping");
    };
    daemon
        .serve(main, admin, signal)
        .await
        .map_err(CommandExit::unavailable)
}
