//! What can be wrong with the access file. It is shown to whoever starts or runs the daemon: it
//! names the file and the line, says what to do, and quotes nothing that could be a secret.

use std::{io, path::PathBuf};

/// The access file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AccessFileError {
    /// It cannot be read.
    #[error("the access file {} cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something in it is wrong.
    #[error("the access file {}, line {line}: {problem}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What, and what to do.
        problem: String,
    },
    /// It lets nobody in.
    #[error(
        "the access file {} has no entry, so nobody could call: add a [[token]] (`schemad token \
         new` makes one), a [[certificate]] or an [[oidc]]",
        path.display()
    )]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// It has rules for certificates, and nobody is asked for one.
    #[error(
        "the access file {} has a [[certificate]], and no client is asked for a certificate, so it \
         lets nobody in: name the authorities with --tls-client-ca (and not \
         --tls-client-certificates off), or take it out",
        path.display()
    )]
    UselessCertificates {
        /// The file.
        path: PathBuf,
    },
    /// The file of a key set cannot be used.
    #[error("the access file {}: the keys of {issuer}: {problem}", path.display())]
    Keys {
        /// The access file.
        path: PathBuf,
        /// Whose keys.
        issuer: String,
        /// What, and what to do.
        problem: String,
    },
}

/// Something wrong at a byte of the file's text.
#[derive(Debug)]
pub(super) struct AccessFileProblem {
    pub at: usize,
    pub text: String,
}

impl AccessFileProblem {
    /// At this byte.
    pub(super) fn new(at: usize, text: impl Into<String>) -> Self {
        Self {
            at,
            text: text.into(),
        }
    }

    /// In the file that holds `text`.
    pub(super) fn located(self, path: PathBuf, text: &str) -> AccessFileError {
        let before = text.as_bytes().get(..self.at).unwrap_or(text.as_bytes());
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        AccessFileError::Invalid {
            path,
            line,
            problem: self.text,
        }
    }
}

/// The parser's problem, without what it quotes: somebody may have put a token where it does not
/// belong.
impl From<toml::de::Error> for AccessFileProblem {
    fn from(error: toml::de::Error) -> Self {
        Self::new(
            error.span().map_or(0, |span| span.start),
            without_quotes(error.message()),
        )
    }
}

/// Leaves out text in double quotes, which is a value, and words that are longer than any setting's
/// name.
fn without_quotes(message: &str) -> String {
    let unquoted: Vec<&str> = message.split('"').step_by(2).collect();
    let shown = |word: &str| {
        if word.len() > LONGEST_WORD {
            "…".to_owned()
        } else {
            word.to_owned()
        }
    };
    unquoted
        .join("…")
        .replace('\n', " ")
        .split(' ')
        .map(shown)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Of the parser's own messages; every token and JWT is longer.
const LONGEST_WORD: usize = 24;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_loses_values_and_long_words() {
        let message = "invalid type: string \"hunter2\", expected a map; unknown field \
            `schemad_0123456789abcdefghij`";
        assert_eq!(
            without_quotes(message),
            "invalid type: string …, expected a map; unknown field …"
        );
    }
}
