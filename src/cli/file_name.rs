//! The name of a file, where people put by mistake what belongs into the file.

use std::{ffi::OsStr, path::PathBuf};

use clap::{Arg, Command, Error, builder::TypedValueParser, error::ErrorKind};

/// Takes the name of a file, and repeats nothing that looks like a secret.
#[derive(Clone, Copy)]
pub(crate) struct FileNameParser;

impl TypedValueParser for FileNameParser {
    type Value = PathBuf;

    fn parse_ref(
        &self,
        command: &Command,
        arg: Option<&Arg>,
        value: &OsStr,
    ) -> Result<PathBuf, Error> {
        let text = value.to_string_lossy();
        if is_content(&text) {
            let flag = arg.and_then(Arg::get_long).unwrap_or_default();
            let told =
                format!("--{flag} is not the name of a file but looks like what belongs into it\n");
            return Err(Error::raw(ErrorKind::ValueValidation, told).with_cmd(command));
        }
        Ok(value.into())
    }
}

/// True for what nobody calls a file: a PEM, a URL or what is left of one, a token, a key in hex, a
/// JWT.
pub(crate) fn is_content(text: &str) -> bool {
    let is_path = text.starts_with(['/', '.']);
    let is_userinfo = || {
        text.split_once('@')
            .is_some_and(|(before, _)| before.contains(':'))
    };
    let is_hex = || text.len() >= 40 && text.bytes().all(|b| b.is_ascii_hexdigit());
    text.contains('\n')
        || text.contains("://")
        || text.contains("-----BEGIN")
        || !is_path
            && (text.starts_with("schemad_")
                || text.starts_with("eyJ")
                || is_userinfo()
                || is_hex())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_name_is_not_shown() {
        for content in [
            "-----BEGIN PRIVATE KEY-----\nMARK",
            "postgres://a:MARK@h/d",
            "app:MARK@h/d",
            "schemad_MARK",
            "eyJhbGciOiJSUzI1NiJ9.e30.x",
            "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        ] {
            assert!(is_content(content), "{content}");
        }
        for name in [
            "tls.key",
            "/run/credentials/schemad@a:b.service/token",
            "./schemad_token",
            "a@b",
            "C:key",
            "deadbeef",
        ] {
            assert!(!is_content(name), "{name}");
        }
    }
}
