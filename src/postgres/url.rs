//! Where a database is. The password goes in and never comes out: `Debug` and `Display` show the
//! target only.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use tokio_postgres::{
    Config,
    config::{Host, SslMode, TargetSessionAttrs},
};

use super::{
    error::chain,
    options,
    tls::{DatabaseTls, VerifyMode},
};
use crate::sql;

/// A database URL or key=value DSN, parsed once.
#[derive(Clone)]
pub struct DatabaseUrl {
    pub(super) config: Config,
    pub(super) tls: DatabaseTls,
    pub(super) target: String,
    /// Several hosts, and the URL does not say which.
    pub(super) prefers_primary: bool,
}

/// Why a text is no usable database URL. Never repeats the text: it may hold a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUrl {
    /// It cannot be parsed.
    #[error(
        "not a PostgreSQL URL (postgres://user:password@host:5432/database) or key=value DSN: {0}"
    )]
    Syntax(String),
    /// An option asks for what there is not.
    #[error("its option {name} {problem}")]
    Option {
        /// libpq's name of it.
        name: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// It names no host.
    #[error("names no host")]
    NoHost,
}

impl FromStr for DatabaseUrl {
    type Err = InvalidUrl;

    fn from_str(text: &str) -> Result<Self, InvalidUrl> {
        let text = text.trim();
        if let Some(problem) = options::foreign_form(text) {
            return Err(InvalidUrl::Syntax(problem));
        }
        check_signs(text)?;
        let (rest, options) = options::take(text)?;
        let mut config: Config = rest.parse().map_err(|e| syntax_error(&e))?;
        if config.get_user().is_none() {
            // As libpq, and said here because GRANTs name it.
            let own = nix::unistd::User::from_uid(nix::unistd::geteuid())
                .ok()
                .flatten();
            config.user(own.map_or_else(|| "postgres".into(), |user| user.name));
        }
        let mut tls = DatabaseTls::of(&options)?;
        // As libpq: a unix socket has no name to prove, and no files are looked at.
        if config
            .get_hosts()
            .iter()
            .all(|host| matches!(host, Host::Unix(_)))
            && config.get_hostaddrs().is_empty()
        {
            tls.mode = VerifyMode::Disable;
        }
        config.ssl_mode(match tls.mode {
            VerifyMode::Disable => SslMode::Disable,
            VerifyMode::Prefer => SslMode::Prefer,
            VerifyMode::Require | VerifyMode::VerifyCa | VerifyMode::VerifyFull => SslMode::Require,
        });
        config.target_session_attrs(
            match options.get("target_session_attrs").map(String::as_str) {
                None | Some("" | "any" | "prefer-standby") => TargetSessionAttrs::Any,
                Some("read-write" | "primary") => TargetSessionAttrs::ReadWrite,
                Some("read-only" | "standby") => TargetSessionAttrs::ReadOnly,
                Some(_) => {
                    let problem =
                        "is one of any, read-write, read-only, primary, standby, prefer-standby"
                            .into();
                    return Err(InvalidUrl::Option {
                        name: "target_session_attrs",
                        problem,
                    });
                }
            },
        );
        // What stands between two @ is a piece of the password, and a target is shown.
        if config
            .get_hosts()
            .iter()
            .any(|host| matches!(host, Host::Tcp(name) if name.contains('@')))
        {
            return Err(InvalidUrl::Syntax(
                "a host has no @; write %40 for an @ in the password".into(),
            ));
        }
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(InvalidUrl::NoHost);
        }
        let several = config.get_hosts().len().max(config.get_hostaddrs().len()) > 1;
        let prefers_primary = several && !options.contains_key("target_session_attrs");
        Ok(Self {
            target: target(&config),
            config,
            tls,
            prefers_primary,
        })
    }
}

impl DatabaseUrl {
    /// `user@host:port/database`.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// The name of the database; without one in the URL, the role's, as libpq has it.
    pub fn database(&self) -> &str {
        self.config.get_dbname().unwrap_or(self.login())
    }

    /// The same server, role and options with another database.
    #[must_use]
    pub fn with_database(&self, name: &str) -> Self {
        let mut config = self.config.clone();
        config.dbname(name);
        Self {
            target: target(&config),
            config,
            ..self.clone()
        }
    }

    /// How the server has to prove who it is.
    pub fn tls(&self) -> VerifyMode {
        self.tls.mode
    }

    /// The files whose content is shown to the server: the client's certificate, and its key as far
    /// as a signature shows it.
    pub fn client_files(&self) -> Vec<&Path> {
        self.tls.identity_files().into_iter().flatten().collect()
    }

    /// The client's key.
    pub fn key_file(&self) -> Option<PathBuf> {
        self.tls.identity_files().map(|[_, key]| key.to_owned())
    }

    /// The role that logs in, as SQL names it.
    pub fn role(&self) -> String {
        sql::ident(self.login())
    }

