//! Text that the ledger cannot hold. If the database is not UTF-8, the server refuses a statement
//! with a character in its parameters that the encoding does not have. The record is written
//! nevertheless, with that character replaced.

use tokio_postgres::error::SqlState;

use crate::{postgres::DatabaseError, text::ascii::in_ascii};

/// Returns whether the server refused a character that the database's encoding does not have.
pub(super) fn is_not_held(error: &DatabaseError) -> bool {
    error
        .sql()
        .is_some_and(|sql| sql.is(&SqlState::UNTRANSLATABLE_CHARACTER))
}

/// Returns `text` in ASCII, which every database can hold. The result can replace `text` inside a
/// JSON string. A character without an ASCII equivalent becomes its code point, for example
/// `U+2192`.
pub(super) fn plain(text: &str) -> String {
    // A quote or a backslash would end or change a string of JSON.
    in_ascii(&text.replace(['“', '”'], "'"), |c| {
        format!("U+{:04X}", u32::from(c))
    })
}

/// Writes a record. If the database cannot hold a character in it, writes it again in ASCII. (A
/// macro, because a closure that borrows what it awaits is not known to be Send.)
macro_rules! held {
    ($write:expr, or $plain:expr) => {
        match $write.await {
            Err(error) if $crate::ledger::text::is_not_held(&error) => $plain.await,
            written => written,
        }
    };
}
pub(super) use held;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_is_ascii_and_no_danger_to_json() {
        let json = serde_json::json!({ "a": "gr\u{f6}\u{df}e… “x” → 漢 \\ \"q\"" }).to_string();
        let plain = plain(&json);
        assert!(plain.is_ascii(), "{plain}");
        let value: serde_json::Value = serde_json::from_str(&plain).unwrap();
        assert_eq!(value["a"], "grU+00F6U+00DFe... 'x' -> U+6F22 \\ \"q\"");
    }
}
