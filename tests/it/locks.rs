use schemad::pb::{self, operation_event::Event};
use tonic::Code;

use crate::harness::{Set, TestDaemon, TestDatabase};

/// A step's lock_timeout is 5 s; a migration may set its own to keep the test short.
const IMPATIENT: &str = "SET LOCAL lock_timeout = '100ms'; ALTER TABLE busy ADD COLUMN more int;";

fn wait(seconds: i64, nanos: i32) -> pb::ApplyRequest {
    pb::ApplyRequest {
        lock_wait: Some(prost_types::Duration { seconds, nanos }),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_that_cannot_get_its_locks_is_undone_and_tried_again_until_it_can() {
    let database = TestDatabase::new().await;
    database.execute("CREATE TABLE busy (id int)").await;
    let set = Set::of(&[
        ("1_before", "CREATE TABLE before (id int);", ""),
        (
            "2_locked",
            &format!("CREATE TABLE first (id int); {IMPATIENT}"),
            "",
        ),
        ("3_after", "CREATE TABLE after (id int);", ""),
    ]);
    let daemon = TestDaemon::start(&database, &set).await;
    let user = database.connect().await;
    user.batch_execute("BEGIN; LOCK TABLE busy IN ACCESS SHARE MODE")
        .await
        .unwrap();
    let mut stream = daemon
        .client()
        .apply(wait(30, 0))
        .await
        .unwrap()
        .into_inner();
    let mut retries = 0;
    let mut done = Vec::new();
    while let Some(response) = stream.message().await.unwrap() {
        match response.event.unwrap().event.unwrap() {
            Event::Retrying(retry) => {
                assert_eq!(
                    (retry.version.as_str(), retry.sqlstate.as_str()),
                    ("2", "55P03")
                );
                assert_eq!(
                    database.diesel_versions().await,
                    ["1"],
                    "the step before it stays"
                );
                retries += 1;
                if retries == 2 {
                    user.batch_execute("COMMIT").await.unwrap();
                }
            }
            Event::StepDone(step) => done.push(step.version),
            _ => {}
        }
    }
    assert!(retries >= 2);
    assert_eq!(done, ["1", "2", "3"]);
    database.assert_consistent().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_lock_wait_is_over_the_step_is_undone_and_the_caller_told() {
    let database = TestDatabase::new().await;
    database.execute("CREATE TABLE busy (id int)").await;
    let set = Set::of(&[
        ("1_before", "CREATE TABLE before (id int);", ""),
        ("2_locked", IMPATIENT, ""),
    ]);
    let daemon = TestDaemon::start(&database, &set).await;
    let user = database.connect().await;
    user.batch_execute("BEGIN; LOCK TABLE busy IN ACCESS SHARE MODE")
        .await
        .unwrap();
    let outcome = daemon.apply(wait(0, 500_000_000)).await;
    let failed = outcome.failure();
    failed.assert(Code::FailedPrecondition, "LOCK_TIMEOUT");
    assert_eq!(
        (
            failed.metadata["version"].as_str(),
            failed.metadata["sqlstate"].as_str()
        ),
        ("2", "55P03")
    );
    assert_eq!(database.diesel_versions().await, ["1"]);
    user.batch_execute("COMMIT").await.unwrap();
    assert_eq!(daemon.apply_all().await.done(), ["2"]);
    database.assert_consistent().await;
}

/// The events until `is` says so.
async fn until(
    stream: &mut tonic::Streaming<pb::ApplyResponse>,
    is: impl Fn(&Event) -> bool,
) -> Event {
    loop {
        let event = stream
            .message()
            .await
            .unwrap()
            .expect("the stream ended")
            .event
            .unwrap()
            .event
            .unwrap();
        if is(&event) {
            return event;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_in_the_way_is_named_while_the_step_waits_and_when_it_gives_up() {
    let database = TestDatabase::new().await;
    database.execute("CREATE TABLE busy (id int)").await;
    let set = Set::of(&[(
        "1_locked",
        "-- schemad: lock_timeout=2s\nALTER TABLE busy ADD COLUMN more int;",
        "",
    )]);
    let daemon = TestDaemon::start(&database, &set).await;
    let user = database.connect().await;
    user.batch_execute(
        "SET application_name = 'a user'; BEGIN; LOCK TABLE busy IN ACCESS SHARE MODE",
    )
    .await
    .unwrap();
    let pid: i32 = user
        .query_one("SELECT pg_backend_pid()", &[])
        .await
        .unwrap()
        .get(0);
    let mut stream = daemon
        .client()
        .apply(wait(2, 0))
        .await
        .unwrap()
        .into_inner();
    let Event::Waiting(waiting) = until(&mut stream, |e| matches!(e, Event::Waiting(_))).await
    else {
        panic!()
    };
    assert_eq!(
        (waiting.version.as_str(), waiting.mode.as_str()),
        ("1", "AccessExclusiveLock")
    );
    assert_eq!(waiting.relation, "public.busy");
    let blocker = &waiting.blockers[0];
    assert_eq!(
        (blocker.pid, blocker.application_name.as_str()),
        (pid, "a user")
    );
    assert_eq!(
        (blocker.state.as_str(), blocker.mode.as_str()),
        ("idle in transaction", "AccessShareLock")
    );
    let status = loop {
        match stream.message().await {
            Ok(message) => assert!(message.is_some()),
            Err(status) => break status,
        }
    };
    let failed = crate::harness::daemon::Failed::of(&status);
    failed.assert(Code::FailedPrecondition, "LOCK_TIMEOUT");
    let words = &failed.metadata["blocked_by"];
    assert!(
        words.contains(&format!("pid {pid} (")) && words.contains("AccessShareLock on public.busy"),
        "{words}"
    );
    database.assert_consistent().await;
}

/// CREATE INDEX CONCURRENTLY waits without a timeout of its own; lock_wait ends it, and nothing
/// stays behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lock_wait_ends_the_wait_of_a_concurrent_build() {
    let database = TestDatabase::new().await;
    let set = Set::of(&[("1_t", "CREATE TABLE t (n int);", "")]);
    set.add_non_transactional("2_index", "CREATE INDEX CONCURRENTLY i ON t (n);", "");
    let daemon = TestDaemon::start(&database, &set).await;
    let first = pb::ApplyRequest {
        target: Some(pb::apply_request::Target::Steps(1)),
        ..Default::default()
    };
    daemon.apply(first).await.finished();
    let writer = database.connect().await;
    writer
        .batch_execute("BEGIN; INSERT INTO t VALUES (1)")
        .await
        .unwrap();
    let outcome = daemon.apply(wait(1, 0)).await;
    let failed = outcome.failure();
    failed.assert(Code::FailedPrecondition, "LOCK_TIMEOUT");
    assert!(
        failed.metadata["blocked_by"].contains("idle in transaction"),
        "{:?}",
        failed.metadata
    );
    assert!(outcome.has(|e| matches!(e, Event::Progress(p) if p.phase.starts_with("waiting"))));
    writer.batch_execute("COMMIT").await.unwrap();
    daemon.apply_all().await.finished();
    let valid =
        "SELECT string_agg(indisvalid::text, ' ') FROM pg_index WHERE indrelid = 't'::regclass";
    assert_eq!(database.text(valid).await, "true");
    database.assert_consistent().await;
}

/// What a failed build left is removed by the next try, also when the file has something else there
/// now.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_that_was_mended_away_does_not_stay_invalid() {
    let database = TestDatabase::new().await;
    let set = Set::of(&[("1_t", "CREATE TABLE t (n int);", "")]);
    set.add_non_transactional("2_index", "CREATE INDEX CONCURRENTLY ti ON t (n);", "");
    let daemon = TestDaemon::start(&database, &set).await;
    let first = pb::ApplyRequest {
        target: Some(pb::apply_request::Target::Steps(1)),
        ..Default::default()
    };
    daemon.apply(first).await.finished();
    let writer = database.connect().await;
    writer
        .batch_execute("BEGIN; INSERT INTO t VALUES (1)")
        .await
        .unwrap();
    daemon
        .apply(wait(1, 0))
        .await
        .failure()
        .assert(Code::FailedPrecondition, "LOCK_TIMEOUT");
    let indexes = "SELECT indexrelid::regclass || ' ' || indisvalid FROM pg_index WHERE indrelid = \
        't'::regclass";
    assert_eq!(
        database.texts(indexes).await,
        ["ti false"],
        "the writer keeps it from being removed"
    );
    writer.batch_execute("COMMIT").await.unwrap();
    daemon.stop().await;
    set.add_non_transactional(
        "2_index",
        "CREATE INDEX CONCURRENTLY t_better ON t (n);",
        "",
    );
    let daemon = TestDaemon::start(&database, &set).await;
    let outcome = daemon.apply_all().await;
    outcome.finished();
    assert!(outcome.has(
        |e| matches!(e, Event::Notice(n) if n.message.contains("removed the invalid \
            index public.ti"))
    ));
    assert_eq!(database.texts(indexes).await, ["t_better true"]);
    database.assert_consistent().await;
}

/// The request says how patient a step is, and the file knows better.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn patience_is_the_requests_unless_the_file_says_otherwise() {
    let database = TestDatabase::new().await;
    database.execute("CREATE TABLE busy (id int)").await;
    let alter = "ALTER TABLE busy ADD COLUMN more int;";
    let user = database.connect().await;
    user.batch_execute("BEGIN; LOCK TABLE busy IN ACCESS SHARE MODE")
        .await
        .unwrap();
    let soon = |millis| {
        Some(prost_types::Duration {
            seconds: 0,
            nanos: millis * 1_000_000,
        })
    };
    let request = pb::ApplyRequest {
        lock_timeout: soon(50),
        lock_wait: soon(900),
        ..Default::default()
    };
    for (comment, retried) in [
        ("", true),
        ("-- schemad: lock_timeout=2s\n", false),
        ("-- schemad: lock_wait=0\n", false),
    ] {
        let set = Set::of(&[("1_locked", &format!("{comment}{alter}"), "")]);
        let daemon = TestDaemon::start(&database, &set).await;
        let outcome = daemon.apply(request.clone()).await;
        outcome
            .failure()
            .assert(Code::FailedPrecondition, "LOCK_TIMEOUT");
        let retries = outcome
            .events
            .iter()
            .filter(|e| matches!(e.event, Some(Event::Retrying(_))))
            .count();
        assert_eq!(retries > 0, retried, "{comment}: {retries}");
        daemon.stop().await;
    }
    database.assert_consistent().await;
}

/// The wait of one statement is not the next one's: each has lock_wait for itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_reader_does_not_end_a_concurrent_build() {
    let database = TestDatabase::new().await;
    let set = Set::of(&[(
        "1_t",
        "CREATE TABLE t (n int); INSERT INTO t VALUES (1);",
        "",
    )]);
    set.add_non_transactional("2_index", "CREATE INDEX CONCURRENTLY i ON t (n);", "");
    let daemon = TestDaemon::start(&database, &set).await;
    let first = pb::ApplyRequest {
        target: Some(pb::apply_request::Target::Steps(1)),
        ..Default::default()
    };
    daemon.apply(first).await.finished();
    let reader = database.connect().await;
    reader
        .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT * FROM t")
        .await
        .unwrap();
    let mut stream = daemon
        .client()
        .apply(wait(120, 0))
        .await
        .unwrap()
        .into_inner();
    let waits = until(&mut stream, |e| matches!(e, Event::Waiting(_))).await;
    assert!(matches!(waits, Event::Waiting(w) if w.version == "2" && w.blockers.len() == 1));
    reader.batch_execute("COMMIT").await.unwrap();
    until(
        &mut stream,
        |e| matches!(e, Event::Finished(f) if f.state() == pb::OperationState::Succeeded),
    )
    .await;
    assert_eq!(
        database
            .text("SELECT count(*) FROM pg_index WHERE indrelid = 't'::regclass")
            .await,
        "1"
    );
    database.assert_consistent().await;
}

/// PostgreSQL marks the index invalid before it waits, and has no way back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_that_was_dropped_by_half_counts_as_half_reverted() {
    let database = TestDatabase::new().await;
    database.execute("CREATE TABLE t (n int)").await;
    let set = Set::of(&[]);
    set.add_non_transactional(
        "1_index",
        "CREATE INDEX CONCURRENTLY i ON t (n);",
        "DROP INDEX CONCURRENTLY i;",
    );
    let daemon = TestDaemon::start(&database, &set).await;
    daemon.apply_all().await.finished();
    let user = database.connect().await;
    user.batch_execute("BEGIN; SELECT * FROM t").await.unwrap();
    let request = pb::RollbackRequest {
        target: Some(pb::rollback_request::Target::All(true)),
        lock_wait: Some(prost_types::Duration {
            seconds: 1,
            nanos: 0,
        }),
        ..Default::default()
    };
    daemon
        .rollback(request)
        .await
        .failure()
        .assert(Code::FailedPrecondition, "LOCK_TIMEOUT");
    assert_eq!(
        database
            .text("SELECT indisvalid FROM pg_index WHERE indexrelid = 'i'::regclass")
            .await,
        "f"
    );
    assert_eq!(super::journal::problems(&daemon).await, ["HALF_REVERTED"]);
    daemon
        .apply_all()
        .await
        .failure()
        .assert(Code::FailedPrecondition, "HALF_REVERTED");
    user.batch_execute("COMMIT").await.unwrap();
    daemon.rollback_all().await.finished();
    assert_eq!(database.text("SELECT to_regclass('i')").await, "NULL");
    daemon.apply_all().await.finished();
    database.assert_consistent().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lock_wait_bounds_a_try_that_would_wait_longer() {
    let database = TestDatabase::new().await;
    database.execute("CREATE TABLE busy (id int)").await;
    let user = database.connect().await;
    user.batch_execute("BEGIN; LOCK TABLE busy IN ACCESS SHARE MODE")
        .await
        .unwrap();
    let soon = |millis| {
        Some(prost_types::Duration {
            seconds: 0,
            nanos: millis * 1_000_000,
        })
    };
    for (comment, lock_timeout) in [
        ("", None),
        ("-- schemad: lock_timeout=0\n", None),
        ("", soon(600)),
    ] {
        let set = Set::of(&[(
            "1_locked",
            &format!("{comment}ALTER TABLE busy ADD COLUMN more int;"),
            "",
        )]);
        let daemon = TestDaemon::start(&database, &set).await;
        let asked = std::time::Instant::now();
        let request = pb::ApplyRequest {
            lock_timeout,
            lock_wait: soon(900),
            ..Default::default()
        };
        let outcome = tokio::time::timeout(crate::harness::PATIENCE, daemon.apply(request))
            .await
            .expect("it waits");
        outcome
            .failure()
            .assert(Code::FailedPrecondition, "LOCK_TIMEOUT");
        assert!(
            asked.elapsed() < std::time::Duration::from_secs(4),
            "{:?}",
            asked.elapsed()
        );
        daemon.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_try_says_anew_who_is_in_the_way() {
    let database = TestDatabase::new().await;
    database.execute("CREATE TABLE busy (id int)").await;
    let set = Set::of(&[(
        "1_locked",
        "-- schemad: lock_timeout=2s\nALTER TABLE busy ADD COLUMN more int;",
        "",
    )]);
    let daemon = TestDaemon::start(&database, &set).await;
    let user = database.connect().await;
    user.batch_execute("BEGIN; LOCK TABLE busy IN ACCESS SHARE MODE")
        .await
        .unwrap();
    let mut stream = daemon
        .client()
        .apply(wait(60, 0))
        .await
        .unwrap()
        .into_inner();
    let (mut tries, mut said) = (1, Vec::new());
    while tries < 4 {
        match until(&mut stream, |e| {
            matches!(e, Event::Waiting(_) | Event::Retrying(_))
        })
        .await
        {
            Event::Waiting(_) => said.push(tries),
            _ => tries += 1,
        }
    }
    user.batch_execute("COMMIT").await.unwrap();
    assert_eq!(said, [1, 2, 3]);
    until(&mut stream, |e| matches!(e, Event::Finished(_))).await;
}
