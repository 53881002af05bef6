//! The daemon's settings: flags, environment, files. Checked here once; an error names the setting
//! and never its secret.

pub(crate) mod access;
mod leases;
mod limits;

use std::{
    net::{SocketAddr, ToSocketAddrs as _},
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use clap::Args;

pub(crate) use leases::{LeaseServerArgs, PrivateLeaseServer};

use super::signing::SigningArgs;
use crate::{
    cli::{
        env_file,
        exit::CommandExit,
        file_name::{FileNameParser, is_content},
        open_file::FileExposure,
    },
    telemetry::logging::{LogFormat, LogLevel},
};
use crate::{
    daemon,
    ledger::upkeep::{LONGEST, Retention},
    postgres::{DatabaseUrl, pool::PoolSettings},
};

pub(crate) const DEFAULT_LISTEN: &str = "127.0.0.1:50051";
pub(crate) const DEFAULT_ADMIN_LISTEN: &str = "127.0.0.1:50052";

/// Settings of `serve` and `dev`.
#[derive(Clone, Debug, Args)]
pub(crate) struct DaemonArgs {
    /// Where to serve gRPC; a port alone is one of 127.0.0.1. Another than a loopback address needs
    /// TLS and an access file.
    #[arg(long, env = "SCHEMAD_LISTEN", default_value = DEFAULT_LISTEN, value_name = "ADDRESS:PORT", value_parser = listen_address)]
    pub listen: SocketAddr,
    /// Where to serve health and metrics, in plaintext, on any address.
    #[arg(long, env = "SCHEMAD_ADMIN_LISTEN", default_value = DEFAULT_ADMIN_LISTEN, value_name = "ADDRESS:PORT", value_parser = listen_address)]
    pub admin_listen: SocketAddr,
    /// Connections that are kept open for reading.
    #[arg(long, env = "SCHEMAD_POOL_SIZE", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000), value_name = "N")]
    pool_size: u32,
    /// Connections above --pool-size under load.
    #[arg(long, env = "SCHEMAD_POOL_OVERFLOW", default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=1000), value_name = "N")]
    pool_overflow: u32,
    /// How long a read waits for a connection.
    #[arg(long, env = "SCHEMAD_POOL_TIMEOUT", default_value = "5s", value_parser = positive_duration, value_name = "DURATION")]
    pool_timeout: Duration,
    /// A connection that was idle for longer is tested before it is used.
    #[arg(long, env = "SCHEMAD_POOL_PING_AFTER", default_value = "30s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pool_ping_after: Duration,
    /// What a running operation gets to end by itself after SIGTERM.
    #[arg(long, env = "SCHEMAD_SHUTDOWN_GRACE", default_value = "25s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    shutdown_grace: Duration,
    /// Runs the migrations: the role that owns the schema, of which the one that logs in is a
    /// member. It needs no rights on the ledger.
    #[arg(long, env = "SCHEMAD_ROLE", value_name = "NAME")]
    role: Option<String>,
    /// Apply only migrations whose rehearsal, with exactly these scripts, ended with RESTORES or
    /// ORDER_ONLY (`schemad rehearse --address`).
    #[arg(long, env = "SCHEMAD_REQUIRE_REHEARSED")]
    require_rehearsed: bool,
    #[command(flatten)]
    signing: SigningArgs,
    /// How long ended operations are kept. Those that explain an applied migration stay.
    #[arg(long, env = "SCHEMAD_KEEP_OPERATIONS", default_value = "90days", value_parser = kept_for)]
    keep_operations: Duration,
    /// How long refused requests are kept.
    #[arg(long, env = "SCHEMAD_KEEP_REFUSALS", default_value = "7days", value_parser = kept_for)]
    keep_refusals: Duration,
    /// Do not serve gRPC reflection.
    #[arg(long, env = "SCHEMAD_NO_REFLECTION")]
    no_reflection: bool,
    /// The least important events to log.
    #[arg(
        long,
        env = "SCHEMAD_LOG_LEVEL",
        value_name = "LEVEL",
        value_enum,
        default_value_t
    )]
    pub log_level: LogLevel,
    /// How to log, on stderr.
    #[arg(
        long,
        env = "SCHEMAD_LOG_FORMAT",
        value_name = "FORMAT",
        value_enum,
        default_value_t
    )]
    pub log_format: LogFormat,
    #[command(flatten)]
    trust: access::AccessArgs,
    #[command(flatten)]
    limits: limits::LimitArgs,
    #[command(flatten)]
    leases: LeaseServerArgs,
}

