//! The URL that clients are told. It has a password and goes into one message, and nowhere else.

use std::{fmt, str::FromStr};

use crate::postgres::{DatabaseUrl, url::InvalidUrl};

/// A URL of the server, as clients reach it, in which the database is exchanged for each lease.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientUrl(String);

/// Why a text cannot be told to clients. It never repeats the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientUrlError {
    /// It is no database URL.
    #[error(transparent)]
    Invalid(#[from] InvalidUrl),
    /// It is a DSN.
    #[error(
        "is a key=value DSN, and clients are told a URL \
         (postgres://user:password@host:5432/database)"
    )]
    Dsn,
}

impl FromStr for ClientUrl {
    type Err = ClientUrlError;

    fn from_str(text: &str) -> Result<Self, ClientUrlError> {
        let text = text.trim();
        text.parse::<DatabaseUrl>()?;
        if text.contains("://") {
            Ok(Self(text.into()))
        } else {
            Err(ClientUrlError::Dsn)
        }
    }
}

impl fmt::Debug for ClientUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientUrl")
    }
}

impl ClientUrl {
    /// The role that clients are, as SQL names it.
    pub fn role(&self) -> String {
        self.0
            .parse::<DatabaseUrl>()
            .map_or_else(|_| String::new(), |url| url.role()) // it was parsed before
    }

    /// The URL with another database, whose name needs no encoding; with all its other options. It
    /// begins with `postgresql://`, which every driver takes; SQLAlchemy does not take
    /// `postgres://`.
    pub(super) fn with_database(&self, name: &str) -> String {
        let (head, query) = self.0.split_once('?').unwrap_or((&self.0, ""));
        let authority = head.find("://").map_or(0, |at| at + 3);
        let end = head[authority..]
            .find('/')
            .map_or(head.len(), |at| authority + at);
        let options: Vec<&str> = query
            .split('&')
            .filter(|option| !option.is_empty() && !option.starts_with("dbname="))
            .collect();
        let query = if options.is_empty() {
            String::new()
        } else {
            format!("?{}", options.join("&"))
        };
        format!("postgresql://{}/{name}{query}", &head[authority..end])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_database_is_exchanged_and_nothing_else() {
        for (text, expected) in [
            ("postgres://u:s3cret@h:7/d", "postgresql://u:s3cret@h:7/x"),
            ("postgresql://u@h", "postgresql://u@h/x"),
            (
                "postgres://u:a%2Fb%3F@h/d?sslmode=require",
                "postgresql://u:a%2Fb%3F@h/x?sslmode=require",
            ),
            (
                "postgres://u@a:1,b:2/?options=-csearch_path%3Da",
                "postgresql://u@a:1,b:2/x?options=-csearch_path%3Da",
            ),
            (
                "postgres://u@%2Frun%2Fpg:5433/d?dbname=y",
                "postgresql://u@%2Frun%2Fpg:5433/x",
            ),
            (
                "postgres:///d?host=h&dbname=y&user=u",
                "postgresql:///x?host=h&user=u",
            ),
        ] {
            let url: ClientUrl = text.parse().unwrap();
            assert_eq!(url.with_database("x"), expected);
            let reached: DatabaseUrl = expected.parse().unwrap();
            assert!(reached.target().ends_with("/x"), "{reached:?}");
            assert_eq!(format!("{url:?}"), "ClientUrl");
        }
    }

    #[test]
    fn what_is_no_url_is_refused_without_repeating_it() {
        let of = |text: &str| text.parse::<ClientUrl>().unwrap_err();
        assert_eq!(of("host=h user=u password=s3cret"), ClientUrlError::Dsn);
        assert!(
            !of("postgres://u:s3cret@h:port/d")
                .to_string()
                .contains("s3cret")
        );
    }
}
