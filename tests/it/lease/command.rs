//! `schemad lease`, and the examples.

use std::process::Stdio;

use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
};

use super::Place;
use crate::harness::{
    PATIENCE, Set, TestDaemon,
    database::connect,
    process::{output, schemad, stderr, stdout},
};

async fn place() -> (Place, TestDaemon) {
    let place = Place::new("CREATEDB").await;
    let daemon = place.daemon(place.leases(0), &Set::tables(2)).await;
    (place, daemon)
}

fn lease(daemon: &TestDaemon, arguments: &[&str]) -> Command {
    let mut command = schemad(&["lease", "--address", &daemon.address]);
    command.args(arguments);
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_runs_with_a_database_and_its_exit_code_is_told() {
    let (place, daemon) = place().await;
    let one = output(lease(
        &daemon,
        &["--", "sh", "-c", "echo $DATABASE_URL; echo err >&2; exit 7"],
    ))
    .await;
    assert_eq!(
        (one.status.code(), stderr(&one).as_str()),
        (Some(7), "err\n")
    );
    let name = stdout(&one).trim().rsplit('/').next().unwrap().to_owned();
    place.until_gone(&name).await;
    let killed = output(lease(&daemon, &["--", "sh", "-c", "kill -9 $$"])).await;
    assert_eq!(killed.status.code(), Some(137));
    let missing = output(lease(&daemon, &["--", "/no/such/command"])).await;
    assert_eq!(missing.status.code(), Some(127));
    assert!(
        stderr(&missing).contains("/no/such/command"),
        "{}",
        stderr(&missing)
    );
    // Only the template is left.
    place.until_there_are(1).await;
    daemon.stop().await;
    place.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_outlives_its_lease_is_told_to_end() {
    let (place, daemon) = place().await;
    let late = output(lease(&daemon, &["--ttl", "1s", "--", "sleep", "600"])).await;
    assert_eq!(late.status.code(), Some(5), "{}", stderr(&late));
    assert!(
        stderr(&late).contains("ended before the command")
            && stderr(&late).contains("LEASE_EXPIRED")
    );
    daemon.stop().await;
    place.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_command_the_url_is_printed_and_holds_until_stdin_ends() {
    let (place, daemon) = place().await;
    for arguments in [&[][..], &["--output", "json"]] {
        let mut command = lease(&daemon, arguments);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = tokio::time::timeout(PATIENCE, lines.next_line())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        let url = match arguments {
            [] => line,
            _ => {
                let json: serde_json::Value = serde_json::from_str(&line).unwrap();
                json["database"]["url"].as_str().unwrap().to_owned()
            }
        };
        connect(&url)
            .await
            .batch_execute("INSERT INTO t2 VALUES (1)")
            .await
            .unwrap();
        drop(child.stdin.take());
        assert_eq!(
            tokio::time::timeout(PATIENCE, child.wait())
                .await
                .unwrap()
                .unwrap()
                .code(),
            Some(0)
        );
        place.until_gone(url.rsplit('/').next().unwrap()).await;
    }
    daemon.stop().await;
    place.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_gets_no_secret_of_schemads() {
    let (place, daemon) = place().await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "schemad_MARKfile").unwrap();
    let mut command = lease(&daemon, &["--", "env"]);
    for name in [
        "SCHEMAD_TOKEN",
        "MIGRATION_DATABASE_URL",
        "SCRATCH_DATABASE_URL",
        "SCHEMAD_LEASE_DATABASE_URL",
        "SCHEMAD_LEASE_CLIENT_URL",
        "PGPASSWORD",
    ] {
        command.env(name, "MARK");
    }
    for name in [
        "SCHEMAD_TOKEN_FILE",
        "SCHEMAD_SIGNING_KEY_FILE",
        "SCHEMAD_TLS_KEY",
        "DATABASE_URL_FILE",
        "MIGRATION_DATABASE_URL_FILE",
        "SCRATCH_DATABASE_URL_FILE",
        "SCHEMAD_LEASE_DATABASE_URL_FILE",
        "SCHEMAD_LEASE_CLIENT_URL_FILE",
    ] {
        command.env(name, file.path());
    }
    command
        .env("DATABASE_URL", "postgres://prod:MARK@h/d")
        .env("PGHOSTADDR", "MARK")
        .env("PGSERVICE", "MARK");
    command
        .env("SCHEMAD_ADDRESS", &daemon.address)
        .env("APP_KEY", "its own");
    let run = output(command).await;
    let told = stdout(&run);
    assert_eq!(run.status.code(), Some(0), "{}", stderr(&run));
    let name = file.path().display().to_string();
    assert!(!told.contains("MARK") && !told.contains(&name), "{told}");
    assert!(
        told.contains("DATABASE_URL=postgres") && told.contains("APP_KEY=its own"),
        "{told}"
    );
    assert!(
        told.contains("SCHEMAD_ADDRESS="),
        "what is no secret stays: {told}"
    );
    daemon.stop().await;
    place.end().await;
}