/// Where the database is.
#[derive(Clone, Args)]
pub(crate) struct DatabaseArgs {
    /// The database [env: DATABASE_URL]. Prefer the environment: other users see a process's
    /// arguments.
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
    /// A file that holds it [env: DATABASE_URL_FILE].
    #[arg(long, value_name = "FILE", conflicts_with = "database_url", value_parser = FileNameParser)]
    database_url_file: Option<PathBuf>,
    /// Where migrations run when DATABASE_URL goes through a transaction pooler: a direct address
    /// [env: MIGRATION_DATABASE_URL].
    #[arg(long, value_name = "URL")]
    migration_database_url: Option<String>,
    /// A file that holds it [env: MIGRATION_DATABASE_URL_FILE].
    #[arg(long, value_name = "FILE", conflicts_with = "migration_database_url", value_parser = FileNameParser)]
    migration_database_url_file: Option<PathBuf>,
}

/// The URLs may hold passwords.
impl std::fmt::Debug for DatabaseArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Databases")
    }
}

impl DatabaseArgs {
    /// DATABASE_URL and MIGRATION_DATABASE_URL, from wherever they come. `None`: no DATABASE_URL.
    pub(crate) fn read(
        &self,
        env_file: EnvFileUrls,
    ) -> Result<Option<(DatabaseUrl, Option<DatabaseUrl>)>, CommandExit> {
        let [database, migrating] = self.sources(env_file);
        let database = database
            .read()?
            .map(|text| url(DATABASE_URL, &text))
            .transpose()?;
        let migrating = migrating
            .read()?
            .map(|text| url(MIGRATION_DATABASE_URL, &text))
            .transpose()?;
        Ok(database.map(|database| (database, migrating)))
    }

    /// The files that hold secrets: those with the URLs, and the keys that the URLs name.
    pub(crate) fn files(&self, env_file: EnvFileUrls) -> Vec<PathBuf> {
        let sources = self.sources(env_file);
        let keys = sources
            .iter()
            .filter_map(|source| source.read().ok()??.parse::<DatabaseUrl>().ok()?.key_file());
        sources
            .iter()
            .filter_map(UrlSource::file)
            .chain(keys)
            .collect()
    }

    fn sources(&self, env_file: EnvFileUrls) -> [UrlSource<'_>; 2] {
        [
            UrlSource {
                name: DATABASE_URL,
                value: self.database_url.as_deref(),
                file: self.database_url_file.as_deref(),
                env_file,
            },
            UrlSource {
                name: MIGRATION_DATABASE_URL,
                value: self.migration_database_url.as_deref(),
                file: self.migration_database_url_file.as_deref(),
                env_file,
            },
        ]
    }
}

impl DaemonArgs {
    /// Logs which files anybody on this machine could change although they decide over the schema,
    /// and which anybody could read although they hold a secret: keys, and `url_files`.
    pub(crate) fn warn_of_open_files(&self, url_files: &[PathBuf]) {
        for file in self
            .trust
            .files()
            .chain(self.signing.files())
            .chain(url_files)
        {
            if FileExposure::Writable.is(file) {
                tracing::warn!(event = "file.open_to_all", file = %file.display(), "{}", FileExposure::Writable.warning(file));
            }
        }
        for file in self
            .trust
            .secret_files()
            .chain(self.signing.files())
            .chain(url_files)
        {
            if FileExposure::Readable.is(file) {
                tracing::warn!(event = "file.readable_by_all", file = %file.display(), "{}", FileExposure::Readable.warning(file));
            }
        }
    }

    /// The files that hold the URLs of the leases' server.
    pub(crate) fn lease_files(&self, env_file: EnvFileUrls) -> Vec<PathBuf> {
        self.leases.files(env_file)
    }

