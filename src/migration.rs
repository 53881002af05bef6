//! What a migration is: versions, checksums, scripts, modes. A leaf: it imports nothing of schemad
//! but the folder's rules, and everything else speaks in these types.

use std::{fmt, str::FromStr, sync::Arc};

use sha2::{Digest as _, Sha256};

use crate::runtime::blocking;

pub(crate) mod folder;
pub(crate) mod origin;
mod record;
pub(crate) mod recorder;
pub(crate) mod run_mode;
pub(crate) mod set;
pub(crate) mod signature;

pub(crate) use record::{JournalRecord, MigrationRecord, MigrationRow, RunningPart, TriedPart};

/// A migration's version: what stands before the first `_` of its folder's name, without `-`. 1 to
/// 50 characters, none of them a control character. Versions order as text, as in Diesel.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(Arc<str>);

/// Why a text is no version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidVersion(String);

impl FromStr for Version {
    type Err = InvalidVersion;

    fn from_str(text: &str) -> Result<Self, InvalidVersion> {
        match folder::version_problem(text) {
            Some(problem) => Err(InvalidVersion(problem)),
            None => Ok(Self(text.into())),
        }
    }
}

impl Version {
    /// A version that a database already holds, whatever it is: it is shown and compared, never
    /// made.
    pub fn stored(text: String) -> Self {
        Self(text.into())
    }

    /// The version as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// SHA-256 of a text with its line endings normalised, printed as `sha256:<64 hex digits>`.
///
/// The digest covers the domain `schemad.script.1`, the text's length in bytes (big-endian u64) and
/// the text, so that no two inputs run into each other and a later algorithm gets another tag.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Checksum([u8; 32]);

/// A text that is not `sha256:` and 64 lower-case hex digits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a checksum is \"sha256:\" and 64 hex digits")]
pub struct InvalidChecksum;

impl Checksum {
    /// The checksum of one script.
    pub fn of_script(sql: &str) -> Self {
        blocking::in_place(sql.len(), || {
            Self::of_parts("schemad.script.1", [normalised(sql).as_str()])
        })
    }

    /// The checksum of a list of texts, each prefixed with its length.
    pub fn of_parts<'a>(domain: &str, parts: impl IntoIterator<Item = &'a str>) -> Self {
        let mut hash = Sha256::new();
        hash.update(domain.as_bytes());
        for part in parts {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part.as_bytes());
        }
        Self(hash.finalize().into())
    }
}

/// A script with its line endings made one, which PostgreSQL takes for the same.
pub(crate) fn normalised(sql: &str) -> String {
    sql.replace("\r\n", "\n").replace('\r', "\n")
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Checksum {
    type Err = InvalidChecksum;

    fn from_str(text: &str) -> Result<Self, InvalidChecksum> {
        let hex = text
            .strip_prefix("sha256:")
            .filter(|h| h.len() == 64 && h.bytes().all(|b| b.is_ascii_hexdigit()))
            .ok_or(InvalidChecksum)?;
        let mut bytes = [0; 32];
        for (byte, digits) in bytes.iter_mut().zip(hex.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| InvalidChecksum)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| InvalidChecksum)?;
        }
        Ok(Self(bytes))
    }
}

/// How a script runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScriptMode {
    /// In one transaction with its ledger rows.
    Transactional,
    /// Statement by statement: `run_in_transaction = false` in metadata.toml, or BEGIN and COMMIT
    /// in the script itself.
    NonTransactional,
}

impl ScriptMode {
    /// The ledger's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Transactional => "transactional",
            Self::NonTransactional => "non_transactional",
        }
    }

    /// The mode that the ledger's word names.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Transactional, Self::NonTransactional]
            .into_iter()
            .find(|m| m.as_str() == word)
    }
}

/// Which way a step goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Runs up.sql.
    Up,
    /// Runs a down script.
    Down,
}

impl Direction {
    /// The ledger's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
        }
    }

    /// The file in the folder `name`, as errors call it.
    pub fn file(self, name: &str) -> String {
        format!("{name}/{}.sql", self.as_str())
    }

    /// The direction that the ledger's word names.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Up, Self::Down]
            .into_iter()
            .find(|d| d.as_str() == word)
    }
}

/// SQL with its checksum and mode. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// The text as it was written.
    pub sql: Arc<str>,
    /// Over the text with normalised line endings.
    pub checksum: Checksum,
    /// How it runs.
    pub mode: ScriptMode,
}

impl Script {
    /// A script from its text.
    pub fn new(sql: impl Into<Arc<str>>, mode: ScriptMode) -> Self {
        let sql = sql.into();
        Self {
            checksum: Checksum::of_script(&sql),
            sql,
            mode,
        }
    }
}

/// An embedded migration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migration {
    /// Its version.
    pub version: Version,
    /// The folder's name, or what the source calls it.
    pub name: String,
    /// up.sql.
    pub up: Script,
    /// down.sql; `None` when there is none or it holds no statement: irreversible.
    pub down: Option<Script>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_endings_do_not_change_a_checksum_and_anything_else_does() {
        let unix = Checksum::of_script("SELECT 1;\nSELECT 2;\n");
        assert_eq!(unix, Checksum::of_script("SELECT 1;\r\nSELECT 2;\r\n"));
        assert_eq!(unix, Checksum::of_script("SELECT 1;\rSELECT 2;\r"));
        assert_ne!(unix, Checksum::of_script("SELECT 1;\nSELECT 2;"));
        assert_ne!(unix, Checksum::of_script("SELECT 1;\nSELECT  2;\n"));
    }

    #[test]
    fn lengths_keep_parts_apart() {
        assert_ne!(
            Checksum::of_parts("d", ["ab", "c"]),
            Checksum::of_parts("d", ["a", "bc"])
        );
    }

    #[test]
    fn a_checksum_reads_back_what_it_prints() {
        let checksum = Checksum::of_script("SELECT 1");
        assert_eq!(checksum.to_string().parse(), Ok(checksum));
        for bad in [
            "",
            "sha256:",
            "sha256:zz",
            &checksum.to_string()[1..],
            &"é".repeat(32),
        ] {
            assert_eq!(bad.parse::<Checksum>(), Err(InvalidChecksum));
        }
        for bad in ["é".repeat(32), "+a".repeat(32)] {
            assert_eq!(
                format!("sha256:{bad}").parse::<Checksum>(),
                Err(InvalidChecksum),
                "{bad}"
            );
        }
    }

    #[test]
    fn versions_are_between_1_and_50_characters() {
        assert!("20250714add".parse::<Version>().is_ok());
        assert!("é".repeat(50).parse::<Version>().is_ok());
        for bad in ["", &"1".repeat(51), "a\nb"] {
            assert!(bad.parse::<Version>().is_err(), "{bad:?}");
        }
    }
}
