//! The options of a database URL or DSN that tokio-postgres does not know, or knows less of than
//! libpq: taken out before it sees the text. The names and their meaning are libpq's (PostgreSQL's
//! manual, "Parameter Key Words").

use std::collections::BTreeMap;

use super::url::InvalidUrl;

/// Options that schemad acts on itself.
const OURS: [&str; 9] = [
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "sslsni",
    "ssl_min_protocol_version",
    "ssl_max_protocol_version",
    "gssencmode",
    "target_session_attrs",
];

/// Options that change nothing here: defaults of libpq's, or hints to other clients.
const IGNORED: [&str; 15] = [
    "sslcompression",
    "sslcertmode",
    "krbsrvname",
    "gsslib",
    "gssdelegation",
    "client_encoding",
    "fallback_application_name",
    "keepalives_count",
    "pgbouncer",
    "connection_limit",
    "pool_timeout",
    "statement_cache_size",
    "prepared_statement_cache_size",
    "pool_max_conns",
    "socket_timeout",
];

/// Options that ask for what schemad does not do.
const REFUSED: [(&str, &str); 11] = [
    ("service", "name host, user and database in the URL"),
    ("servicefile", "name host, user and database in the URL"),
    (
        "passfile",
        "put the password into the URL, and the URL into a file for DATABASE_URL_FILE",
    ),
    (
        "sslpassword",
        "give a key that is not encrypted, readable by schemad only",
    ),
    ("sslcrl", "revocation lists are not looked at"),
    ("sslcrldir", "revocation lists are not looked at"),
    ("require_auth", "the server chooses"),
    ("replication", "schemad does not replicate"),
    ("schema", "write options=-csearch_path%3D and the schema"),
    (
        "currentSchema",
        "write options=-csearch_path%3D and the schema",
    ),
    ("ssl", "write sslmode=require, or verify-full"),
];

/// The options taken out, by name.
pub(super) type UrlOptions = BTreeMap<&'static str, String>;

/// A form that other programs use, and what to write instead.
pub(super) fn foreign_form(text: &str) -> Option<String> {
    if text.starts_with(['"', '\'', '`']) {
        return Some("there are quotes around it: leave them out".into());
    }
    let scheme = text.split_once("://")?.0;
    match scheme.split_once('+') {
        _ if ["postgres", "postgresql"].contains(&scheme) => None,
        Some((before @ ("postgres" | "postgresql"), _)) => Some(format!(
            "its scheme names a Python driver behind a +: write {before}://"
        )),
        _ if scheme.starts_with("jdbc:") => Some(
            "it begins with jdbc: as Java has it; write \
                postgres://user:password@host:5432/database"
                .into(),
        ),
        // In a DSN a value may hold "://"; a scheme that is none of PostgreSQL's may be a piece of
        // a password.
        _ if text.contains('=') && !text.contains('?') => None,
        _ => Some("its scheme is not postgres://".into()),
    }
}

/// Splits `text` into what tokio-postgres parses and the rest.
pub(super) fn take(text: &str) -> Result<(String, UrlOptions), InvalidUrl> {
    let mut options = UrlOptions::new();
    let rest = if text.starts_with("postgres://") || text.starts_with("postgresql://") {
        let (base, query) = text.split_once('?').unwrap_or((text, ""));
        let (mut kept, mut hosts, mut ports) = (Vec::new(), None, None);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match name {
                "host" => hosts = Some(value),
                "port" => ports = Some(value),
                _ if keep(name, &decoded(value), &mut options)? => kept.push(pair),
                _ => {}
            }
        }
        let base = match (hosts, ports) {
            (None, None) => base.to_owned(),
            _ => with_hosts(base, hosts, ports),
        };
        if kept.is_empty() {
            base
        } else {
            format!("{base}?{}", kept.join("&"))
        }
    } else {
        let mut kept = String::new();
        for (name, value) in pairs(text)? {
            if keep(name, &value, &mut options)? {
                kept += &format!(
                    "{name}='{}' ",
                    value.replace('\\', "\\\\").replace('\'', "\\'")
                );
            }
        }
        kept
    };
    Ok((rest, options))
}

