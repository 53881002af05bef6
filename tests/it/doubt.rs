//! Scripts that are not one transaction and were interrupted: what is gone on with, what is in
//! doubt, and what waits for a person.

use std::time::Duration;

use schemad::{Settings, pb};
use tonic::Code;

use super::journal::{index_state, journal, problems, set, until_active};
use crate::harness::daemon::get;
use crate::harness::{
    Process, Set, TestDaemon, TestDatabase, daemon::settings, eventually, process::from_folder,
};

/// The kill comes while the index waits for an old snapshot, and again right after it was built.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_killed_while_it_builds_an_index_is_continued_by_the_next() {
    for released in [false, true] {
        let database = TestDatabase::new().await;
        let set = set(
            "INSERT INTO t VALUES (3);\nCREATE INDEX CONCURRENTLY i ON t (n);\nINSERT INTO t \
             VALUES (4);",
            "SELECT 1;",
        );
        let daemon = TestDaemon::start(&database, &set).await;
        daemon
            .apply(pb::ApplyRequest {
                target: Some(pb::apply_request::Target::Steps(1)),
                ..Default::default()
            })
            .await
            .finished();
        daemon.stop().await;
        let reader = database.connect().await;
        reader
            .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT * FROM t")
            .await
            .unwrap();
        let mut command = from_folder(&set, &["serve", "--apply-on-start"]);
        command.env("DATABASE_URL", &database.url);
        let mut process = Process::start(command).await;
        until_active(&database, "CREATE INDEX CONCURRENTLY%").await;
        if released {
            // A stopped daemon does not see that its statement is through; then it is killed.
            process.freeze().await;
            reader.batch_execute("COMMIT").await.unwrap();
            eventually("the index is valid", async || {
                (index_state(&database, "i").await == "t").then_some(())
            })
            .await;
        }
        process.kill().await;
        database.until_free().await;
        assert_eq!(
            journal(&database).await,
            ["1 done", "2 running", "3 pending"]
        );
        drop(reader);
        let built = database.text("SELECT to_regclass('i')::oid").await;
        let daemon = TestDaemon::start(&database, &set).await;
        assert_eq!(problems(&daemon).await, ["HALF_APPLIED"]);
        daemon.apply_all().await.finished();
        assert_eq!(index_state(&database, "i").await, "t");
        assert_eq!(
            database.text("SELECT to_regclass('i')::oid").await == built,
            released,
            "built again only when it must be"
        );
        assert_eq!(
            database
                .text("SELECT string_agg(n::text, '' ORDER BY n) FROM t")
                .await,
            "1234"
        );
        database.assert_consistent().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_can_know_waits_for_a_person() {
    let database = TestDatabase::new().await;
    let set = set("CALL work();\nINSERT INTO t VALUES (4);", "SELECT 1;");
    database
        .execute(
            "CREATE PROCEDURE work() LANGUAGE plpgsql AS $$ BEGIN INSERT INTO t VALUES (3); \
            COMMIT; PERFORM pg_sleep(60); END $$",
        )
        .await;
    let mut command = from_folder(&set, &["serve", "--apply-on-start"]);
    command.env("DATABASE_URL", &database.url);
    let mut process = Process::start(command).await;
    until_active(&database, "CALL work()%").await;
    process.kill().await;
    database.until_free().await;
    // What was sent is told, not what the file has become.
    set.add_non_transactional(
        "2_wide",
        "\nCALL other();\nINSERT INTO t VALUES (4);",
        "SELECT 1;",
    );
    let daemon = TestDaemon::start(&database, &set).await;
    let status = daemon.status().await;
    assert_eq!(status.state(), pb::SchemaState::InDoubt);
    let told = &status.problems[0].message;
    assert!(
        told.contains("2_wide/up.sql, line 1, column 1, statement 1 of 2"),
        "{told}"
    );
    assert!(
        told.contains("CALL work()") && told.contains("FROM pg_proc") && !told.contains("other"),
        "{told}"
    );
    assert_eq!(
        daemon.check("schemad.schema.current").await,
        Ok(tonic_health::pb::health_check_response::ServingStatus::NotServing)
    );
    // Operations are accepted, because whoever settles it has to reach this daemon; but nobody
    // overlooks it.
    let in_doubt = (
        200,
        r#"{"reason":"IN_DOUBT","status":"SERVING"}"#.to_owned(),
    );
    eventually("health says so", async || {
        (get(&daemon.admin, "/readyz").await == in_doubt).then_some(())
    })
    .await;
    assert!(
        get(&daemon.admin, "/metrics")
            .await
            .1
            .contains("schemad_in_doubt 1")
    );
    for outcome in [daemon.apply_all().await, daemon.rollback_all().await] {
        let failed = outcome.failure();
        failed.assert(Code::FailedPrecondition, "IN_DOUBT");
        assert!(
            failed.message.contains("part 1 of the up of migration 2"),
            "{}",
            failed.message
        );
        assert_eq!(
            ["line", "source"].map(|key| failed.metadata[key].as_str()),
            ["1", "CALL work();"]
        );
    }
    daemon.stop().await;
    set.add_non_transactional(
        "2_wide",
        "CALL work();\nINSERT INTO t VALUES (4);",
        "SELECT 1;",
    );
    let daemon = TestDaemon::start(&database, &set).await;
    database
        .execute("UPDATE schemad.statements SET state = 'done' WHERE state = 'running'")
        .await;
    daemon.apply_all().await.finished();
    assert_eq!(
        database
            .text("SELECT string_agg(n::text, '' ORDER BY n) FROM t")
            .await,
        "1234"
    );
    assert_eq!(daemon.status().await.state(), pb::SchemaState::Current);
    assert!(
        get(&daemon.admin, "/readyz")
            .await
            .1
            .contains(r#""reason":"""#)
    );
    assert!(
        get(&daemon.admin, "/metrics")
            .await
            .1
            .contains("schemad_in_doubt 0")
    );
}

/// What the server refused is not in doubt, and neither is what was never sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_statement_leaves_no_doubt() {
    let database = TestDatabase::new().await;
    let existing = "CREATE DATABASE postgres;";
    for up in [
        existing,
        &format!("SET work_mem = 'lots';\n{existing}"),
        "SET work_mem = 'lots';\nVACUUM t;",
    ] {
        let daemon = TestDaemon::start(&database, &set(up, "")).await;
        let failed = daemon.apply_all().await.failure();
        failed.assert(Code::FailedPrecondition, "MIGRATION_FAILED");
        assert_eq!(
            ["line", "statement"].map(|key| failed.metadata[key].as_str()),
            ["1", "1"],
            "{up}"
        );
        assert_eq!(daemon.status().await.state(), pb::SchemaState::Behind);
        daemon.stop().await;
    }
}

/// A procedure that committed and then failed has done something, and nobody knows what: it does
/// not run again by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_procedure_that_failed_after_a_commit_is_in_doubt() {
    let database = TestDatabase::new().await;
    database
        .execute(
            "CREATE PROCEDURE work() LANGUAGE plpgsql AS $$ BEGIN INSERT INTO t VALUES (3); \
            COMMIT; PERFORM 1/0; END $$",
        )
        .await;
    let daemon = TestDaemon::start(&database, &set("CALL work();", "")).await;
    let failed = daemon.apply_all().await.failure();
    failed.assert(Code::FailedPrecondition, "MIGRATION_FAILED");
    let consequence = &failed.metadata["consequence"];
    assert!(
        consequence.contains("until you say so (Resolve)") && !consequence.contains("goes on"),
        "{consequence}"
    );
    daemon
        .apply_all()
        .await
        .failure()
        .assert(Code::FailedPrecondition, "IN_DOUBT");
    assert_eq!(database.text("SELECT count(*) FROM t").await, "3");
}

