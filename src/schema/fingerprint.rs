//! The fingerprint of a schema: a hash of its canonical form. Every text and every list goes in
//! with its length before it, so no two schemas can be written alike; what goes without saying is
//! left out, so a property that is compared from some version of schemad on does not change the
//! fingerprint of schemas that do not have it.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::Snapshot;
use crate::runtime::blocking::in_place;

/// Raised when the same schema begins to have another fingerprint.
const VERSION: u32 = 1;

/// "schema-v1:pg15:sha256:" and 64 hex digits. The server's major version is part of it, because
/// each has words of its own for the same thing.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint(String);

/// A text that is no fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a fingerprint is schema-v1:pg15:sha256: and 64 hex digits")]
pub struct NoFingerprint;

impl Snapshot {
    /// Equal exactly when the schema is, on servers of one major version. What is not compared is
    /// not in it.
    pub fn fingerprint(&self) -> Fingerprint {
        in_place(self.bytes(), || self.hash())
    }

    fn hash(&self) -> Fingerprint {
        let mut hash = Sha256::new();
        text(&mut hash, &format!("schemad.schema.{VERSION}"));
        hash.update(self.server_major.to_be_bytes());
        self.walk(|list, object| {
            text(&mut hash, list);
            // A value of strings, numbers and lists always has a JSON form; were there one without,
            // it would be its own.
            match object {
                Ok(object) => value(&mut hash, &object),
                Err(error) => text(&mut hash, &error.to_string()),
            }
        });
        let hex: String = hash
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        Fingerprint(format!(
            "schema-v{VERSION}:pg{}:sha256:{hex}",
            self.server_major
        ))
    }
}

fn length(hash: &mut Sha256, tag: u8, length: usize) {
    hash.update([tag]);
    hash.update((length as u64).to_be_bytes());
}

fn text(hash: &mut Sha256, text: &str) {
    length(hash, b's', text.len());
    hash.update(text);
}

fn value(hash: &mut Sha256, of: &Value) {
    match of {
        Value::Null => hash.update(b"n"),
        Value::Bool(yes) => hash.update(if *yes { b"t" } else { b"f" }),
        Value::Number(number) => {
            hash.update(b"#");
            text(hash, &number.to_string());
        }
        Value::String(string) => text(hash, string),
        Value::Array(items) => {
            length(hash, b'a', items.len());
            items.iter().for_each(|item| value(hash, item));
        }
        Value::Object(fields) => {
            length(hash, b'o', fields.len());
            // By name, whatever order serde_json was built with.
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_unstable_by_key(|(name, _)| *name);
            for (name, field) in fields {
                text(hash, name);
                value(hash, field);
            }
        }
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Fingerprint {
    type Err = NoFingerprint;

    fn from_str(text: &str) -> Result<Self, NoFingerprint> {
        let mut parts = text.split(':');
        let number = |part: Option<&str>, prefix: &str| {
            part.and_then(|part| part.strip_prefix(prefix))
                .is_some_and(|number| number.parse::<u32>().is_ok())
        };
        let fits = number(parts.next(), "schema-v")
            && number(parts.next(), "pg")
            && parts.next() == Some("sha256")
            && parts
                .next()
                .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
            && parts.next().is_none();
        if fits {
            Ok(Self(text.to_ascii_lowercase()))
        } else {
            Err(NoFingerprint)
        }
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = NoFingerprint;

    fn try_from(text: String) -> Result<Self, NoFingerprint> {
        text.parse()
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> Self {
        fingerprint.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{Column, Enum, Table};

    fn with_labels(labels: &[&str]) -> Snapshot {
        let labels = labels.iter().map(ToString::to_string).collect();
        let one = Enum {
            schema: "public".into(),
            name: "e".into(),
            labels,
            ..Enum::default()
        };
        Snapshot {
            server_major: 15,
            enums: vec![one],
            ..Snapshot::default()
        }
    }

    #[test]
    fn it_names_its_version_and_the_servers_and_reads_back() {
        let fingerprint = with_labels(&["a"]).fingerprint();
        assert!(
            fingerprint
                .to_string()
                .starts_with("schema-v1:pg15:sha256:"),
            "{fingerprint}"
        );
        assert_eq!(fingerprint.to_string().parse(), Ok(fingerprint));
        for text in [
            "",
            "schema-v1:pg15:sha256:ab",
            "schema-vx:pg15:sha256:",
            "sha256:00",
        ] {
            assert_eq!(text.parse::<Fingerprint>(), Err(NoFingerprint), "{text}");
        }
    }

    #[test]
    fn lengths_keep_neighbours_apart() {
        let all = [
            &["ab", "c"][..],
            &["a", "bc"],
            &["abc"],
            &["c", "ab"],
            &["ab", "c", ""],
            &[],
        ];
        for (n, one) in all.iter().enumerate() {
            for other in &all[n + 1..] {
                assert_ne!(
                    with_labels(one).fingerprint(),
                    with_labels(other).fingerprint(),
                    "{one:?} {other:?}"
                );
            }
        }
    }

    #[test]
    fn the_order_of_columns_is_part_of_it_and_what_is_not_compared_is_not() {
        let column = |name: &str| Column {
            name: name.into(),
            r#type: "integer".into(),
            ..Column::default()
        };
        let of = |columns: [&str; 2], not_compared: &[&str]| {
            let table = Table {
                columns: columns.map(column).into(),
                ..Table::default()
            };
            let not_compared = not_compared.iter().map(ToString::to_string).collect();
            Snapshot {
                tables: vec![table],
                not_compared,
                ..Snapshot::default()
            }
            .fingerprint()
        };
        assert_ne!(of(["a", "b"], &[]), of(["b", "a"], &[]));
        assert_eq!(of(["a", "b"], &[]), of(["a", "b"], &["1 subscription"]));
    }
}