    /// The daemon's settings on these databases, and of `dev` on its private server.
    pub(crate) fn daemon(
        &self,
        (database, migration_database): (DatabaseUrl, Option<DatabaseUrl>),
        apply_on_start: bool,
        private: Option<PrivateLeaseServer>,
        env_file: EnvFileUrls,
    ) -> Result<daemon::Settings, CommandExit> {
        Ok(daemon::Settings {
            database,
            migration_database,
            role: self.role.clone(),
            signing: self.signing.keys()?,
            require_rehearsed: self.require_rehearsed,
            pool: PoolSettings {
                size: self.pool_size,
                overflow: self.pool_overflow,
                timeout: self.pool_timeout,
                ping_after: self.pool_ping_after,
            },
            shutdown_grace: self.shutdown_grace,
            apply_on_start,
            retention: Retention {
                operations: self.keep_operations,
                refusals: self.keep_refusals,
            },
            reflection: !self.no_reflection,
            tls: self.trust.tls(),
            access: self.trust.access(),
            limits: self.limits.read(),
            insecure: self.trust.insecure(),
            leases: self.leases.read(private, env_file)?,
        })
    }

    /// Refuses to be reached from elsewhere while that is not safe.
    pub(crate) fn check(&self) -> Result<(), CommandExit> {
        self.trust.check(self.listen)
    }
}

const DATABASE_URL: &str = "DATABASE_URL";
const MIGRATION_DATABASE_URL: &str = "MIGRATION_DATABASE_URL";

/// Whether `.env` may say where a database is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EnvFileUrls {
    /// It may, as the environment may.
    Counts,
    /// It may not: the command would act on that database at once.
    Ignored,
}

/// The places that a URL may come from: two flags, else the two variables `name` and `name`_FILE.
/// clap's own `env` would let a variable of the one stand against a flag of the other.
pub(crate) struct UrlSource<'a> {
    /// The variable.
    pub name: &'static str,
    /// The flag.
    pub value: Option<&'a str>,
    /// The flag that names a file.
    pub file: Option<&'a Path>,
    /// Whether the variables may be the `.env` file's.
    pub env_file: EnvFileUrls,
}

impl UrlSource<'_> {
    /// The URL or its file, as it was given.
    fn given(&self) -> Result<(Option<String>, Option<PathBuf>), CommandExit> {
        if self.value.is_some() || self.file.is_some() {
            return Ok((self.value.map(str::to_owned), self.file.map(Path::to_owned)));
        }
        let file_name = format!("{}_FILE", self.name);
        let variable = |name: &str, of_env_file: bool| {
            let is_wanted = env_file::sets(name) == of_env_file;
            std::env::var_os(name).filter(|value| is_wanted && !value.is_empty())
        };
        // The environment beats `.env`, whichever form each has.
        for of_env_file in [false, true] {
            if of_env_file && self.env_file == EnvFileUrls::Ignored {
                break;
            }
            match (
                variable(self.name, of_env_file),
                variable(&file_name, of_env_file),
            ) {
                (None, None) => {}
                (Some(_), Some(_)) => {
                    return Err(CommandExit::usage(format!(
                        "{} and {file_name} are both set; set one",
                        self.name
                    )));
                }
                (value, file) => {
                    return Ok((
                        value.map(|value| value.to_string_lossy().into_owned()),
                        file.map(PathBuf::from),
                    ));
                }
            }
        }
        Ok((None, None))
    }

    /// The file that holds the URL, if it comes from one.
    pub(crate) fn file(&self) -> Option<PathBuf> {
        self.given().ok()?.1
    }

    /// The URL's text.
    pub(crate) fn read(&self) -> Result<Option<String>, CommandExit> {
        let (value, file) = self.given()?;
        let file_name = format!("{}_FILE", self.name);
        let is_of_env_file =
            self.value.is_none() && self.file.is_none() && env_file::sets(self.name);
        match (value, file) {
            (Some(value), _) => {
                if is_of_env_file {
                    check_files_of(self.name, &value)?;
                }
                Ok(Some(value))
            }
            (None, Some(file)) => {
                if self.file.is_none() {
                    env_file::check_beside(&file_name, &file).map_err(CommandExit::usage)?;
                }
                match std::fs::read_to_string(&file) {
                    Ok(text) if text.trim().is_empty() => Err(CommandExit::usage(format!(
                        "{file_name}: {} is empty",
                        file.display()
                    ))),
                    Ok(text) => Ok(Some(text)),
                    Err(error) => {
                        // Not a file's name but what belongs into the file, with its password.
                        let file = file.display().to_string();
                        let is_content = is_content(&file)
                            || file.contains('=')
                            || file.contains('@') && !file.starts_with(['/', '.']);
                        let shown = if is_content {
                            "not the name of a file"
                        } else {
                            &file
                        };
                        Err(CommandExit::usage(format!("{file_name}: {shown}: {error}")))
                    }
                }
            }
            (None, None) => Ok(None),
        }
    }
}

