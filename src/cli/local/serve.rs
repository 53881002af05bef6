//! `schemad serve`: the daemon.

use clap::Args;
use diesel::{migration::MigrationSource, pg::Pg};
use tokio::net::TcpListener;

use super::{
    settings::{Databases, EnvFile, Settings},
    source::{Destination, Folder},
};
use crate::{
    Daemon,
    runtime::shutdown::{self, Hangup},
};
use crate::{
    cli::{env_file, exit::Exit},
    telemetry::logging,
};

#[derive(Debug, Args)]
pub(crate) struct Serve {
    #[command(flatten)]
    folder: Folder,
    #[command(flatten)]
    databases: Databases,
    /// Apply everything pending as soon as the database is there.
    #[arg(long, env = "SCHEMAD_APPLY_ON_START")]
    apply_on_start: bool,
    #[command(flatten)]
    settings: Settings,
}

impl Serve {
    pub(crate) async fn run(self, source: &dyn MigrationSource<Pg>) -> Exit {
        self.serve(source).await.err().unwrap_or(Exit::DONE)
    }

    async fn serve(self, source: &dyn MigrationSource<Pg>) -> Result<(), Exit> {
        self.settings.check()?;
        let databases = self.databases.read(EnvFile::Counts)?.ok_or_else(|| {
            Exit::usage(
                "no database: set DATABASE_URL or DATABASE_URL_FILE (.env.example shows \
                the forms), or try `schemad dev`",
            )
        })?;
        logging::init(self.settings.log_level, self.settings.log_format);
        let mut url_files = self.databases.files(EnvFile::Counts);
        url_files.extend(self.settings.lease_files(EnvFile::Counts));
        self.settings.warn_of_open_files(&url_files);
        env_file::log_warnings();
        let settings =
            self.settings
                .daemon(databases, self.apply_on_start, None, EnvFile::Counts)?;
        let daemon = Daemon::around(self.folder.catalog(source, Destination::Named)?, settings)
            .map_err(Exit::usage)?;
        let (main, admin) = listeners(&self.settings).await?;
        serve_until_signalled(daemon, main, admin, Hangup::GoesOn).await
    }
}

/// Binds both listeners, so that a taken port ends the start with one line.
pub(crate) async fn listeners(settings: &Settings) -> Result<(TcpListener, TcpListener), Exit> {
    let bind = async |flag: &str, address: std::net::SocketAddr| {
        TcpListener::bind(address)
            .await
            .map_err(|error| Exit::usage(format!("{flag} {address}: {error}{}", elsewhere(&error))))
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
    hangup: Hangup,
) -> Result<(), Exit> {
    let signalled = shutdown::signalled(hangup).map_err(Exit::unavailable)?;
    let signal = async {
        // Outside the macro, which evaluates nothing while its level is off.
        let signal = signalled.await;
        tracing::info!(event = "daemon.stopping", signal, "stopping");
    };
    daemon
        .serve(main, admin, signal)
        .await
        .map_err(Exit::unavailable)
}
