//! The examples, as they stand in `examples/lease`.

use std::path::{Path, PathBuf};

use tokio::process::Command;

use super::Place;
use crate::harness::{
    PATIENCE, Process,
    process::{output, schemad, stderr, stdout},
    server::tool,
};

#[path = "../../../examples/lease/rust.rs"]
mod rust;

/// A daemon around the reference set that gives leases.
async fn place() -> (Place, Process) {
    let place = Place::new("CREATEDB").await;
    let mut command = schemad(&["serve", "--lease-pool", "2"]);
    command
        .env("DATABASE_URL", &place.database.url)
        .env("SCHEMAD_LEASE_DATABASE_URL", place.url());
    let daemon = Process::start(command).await;
    (place, daemon)
}

/// With `schemad` and PostgreSQL's programs on PATH.
fn beside(daemon: &Process, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    let ours = Path::new(env!("CARGO_BIN_EXE_schemad"))
        .parent()
        .unwrap()
        .to_owned();
    let theirs = tool("psql").parent().unwrap().to_owned();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(
        [ours, theirs]
            .into_iter()
            .chain(std::env::split_paths(&path)),
    )
    .unwrap();
    command
        .env("PATH", path)
        .env("SCHEMAD_ADDRESS", &daemon.address)
        .kill_on_drop(true);
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
    let migrations = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations"))
        .unwrap()
        .count();
    assert!(
        output.status.success() && stdout(&output).contains(&format!("{migrations}\n(1 row)")),
        "{output:?}"
    );
    end(place, daemon).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rust_tests_work() {
    let (place, daemon) = place().await;
    let mut command = beside(&daemon, std::env::current_exe().unwrap());
    command.args(["lease::examples::rust::", "--ignored"]);
    let output = output(command).await;
    assert!(
        output.status.success() && stdout(&output).contains("2 passed"),
        "{}{}",
        stdout(&output),
        stderr(&output)
    );
    end(place, daemon).await;
}

/// A Python that has what the suites need.
async fn python() -> Option<PathBuf> {
    crate::harness::packages::python(
        &["pytest==9.*", "pytest-xdist==3.*", "psycopg[binary]==3.*"],
        "pytest, xdist, psycopg",
    )
    .await
}

fn pytest(daemon: &Process, python: &Path) -> Command {
    let mut command = beside(daemon, python);
    command
        .args(["-m", "pytest", "-q", "-p", "no:cacheprovider"])
        .env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pytest_works() {
    let Some(python) = python().await else { return };
    let (place, daemon) = place().await;
    let mut command = pytest(&daemon, &python);
    command.arg(folder().join("pytest"));
    let output = output(command).await;
    assert!(
        output.status.success() && stdout(&output).contains("2 passed"),
        "{}{}",
        stdout(&output),
        stderr(&output)
    );
    end(place, daemon).await;
}

/// With the example's fixture, and the limits that a daemon has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_tests_of_pytest_in_four_workers_get_a_database_each() {
    const SUITE: &str = r#"
import pytest

@pytest.mark.parametrize("n", range(500))
def test_a_database_of_its_own(connection, n):
    assert connection.execute("SELECT count(*) FROM users").fetchone() == (0,)
    connection.execute("INSERT INTO users (email, full_name, password_hash) VALUES ('ada@example.org', 'Ada', 'x')")
"#;
    let Some(python) = python().await else { return };
    let (place, daemon) = place().await;
    let suite = tempfile::tempdir().unwrap();
    std::fs::copy(
        folder().join("pytest/conftest.py"),
        suite.path().join("conftest.py"),
    )
    .unwrap();
    std::fs::write(suite.path().join("test_many.py"), SUITE).unwrap();
    let mut command = pytest(&daemon, &python);
    command.args(["-n", "4"]).arg(suite.path());
    let begun = std::time::Instant::now();
    // Each test runs a program; a machine that is busy with other tests needs minutes for all of
    // them.
    let output = tokio::time::timeout(PATIENCE * 20, command.output())
        .await
        .expect("pytest hangs")
        .unwrap();
    println!(
        "{:.1?}: {}",
        begun.elapsed(),
        stdout(&output).lines().last().unwrap_or_default()
    );
    assert!(
        output.status.success() && stdout(&output).contains("500 passed"),
        "{}{}",
        stdout(&output),
        stderr(&output)
    );
    end(place, daemon).await;
}
