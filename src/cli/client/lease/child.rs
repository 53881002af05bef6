//! The command that runs with a lease.

use std::{ffi::OsStr, ffi::OsString, os::unix::process::ExitStatusExt as _, process::ExitStatus};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    process::{Child, Command},
    signal::unix::{SignalKind, signal},
};

use crate::cli::{exit::CommandExit, output::complain};

/// As a shell says that there is no such command, or that it cannot be run.
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;

/// Runs it with DATABASE_URL set, to its end: on a signal it is told, and when the lease ends
/// before it, too.
pub(crate) async fn run(
    program: &OsStr,
    arguments: &[OsString],
    url: &str,
    ended: impl Future<Output = CommandExit>,
) -> Result<CommandExit, CommandExit> {
    let heard = |error| CommandExit::unknown(format!("cannot wait for signals: {error}"));
    // Before it begins: a terminal's Ctrl-C reaches both, and this end has to outlive it.
    let mut interrupt = signal(SignalKind::interrupt()).map_err(heard)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(heard)?;
    let mut command = Command::new(program);
    command.args(arguments);
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(is_withheld) {
            command.env_remove(name);
        }
    }
    let mut child = command.env("DATABASE_URL", url).spawn().map_err(|error| {
        let code = if error.kind() == std::io::ErrorKind::NotFound {
            NOT_FOUND
        } else {
            NOT_EXECUTABLE
        };
        CommandExit::with_code(code, Some(format!("{}: {error}", program.display())))
    })?;
    tokio::pin!(ended);
    loop {
        tokio::select! {
            status = child.wait() => return status.map(exit).map_err(CommandExit::unknown),
            // The terminal has told it, too.
            _ = interrupt.recv() => {}
            _ = terminate.recv() => tell(&child),
            why = &mut ended => {
                complain("the lease has ended before the command did, and so has its database");
                tell(&child);
                let _ = child.wait().await;
                return Ok(why);
            }
        }
    }
}

/// Variables that the command does not get: schemad's secrets and the names of files with them,
/// addresses of other databases, and what makes libpq go elsewhere than DATABASE_URL says.
fn is_withheld(name: &str) -> bool {
    const OF_LIBPQ: [&str; 5] = [
        "PGPASSWORD",
        "PGPASSFILE",
        "PGHOSTADDR",
        "PGSERVICE",
        "PGSERVICEFILE",
    ];
    let name = name.strip_suffix("_FILE").unwrap_or(name);
    let is_secret = |name: &str| {
        ["TOKEN", "KEY", "CERT", "DATABASE_URL", "CLIENT_URL"]
            .iter()
            .any(|end| name.ends_with(end))
    };
    let of_schemad = name.strip_prefix("SCHEMAD_").is_some_and(is_secret);
    let databases = [
        "DATABASE_URL",
        "MIGRATION_DATABASE_URL",
        "SCRATCH_DATABASE_URL",
    ];
    of_schemad || databases.contains(&name) || OF_LIBPQ.contains(&name)
}

fn tell(child: &Child) {
    if let Some(pid) = child.id().and_then(|id| i32::try_from(id).ok()) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM); // it may have ended just now
    }
}

/// As a shell has it: of a signal, 128 and its number.
fn exit(status: ExitStatus) -> CommandExit {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or(1);
    CommandExit::with_code(u8::try_from(code).unwrap_or(1), None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_withheld_and_nothing_else_is() {
        for name in [
            "SCHEMAD_TOKEN",
            "SCHEMAD_TOKEN_FILE",
            "SCHEMAD_SIGNING_KEY_FILE",
            "SCHEMAD_CLIENT_KEY",
            "SCHEMAD_TLS_KEY",
            "SCHEMAD_LEASE_CLIENT_URL_FILE",
            "SCHEMAD_LEASE_DATABASE_URL",
            "DATABASE_URL_FILE",
            "MIGRATION_DATABASE_URL",
            "PGPASSWORD",
            "PGSERVICEFILE",
        ] {
            assert!(is_withheld(name), "{name}");
        }
        for name in [
            "SCHEMAD_ADDRESS",
            "SCHEMAD_TLS_CA",
            "APP_KEY",
            "TEST_DATABASE_URL",
            "PGTZ",
            "PATH",
            "TOKEN",
        ] {
            assert!(!is_withheld(name), "{name}");
        }
    }
}
