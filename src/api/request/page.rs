//! Pages: a size, and a token that says where the page before ended and which list it was of.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::{
    failure::{Failure, Reason},
    migration::Version,
};

const MAX_PAGE: i32 = 1000;
const DEFAULT_PAGE: usize = 100;
/// Marks the page tokens of ListMigrations.
const MIGRATIONS: &str = "migrations:";

/// Checks a page size.
///
/// # Errors
/// INVALID_PAGE_SIZE.
pub(super) fn size(size: i32) -> Result<usize, Failure> {
    match size {
        0 => Ok(DEFAULT_PAGE),
        1..=MAX_PAGE => Ok(size as usize),
        _ => {
            let message = format!("page_size is 1 to {MAX_PAGE}, or 0 for {DEFAULT_PAGE}");
            Err(Failure::invalid(
                Reason::InvalidPageSize,
                "page_size",
                message,
            ))
        }
    }
}

/// What follows `list` in a token of that list; `None` for the first page.
///
/// # Errors
/// INVALID_PAGE_TOKEN.
pub(super) fn token(list: &str, token: &str) -> Result<Option<String>, Failure> {
    if token.is_empty() {
        return Ok(None);
    }
    let text = URL_SAFE_NO_PAD
        .decode(token)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok());
    text.and_then(|text| text.strip_prefix(list).map(str::to_owned))
        .map(Some)
        .ok_or_else(foreign)
}

/// The token of a list is of another one, or of none.
pub(super) fn foreign() -> Failure {
    let message = "page_token is not one that this list returned; begin without one";
    Failure::invalid(Reason::InvalidPageToken, "page_token", message)
}

/// Hides a token's text.
pub(super) fn seal(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

/// Checks ListMigrations' page size and token; returns the version after which the page begins, and
/// its length.
///
/// # Errors
/// INVALID_PAGE_SIZE or INVALID_PAGE_TOKEN.
pub fn page(wanted: i32, after: &str) -> Result<(Option<String>, usize), Failure> {
    let wanted = size(wanted)?;
    Ok((token(MIGRATIONS, after)?, wanted))
}

/// ListMigrations' token for the page after `version`.
pub fn page_token(version: &Version) -> String {
    seal(&format!("{MIGRATIONS}{version}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_tokens_read_back_and_foreign_ones_are_refused() {
        let version = "2026".parse().unwrap();
        assert_eq!(
            page(0, &page_token(&version)).unwrap(),
            (Some("2026".into()), DEFAULT_PAGE)
        );
        for token in ["x", "!", seal("operations:2026").as_str()] {
            assert_eq!(page(0, token).unwrap_err().reason, Reason::InvalidPageToken);
        }
        for size in [-1, 1001] {
            assert_eq!(page(size, "").unwrap_err().reason, Reason::InvalidPageSize);
        }
    }
}
