//! `.env` in the current folder: settings of whoever works there. In a pipeline the folder is a
//! checkout, so anybody who can propose a change can write the file. It may therefore set schemad's
//! own settings only, it sees no variable of the environment, and a file with a secret that it
//! names has to lie beside it.

mod parse;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
    sync::OnceLock,
};

use clap::{ArgMatches, Command, parser::ValueSource};

/// Settings that are no flags, or that no `env` of clap names.
const OTHERS: [&str; 11] = [
    "DATABASE_URL",
    "DATABASE_URL_FILE",
    "MIGRATION_DATABASE_URL",
    "MIGRATION_DATABASE_URL_FILE",
    "SCRATCH_DATABASE_URL",
    "SCRATCH_DATABASE_URL_FILE",
    "SCHEMAD_LEASE_DATABASE_URL",
    "SCHEMAD_LEASE_DATABASE_URL_FILE",
    "SCHEMAD_LEASE_CLIENT_URL",
    "SCHEMAD_LEASE_CLIENT_URL_FILE",
    "SCHEMAD_TOKEN",
];

/// Variables with schemad's prefix that other programs read: its build, and Cargo's for a crate of
/// this name.
const OF_THE_BUILD: [&str; 1] = ["SCHEMAD_MIGRATIONS"];

/// The variables that have the value of the file.
static FROM_FILE: OnceLock<BTreeSet<String>> = OnceLock::new();

/// The settings that were given as flags, by the names of their variables.
static FLAGS: OnceLock<BTreeSet<String>> = OnceLock::new();

/// Warnings for the log of a daemon, which begins after the command line was read.
static WARNINGS: OnceLock<Vec<String>> = OnceLock::new();

/// Keeps warnings for [`log_warnings`].
pub(crate) fn keep_warnings(warnings: Vec<String>) {
    WARNINGS.get_or_init(|| warnings);
}

/// Logs the warnings that were kept.
pub(crate) fn log_warnings() {
    for warning in WARNINGS.get().into_iter().flatten() {
        tracing::warn!(event = "setting.unknown", "{warning}");
    }
}

/// Reads the file, if there is one. What the environment sets already stays. Returns a warning for
/// each variable of the file and of the environment that has schemad's prefix and is no setting.
pub(crate) fn load(command: &Command) -> Result<Vec<String>, String> {
    let text = match fs::read(".env") {
        Ok(bytes) => String::from_utf8(bytes).map_err(|_| ".env is no UTF-8".to_owned())?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(format!(".env: {error}")),
    };
    let pairs = parse::parse(&text).map_err(|error| error.to_string())?;
    let settings = settings(command);
    let warning = |name: &str, place: &str| {
        let is_ours =
            name.starts_with("SCHEMAD_") && !settings.contains(name) && !is_of_others(name);
        // The build's setting where the daemon's was meant.
        if OF_THE_BUILD.contains(&name)
            && std::env::var_os("SCHEMAD_DIR").is_none()
            && std::env::var_os("CARGO").is_none()
        {
            return Some(format!(
                "{name}{place} is a setting of the build, and ignored here; a daemon reads the \
                 folder of SCHEMAD_DIR"
            ));
        }
        is_ours.then(|| {
            format!(
                "{name}{place} is no setting of schemad, and is ignored{}",
                hint(name, &settings)
            )
        })
    };
    let mut warnings: Vec<String> = std::env::vars_os()
        .filter_map(|(name, _)| warning(name.to_str()?, ""))
        .chain(
            pairs
                .iter()
                .filter_map(|(name, _)| warning(name, " (in .env)")),
        )
        .collect();
    warnings.sort();
    warnings.dedup();
    // The first of several counts, as for dotenvy; of the environment an empty one, too.
    let mut set = BTreeMap::new();
    for (name, value) in pairs {
        if settings.contains(&name) && std::env::var_os(&name).is_none() {
            set.entry(name).or_insert(value);
        }
    }
    // dotenvy sets the environment without unsafe code here.
    dotenvy::from_read(parse::written(&set).as_bytes())
        .map_err(|_| ".env could not be taken over".to_owned())?;
    FROM_FILE.get_or_init(|| set.into_keys().collect());
    Ok(warnings)
}

/// Remembers which settings are flags on the command line.
pub(crate) fn note_flags(command: &Command, matches: &ArgMatches) {
    let mut flags = BTreeSet::new();
    let (mut command, mut matches) = (Some(command), Some(matches));
    while let (Some(level), Some(given)) = (command, matches) {
        for arg in level.get_arguments() {
            let id = arg.get_id().as_str();
            let is_given = given.try_contains_id(id).unwrap_or(false)
                && given.value_source(id) == Some(ValueSource::CommandLine);
            if let (true, Some(name)) = (is_given, arg.get_env().and_then(|name| name.to_str())) {
                flags.insert(name.to_owned());
            }
        }
        let below = given.subcommand();
        command = below.and_then(|(name, _)| level.find_subcommand(name));
        matches = below.map(|(_, matches)| matches);
    }
    FLAGS.get_or_init(|| flags);
}

