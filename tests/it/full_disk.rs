//! Where stdout cannot be written: an answer that nobody got is no success, and what was done is
//! said on stderr.

use std::{fs::File, path::Path, process::Stdio};

use schemad::SigningKeys;
use tokio::process::Command;

use crate::harness::{
    PATIENCE, Set, TestDaemon, TestDatabase,
    process::{from_folder, schemad, stdout},
};

/// Runs with stdout on a device that is always full; the exit code and stderr.
async fn full(mut command: Command) -> (Option<i32>, String) {
    command
        .stdout(File::options().write(true).open("/dev/full").unwrap())
        .stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output())
        .await
        .expect("it hangs")
        .unwrap();
    (
        output.status.code(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

fn at(daemon: &TestDaemon, arguments: &[&str]) -> Command {
    let mut command = schemad(arguments);
    command.env("SCHEMAD_ADDRESS", &daemon.address);
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_fails_that_could_not_say_what_it_was_asked_for() {
    let (database, set) = (TestDatabase::new().await, Set::tables(2));
    let daemon = TestDaemon::start(&database, &set).await;
    daemon.apply_all().await.finished();
    let dir = set.path().display().to_string();
    for arguments in [
        &["status"][..],
        &["status", "--output", "json"],
        &["list"],
        &["list", "--output", "json"],
        &["show", "0001"],
        &["show", "0001", "--output", "json"],
        &["schema"],
        &["schema", "--output", "json"],
        &["schema", "--output", "mermaid"],
        &["history"],
        &["history", "--output", "json"],
        &["apply", "--validate-only"],
        &["apply", "--validate-only", "--output", "json"],
        &["rollback", "--steps", "1", "--validate-only"],
        &["completions", "bash"],
        &["man"],
        &["man", "apply"],
        &["help"],
        &["--help"],
        &["--version"],
        &["status", "--help"],
    ] {
        let (code, told) = full(at(&daemon, arguments)).await;
        assert_eq!(code, Some(9), "{arguments:?}: {told}");
        assert!(
            told.contains("No space left on device") && told.contains("stdout"),
            "{arguments:?}: {told}"
        );
    }
    let (code, told) = full(at(&daemon, &["health", "--addr", &daemon.address])).await;
    assert!(
        code == Some(3) && told.contains("No space left"),
        "{code:?} {told}"
    );
    let mut doctor = schemad(&["doctor"]);
    doctor.env("DATABASE_URL", &database.url);
    let (code, told) = full(doctor).await;
    assert!(
        code == Some(9) && told.contains("No space left"),
        "{code:?} {told}"
    );
    for output in ["table", "json"] {
        let mut rehearse = from_folder(&set, &["rehearse", "--dir", &dir, "--output", output]);
        rehearse.env("SCRATCH_DATABASE_URL", &database.url);
        let (code, told) = full(rehearse).await;
        assert!(
            code == Some(9) && told.contains("No space left"),
            "{code:?} {told}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_done_and_could_not_be_said_is_said_on_stderr() {
    let (database, set) = (TestDatabase::new().await, Set::tables(2));
    let daemon = TestDaemon::start(&database, &set).await;
    for (arguments, done, versions) in [
        (&["apply", "--steps", "1"][..], "Done: 1 of 1 steps done", 1),
        (&["apply", "--output", "json"], "1 of 1 steps done", 2),
        (&["rollback", "--steps", "1"], "Done: 1 of 1 steps done", 1),
        (
            &["rollback", "--all", "--output", "json"],
            "1 of 1 steps done",
            0,
        ),
    ] {
        let (code, told) = full(at(&daemon, arguments)).await;
        assert_eq!(code, Some(9), "{arguments:?}: {told}");
        assert!(
            told.contains(done) && told.contains("No space left"),
            "{arguments:?}: {told}"
        );
        assert_eq!(
            database.diesel_versions().await.len(),
            versions,
            "{arguments:?}"
        );
    }
    let operation = database
        .text("SELECT id FROM schemad.operations LIMIT 1")
        .await;
    for output in ["table", "json"] {
        let (code, told) = full(at(&daemon, &["watch", &operation, "--output", output])).await;
        assert!(
            code == Some(9) && told.contains("No space left"),
            "{output}: {code:?} {told}"
        );
    }
    // The token is nowhere else, so its entry in the access file is named.
    let folder = tempfile::tempdir().unwrap();
    let access = folder.path().join("access.toml");
    let file = access.to_str().unwrap();
    let (code, told) = full(schemad(&[
        "token", "new", "--name", "ci", "--role", "viewer", "--append", file,
    ]))
    .await;
    assert!(
        code == Some(9) && told.contains("No space left") && told.contains("access.toml"),
        "{code:?} {told}"
    );
    assert!(!told.contains("schemad_"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_whose_url_nobody_got_ends_at_once() {
    let database = TestDatabase::new().await;
    let mut settings = crate::harness::daemon::settings(&database.url);
    settings.leases = Some(schemad::LeaseSettings {
        database: database.url.parse().unwrap(),
        client: database.url.parse().unwrap(),
        pool: 0,
        ttl: std::time::Duration::from_secs(600),
        max_ttl: std::time::Duration::from_secs(600),
        per_principal: 4,
        most: 4,
    });
    let daemon = TestDaemon::launch(settings, &Set::tables(1)).await;
    daemon.until_ready().await;
    for output in ["table", "json"] {
        let (code, told) = full(at(&daemon, &["lease", "--output", output])).await;
        assert!(
            code == Some(9) && told.contains("No space left"),
            "{output}: {code:?} {told}"
        );
    }
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_has_seen_enough_is_no_error() {
    let shell = |script: &str| {
        let mut command = Command::new("bash");
        let program = Path::new(env!("CARGO_BIN_EXE_schemad")).display();
        command
            .args(["-c", &format!("set -o pipefail; {program} {script}")])
            .env_clear();
        command
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .current_dir("/");
        command
    };
    for script in [
        "man | head -n 1",
        "man 2>&1 | true",
        "completions bash 2>&1 | true",
        "--help 2>&1 | true",
    ] {
        let output = crate::harness::process::output(shell(script)).await;
        let told = String::from_utf8_lossy(&output.stderr).into_owned() + &stdout(&output);
        assert!(
            output.status.success() && !told.contains("error:") && !told.contains("panicked"),
            "{script}: {told}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_and_a_signature_that_could_not_be_said_are_said_on_stderr() {
    let database = TestDatabase::new().await;
    let set = Set::of(&[
        ("1_a", "CREATE TABLE a ();", "DROP TABLE a;"),
        ("2_gate", "SELECT pg_advisory_xact_lock(77);", "SELECT 1;"),
    ]);
    let mut settings = crate::harness::daemon::settings(&database.url);
    settings.signing = SigningKeys::read(&["k".repeat(32)]).unwrap();
    let daemon = TestDaemon::launch(settings, &set).await;
    daemon.until_ready().await;
    let gate = database.connect().await;
    gate.batch_execute("SELECT pg_advisory_lock(77)")
        .await
        .unwrap();
    for output in ["table", "json"] {
        let mut apply = at(&daemon, &["apply"]);
        let mut running = apply
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        database.until_waiting(77).await;
        let operation = database
            .text("SELECT id FROM schemad.operations WHERE state = 'running'")
            .await;
        let (code, told) = full(at(&daemon, &["cancel", &operation, "--output", output])).await;
        assert!(
            code == Some(9) && told.contains("Cancelled;"),
            "{output}: {code:?} {told}"
        );
        assert_eq!(running.wait().await.unwrap().code(), Some(7));
        let sign = [
            "ledger", "sign", "--all", "--reason", "r", "--output", output,
        ];
        let (code, told) = full(at(&daemon, &sign)).await;
        assert!(
            code == Some(9) && told.contains(" down(s) (operation "),
            "{output}: {code:?} {told}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resolution_that_could_not_be_said_is_said_on_stderr() {
    let (database, set) = (TestDatabase::new().await, Set::tables(2));
    let daemon = TestDaemon::start(&database, &set).await;
    daemon.apply_all().await.finished();
    for output in ["table", "json"] {
        database
            .execute("DELETE FROM __diesel_schema_migrations")
            .await;
        let resolve = [
            "resolve",
            "--restore-diesel-table",
            "--reason",
            "r",
            "--output",
            output,
        ];
        let (code, told) = full(at(&daemon, &resolve)).await;
        assert!(
            code == Some(9) && told.contains("No space left"),
            "{output}: {code:?} {told}"
        );
        assert!(told.contains("Resolved"), "{output}: {told}");
        assert_eq!(database.diesel_versions().await, ["0001", "0002"]);
    }
}