/// A cancel says nothing of what was committed before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_procedure_that_was_cancelled_after_a_commit_is_in_doubt() {
    let database = TestDatabase::new().await;
    database
        .execute(
            "CREATE PROCEDURE work() LANGUAGE plpgsql AS $$ BEGIN INSERT INTO t VALUES (3); \
            COMMIT; PERFORM pg_sleep(60); END $$",
        )
        .await;
    let daemon = TestDaemon::start(&database, &set("CALL work();", "")).await;
    let _events = daemon
        .client()
        .apply(pb::ApplyRequest::default())
        .await
        .unwrap();
    eventually("it has committed", async || {
        (database
            .text("SELECT count(*) FROM pg_tables WHERE tablename = 't'")
            .await
            == "1"
            && database.text("SELECT count(*) FROM t").await == "3")
            .then_some(())
    })
    .await;
    let id = database
        .text("SELECT id FROM schemad.operations WHERE state = 'running'")
        .await;
    daemon
        .operations()
        .cancel_operation(pb::CancelOperationRequest {
            id,
            ..Default::default()
        })
        .await
        .unwrap();
    daemon
        .apply_all()
        .await
        .failure()
        .assert(Code::FailedPrecondition, "IN_DOUBT");
    assert_eq!(database.text("SELECT count(*) FROM t").await, "3");
}