/// Whether the setting of this variable was given as a flag.
pub(crate) fn is_flag(name: &str) -> bool {
    FLAGS.get().is_some_and(|flags| flags.contains(name))
}

/// Whether a variable has the value that the file says.
pub(crate) fn sets(name: &str) -> bool {
    FROM_FILE.get().is_some_and(|names| names.contains(name))
}

/// Whether a setting has the value that the file says: its variable is the file's, and there is no
/// flag.
pub(crate) fn decides(name: &str) -> bool {
    sets(name) && !is_flag(name)
}

/// Whether a file lies in the folder of `.env` itself, also when links are followed. Whoever wrote
/// `.env` could write it, too.
pub(crate) fn is_beside(file: &Path) -> bool {
    let (Ok(folder), Ok(found)) = (Path::new(".").canonicalize(), file.canonicalize()) else {
        return false;
    };
    found.parent() == Some(&folder) && found.is_file()
}

/// Refuses a file with a secret that `.env` names under the variable `name` and that does not lie
/// beside it.
pub(crate) fn check_beside(name: &str, file: &Path) -> Result<(), String> {
    if !decides(name) || is_beside(file) {
        return Ok(());
    }
    Err(format!(
        ".env sets {name} to a file that does not lie in its own folder. It may have come with a \
         checkout, so it cannot choose other files of this machine: set {name} in the environment, \
         or give the flag"
    ))
}

/// The names of all settings.
fn settings(command: &Command) -> BTreeSet<String> {
    fn collect(command: &Command, names: &mut BTreeSet<String>) {
        let of_args = command
            .get_arguments()
            .filter_map(|arg| arg.get_env()?.to_str());
        names.extend(of_args.map(str::to_owned));
        command
            .get_subcommands()
            .for_each(|command| collect(command, names));
    }
    let mut names: BTreeSet<String> = OTHERS.map(str::to_owned).into();
    collect(command, &mut names);
    names
}

/// Variables that look like schemad's and are not meant for it: those of its build, and those that
/// Kubernetes sets in every container for a Service of the name schemad.
fn is_of_others(name: &str) -> bool {
    let is_port = |rest: &str| {
        rest.split('_')
            .next()
            .is_some_and(|port| port.parse::<u16>().is_ok())
    };
    OF_THE_BUILD.contains(&name)
        || name == "SCHEMAD_PORT"
        || name == "SCHEMAD_SERVICE_HOST"
        || name.starts_with("SCHEMAD_SERVICE_PORT")
        || name.strip_prefix("SCHEMAD_PORT_").is_some_and(is_port)
}

/// The setting that was meant, if one is near.
fn hint(name: &str, settings: &BTreeSet<String>) -> String {
    const NEAR: usize = 3;
    let without_prefix = name.trim_start_matches("SCHEMAD_");
    let meant = if settings.contains(without_prefix) {
        Some(without_prefix)
    } else {
        settings
            .iter()
            .map(|setting| (strsim::damerau_levenshtein(name, setting), setting.as_str()))
            .filter(|(distance, _)| *distance <= NEAR)
            .min()
            .map(|(_, setting)| setting)
    };
    meant.map_or_else(String::new, |meant| format!("; {meant} is one"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_setting_is_named_and_far_ones_are_not() {
        let settings = ["SCHEMAD_LISTEN", "SCHEMAD_TLS_KEY", "DATABASE_URL"]
            .map(str::to_owned)
            .into();
        for (name, meant) in [
            ("SCHEMAD_LISTN", "; SCHEMAD_LISTEN is one"),
            ("SCHEMAD_TSL_KEY", "; SCHEMAD_TLS_KEY is one"),
            ("SCHEMAD_DATABASE_URL", "; DATABASE_URL is one"),
            ("SCHEMAD_ALL", ""),
        ] {
            assert_eq!(hint(name, &settings), meant, "{name}");
        }
    }

    #[test]
    fn what_kubernetes_sets_for_a_service_is_not_taken_for_a_setting() {
        for name in [
            "SCHEMAD_PORT",
            "SCHEMAD_PORT_50051_TCP_ADDR",
            "SCHEMAD_SERVICE_HOST",
            "SCHEMAD_SERVICE_PORT_GRPC",
        ] {
            assert!(is_of_others(name), "{name}");
        }
        for name in [
            "SCHEMAD_PORTS",
            "SCHEMAD_PORT_LISTEN",
            "SCHEMAD_SERVICES",
            "SCHEMAD_TOKEN",
        ] {
            assert!(!is_of_others(name), "{name}");
        }
    }
}
