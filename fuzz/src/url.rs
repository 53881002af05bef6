//! Database URLs and DSNs. The law: a secret that stands where a password belongs is in nothing
//! that can be shown, however carelessly it was written there.

use std::fmt::Write as _;

use schemad::DatabaseUrl;

const SECRET: &str = "s3cr3t0marker";

/// The first byte chooses the form; the rest, cut at line breaks, is user, what stands before and
/// after the secret in the password, host, database and options. With another first byte the rest
/// is the whole text.
pub fn database_url(data: &[u8]) {
    let Some((&form, rest)) = data.split_first() else {
        return;
    };
    let Ok(rest) = std::str::from_utf8(rest) else {
        return;
    };
    let mut parts = rest.splitn(6, '\n');
    let mut next = || parts.next().unwrap_or_default();
    let [user, before, after, host, database, options] = std::array::from_fn(|_| next());
    let scheme = if form & 8 == 0 {
        "postgres"
    } else {
        "postgresql"
    };
    // What is not the secret may hold it by accident, and then nothing follows.
    if [user, host, database, options]
        .iter()
        .any(|part| part.contains(SECRET))
    {
        return;
    }
    let text = match form % 8 {
        // As people do who do not know that it has to be encoded. A user with these signs is a
        // password itself.
        0 if !user.contains([':', '@', '/', '?', '#']) => {
            format!("{scheme}://{user}:{before}{SECRET}{after}@{host}/{database}?{options}")
        }
        1 => {
            let (before, after) = (encoded(before), encoded(after));
            format!(
                "{scheme}://{}:{before}{SECRET}{after}@{}/{}?{options}",
                encoded(user),
                encoded(host),
                encoded(database)
            )
        }
        2 => {
            let (before, after) = (encoded(before), encoded(after));
            format!(
                "{scheme}://{}/{}?user={}&password={before}{SECRET}{after}",
                encoded(host),
                encoded(database),
                encoded(user)
            )
        }
        3 => {
            let password = quoted(&format!("{before}{SECRET}{after}"));
            format!(
                "host={} user={} password={password} dbname={} {options}",
                quoted(host),
                quoted(user),
                quoted(database)
            )
        }
        // Without quotes: a word that holds no = is no option of its own.
        4 if !after.contains('=') && !before.contains('=') => {
            format!(
                "host={} password={before}{SECRET}{after} dbname={}",
                quoted(host),
                quoted(database)
            )
        }
        5 => {
            let password = quoted(&format!("{before}{SECRET}{after}"));
            format!("password={password} {options}")
        }
        0 | 4 => return,
        _ => rest.into(),
    };
    match text.parse::<DatabaseUrl>() {
        Ok(url) => shown(
            &format!("{url:?} {} {}", url.target(), url.role()),
            &text,
            form,
        ),
        Err(error) => shown(&format!("{error} {error:?}"), &text, form),
    }
}

fn shown(told: &str, text: &str, form: u8) {
    if form % 8 <= 5 {
        assert!(!told.contains(SECRET), "{text:?} is told as {told:?}");
    }
}

/// Every byte that is not a letter or a digit as %XX.
fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut all, byte| {
        if byte.is_ascii_alphanumeric() {
            all.push(char::from(byte))
        } else {
            write!(all, "%{byte:02X}").expect("writing to a String")
        }
        all
    })
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}
