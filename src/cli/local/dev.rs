//! `schemad dev`: everything at once, to try it out: a private PostgreSQL, the daemon on it, all
//! migrations applied.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use diesel::{migration::MigrationSource, pg::Pg};

use super::{
    serve::{listeners, serve_until_signalled},
    settings::{DaemonArgs, DatabaseArgs, EnvFileUrls, PrivateLeaseServer},
    source::{FolderArgs, MigrationDestination},
};
use crate::{
    Daemon, pb,
    postgres::{
        DatabaseUrl,
        private_server::{Loopback, PrivatePostgres, PrivateServerError, find_programs},
        session::MigrationSession,
    },
};
use crate::{
    cli::{
        client::{
            connection::{ClientArgs, DaemonAddress, ReadArgs},
            status,
        },
        env_file,
        exit::CommandExit,
        output::{BOLD, DIM, say, styled},
    },
    telemetry::logging,
};

/// The role that leases, and the database from which leases are made.
const LEASE_ROLE: &str = "schemad_lease";
const LEASE_DATABASE: &str = "schemad_lease";

/// Settings that say where a database is.
const NAMES: [&str; 6] = [
    "DATABASE_URL",
    "DATABASE_URL_FILE",
    "MIGRATION_DATABASE_URL",
    "MIGRATION_DATABASE_URL_FILE",
    "SCHEMAD_LEASE_DATABASE_URL",
    "SCHEMAD_LEASE_DATABASE_URL_FILE",
];

#[derive(Debug, Args)]
pub(crate) struct DevArgs {
    #[command(flatten)]
    folder: FolderArgs,
    #[command(flatten)]
    databases: DatabaseArgs,
    /// Where the private PostgreSQL keeps its data [default: one place for each folder of
    /// migrations, below schemad in the state folder of the user; for root below /var/lib/schemad].
    /// Not used with DATABASE_URL, which a file .env does not set for this command.
    #[arg(long, env = "SCHEMAD_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Begin with an empty database: the private one is dropped with everything in it. For when a
    /// migration was edited after it was applied, or belongs to another branch.
    #[arg(long)]
    reset: bool,
    /// Libraries that the private server loads at its start, with commas between them: for
    /// extensions that want to be in shared_preload_libraries, such as timescaledb.
    #[arg(long, value_name = "LIBRARY", value_delimiter = ',')]
    preload: Vec<String>,
    #[command(flatten)]
    settings: DaemonArgs,
}

impl DevArgs {
    pub(crate) async fn run(self, source: &dyn MigrationSource<Pg>) -> CommandExit {
        self.serve(source).await.err().unwrap_or(CommandExit::DONE)
    }

    async fn serve(self, source: &dyn MigrationSource<Pg>) -> Result<(), CommandExit> {
        self.settings.check()?;
        logging::init(self.settings.log_level, self.settings.log_format);
        // The `.env` of a project names the database that its app uses, and this command migrates
        // at once.
        const ENV_FILE: EnvFileUrls = EnvFileUrls::Ignored;
        let mut url_files = self.databases.files(ENV_FILE);
        url_files.extend(self.settings.lease_files(ENV_FILE));
        self.settings.warn_of_open_files(&url_files);
        env_file::log_warnings();
        if let Some(name) = NAMES.into_iter().find(|name| env_file::sets(name)) {
            tracing::info!(
                event = "dev.env_file_ignored",
                setting = name,
                "{name} stands in .env and is not used: `dev` migrates at once. To have it migrate \
                 that database, set {name} in the environment"
            );
        }
        let given = self.databases.read(ENV_FILE)?;
        let destination = if given.is_some() {
            MigrationDestination::Named
        } else {
            MigrationDestination::Private
        };
        let catalog = self.folder.catalog(source, destination)?;
        // Before the server is started: a taken port must not cost the start of one.
        let (main, admin) = listeners(&self.settings).await?;
        let (server, databases, private) = match given {
            Some(_) if self.reset => {
                return Err(CommandExit::usage(
                    "--reset is for the private database, and DATABASE_URL names another, which is \
                     nobody's to drop here",
                ));
            }
            Some(_) if !self.preload.is_empty() => {
                return Err(CommandExit::usage(
                    "--preload is for the private server, and DATABASE_URL names another",
                ));
            }
            Some(databases) => {
                tracing::warn!(
                    event = "dev.database",
                    database = databases.0.target(),
                    "DATABASE_URL is set, so everything is applied to that database and not to a \
                     private one"
                );
                (None, databases, None)
            }
            None => {
                let (server, url) = self.private_server().await?;
                let private = PrivateLeaseServer {
                    database: server.url_as(LEASE_ROLE, LEASE_DATABASE),
                    client: server
                        .loopback_url(LEASE_DATABASE)
                        .ok_or_else(|| CommandExit::usage("the server has no port"))?,
                };
                (Some(server), (url, None), Some(private))
            }
        };
        let settings = self.settings.daemon(databases, true, private, ENV_FILE)?;
        let leases = settings.leases.is_some();
        let daemon = Daemon::around(catalog, settings).map_err(CommandExit::usage)?;
        let address = main
            .local_addr()
            .map_err(CommandExit::unavailable)?
            .to_string();
        let admin_address = admin
            .local_addr()
            .map_err(CommandExit::unavailable)?
            .to_string();
        let psql = server.as_ref().map(|server| server.url("dev"));
        let introduction = tokio::spawn(introduce(address, admin_address, leases, psql));
        let served = serve_until_signalled(
            daemon,
            main,
            admin,
            crate::runtime::shutdown::HangupAction::Ends,
        )
        .await;
        introduction.abort();
        drop(server); // stopped after the daemon
        served
    }