/// The URL with the hosts and ports of its query, which go before those in front, as for libpq;
/// tokio-postgres would take both. One port is for every host.
fn with_hosts(base: &str, hosts: Option<&str>, ports: Option<&str>) -> String {
    let authority = base.find("://").map_or(0, |at| at + 3);
    let end = base[authority..]
        .find('/')
        .map_or(base.len(), |at| authority + at);
    let (user, in_front) = match base[authority..end].rsplit_once('@') {
        Some((user, in_front)) => (format!("{user}@"), in_front),
        None => (String::new(), &base[authority..end]),
    };
    let in_front: Vec<(&str, &str)> = in_front
        .split(',')
        .map(|host| {
            host.rsplit_once(':')
                .filter(|(_, port)| !port.contains(']'))
                .unwrap_or((host, ""))
        })
        .collect();
    let hosts: Vec<String> = match hosts {
        Some(hosts) => decoded(hosts)
            .split(',')
            .map(|host| host.replace('%', "%25").replace('/', "%2F"))
            .collect(),
        None => in_front
            .iter()
            .map(|(host, _)| (*host).to_owned())
            .collect(),
    };
    let ports: Vec<String> = match ports {
        Some(ports) => decoded(ports).split(',').map(str::to_owned).collect(),
        None => in_front
            .iter()
            .map(|(_, port)| (*port).to_owned())
            .collect(),
    };
    let addresses = hosts.iter().enumerate().map(|(n, host)| {
        let port = ports
            .get(n)
            .or(ports.first())
            .filter(|port| !port.is_empty());
        port.map_or_else(|| host.clone(), |port| format!("{host}:{port}"))
    });
    format!(
        "{}{user}{}{}",
        &base[..authority],
        addresses.collect::<Vec<_>>().join(","),
        &base[end..]
    )
}

/// True for an option that tokio-postgres shall see.
fn keep(name: &str, value: &str, options: &mut UrlOptions) -> Result<bool, InvalidUrl> {
    if let Some((name, instead)) = REFUSED.iter().find(|(refused, _)| *refused == name) {
        return Err(InvalidUrl::Option {
            name,
            problem: format!("is not supported: {instead}"),
        });
    }
    match OURS.iter().find(|ours| **ours == name) {
        Some(ours) => {
            options.insert(ours, value.to_owned());
            Ok(false)
        }
        None => Ok(!IGNORED.contains(&name)),
    }
}

fn decoded(value: &str) -> String {
    percent_encoding::percent_decode_str(value)
        .decode_utf8_lossy()
        .into_owned()
}

/// The pairs of a key=value DSN: values bare, or in single quotes; a backslash takes the next
/// character as it is.
fn pairs(text: &str) -> Result<Vec<(&str, String)>, InvalidUrl> {
    let malformed = || {
        InvalidUrl::Syntax(
            "a DSN is key=value pairs with spaces between; quote a value that holds one".into(),
        )
    };
    let mut pairs = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (name, after) = rest.split_once('=').ok_or_else(malformed)?;
        let name = name.trim_end();
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(malformed());
        }
        let mut value = String::new();
        let after = after.trim_start();
        let (quoted, body) = after
            .strip_prefix('\'')
            .map_or((false, after), |body| (true, body));
        let mut chars = body.char_indices();
        let end = loop {
            match chars.next() {
                Some((_, '\\')) => value.extend(chars.next().map(|(_, c)| c)),
                Some((at, '\'')) if quoted => break at + 1,
                Some((at, c)) if !quoted && c.is_whitespace() => break at,
                Some((_, c)) => value.push(c),
                None if quoted => return Err(malformed()),
                None => break body.len(),
            }
        };
        pairs.push((name, value));
        rest = body[end..].trim_start();
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_are_taken_out_of_both_forms() {
        for (text, rest) in [
            (
                "postgres://u:p%3Fw@h/d?sslmode=verify-full&options=-c%20a%3Db&sslrootcert=%2Fca.pem&pgbouncer=true",
                "postgres://u:p%3Fw@h/d?options=-c%20a%3Db",
            ),
            (
                r"host=h sslmode=verify-full password='it\'s a \\' sslrootcert = '/ca.pem'",
                r"host='h' password='it\'s a \\' ",
            ),
        ] {
            let (kept, options) = take(text).unwrap();
            assert_eq!(kept, rest);
            assert_eq!(
                (options["sslmode"].as_str(), options["sslrootcert"].as_str()),
                ("verify-full", "/ca.pem")
            );
        }
        assert_eq!(
            take("postgres://h/d").unwrap(),
            ("postgres://h/d".into(), UrlOptions::new())
        );
    }

    #[test]
    fn what_is_not_done_is_refused_by_name() {
        for (text, name) in [
            ("postgres://h/d?service=x", "service"),
            ("host=h sslcrl=x", "sslcrl"),
        ] {
            assert!(take(text).unwrap_err().to_string().contains(name));
        }
        for text in ["host", "host=h 'x", "host='h", "a b=c"] {
            assert!(matches!(take(text), Err(InvalidUrl::Syntax(_))), "{text}");
        }
    }
}
