//! What it means that no connection could be made, and what to do, where the words of the server or
//! the system do not say it.

use tokio_postgres::error::SqlState;

use super::{error::POOL_TOO_SMALL, tls::VerifyMode};

/// `cause` with what it means and what to do.
pub(super) fn explained(cause: String, code: Option<&SqlState>, mode: VerifyMode) -> String {
    let has = |words: &str| cause.contains(words);
    let meaning = match code.map_or("", SqlState::code) {
        "28P01" => {
            "the password is not that role's, or no longer valid (VALID UNTIL): check user and \
             password in the URL"
        }
        "28000" if has("pg_hba.conf") => {
            "the server's pg_hba.conf lets nobody in like this: add a line there, or check \
             sslmode"
        }
        "28000" => "check the user in the URL",
        "53300" => {
            "the server or its pooler has no connection left for schemad: raise its limit, or \
            lower the daemon's settings SCHEMAD_POOL_SIZE and SCHEMAD_POOL_OVERFLOW (schemad opens \
            as many, and up to 5 beside them)"
        }
        "57P03" => "wait until the server is up; schemad tries again by itself",
        _ if has("query_wait_timeout") => POOL_TOO_SMALL,
        _ if has("UnknownIssuer") || has("BadSignature") => {
            "the server's certificate is of no authority in sslrootcert (or of none that this \
             machine trusts)"
        }
        _ if has("NotValidForName") || has("not valid for name") => {
            "the server's certificate is for another name; verify-ca would not look at it"
        }
        _ if has("server does not support TLS") => match mode {
            VerifyMode::VerifyCa | VerifyMode::VerifyFull => {
                "the server has TLS off, so nothing proves that it is the right one: turn TLS on \
                 there (ssl = on), or check host and port"
            }
            _ => {
                "the server has TLS off: turn it on there (ssl = on), or do without \
                 (sslmode=prefer)"
            }
        },
        _ if has("failed to lookup address") => {
            "no such host is known here: check the host in the URL, and this machine's DNS"
        }
        _ if has("Connection refused") => {
            "nobody listens there: check host and port, and that the server runs and listens on \
             that address"
        }
        _ if has("No such file") => {
            "there is no such socket: check the folder in the URL, the port, and that the server \
             runs"
        }
        _ => return cause,
    };
    format!("{cause}: {meaning}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_do_is_said() {
        let explained = |mode, cause: &str, code: Option<&str>| {
            super::explained(cause.into(), code.map(SqlState::from_code).as_ref(), mode)
        };
        for (mode, cause, code, word) in [
            (
                VerifyMode::Prefer,
                "password authentication failed",
                Some("28P01"),
                "check user and password",
            ),
            (
                VerifyMode::Prefer,
                "no pg_hba.conf entry for host",
                Some("28000"),
                "pg_hba.conf lets",
            ),
            (
                VerifyMode::Prefer,
                "query_wait_timeout",
                Some("08P01"),
                "SCHEMAD_POOL_SIZE",
            ),
            (
                VerifyMode::Prefer,
                "error connecting: Connection refused (os error 111)",
                None,
                "nobody listens",
            ),
            (
                VerifyMode::Prefer,
                "failed to lookup address information",
                None,
                "DNS",
            ),
            (
                VerifyMode::Require,
                "server does not support TLS",
                None,
                "sslmode=prefer",
            ),
            (
                VerifyMode::VerifyFull,
                "server does not support TLS",
                None,
                "ssl = on",
            ),
        ] {
            assert!(explained(mode, cause, code).contains(word), "{cause}");
        }
        let verified = explained(VerifyMode::VerifyFull, "server does not support TLS", None);
        assert!(!verified.contains("sslmode"), "{verified}");
    }
}
