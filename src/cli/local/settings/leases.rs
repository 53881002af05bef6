//! The flags of `LeaseSettings`.

use std::{fmt, path::PathBuf, time::Duration};

use clap::Args;

use super::{EnvFileUrls, UrlSource, limits::count, positive_duration, url};
use crate::{
    cli::{exit::CommandExit, file_name::FileNameParser},
    lease::{self, ClientUrl},
    postgres::DatabaseUrl,
};

const DATABASE_URL: &str = "SCHEMAD_LEASE_DATABASE_URL";
const CLIENT_URL: &str = "SCHEMAD_LEASE_CLIENT_URL";

/// As many tests as a laptop begins at once, for some 30 MB.
const POOL: usize = 4;

/// Said at each option: a heading for the next ones would hold for those of the commands, too,
/// which come after these.
const HEADING: &str = "Leases of test databases (docs/lease.md)";

#[derive(Clone, Args)]
pub(crate) struct LeaseServerArgs {
    /// Where databases are made for tests: the server's address with a role that has CREATEDB.
    /// Better not production's [env: SCHEMAD_LEASE_DATABASE_URL].
    #[arg(help_heading = HEADING, long, value_name = "URL")]
    lease_database_url: Option<String>,
    /// A file that holds it [env: SCHEMAD_LEASE_DATABASE_URL_FILE].
    #[arg(help_heading = HEADING, long, value_name = "FILE", conflicts_with = "lease_database_url", value_parser = FileNameParser)]
    lease_database_url_file: Option<PathBuf>,
    /// What clients are told, with the database exchanged: how they reach that server, and as whom.
    /// Default: the URL above [env: SCHEMAD_LEASE_CLIENT_URL].
    #[arg(help_heading = HEADING, long, value_name = "URL")]
    lease_client_url: Option<String>,
    /// A file that holds it [env: SCHEMAD_LEASE_CLIENT_URL_FILE].
    #[arg(help_heading = HEADING, long, value_name = "FILE", conflicts_with = "lease_client_url", value_parser = FileNameParser)]
    lease_client_url_file: Option<PathBuf>,
    /// Databases that are kept ready [default: 4; of `dev` 0].
    #[arg(help_heading = HEADING, long, env = "SCHEMAD_LEASE_POOL", value_name = "N")]
    lease_pool: Option<usize>,
    /// How long a lease lasts that does not say.
    #[arg(help_heading = HEADING, long, env = "SCHEMAD_LEASE_TTL", default_value = "1h", value_parser = positive_duration, value_name = "DURATION")]
    lease_ttl: Duration,
    /// How long a lease may last.
    #[arg(help_heading = HEADING, long, env = "SCHEMAD_LEASE_MAX_TTL", default_value = "8h", value_parser = positive_duration, value_name = "DURATION")]
    lease_max_ttl: Duration,
    /// Databases that are leased at once.
    #[arg(help_heading = HEADING, long, env = "SCHEMAD_MAX_LEASES", default_value_t = 64, value_name = "N", value_parser = count)]
    max_leases: usize,
    /// The same of one principal.
    #[arg(help_heading = HEADING, long, env = "SCHEMAD_MAX_LEASES_PER_PRINCIPAL", default_value_t = 32, value_name = "N", value_parser = count)]
    max_leases_per_principal: usize,
}

/// The URLs may hold passwords.
impl fmt::Debug for LeaseServerArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Leases")
    }
}

/// The private server of `schemad dev`, for leases where nothing else is said.
pub(crate) struct PrivateLeaseServer {
    /// Where databases are made.
    pub database: String,
    /// How clients reach them.
    pub client: String,
}

impl LeaseServerArgs {
    fn sources(&self, env_file: EnvFileUrls) -> [UrlSource<'_>; 2] {
        [
            UrlSource {
                name: DATABASE_URL,
                value: self.lease_database_url.as_deref(),
                file: self.lease_database_url_file.as_deref(),
                env_file,
            },
            UrlSource {
                name: CLIENT_URL,
                value: self.lease_client_url.as_deref(),
                file: self.lease_client_url_file.as_deref(),
                env_file,
            },
        ]
    }

    /// The files that hold the URLs.
    pub(crate) fn files(&self, env_file: EnvFileUrls) -> Vec<PathBuf> {
        self.sources(env_file)
            .iter()
            .filter_map(UrlSource::file)
            .collect()
    }

    /// `None`: no leases.
    pub(crate) fn read(
        &self,
        private: Option<PrivateLeaseServer>,
        env_file: EnvFileUrls,
    ) -> Result<Option<lease::LeaseSettings>, CommandExit> {
        let [given, client] = self.sources(env_file);
        let (given, client) = (given.read()?, client.read()?);
        let pool = self
            .lease_pool
            .unwrap_or(if given.is_none() { 0 } else { POOL });
        let mut of_private = None;
        let (name, text) = match (given, private) {
            (Some(text), _) => (DATABASE_URL, text),
            (None, Some(private)) => {
                of_private = Some(private.client);
                ("the private server", private.database)
            }
            (None, None) if client.is_some() => {
                return Err(CommandExit::usage(format!(
                    "{CLIENT_URL} says how leases are reached; {DATABASE_URL} is missing"
                )));
            }
            (None, None) => return Ok(None),
        };
        let database: DatabaseUrl = url(name, &text)?;
        let client: ClientUrl = match client.or(of_private) {
            Some(client) => url(CLIENT_URL, &client)?,
            None => text
                .parse()
                .map_err(|error| CommandExit::usage(format!("{name} {error}; set {CLIENT_URL}")))?,
        };
        if self.lease_ttl.is_zero() {
            return Err(CommandExit::usage(
                "--lease-ttl is 0, so every lease would be over at once",
            ));
        }
        if self.lease_ttl > self.lease_max_ttl {
            return Err(CommandExit::usage(
                "--lease-ttl is longer than --lease-max-ttl",
            ));
        }
        Ok(Some(lease::LeaseSettings {
            database,
            client,
            pool,
            ttl: self.lease_ttl,
            max_ttl: self.lease_max_ttl,
            per_principal: self.max_leases_per_principal,
            most: self.max_leases,
        }))
    }
}