    /// The role that logs in, as it is called.
    pub fn login(&self) -> &str {
        self.config.get_user().unwrap_or_default()
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.target)
    }
}

fn target(config: &Config) -> String {
    let ports = config.get_ports();
    let hosts: Vec<String> = config
        .get_hosts()
        .iter()
        .enumerate()
        .map(|(i, host)| {
            let port = ports.get(i).or(ports.first()).copied().unwrap_or(5432);
            match host {
                Host::Tcp(name) => format!("{name}:{port}"),
                Host::Unix(path) => format!("{}:{port}", path.display()),
            }
        })
        .collect();
    let user = config.get_user().unwrap_or("");
    let database = config.get_dbname().unwrap_or(user);
    format!("{user}@{}/{database}", hosts.join(","))
}

/// Refuses what could be read in two ways. A password that is not percent-encoded ends where its
/// reader thinks, and what follows is then taken for host, database or options, which are shown.
fn check_signs(text: &str) -> Result<(), InvalidUrl> {
    let Some((_, rest)) = text.split_once("://") else {
        return Ok(());
    };
    let problem = match rest.split_once('@') {
        Some((_, after)) if after.contains('@') => {
            "there are two @; write %40 for an @ that is meant as one"
        }
        Some((before, _)) if before.contains(['/', '?', '#']) => {
            "there is a /, ? or # before the @; write %2F, %3F or %23 for one in the password"
        }
        _ => return Ok(()),
    };
    Err(InvalidUrl::Syntax(problem.into()))
}