/// The catalog lists databases, so nobody has to be asked whether one was made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_was_being_made_is_looked_for() {
    let database = TestDatabase::new().await;
    let other = format!("{}_other", database.name);
    let template = TestDatabase::new().await;
    let _user = template.connect().await; // the server waits for it to leave
    let set = set(
        &format!("CREATE DATABASE {other} TEMPLATE {};", template.name),
        "",
    );
    set.add_non_transactional("3_drop", &format!("DROP DATABASE {other};"), "");
    let mut command = from_folder(&set, &["serve", "--apply-on-start"]);
    command.env("DATABASE_URL", &database.url);
    let mut process = Process::start(command).await;
    until_active(&database, "CREATE DATABASE%").await;
    process.kill().await;
    database.until_free().await;
    assert_eq!(journal(&database).await[0], "1 running");
    let daemon = TestDaemon::start(&database, &set).await;
    assert_eq!(problems(&daemon).await, ["HALF_APPLIED"]);
    database
        .execute(&format!("CREATE DATABASE {other} TEMPLATE template0"))
        .await;
    daemon.apply_all().await.finished();
    assert_eq!(database.diesel_versions().await, ["1", "2", "3"]);
    assert_eq!(
        database
            .text(&format!(
                "SELECT count(*) FROM pg_database WHERE datname = '{other}'"
            ))
            .await,
        "0"
    );
}

/// What a function holds is refused wherever it is sent, so sending it outside would only raise a
/// doubt.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_that_never_can_is_not_in_doubt() {
    let database = TestDatabase::new().await;
    let up = "DO $$ BEGIN EXECUTE 'CREATE INDEX CONCURRENTLY i ON t (n)'; END $$;";
    let daemon = TestDaemon::start(&database, &set(up, "")).await;
    let failed = daemon.apply_all().await.failure();
    assert_eq!(failed.metadata["sqlstate"], "25001");
    assert!(
        failed.metadata["meaning"].contains("inside of a function or a DO block"),
        "{failed:?}"
    );
    assert_eq!(daemon.status().await.state(), pb::SchemaState::Behind);
}

/// What the journal remembers is not run again because the file became a transaction.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_done_file_that_becomes_a_transaction_is_refused() {
    let database = TestDatabase::new().await;
    let base = ("1_t", "CREATE TABLE t (n int);", "DROP TABLE t;");
    let first = Set::of(&[
        base,
        (
            "2_a",
            "BEGIN; INSERT INTO t VALUES (1); COMMIT; SELECT 1/0;",
            "",
        ),
    ]);
    let daemon = TestDaemon::start(&database, &first).await;
    daemon
        .apply_all()
        .await
        .failure()
        .assert(Code::FailedPrecondition, "MIGRATION_FAILED");
    daemon.stop().await;
    let daemon = TestDaemon::start(
        &database,
        &Set::of(&[base, ("2_a", "INSERT INTO t VALUES (1);", "")]),
    )
    .await;
    daemon
        .apply_all()
        .await
        .failure()
        .assert(Code::FailedPrecondition, "JOURNAL_DIFFERS");
    assert_eq!(database.text("SELECT count(*) FROM t").await, "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_reverted_migration_is_only_rolled_back_further() {
    let database = TestDatabase::new().await;
    let set = set(
        "CREATE INDEX CONCURRENTLY i ON t (n);",
        "DROP INDEX CONCURRENTLY i;\nSELECT 1 FROM missing;",
    );
    let daemon = TestDaemon::start(&database, &set).await;
    daemon.apply_all().await.finished();
    daemon
        .rollback_steps(1)
        .await
        .failure()
        .assert(Code::FailedPrecondition, "MIGRATION_FAILED");
    assert_eq!(daemon.status().await.state(), pb::SchemaState::Diverged);
    daemon
        .apply_all()
        .await
        .failure()
        .assert(Code::FailedPrecondition, "HALF_REVERTED");
    database.execute("CREATE TABLE missing ()").await;
    daemon.rollback_all().await.finished();
    assert_eq!(database.diesel_versions().await, [""; 0]);
    assert_eq!(journal(&database).await, [""; 0]);
}