    /// Starts the private server and makes its database.
    async fn private_server(&self) -> Result<(PrivatePostgres, DatabaseUrl), CommandExit> {
        if !cfg!(target_os = "linux") {
            return Err(CommandExit::usage(
                "the private PostgreSQL needs Linux; give DATABASE_URL",
            ));
        }
        let dir = match &self.data_dir {
            Some(dir) => dir.clone(),
            None => state_dir(&self.folder.project())?,
        };
        let programs = find_programs()
            .ok_or(PrivateServerError::NoPrograms)
            .map_err(CommandExit::usage)?;
        tracing::info!(event = "dev.postgres", programs = %programs.display(), data_dir = %dir.display(),
            "starting a private PostgreSQL");
        let loopback = Loopback::new(LEASE_ROLE).map_err(CommandExit::unavailable)?;
        let password = loopback.password().to_owned();
        let preload = self.preload.clone();
        let started = tokio::task::spawn_blocking(move || {
            PrivatePostgres::start_on_loopback(&programs, &dir, loopback, &preload)
        });
        let server = started
            .await
            .map_err(CommandExit::unavailable)?
            .map_err(CommandExit::usage)?;
        let url = |database: &str| {
            server
                .url(database)
                .parse::<DatabaseUrl>()
                .map_err(CommandExit::usage)
        };
        let session = MigrationSession::open(&url("postgres")?)
            .await
            .map_err(CommandExit::unavailable)?;
        if self.reset {
            let dropped = session
                .client()
                .batch_execute("DROP DATABASE IF EXISTS dev WITH (FORCE)")
                .await;
            dropped.map_err(|error| {
                CommandExit::unavailable(crate::postgres::DatabaseError::from(error))
            })?;
            tracing::info!(
                event = "dev.reset",
                "the private database was dropped, and is made anew"
            );
        }
        prepare(session.client(), &password)
            .await
            .map_err(CommandExit::unavailable)?;
        let url = url("dev")?;
        Ok((server, url))
    }
}

/// Makes the databases, and the role of those who lease, with a new password. That role comes over
/// TCP and is no superuser: whoever may lease is told its password, and a superuser can run
/// programs as the user of the server.
async fn prepare(
    client: &tokio_postgres::Client,
    password: &str,
) -> Result<(), crate::postgres::DatabaseError> {
    let is_there = async |query: &str| {
        Ok::<_, crate::postgres::DatabaseError>(!client.query_typed(query, &[]).await?.is_empty())
    };
    let role = format!(
        "SELECT FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) \
         '{LEASE_ROLE}'::name"
    );
    if !is_there(&role).await? {
        client
            .batch_execute(&format!("CREATE ROLE {LEASE_ROLE}"))
            .await?;
    }
    // PostgreSQL 13 would make an MD5 hash, with which nobody can answer a scram challenge. The
    // password is hexadecimal.
    let attributes = "LOGIN CREATEDB NOSUPERUSER NOCREATEROLE NOREPLICATION NOBYPASSRLS";
    client
        .batch_execute(&format!(
            "SET password_encryption = 'scram-sha-256'; ALTER ROLE {LEASE_ROLE} {attributes} \
             PASSWORD '{password}'"
        ))
        .await?;
    for (name, owner) in [("dev", ""), (LEASE_DATABASE, LEASE_ROLE)] {
        let database = format!(
            "SELECT FROM pg_catalog.pg_database WHERE datname OPERATOR(pg_catalog.=) \
             '{name}'::name"
        );
        if !is_there(&database).await? {
            let owner = if owner.is_empty() {
                String::new()
            } else {
                format!(" OWNER {owner}")
            };
            client
                .batch_execute(&format!("CREATE DATABASE {name}{owner}"))
                .await?;
        }
    }
    Ok(())
}

