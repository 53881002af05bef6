//! Signs the down scripts that the ledger keeps, so that whoever can write rows into it, and has
//! not the daemon's key, cannot choose what the next rollback runs. HMAC-SHA-256; the first key
//! signs, every key verifies, so keys change without a gap.

use std::{fmt, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::{
    migration::{Direction, Script, ScriptMode, Version, normalised},
    runtime::blocking,
};

/// Bytes of a key: as many as the hash has (RFC 2104, section 3).
pub(crate) const KEY_BYTES: usize = 32;

/// Says what is signed and how, so that a later form gets another tag and no signature stands for
/// two things.
const DOMAIN: &str = "schemad.hmac-sha256.down.1";

/// The signing keys. They cannot be printed.
#[derive(Clone)]
pub struct SigningKeys(Arc<[Hmac<Sha256>]>);

/// Why a text is no key. Never repeats it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "holds no signing key: it takes {KEY_BYTES} bytes or more, as hex, base64 or raw; `openssl \
     rand -hex 32` makes one"
)]
pub struct InvalidKey;

/// Why a stored down is not trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignatureProblem {
    /// Nobody signed it.
    Missing,
    /// The script, its version, its mode or the ledger is not what was signed, or it was another
    /// key.
    Wrong,
}

impl SignatureProblem {
    /// In a word, for metadata.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Wrong => "wrong",
        }
    }
}

impl fmt::Display for SignatureProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => {
                "has no signature (it was applied without a signing key, or by an \
                older release)"
            }
            Self::Wrong => {
                "has a signature that is not of this script by any key of this daemon (somebody \
                 changed the row, or another key signed it)"
            }
        })
    }
}

impl SigningKeys {
    /// From the contents of the key files, the one that signs first. `None`: there are none.
    ///
    /// # Errors
    /// The number of the file that holds no key, from 0.
    pub fn read<T: AsRef<[u8]>>(files: &[T]) -> Result<Option<Self>, (usize, InvalidKey)> {
        let key = |(n, file): (usize, &T)| {
            let key = key_of(file.as_ref()).ok_or((n, InvalidKey))?;
            Hmac::new_from_slice(&key).map_err(|_| (n, InvalidKey))
        };
        let keys: Vec<_> = files
            .iter()
            .enumerate()
            .map(key)
            .collect::<Result<_, _>>()?;
        Ok((!keys.is_empty()).then(|| Self(keys.into())))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// What signs for the ledger with this id.
    pub fn signer<'a>(&'a self, ledger: &'a str) -> DownSigner<'a> {
        DownSigner { keys: self, ledger }
    }
}

impl fmt::Debug for SigningKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} signing key(s)", self.count())
    }
}

/// The key in a file. Hex digits are hex, however many: 32 of them are half a key, and no raw one.
/// What editors and shells put around and between digits (a byte order mark, spaces, line breaks,
/// UTF-16) makes no other key of them.
fn key_of(file: &[u8]) -> Option<Vec<u8>> {
    let text = digits_of(file);
    let enough = |key: &Vec<u8>| key.len() >= KEY_BYTES;
    if text.iter().all(u8::is_ascii_hexdigit) {
        let digit = |byte: u8| {
            char::from(byte)
                .to_digit(16)
                .and_then(|digit| u8::try_from(digit).ok())
        };
        let (pairs, []) = text.as_chunks::<2>() else {
            return None;
        };
        let key: Option<Vec<u8>> = pairs
            .iter()
            .map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?))
            .collect();
        return key.filter(enough);
    }
    let raw = || {
        let raw = file.strip_suffix(b"\n").unwrap_or(file);
        raw.strip_suffix(b"\r").unwrap_or(raw).to_vec()
    };
    BASE64
        .decode(text)
        .ok()
        .filter(enough)
        .or_else(|| Some(raw()).filter(enough))
}

/// A file that holds digits, without what is no digit: a byte order mark, blanks around it, line
/// breaks between, every second byte of UTF-16.
fn digits_of(file: &[u8]) -> Vec<u8> {
    let utf_16 = match file {
        [0xff, 0xfe, text @ ..] => Some((text, 0)),
        [0xfe, 0xff, text @ ..] => Some((text, 1)),
        _ => None,
    };
    let narrow = utf_16.and_then(|(text, at)| {
        let (pairs, []) = text.as_chunks::<2>() else {
            return None;
        };
        pairs
            .iter()
            .all(|pair| pair[1 - at] == 0)
            .then(|| pairs.iter().map(|pair| pair[at]).collect::<Vec<u8>>())
    });
    let text = narrow
        .as_deref()
        .unwrap_or_else(|| file.strip_prefix(b"\xef\xbb\xbf").unwrap_or(file));
    let text = text.trim_ascii();
    let is_hex = text
        .iter()
        .all(|byte| byte.is_ascii_hexdigit() || byte.is_ascii_whitespace());
    let is_between = |byte: &u8| {
        if is_hex {
            byte.is_ascii_whitespace()
        } else {
            matches!(byte, b'\r' | b'\n')
        }
    };
    text.iter()
        .copied()
        .filter(|byte| !is_between(byte))
        .collect()
}

/// Signs the downs of one ledger.
#[derive(Clone, Copy)]
pub struct DownSigner<'a> {
    keys: &'a SigningKeys,
    ledger: &'a str,
}

impl fmt::Debug for DownSigner<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} for the ledger {}", self.keys, self.ledger)
    }
}

impl DownSigner<'_> {
    /// The signature of a migration's down: 32 bytes.
    pub fn sign(&self, version: &Version, down: &Script) -> Vec<u8> {
        let over = |key| self.over(key, version, down.mode, &down.sql);
        let mac = blocking::in_place(down.sql.len(), || self.keys.0.first().map(over));
        mac.map(|mac| mac.finalize().into_bytes().to_vec())
            .unwrap_or_default() // `read` makes no empty list
    }

    /// Proves that one of the keys signed exactly this, in constant time.
    ///
    /// # Errors
    /// [`SignatureProblem`].
    pub fn verify(
        &self,
        version: &Version,
        down: &Script,
        mac: Option<&[u8]>,
    ) -> Result<(), SignatureProblem> {
        let mac = mac.ok_or(SignatureProblem::Missing)?;
        let signed = |key| {
            self.over(key, version, down.mode, &down.sql)
                .verify_slice(mac)
                .is_ok()
        };
        if blocking::in_place(down.sql.len(), || self.keys.0.iter().any(signed)) {
            Ok(())
        } else {
            Err(SignatureProblem::Wrong)
        }
    }

    /// Each part stands behind its length, so that none runs into the next.
    fn over(
        &self,
        key: &Hmac<Sha256>,
        version: &Version,
        mode: ScriptMode,
        sql: &str,
    ) -> Hmac<Sha256> {
        let mut mac = key.clone();
        let sql = normalised(sql);
        for part in [
            DOMAIN,
            self.ledger,
            version.as_str(),
            Direction::Down.as_str(),
            mode.as_str(),
            &sql,
        ] {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part.as_bytes());
        }
        mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(files: &[&str]) -> SigningKeys {
        SigningKeys::read(files).unwrap().unwrap()
    }

    fn version(text: &str) -> Version {
        text.parse().unwrap()
    }

    fn down(sql: &str) -> Script {
        Script::new(sql, ScriptMode::Transactional)
    }

    #[test]
    fn a_key_is_32_bytes_or_more_in_any_of_three_forms() {
        let hex = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
        let bytes = key_of(hex.as_bytes()).unwrap();
        assert_eq!((bytes.len(), bytes[1], bytes[15]), (32, 0x11, 0xff));
        for same in [
            format!("{hex}\n"),
            format!("{hex}\r\n"),
            hex.to_uppercase(),
            BASE64.encode(&bytes),
        ] {
            let lines = format!("{}\r\n{}\n", &same[..20], &same[20..]);
            for same in [
                same.clone(),
                format!("\u{feff}{same}"),
                format!(" \t{same} \n\n"),
                lines,
            ] {
                assert_eq!(key_of(same.as_bytes()).as_ref(), Some(&bytes), "{same}");
            }
        }
        let utf_16 = |text: &str| {
            text.encode_utf16()
                .flat_map(u16::to_le_bytes)
                .collect::<Vec<u8>>()
        };
        assert_eq!(
            key_of(&utf_16(&format!("\u{feff}{hex}\r\n"))).as_ref(),
            Some(&bytes)
        );
        assert_eq!(
            key_of(
                &format!("{hex}\n")
                    .replace("00112233", "00 11 22 33")
                    .into_bytes()
            )
            .as_ref(),
            Some(&bytes)
        );
        assert_eq!(key_of(&[0xff; 32]).unwrap(), [0xff; 32]);
        assert_eq!(
            key_of(b"a passphrase of 32 characters or more")
                .unwrap()
                .len(),
            37
        );
        for short in [
            "",
            "\n",
            &hex[..62],
            &hex[..63],
            &BASE64.encode([1; 16]),
            "too short",
        ] {
            assert_eq!(
                SigningKeys::read(&[hex, short]).unwrap_err(),
                (1, InvalidKey),
                "{short}"
            );
        }
        assert!(SigningKeys::read::<&str>(&[]).unwrap().is_none());
    }

    #[test]
    fn nothing_that_was_signed_can_be_changed() {
        let keys = keys(&[&"k".repeat(32)]);
        let mac = keys
            .signer("ledger")
            .sign(&version("1"), &down("DROP TABLE a;\n"));
        let verify = |ledger, v, script: &Script, mac: &[u8]| {
            keys.signer(ledger).verify(&version(v), script, Some(mac))
        };
        assert_eq!(
            verify("ledger", "1", &down("DROP TABLE a;\n"), &mac),
            Ok(())
        );
        assert_eq!(
            verify("ledger", "1", &down("DROP TABLE a;\r\n"), &mac),
            Ok(())
        );
        let other_mode = Script::new("DROP TABLE a;\n", ScriptMode::NonTransactional);
        let mut flipped = mac.clone();
        flipped[31] ^= 1;
        for refused in [
            verify("other", "1", &down("DROP TABLE a;\n"), &mac),
            verify("ledger", "2", &down("DROP TABLE a;\n"), &mac),
            verify("ledger", "1", &down("DROP TABLE b;\n"), &mac),
            verify("ledger", "1", &other_mode, &mac),
            verify("ledger", "1", &down("DROP TABLE a;\n"), &flipped),
            verify("ledger", "1", &down("DROP TABLE a;\n"), &mac[..31]),
            verify("ledger", "1", &down("DROP TABLE a;\n"), &[]),
            // A boundary that moved.
            verify("ledge", "r1", &down("DROP TABLE a;\n"), &mac),
        ] {
            assert_eq!(refused, Err(SignatureProblem::Wrong));
        }
        let missing = keys
            .signer("ledger")
            .verify(&version("1"), &down("DROP TABLE a;\n"), None);
        assert_eq!(missing, Err(SignatureProblem::Missing));
    }

    #[test]
    fn a_key_is_changed_with_two() {
        let (old, new) = ("o".repeat(32), "n".repeat(32));
        let of_old = keys(&[&old]).signer("l").sign(&version("1"), &down("x"));
        let both = keys(&[&new, &old]);
        let of_both = both.signer("l").sign(&version("1"), &down("x"));
        let verify = |keys: &SigningKeys, mac: &[u8]| {
            keys.signer("l")
                .verify(&version("1"), &down("x"), Some(mac))
        };
        assert_eq!(
            (verify(&both, &of_old), verify(&both, &of_both)),
            (Ok(()), Ok(()))
        );
        let only_new = keys(&[&new]);
        assert_eq!(
            (verify(&only_new, &of_old), verify(&only_new, &of_both)),
            (Err(SignatureProblem::Wrong), Ok(()))
        );
    }

    /// The form lies in ledgers: it never changes. As computed by Python's hmac over the same
    /// parts.
    #[test]
    fn a_signature_is_what_it_always_was() {
        let mac = keys(&[&"k".repeat(32)])
            .signer("ledger")
            .sign(&version("1"), &down("DROP TABLE a;\n"));
        let hex: String = mac.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            "497693ee4d406993ec168dc3bc90db381a509f51f72c97459e9d3e8d47ea9a14"
        );
    }

    #[test]
    fn a_key_is_never_shown() {
        let secret = "s3cret-s3cret-s3cret-s3cret-s3cret";
        let keys = keys(&[secret]);
        assert_eq!(
            format!("{keys:?} {:?}", keys.signer("l")),
            "1 signing key(s) 1 signing key(s) for the ledger l"
        );
        assert!(
            !SigningKeys::read(&["s3cret"])
                .unwrap_err()
                .1
                .to_string()
                .contains("s3cret")
        );
    }
}