/// A URL that stands in `.env` shows no certificate and no key of this machine but those beside it
/// to the host that it names.
fn check_files_of(name: &str, text: &str) -> Result<(), CommandExit> {
    let Ok(parsed) = text.parse::<DatabaseUrl>() else {
        return Ok(());
    }; // refused by whoever reads it next
    match parsed
        .client_files()
        .into_iter()
        .find(|file| !env_file::is_beside(file))
    {
        None => Ok(()),
        Some(_) => Err(CommandExit::usage(format!(
            "{name} stands in .env, and its sslcert or sslkey is a file that does not lie beside \
             .env. It may have come with a checkout: set {name} in the environment"
        ))),
    }
}

/// An address to listen on: `ADDRESS:PORT`, a name that this machine resolves, or a port alone,
/// which is one of 127.0.0.1.
fn listen_address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let problem =
        || "is not ADDRESS:PORT, NAME:PORT or :PORT, with a port from 0 to 65535".to_owned();
    // A port alone, with its colon or without.
    let is_port = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let (host, port) = if is_port {
        ("", text)
    } else {
        text.rsplit_once(':').ok_or_else(problem)?
    };
    let port: u16 = port.parse().map_err(|_| problem())?;
    if host.contains(['/', '@', ':', '=', ' ']) {
        return Err(problem());
    }
    let host = if host.is_empty() { "127.0.0.1" } else { host };
    let found: Vec<SocketAddr> = (host, port)
        .to_socket_addrs()
        .map_err(|error| format!("this machine does not know {host}: {error}"))?
        .collect();
    // As the default is one: a name such as localhost is often of both families.
    found
        .iter()
        .find(|address| address.is_ipv4())
        .or(found.first())
        .copied()
        .ok_or_else(problem)
}

pub(crate) fn url<T: FromStr<Err: std::fmt::Display>>(
    name: &str,
    text: &str,
) -> Result<T, CommandExit> {
    text.parse()
        .map_err(|error| CommandExit::usage(format!("{name}: {error}")))
}

fn kept_for(text: &str) -> Result<Duration, String> {
    match positive_duration(text)? {
        duration if duration > LONGEST => Err("must be at most 100 years".into()),
        duration => Ok(duration),
    }
}

fn positive_duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("must be longer than 0".into()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_to_listen_on_is_a_number_a_name_or_a_port_alone() {
        let shown = |text: &str| listen_address(text).map(|address| address.to_string());
        for (text, expected) in [
            ("127.0.0.1:1", "127.0.0.1:1"),
            ("[::]:7", "[::]:7"),
            ("0.0.0.0:0", "0.0.0.0:0"),
            (":50051", "127.0.0.1:50051"),
            ("50051", "127.0.0.1:50051"),
            ("localhost:50051", "127.0.0.1:50051"),
        ] {
            assert_eq!(shown(text).as_deref(), Ok(expected));
        }
        for bad in [
            "",
            "70000",
            "localhost",
            "h:x",
            ":70000",
            "postgres://u:p@h/d:1",
            "::1:5",
            "a b:1",
        ] {
            assert!(listen_address(bad).is_err(), "{bad}");
        }
    }
}