/// The first try is cancelled where REINDEX CONCURRENTLY waits, with its copy made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_copies_that_a_killed_reindex_leaves_are_dropped_by_the_next_try() {
    let database = TestDatabase::new().await;
    database
        .execute("CREATE TABLE t (n int); CREATE INDEX i ON t (n)")
        .await;
    // A copy that was there before is somebody else's.
    database
        .execute(
            "CREATE INDEX other_ccnew ON t (n); UPDATE pg_index SET indisvalid = false \
        WHERE indexrelid = 'other_ccnew'::regclass",
        )
        .await;
    let set = Set::of(&[]);
    set.add_non_transactional("1_reindex", "REINDEX INDEX CONCURRENTLY i;", "");
    let reader = database.connect().await;
    reader
        .batch_execute("BEGIN; INSERT INTO t VALUES (1)")
        .await
        .unwrap();
    let mut command = from_folder(&set, &["serve", "--apply-on-start"]);
    command.env("DATABASE_URL", &database.url);
    let mut killed = Process::start(command).await;
    until_active(&database, "REINDEX%").await;
    eventually("the copy", async || {
        (index_state(&database, "i_ccnew").await == "f").then_some(())
    })
    .await;
    killed.kill().await;
    database.until_free().await;
    reader.batch_execute("COMMIT").await.unwrap();
    let daemon = TestDaemon::start(&database, &set).await;
    daemon.apply_all().await.finished();
    assert_eq!(
        database
            .texts(
                "SELECT relname::text FROM pg_class WHERE relkind = 'i' AND relname LIKE '%cc%' \
                ORDER BY 1"
            )
            .await,
        ["other_ccnew"]
    );
    assert_eq!(index_state(&database, "i").await, "t");
    database.assert_consistent().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_says_beforehand_what_apply_would_refuse() {
    let database = TestDatabase::new().await;
    let set = Set::of(&[("2_index", "CREATE INDEX CONCURRENTLY i ON t (n);", "")]);
    set.add_non_transactional("1_t", "CREATE TABLE t (n int);\nSELECT 1/0;", "");
    let daemon = TestDaemon::start(&database, &set).await;
    assert_eq!(problems(&daemon).await, ["NON_TRANSACTIONAL"]);
    assert_eq!(daemon.status().await.state(), pb::SchemaState::Diverged);
    daemon
        .apply_all()
        .await
        .failure()
        .assert(Code::FailedPrecondition, "NON_TRANSACTIONAL");
    let first = pb::ApplyRequest {
        target: Some(pb::apply_request::Target::Steps(1)),
        ..Default::default()
    };
    daemon
        .apply(first.clone())
        .await
        .failure()
        .assert(Code::FailedPrecondition, "MIGRATION_FAILED");
    daemon.stop().await;
    set.add_non_transactional("1_t", "CREATE TABLE t (m int);", "");
    let daemon = TestDaemon::start(&database, &set).await;
    assert_eq!(
        problems(&daemon).await,
        ["NON_TRANSACTIONAL", "JOURNAL_DIFFERS"]
    );
    daemon
        .apply(first)
        .await
        .failure()
        .assert(Code::FailedPrecondition, "JOURNAL_DIFFERS");
}

/// What a procedure committed before it was told to end, nobody can know: it does not run again by
/// itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_procedure_that_was_told_to_end_after_a_commit_is_in_doubt() {
    for how in ["cancelled here", "cancelled elsewhere", "shut down"] {
        let database = TestDatabase::new().await;
        database
            .execute(
                "CREATE PROCEDURE work() LANGUAGE plpgsql AS $$ BEGIN INSERT INTO t VALUES (3); \
                 COMMIT; PERFORM pg_advisory_lock(77); INSERT INTO t VALUES (4); END $$",
            )
            .await;
        let set = set("-- schemad: lock_timeout=0\nCALL work();", "");
        let brief = Settings {
            shutdown_grace: Duration::from_millis(100),
            ..settings(&database.url)
        };
        let runs = TestDaemon::launch(brief, &set).await;
        runs.until_ready().await;
        let other = TestDaemon::start(&database, &set).await;
        let gate = database.connect().await;
        gate.batch_execute("SELECT pg_advisory_lock(77)")
            .await
            .unwrap();
        let end = async {
            database.until_waiting(77).await;
            let id = database
                .text("SELECT id FROM schemad.operations WHERE state = 'running'")
                .await;
            match how {
                "cancelled here" => drop(
                    runs.operations()
                        .cancel_operation(pb::CancelOperationRequest {
                            id,
                            ..Default::default()
                        })
                        .await,
                ),
                "cancelled elsewhere" => {
                    drop(
                        other
                            .operations()
                            .cancel_operation(pb::CancelOperationRequest {
                                id,
                                ..Default::default()
                            })
                            .await,
                    );
                }
                _ => runs.terminate(),
            }
        };
        let (outcome, ()) = tokio::join!(runs.apply_all(), end);
        let failed = outcome.failure();
        match how {
            "shut down" => failed.assert(Code::Aborted, "INTERRUPTED"),
            _ => failed.assert(Code::Cancelled, "CANCELLED"),
        }
        assert!(
            failed.message.contains("in doubt"),
            "{how}: {}",
            failed.message
        );
        assert_eq!(journal(&database).await, ["1 running"], "{how}");
        assert_eq!(
            other.status().await.state(),
            pb::SchemaState::InDoubt,
            "{how}"
        );
        gate.batch_execute("SELECT pg_advisory_unlock(77)")
            .await
            .unwrap();
        other
            .apply_all()
            .await
            .failure()
            .assert(Code::FailedPrecondition, "IN_DOUBT");
        assert_eq!(
            database
                .text("SELECT string_agg(n::text, '' ORDER BY n) FROM t")
                .await,
            "123",
            "{how}"
        );
    }
}
