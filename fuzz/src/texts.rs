//! What the authors of migrations write beside SQL: names, leading comments, metadata.toml.

use std::time::Duration;

use schemad::internals::{
    folder,
    migration::{Checksum, Version},
    sql,
};

/// Settings are within PostgreSQL's range; a later comment changes nothing, unless it lies in one
/// that does not end.
pub fn migration_comments(data: &[u8]) {
    const MAX: Duration = Duration::from_millis(i32::MAX as u64);
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(settings) = sql::settings(text) else {
        return;
    };
    let all = [
        settings.lock_timeout,
        settings.statement_timeout,
        settings.lock_wait,
    ];
    assert!(all.into_iter().flatten().all(|duration| duration <= MAX));
    if sql::unterminated(text).is_some() {
        return;
    }
    let later = format!("{text}\nSELECT 1;\n-- schemad: lock_timeout=17ms\n");
    assert_eq!(sql::settings(&later), Ok(settings));
}

/// metadata.toml passes only when Diesel reads it as it is meant.
pub fn metadata(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let table = text.parse::<toml::Table>();
    let said = table.ok().and_then(|table| {
        table
            .get("run_in_transaction")
            .and_then(toml::Value::as_bool)
    });
    let problem = folder::metadata_problem(text);
    assert_eq!(problem.is_none(), said.is_some(), "{problem:?}");
}

/// The bytes are a folder's name, a version and a checksum.
pub fn version(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let of_folder = folder::version_of(text);
    assert!(!of_folder.contains(['_', '-']));
    for text in [text, &of_folder] {
        match text.parse::<Version>() {
            Err(problem) => assert!(!problem.to_string().is_empty()),
            Ok(version) => {
                assert!(
                    (1..=50).contains(&text.chars().count()) && !text.chars().any(char::is_control)
                );
                assert_eq!(version.to_string(), text);
            }
        }
    }
    if let Ok(checksum) = text.parse::<Checksum>() {
        assert!(
            checksum.to_string().eq_ignore_ascii_case(text),
            "{checksum} of {text}"
        );
    }
}
