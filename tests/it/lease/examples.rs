//! The examples, as they stand in `examples/lease`.

use std::path::{Path, PathBuf};

use tokio::process::Command;

use super::Place;
use crate::harness::{
    Process,
    process::{output, schemad, stderr, stdout},
    server::tool,
};

#[path = "../../../examples/lease/rust.rs"]
mod rust;

/// A daemon around the reference set that gives leases.
async fn place() -> (Place, Process) {
    let place = Place::new("CREATEDB").await;
    let mut command = schemad(&["serve", "--lease-pool", "2"]);
    command.env("DATABASE_URL", &place.database.url).env("SCHEMAD_LEASE_DATABASE_URL", place.url());
    let daemon = Process::start(command).await;
    (place, daemon)
}

/// With `schemad` and PostgreSQL's programs on PATH.
fn beside(daemon: &Process, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    let ours = Path::new(env!("CARGO_BIN_EXE_schemad")).parent().unwrap().to_owned();
    let theirs = tool("psql").parent().unwrap().to_owned();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths([ours, theirs].into_iter().chain(std::env::split_paths(&path))).unwrap();
    command.env("PATH", path).env("SCHEMAD_ADDRESS", &daemon.address).kill_on_drop(true);
    command
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/lease")
}

async fn end(place: Place, mut daemon: Process) {
    // Template and pool; what was leased is gone.
    place.until_there_are(3).await;
    daemon.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(daemon.exit_code().await, Some(0));
    place.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shell_line_works() {
    let (place, daemon) = place().await;
    let mut command = beside(&daemon, "sh");
    command.arg(folder().join("shell.sh"));
    let output = output(command).await;
    let migrations = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations")).unwrap().count();
    assert!(output.status.success() && stdout(&output).contains(&format!("{migrations}\n(1 row)")), "{output:?}");
    end(place, daemon).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rust_tests_work() {
    let (place, daemon) = place().await;
    let mut command = beside(&daemon, std::env::current_exe().unwrap());
    command.args(["lease::examples::rust::", "--ignored"]);
    let output = output(command).await;
    assert!(output.status.success() && stdout(&output).contains("2 passed"), "{}{}", stdout(&output), stderr(&output));
    end(place, daemon).await;
}

/// Where the machine has pytest and psycopg, or PYTHON names one that has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pytest_works() {
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".into());
    let has = Command::new(&python).args(["-c", "import pytest, psycopg"]).output().await;
    if !has.is_ok_and(|output| output.status.success()) {
        println!("skipped: {python} has no pytest and psycopg (PYTHON names another)");
        return;
    }
    let (place, daemon) = place().await;
    let mut command = beside(&daemon, &python);
    command.args(["-m", "pytest", "-q", "-p", "no:cacheprovider"]).env("PYTHONDONTWRITEBYTECODE", "1");
    command.arg(folder().join("pytest"));
    let output = output(command).await;
    assert!(output.status.success() && stdout(&output).contains("2 passed"), "{}{}", stdout(&output), stderr(&output));
    end(place, daemon).await;
}