/// tokio-postgres repeats unknown keys, and in a DSN with an unquoted password a piece of it would
/// be such a key.
fn syntax_error(error: &tokio_postgres::Error) -> InvalidUrl {
    const OTHER_OPTIONS: [&str; 12] = [
        "user",
        "dbname",
        "options",
        "application_name",
        "host",
        "hostaddr",
        "port",
        "connect_timeout",
        "keepalives",
        "keepalives_idle",
        "target_session_attrs",
        "channel_binding",
    ];
    let text = chain(error);
    let names = |option: &&&str| text.contains(&format!("`{option}`"));
    InvalidUrl::Syntax(match OTHER_OPTIONS.iter().find(names) {
        Some(option) => format!("the value of {option} is invalid"),
        None if text.contains("unknown option") => {
            "it sets an option that schemad does not know".into()
        }
        None => {
            "it cannot be parsed; are special characters in the password percent-encoded?".into()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_is_never_shown() {
        for text in [
            "postgres://app:s3cret@db.example:6432/shop?connect_timeout=3",
            "host=db.example port=6432 user=app password=s3cret dbname=shop",
        ] {
            let url: DatabaseUrl = text.parse().unwrap();
            assert_eq!(format!("{url:?}"), "app@db.example:6432/shop");
        }
    }

    #[test]
    fn errors_do_not_repeat_the_url() {
        for bad in [
            "postgres://app:s3cret@db:port/x",
            "host=db password=my s3cret x",
            "s3cret",
            "host=db s3cret=1",
            "postgres://app:x@s3cret@db/x",
            "postgres://app:x@s3/cret@db/x",
            "postgres://app:1/s3cret@db/x",
            "postgres://app:1?sslrootcert=s3cret@db/x",
            "postgres://app:x?y@s3cret/x@db/x",
            "postgres://app:x@s3cret?x@db/x",
        ] {
            let error = bad.parse::<DatabaseUrl>().unwrap_err().to_string();
            assert!(!error.contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn what_cannot_be_honoured_is_refused() {
        for bad in [
            "postgres://u@h/d?sslmode=sometimes",
            "postgres://u@h/d?sslrootcert=system&sslmode=require",
            "postgres://u@h/d?sslcert=a.pem",
            "postgres://u@h/d?ssl_min_protocol_version=2",
            "postgres://u@h/d?gssencmode=require",
            "postgres://u@h/d?target_session_attrs=some",
        ] {
            assert!(
                matches!(bad.parse::<DatabaseUrl>(), Err(InvalidUrl::Option { .. })),
                "{bad}"
            );
        }
        assert_eq!(
            "user=u dbname=d".parse::<DatabaseUrl>().unwrap_err(),
            InvalidUrl::NoHost
        );
    }

    #[test]
    fn the_forms_that_providers_hand_out_mean_what_they_say() {
        for (text, target, mode) in [
            (
                "postgresql://postgres:pw@localhost:5433/app",
                "postgres@localhost:5433/app",
                VerifyMode::Prefer,
            ),
            (
                "postgresql://postgres.abcdef:p%40w@aws-0-eu-central-1.pooler.supabase.com:5432/postgres",
                "postgres.abcdef@aws-0-eu-central-1.pooler.supabase.com:5432/postgres",
                VerifyMode::Prefer,
            ),
            (
                "postgresql://app_owner:pw@ep-cool-1.eu-central-1.aws.neon.tech/app?sslmode=require&channel_binding=require",
                "app_owner@ep-cool-1.eu-central-1.aws.neon.tech:5432/app",
                VerifyMode::Require,
            ),
            (
                "postgresql://postgres:pw@roundhouse.proxy.rlwy.net:12345/railway",
                "postgres@roundhouse.proxy.rlwy.net:12345/railway",
                VerifyMode::Prefer,
            ),
            (
                "host=a port=6432 user=u dbname=d sslmode=verify-ca",
                "u@a:6432/d",
                VerifyMode::VerifyCa,
            ),
            (
                "postgres://u@h/d?sslmode=verify-full&sslrootcert=system",
                "u@h:5432/d",
                VerifyMode::VerifyFull,
            ),
            (
                "postgres://u@h/d?sslrootcert=system",
                "u@h:5432/d",
                VerifyMode::VerifyFull,
            ),
            (
                "postgres://u@h/d?sslmode=require&sslrootcert=/ca.pem",
                "u@h:5432/d",
                VerifyMode::VerifyCa,
            ),
            (
                "postgres://u@h/d?sslmode=disable",
                "u@h:5432/d",
                VerifyMode::Disable,
            ),
        ] {
            let url: DatabaseUrl = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!((url.target(), url.tls.mode), (target, mode), "{text}");
        }
    }

    #[test]
    fn forms_of_other_programs_are_named() {
        for (text, word) in [
            ("postgresql+asyncpg://app:s3cret@h/d", "write postgresql://"),
            ("jdbc:postgresql://h/d?user=app&password=s3cret", "jdbc"),
            ("\"postgres://app:s3cret@h/d\"", "quotes"),
            ("mysql://app:s3cret@h/d", "not postgres://"),
            ("postgres://app:s3cret@h/d?schema=app", "search_path"),
            ("postgres://app:s3cret@h/d?currentSchema=app", "search_path"),
            ("postgres://app:s3cret@h/d?ssl=true", "sslmode=require"),
        ] {
            let error = text.parse::<DatabaseUrl>().unwrap_err().to_string();
            assert!(
                error.contains(word) && !error.contains("s3cret"),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn host_and_port_may_stand_in_the_query() {
        for (text, target) in [
            (
                "postgresql://%2Ftmp%2Fh3/t9?user=postgres&port=5599",
                "postgres@/tmp/h3:5599/t9",
            ),
            (
                "postgresql://u@/t9?host=%2Ftmp%2Fh3&port=5599",
                "u@/tmp/h3:5599/t9",
            ),
            ("postgresql://u@a,b/d?port=1,2", "u@a:1,b:2/d"),
            ("postgresql://u@a,b/d?port=7", "u@a:7,b:7/d"),
            ("postgresql://u@a:1/d?port=2", "u@a:2/d"),
            ("postgresql://u:p%40w@a:1/d?host=b", "u@b:1/d"),
            ("postgresql:///d?host=a&user=u", "u@a:5432/d"),
            ("postgresql://u@[::1]/d?port=2", "u@::1:2/d"),
            (
                "postgres://u@h/d?pgbouncer=true&connection_limit=1&pool_timeout=3",
                "u@h:5432/d",
            ),
        ] {
            let url: DatabaseUrl = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(url.target(), target, "{text}");
            assert!(
                url.config.get_ports().len() <= url.config.get_hosts().len(),
                "{text}"
            );
        }
    }

    #[test]
    fn another_database_of_the_server_is_reached_the_same_way() {
        let url: DatabaseUrl =
            "postgres://u:s3cret@h:7/d?sslmode=require&options=-csearch_path%3Da"
                .parse()
                .unwrap();
        let other = url.with_database("x");
        assert_eq!(
            (other.target(), other.tls.mode),
            ("u@h:7/x", VerifyMode::Require)
        );
        assert_eq!(
            (other.config.get_password(), other.config.get_options()),
            (url.config.get_password(), url.config.get_options())
        );
    }

    #[test]
    fn who_names_no_user_is_the_systems() {
        let url: DatabaseUrl = "postgres://h/d".parse().unwrap();
        assert!(
            url.role() != "\"\"" && !url.target().starts_with('@'),
            "{url:?}"
        );
    }

    #[test]
    fn unix_sockets_and_several_hosts_are_understood() {
        let socket: DatabaseUrl = "postgres://postgres@%2Frun%2Fpg:5433/app".parse().unwrap();
        assert_eq!(socket.target(), "postgres@/run/pg:5433/app");
        let several: DatabaseUrl = "postgres://u@a:1,b:2/d?target_session_attrs=read-write"
            .parse()
            .unwrap();
        assert_eq!(several.target(), "u@a:1,b:2/d");
    }
}
