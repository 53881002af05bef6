//! Text from migrations, requests and the database that would command a terminal, forge a line or
//! leave its place in SQL.

use std::{
    process::Stdio,
    sync::{Arc, Mutex},
};

use nix::sys::signal::Signal;
use schemad::pb;
use tokio::io::AsyncReadExt as _;

use crate::harness::{
    Process, Set, TestDaemon, TestDatabase, eventually,
    process::{from_folder, output, schemad, stderr, stdout},
};

/// Clears the screen, forges a line, turns the text around, sets the window's title by a C1
/// control.
const EVIL: &str =
    "a\u{1b}[2J\u{1b}[31m\r\nDone: 9 of 9 steps done\u{202e}gnp\u{2066}\u{9d}0;t\u{7}z";

/// EVIL within a '…' string.
fn sql_literal() -> String {
    EVIL.replace('\'', "''")
}

/// `text`, on a terminal without colours or in a log, acts on nothing.
#[track_caller]
fn is_plain(what: &str, text: &str) {
    let acts = |c: char| {
        c.is_control() && c != '\n' && c != '\t'
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    assert!(!text.contains(acts), "{what}: {text:?}");
}

/// Nothing pretends to be schemad's own line.
#[track_caller]
fn forges_nothing(what: &str, text: &str) {
    assert!(
        !text.lines().any(|line| line.starts_with("Done: 9")),
        "{what}: {text:?}"
    );
}

async fn said(daemon: &str, args: &[&str]) -> String {
    let mut command = schemad(args);
    command.args(["--address", daemon]);
    let output = output(command).await;
    stdout(&output) + &stderr(&output)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_migration_and_no_request_commands_a_terminal_or_forges_a_line() {
    let database = TestDatabase::new().await;
    let literal = sql_literal();
    let set = Set::of(&[
        (
            &format!("1_{}", EVIL.replace('/', "")),
            "CREATE TABLE t (n int);",
            "DROP TABLE t;",
        ),
        (
            "2_notice",
            &format!("DO $$ BEGIN RAISE NOTICE '%', '{literal}'; END $$;"),
            "SELECT 1;",
        ),
        (
            "3_fails",
            &format!(
                "SELECT 1;\nDO $$ BEGIN RAISE '%', '{literal}' USING HINT = '{literal}'; END $$;"
            ),
            "",
        ),
    ]);
    let mut command = from_folder(
        &set,
        &["serve", "--log-level", "trace", "--log-format", "text"],
    );
    command
        .args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
        .env("DATABASE_URL", &database.url);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = child.stderr.take().unwrap();
    let log = Arc::new(Mutex::new(Vec::new()));
    let sink = log.clone();
    let reader = tokio::spawn(async move {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(n @ 1..) = stderr.read(&mut buffer).await {
            sink.lock().unwrap().extend_from_slice(&buffer[..n]);
        }
    });
    let logged = || String::from_utf8(log.lock().unwrap().clone()).unwrap();
    let address = eventually("it listens", async || {
        let log = logged();
        let (_, rest) = log.split_once("serving on ")?;
        Some(rest[..rest.find(|c: char| !c.is_ascii_digit() && c != '.' && c != ':')?].to_owned())
    })
    .await;
    eventually("it is ready", async || {
        let output = output(schemad(&[
            "health",
            "-addr",
            &address,
            "-service",
            "schemad.v1.MigrationService",
        ]))
        .await;
        output.status.success().then_some(())
    })
    .await;

    for args in [
        &["list"][..],
        &["apply"],
        &["apply", "--output", "json"],
        &["status"],
        &["show", "1"],
        &["show", "3"],
        &["list", "--output", "json"],
        &["history"],
        &["history", "--output", "json"],
        &["show", EVIL],
        &["resolve", "3", "--retry", "--reason", EVIL],
        &["resolve", EVIL, "--retry", "--reason", EVIL],
        &["history", "--principal", EVIL],
    ] {
        let told = said(&address, args).await;
        is_plain(&format!("{args:?}"), &told);
        // The SQL of a migration and the last words of a failure may have lines of their own.
        if args[0] != "show" {
            forges_nothing(&format!("{args:?}"), &told);
        }
    }
    let told = said(&address, &["list"]).await;
    assert!(
        told.contains("a\\u{1b}[2J") && told.contains("\\u{202e}"),
        "it can still be seen: {told}"
    );

    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(child.id().unwrap().cast_signed()),
        Signal::SIGTERM,
    )
    .unwrap();
    reader.await.unwrap();
    let log = logged();
    is_plain("the log", &log);
    assert!(log.contains("operation ended"), "{log}");
    for line in log.lines() {
        assert!(line.starts_with("20"), "no event begins so: {line:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reason_of_many_lines_is_kept_as_it_is_and_logged_on_one() {
    let database = TestDatabase::new().await;
    let set = Set::of(&[("1_t", "CREATE TABLE t (n int);", "DROP TABLE t;")]);
    let daemon = TestDaemon::start(&database, &set).await;
    daemon.apply_all().await.finished();
    daemon.stop().await;
    set.add("1_t", "CREATE TABLE t (n bigint);", "DROP TABLE t;");

    let mut command = from_folder(&set, &["serve"]);
    command.env("DATABASE_URL", &database.url);
    let mut process = Process::start(command).await;
    let reason = format!("'); DROP SCHEMA schemad CASCADE; -- {EVIL}");
    let resolved = eventually("it is resolved", async || {
        let told = said(
            &process.address,
            &["resolve", "1", "--accept", "--reason", &reason],
        )
        .await;
        is_plain("resolve", &told);
        told.contains("Resolved 1").then_some(())
    });
    resolved.await;
    // As it was given.
    let kept = "SELECT reason FROM schemad.operations WHERE kind = 'resolve'";
    assert_eq!(database.text(kept).await, format!("1 accept: {reason}"));
    let ended = process.event("operation.finished").await;
    assert!(ended["line"].is_null(), "{ended}");
    for args in [
        &["history"][..],
        &["status"],
        &["history", "--output", "json"],
        &["show", "1"],
    ] {
        let told = said(&process.address, args).await;
        is_plain(&format!("{args:?}"), &told);
        forges_nothing(&format!("{args:?}"), &told);
    }
}

/// Where a value of a request meets SQL, it is a parameter.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_value_of_a_request_leaves_its_place_in_sql() {
    let database = TestDatabase::new().await;
    let daemon = TestDaemon::start(&database, &Set::tables(2)).await;
    daemon.apply_all().await.finished();
    for text in [
        "' OR '1'='1",
        "'; DROP TABLE t1; --",
        "\\'; DROP TABLE t1; --",
        "1) OR (1=1",
        "$1",
        "%",
        "\"",
        "\u{202e}",
    ] {
        let filter = pb::ListOperationsRequest {
            principal: text.into(),
            ..Default::default()
        };
        assert!(
            daemon
                .operations()
                .list_operations(filter)
                .await
                .unwrap()
                .into_inner()
                .operations
                .is_empty(),
            "{text}"
        );
        let filter = pb::ListOperationsRequest {
            version: text.into(),
            ..Default::default()
        };
        assert!(
            daemon
                .operations()
                .list_operations(filter)
                .await
                .unwrap()
                .into_inner()
                .operations
                .is_empty(),
            "{text}"
        );
        let version = text.to_owned();
        assert!(
            daemon
                .client()
                .get_migration(pb::GetMigrationRequest {
                    version: version.clone(),
                    ..Default::default()
                })
                .await
                .is_err()
        );
        let target = Some(pb::apply_request::Target::To(version.clone()));
        assert!(
            daemon
                .apply(pb::ApplyRequest {
                    target,
                    ..Default::default()
                })
                .await
                .status
                .is_err(),
            "{text}"
        );
        let target = Some(pb::rollback_request::Target::To(version));
        assert!(
            daemon
                .rollback(pb::RollbackRequest {
                    target,
                    ..Default::default()
                })
                .await
                .status
                .is_err(),
            "{text}"
        );
    }
    assert_eq!(
        database
            .text("SELECT count(*) FROM pg_class WHERE relname IN ('t1', 't2')")
            .await,
        "2"
    );
    database.assert_consistent().await;
}
