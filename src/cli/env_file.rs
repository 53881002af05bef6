//! `.env` in the current folder: settings of whoever works there. In a pipeline the folder is a checkout, and so the file anybody's.

use std::{collections::BTreeSet, sync::OnceLock};

/// The variables that are as the file says.
static OURS: OnceLock<BTreeSet<String>> = OnceLock::new();

/// Reads the file, if there is one; what the environment sets already stays.
pub(super) fn load() -> Result<(), String> {
    let told = |error| match error {
        // The error quotes the line, and the line may hold a password.
        dotenvy::Error::LineParse(..) => "a line of .env cannot be parsed (KEY=value, quotes around spaces)".to_owned(),
        error => format!(".env: {error}"),
    };
    let names = match dotenvy::from_path_iter(".env") {
        Err(error) if error.not_found() => return Ok(()),
        found => {
            found.and_then(|lines| lines.map(|line| line.map(|(name, _)| name)).collect::<Result<BTreeSet<_>, _>>())
        }
    };
    let ours = names.map_err(told)?.into_iter().filter(|name| std::env::var_os(name).is_none()).collect();
    OURS.get_or_init(|| ours);
    dotenvy::from_path(".env").map_err(told)
}

/// Whether a variable is as the file says.
pub(super) fn sets(name: &str) -> bool {
    OURS.get().is_some_and(|ours| ours.contains(name))
}
