//! The options of a database URL or DSN that tokio-postgres does not know, or knows less of than libpq: taken out before it
//! sees the text. The names and their meaning are libpq's (PostgreSQL's manual, "Parameter Key Words").

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
const IGNORED: [&str; 9] = [
    "sslcompression",
    "sslcertmode",
    "krbsrvname",
    "gsslib",
    "gssdelegation",
    "client_encoding",
    "fallback_application_name",
    "keepalives_count",
    "pgbouncer",
];

/// Options that ask for what schemad does not do.
const REFUSED: [(&str, &str); 8] = [
    ("service", "name host, user and database in the URL"),
    ("servicefile", "name host, user and database in the URL"),
    ("passfile", "put the password into the URL, and the URL into a file for DATABASE_URL_FILE"),
    ("sslpassword", "give a key that is not encrypted, readable by schemad only"),
    ("sslcrl", "revocation lists are not looked at"),
    ("sslcrldir", "revocation lists are not looked at"),
    ("require_auth", "the server chooses"),
    ("replication", "schemad does not replicate"),
];

/// The options taken out, by name.
pub(super) type Options = BTreeMap<&'static str, String>;

/// Splits `text` into what tokio-postgres parses and the rest.
pub(super) fn take(text: &str) -> Result<(String, Options), InvalidUrl> {
    let mut options = Options::new();
    let rest = if text.starts_with("postgres://") || text.starts_with("postgresql://") {
        let (base, query) = text.split_once('?').unwrap_or((text, ""));
        let mut kept = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            if keep(name, &decoded(value), &mut options)? {
                kept.push(pair);
            }
        }
        match kept.is_empty() {
            true => base.to_owned(),
            false => format!("{base}?{}", kept.join("&")),
        }
    } else {
        let mut kept = String::new();
        for (name, value) in pairs(text)? {
            if keep(name, &value, &mut options)? {
                kept += &format!("{name}='{}' ", value.replace('\\', "\\\\").replace('\'', "\\'"));
            }
        }
        kept
    };
    Ok((rest, options))
}

/// True for an option that tokio-postgres shall see.
fn keep(name: &str, value: &str, options: &mut Options) -> Result<bool, InvalidUrl> {
    if let Some((name, instead)) = REFUSED.iter().find(|(refused, _)| *refused == name) {
        return Err(InvalidUrl::Option { name, problem: format!("is not supported: {instead}") });
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
    percent_encoding::percent_decode_str(value).decode_utf8_lossy().into_owned()
}

/// The pairs of a key=value DSN: values bare, or in single quotes; a backslash takes the next character as it is.
fn pairs(text: &str) -> Result<Vec<(&str, String)>, InvalidUrl> {
    let malformed =
        || InvalidUrl::Syntax("a DSN is key=value pairs with spaces between; quote a value that holds one".into());
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
        let (quoted, body) = after.strip_prefix('\'').map_or((false, after), |body| (true, body));
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
            assert_eq!((options["sslmode"].as_str(), options["sslrootcert"].as_str()), ("verify-full", "/ca.pem"));
        }
        assert_eq!(take("postgres://h/d").unwrap(), ("postgres://h/d".into(), Options::new()));
    }

    #[test]
    fn what_is_not_done_is_refused_by_name() {
        for (text, name) in [("postgres://h/d?service=x", "service"), ("host=h sslcrl=x", "sslcrl")] {
            assert!(take(text).unwrap_err().to_string().contains(name));
        }
        for text in ["host", "host=h 'x", "host='h", "a b=c"] {
            assert!(matches!(take(text), Err(InvalidUrl::Syntax(_))), "{text}");
        }
    }
}