/// A folder in $XDG_STATE_HOME or ~/.local/state, and /var/lib for root, whose home PostgreSQL's
/// user cannot enter.
pub(crate) fn state_dir(name: &str) -> Result<PathBuf, CommandExit> {
    if nix::unistd::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/schemad").join(name));
    }
    let set = |key: &str| {
        std::env::var_os(key)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    let state = set("XDG_STATE_HOME").or_else(|| Some(set("HOME")?.join(".local/state")));
    state
        .map(|dir| dir.join("schemad").join(name))
        .ok_or_else(|| {
            CommandExit::usage(
                "neither XDG_STATE_HOME nor HOME is set; give a folder for the server's data",
            )
        })
}

/// Between two looks whether everything could be applied.
const LOOK: Duration = Duration::from_secs(1);

/// Where not everything could be applied: what a developer does about it, whose database nobody
/// else needs. Never returns.
async fn help_when_stuck(common: &ClientArgs, flag: &str, psql: Option<&str>) {
    loop {
        tokio::time::sleep(LOOK).await;
        let Ok(status) = status::fetch(&ReadArgs::new(common.clone())).await else {
            continue;
        };
        let ended = status.last_operation.as_ref().map(pb::Operation::state);
        let is_stuck = matches!(
            status.state(),
            pb::SchemaState::Diverged | pb::SchemaState::InDoubt
        ) || status.pending_count > 0
            && status.running_operation.is_none()
            && matches!(ended, Some(pb::OperationState::Failed));
        if is_stuck {
            break;
        }
    }
    let mut text = format!(
        "\n{}",
        styled(
            BOLD,
            "Not everything is applied; the log says why, and what stays. Ways on, while you write \
             migrations"
        )
    );
    let program = std::env::args().next().unwrap_or_else(|| "schemad".into());
    let mut ways = vec![
        (
            "put the file right, Ctrl-C, start again".to_owned(),
            "the file is applied as it is then; of one that runs in parts, only what did not run \
             yet may be changed",
        ),
        (
            format!("{program} rollback --steps 1{flag}"),
            "before you edit or remove the last one that was applied: the ledger keeps its down as \
             it was",
        ),
        (
            format!("{program} apply --allow-out-of-order{flag}"),
            "for one that came from another branch and is older than what is applied",
        ),
    ];
    if let Some(url) = psql {
        ways.push((format!("psql '{url}'"), "look at what there is"));
        ways.push((
            format!("Ctrl-C, {program} dev --reset"),
            "begin with an empty database: everything in this one is lost",
        ));
    }
    for (way, what) in ways {
        text += &format!("\n  {way}\n    {}", styled(DIM, what));
    }
    std::thread::spawn(move || say(&text));
    std::future::pending().await
}

/// Once everything is applied: the status, and what to try next.
async fn introduce(address: String, admin_address: String, leases: bool, psql: Option<String>) {
    let common = ClientArgs {
        address: DaemonAddress::plain(address.clone()),
        output: Default::default(),
    };
    let default = address == super::settings::DEFAULT_LISTEN;
    let flag = if default {
        String::new()
    } else {
        format!(" --address {address}")
    };
    let current = tokio::select! {
        current = crate::cli::client::wait::quietly_until_current(&common.address) => current,
        () = help_when_stuck(&common, &flag, psql.as_deref()) => return, // never returns
    };
    if current.is_err() {
        return; // the daemon ended
    }
    let Ok(status) = status::fetch(&ReadArgs::new(common)).await else {
        return;
    };
    let mut text = format!(
        "\n{}\n\n{}",
        status::show(&status),
        styled(BOLD, "Try next, in another terminal")
    );
    let program = std::env::args().next().unwrap_or_else(|| "schemad".into());
    let mut commands = vec![
        (
            format!("{program} rollback --steps 1{flag}"),
            "undo the last migration; `apply` brings it back",
        ),
        (
            format!("grpcurl -plaintext {address} schemad.v1.MigrationService/GetStatus"),
            "a foreign client (a separate program)",
        ),
        (
            format!("{program} health -addr {admin_address} -service schemad.v1.MigrationService"),
            "the health probe, as an orchestrator asks",
        ),
    ];
    if leases {
        commands.insert(
            1,
            (
                format!("{program} lease{flag} -- sh -c 'psql \"$DATABASE_URL\" -c \\\\dt'"),
                "a migrated database of one's own, for a test; gone afterwards",
            ),
        );
    }
    let is_private = psql.is_some();
    if let Some(url) = psql {
        commands.insert(
            1,
            (
                format!("psql '{url}'"),
                "the database itself; `dev --reset` begins it anew",
            ),
        );
    }
    for (command, what) in commands {
        text += &format!("\n  {command}\n    {}", styled(DIM, what));
    }
    text += if is_private {
        "\n\nCtrl-C ends the daemon and its PostgreSQL; the data stay."
    } else {
        "\n\nCtrl-C ends the daemon."
    };
    // On a thread that nothing waits for: whoever has stopped reading stdout must not stop the
    // daemon.
    std::thread::spawn(move || say(&text));
}
