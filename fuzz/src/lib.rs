//! What the fuzz targets do: one function over bytes each, and one table of them. `fuzz_targets/`
//! hands them to libFuzzer, and `tests/it/fuzz.rs` includes this file and replays `corpus/` through
//! the same functions, so nothing of it is in the library.
//!
//! A target panics when a law is broken. To add one: a function and its row in [`TARGETS`], a file
//! in `fuzz_targets/` with its `[[bin]]`, and examples in `corpus/<name>/`; a test compares the
//! four.

mod access;
mod request;
mod sql;
mod texts;
mod url;

/// A target: what it is called, and what it does with an input.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: &[Target] = &[
    ("request", request::request),
    ("page_token", request::page_token),
    ("sql_split", sql::split),
    ("sql_units", sql::units),
    ("migration_comments", texts::migration_comments),
    ("metadata", texts::metadata),
    ("version", texts::version),
    ("database_url", url::database_url),
    ("access_file", access::file),
    ("credential", access::credential),
];

/// Runs the target of this name.
pub fn run(name: &str, data: &[u8]) {
    let (_, target) = TARGETS
        .iter()
        .find(|(known, _)| *known == name)
        .expect("a target of that name");
    target(data);
}
