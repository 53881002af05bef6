//! Where a database is. The password goes in and never comes out: `Debug` and `Display` show the target only.

use std::{fmt, str::FromStr, time::Duration};

use tokio_postgres::{
    Client, Config, NoTls,
    config::{Host, SslMode},
    tls::NoTlsStream,
};

use super::error::{Error, SqlError, chain};

/// Longer than a slow TLS handshake over continents, shorter than anyone's patience; a URL's connect_timeout overrides.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A database URL or key=value DSN, parsed once.
#[derive(Clone)]
pub struct DatabaseUrl {
    config: Config,
    target: String,
}

/// Why a text is no usable database URL. Never repeats the text: it may hold a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUrl {
    /// It cannot be parsed.
    #[error("not a PostgreSQL URL (postgres://user:password@host:5432/database) or key=value DSN: {0}")]
    Syntax(String),
    /// It asks for TLS.
    #[error("{0}, but this version of schemad cannot speak TLS to the database; use a local or tunnelled connection")]
    Tls(String),
    /// It names no host.
    #[error("names no host")]
    NoHost,
}

/// The half of a connection that a task has to drive.
pub type Connection = tokio_postgres::Connection<tokio_postgres::Socket, NoTlsStream>;

impl FromStr for DatabaseUrl {
    type Err = InvalidUrl;

    fn from_str(text: &str) -> Result<Self, InvalidUrl> {
        let config: Config = text.trim().parse().map_err(|e| syntax_error(&e))?;
        if config.get_ssl_mode() == SslMode::Require {
            return Err(InvalidUrl::Tls("sslmode=require".into()));
        }
        // What stands between two @ is a piece of the password, and a target is shown.
        if config.get_hosts().iter().any(|host| matches!(host, Host::Tcp(name) if name.contains('@'))) {
            return Err(InvalidUrl::Syntax("a host has no @; write %40 for an @ in the password".into()));
        }
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(InvalidUrl::NoHost);
        }
        Ok(Self { target: target(&config), config })
    }
}

impl DatabaseUrl {
    /// `user@host:port/database`.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// Connects under `application_name`. The connection does nothing until the caller drives it.
    ///
    /// # Errors
    /// [`Error::Connect`] with every cause, for example the server's own "password authentication failed".
    pub async fn connect(&self, application_name: &str) -> Result<(Client, Connection), Error> {
        let mut config = self.config.clone();
        config.application_name(application_name);
        // A dead peer is noticed after 30 s + 3 × 10 s instead of the kernel's two hours.
        config
            .keepalives_idle(Duration::from_secs(30))
            .keepalives_interval(Duration::from_secs(10))
            .keepalives_retries(3);
        let timeout = *config.get_connect_timeout().unwrap_or(&CONNECT_TIMEOUT);
        config.connect_timeout(timeout);
        let failed = |cause: String| Error::Connect { target: self.target.clone(), cause };
        // connect_timeout covers the TCP handshake of each address only; a stalled server accepts and then says nothing.
        let addresses = u32::try_from(config.get_hosts().len().max(1)).unwrap_or(u32::MAX);
        match tokio::time::timeout(timeout.saturating_mul(addresses), config.connect(NoTls)).await {
            Ok(Ok(connected)) => Ok(connected),
            Ok(Err(error)) => Err(failed(match error.as_db_error() {
                Some(db) => SqlError::from(db).to_string(),
                None => chain(&error),
            })),
            Err(_) => Err(failed(format!("no answer within {timeout:?}"))),
        }
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

/// tokio-postgres repeats unknown keys, and in a DSN with an unquoted password a piece of it would be such a key.
fn syntax_error(error: &tokio_postgres::Error) -> InvalidUrl {
    const TLS_OPTIONS: [&str; 8] = [
        "sslmode",
        "sslrootcert",
        "sslcert",
        "sslkey",
        "sslcrl",
        "ssl_min_protocol_version",
        "sslnegotiation",
        "sslpassword",
    ];
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
    if let Some(option) = TLS_OPTIONS.iter().find(names) {
        return InvalidUrl::Tls(format!("it sets {option}"));
    }
    InvalidUrl::Syntax(match OTHER_OPTIONS.iter().find(names) {
        Some(option) => format!("the value of {option} is invalid"),
        None if text.contains("unknown option") => "it sets an option that schemad does not know".into(),
        None => "it cannot be parsed; are special characters in the password percent-encoded?".into(),
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
        ] {
            let error = bad.parse::<DatabaseUrl>().unwrap_err().to_string();
            assert!(!error.contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn what_cannot_be_honoured_is_refused() {
        for tls in [
            "postgres://u@h/d?sslmode=require",
            "postgres://u@h/d?sslmode=verify-full",
            "postgres://u@h/d?sslrootcert=x",
        ] {
            assert!(matches!(tls.parse::<DatabaseUrl>(), Err(InvalidUrl::Tls(_))), "{tls}");
        }
        assert_eq!("user=u dbname=d".parse::<DatabaseUrl>().unwrap_err(), InvalidUrl::NoHost);
    }

    #[test]
    fn unix_sockets_and_several_hosts_are_understood() {
        let socket: DatabaseUrl = "postgres://postgres@%2Frun%2Fpg:5433/app".parse().unwrap();
        assert_eq!(socket.target(), "postgres@/run/pg:5433/app");
        let several: DatabaseUrl = "postgres://u@a:1,b:2/d?target_session_attrs=read-write".parse().unwrap();
        assert_eq!(several.target(), "u@a:1,b:2/d");
    }
}
