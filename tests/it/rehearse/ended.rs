//! Rehearsals that are ended from outside leave nothing behind, or nothing that is not swept.

use std::process::Stdio;

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::process::Child;

use crate::harness::{
    PATIENCE, Process, Set, TestDatabase, eventually,
    process::{from_folder, output},
};

fn sleeping(seconds: u32) -> Set {
    Set::of(&[
        ("1_t", "CREATE TABLE t ();", "DROP TABLE t;"),
        (
            "2_sleeps",
            &format!("SELECT pg_sleep({seconds});"),
            "SELECT 1;",
        ),
    ])
}

/// Waits until the migration sleeps, and returns the scratch database it does that in.
async fn until_asleep(database: &TestDatabase, seconds: u32) -> String {
    let query = format!(
        "SELECT datname FROM pg_stat_activity WHERE datname LIKE 'schemad_scratch_%' AND query \
         LIKE '%pg_sleep({seconds})%'"
    );
    eventually("it sleeps", async || {
        Some(database.text(&query).await).filter(|name| !name.is_empty())
    })
    .await
}

async fn is_there(database: &TestDatabase, name: &str) -> bool {
    database
        .text(&format!(
            "SELECT count(*) FROM pg_database WHERE datname = '{name}'"
        ))
        .await
        == "1"
}

async fn begun(database: &TestDatabase, seconds: u32) -> (Child, String) {
    let mut command = from_folder(&sleeping(seconds), &["rehearse"]);
    command
        .env("SCRATCH_DATABASE_URL", &database.url)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let set = sleeping(seconds);
    command.env("MIGRATIONS_DIR", set.path());
    let child = command.spawn().unwrap();
    let scratch = until_asleep(database, seconds).await;
    (child, scratch)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ctrl_c_ends_it_and_drops_what_it_made() {
    let database = TestDatabase::new().await;
    let (mut child, scratch) = begun(&database, 2001).await;
    kill(
        Pid::from_raw(child.id().unwrap().cast_signed()),
        Signal::SIGINT,
    )
    .unwrap();
    let status = tokio::time::timeout(PATIENCE, child.wait())
        .await
        .expect("it does not end")
        .unwrap();
    assert_eq!(status.code(), Some(130));
    assert!(!is_there(&database, &scratch).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_client_leaves_is_gone_after_the_next() {
    let database = TestDatabase::new().await;
    let (mut child, scratch) = begun(&database, 2002).await;
    child.kill().await.unwrap();
    eventually("the next ones sweep", async || {
        let mut command = from_folder(&Set::tables(1), &["rehearse"]);
        let set = Set::tables(1);
        command
            .env("SCRATCH_DATABASE_URL", &database.url)
            .env("MIGRATIONS_DIR", set.path());
        assert_eq!(output(command).await.status.code(), Some(0));
        // PostgreSQL 13 does not notice that the client of a running statement is gone.
        database
            .text(&format!(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = \
                 '{scratch}'"
            ))
            .await;
        (!is_there(&database, &scratch).await).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_daemon_leaves_is_gone_after_the_next_start() {
    let database = TestDatabase::new().await;
    let set = sleeping(2003);
    let serve = || {
        let mut command = from_folder(&set, &["serve"]);
        command.env("DATABASE_URL", &database.url);
        command
    };
    let mut daemon = Process::start(serve()).await;
    let ready = output(from_folder(
        &set,
        &["wait", "ready", "--address", &daemon.address],
    ))
    .await;
    assert!(ready.status.success());
    let mut client = from_folder(&set, &["rehearse", "--address", &daemon.address]);
    let mut client = client
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let scratch = until_asleep(&database, 2003).await;
    daemon.kill().await;
    assert_eq!(
        tokio::time::timeout(PATIENCE, client.wait())
            .await
            .unwrap()
            .unwrap()
            .code(),
        Some(5)
    );
    assert!(is_there(&database, &scratch).await);
    database
        .text(&format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{scratch}'"
        ))
        .await;
    let mut next = Process::start(serve()).await;
    eventually("swept", async || {
        (!is_there(&database, &scratch).await).then_some(())
    })
    .await;
    next.kill().await;
}
