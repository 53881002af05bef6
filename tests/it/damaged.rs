//! A ledger that somebody changed by hand, or that was restored in part: it is said what is damaged
//! and what to do.

use schemad::pb;
use tonic::Code;

use crate::harness::{
    Process, Set, TestDaemon, TestDatabase, daemon::get, eventually, process::from_folder,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_damage_of_the_ledger_is_named_by_one_reason() {
    for (damage, named) in [
        (
            "DELETE FROM schemad.ledger",
            "the only row of schemad.ledger",
        ),
        (
            "DROP FUNCTION schemad.begin_step_v3(bigint)",
            "the function schemad.begin_step_v3",
        ),
        (
            "DROP FUNCTION schemad.finish_step_v1(bigint)",
            "the function schemad.finish_step_v1",
        ),
        (
            "DROP FUNCTION schemad.finish_step_v4(bigint); CREATE FUNCTION \
             schemad.finish_step_v4(text) RETURNS void LANGUAGE sql AS ''",
            "the function schemad.finish_step_v4(bigint)",
        ),
        ("DROP TABLE schemad.events", "the table schemad.events"),
        (
            "DROP TABLE schemad.statements",
            "the table schemad.statements",
        ),
        ("UPDATE schemad.ledger SET version = 1", "it says version 1"),
        ("UPDATE schemad.ledger SET version = 4", "it says version 4"),
        (
            "ALTER TABLE schemad.operations DROP COLUMN heartbeat_at",
            "heartbeat_at",
        ),
        (
            "ALTER TABLE schemad.steps RENAME COLUMN role TO roles",
            "role",
        ),
    ] {
        let (database, set) = (TestDatabase::new().await, Set::tables(1));
        TestDaemon::start(&database, &set).await.stop().await;
        database.execute(damage).await;
        let daemon =
            TestDaemon::launch(crate::harness::daemon::settings(&database.url), &set).await;
        eventually(damage, async || {
            let failed = daemon.apply_all().await.failure();
            // Until it has looked for the first time.
            if failed.reason == "DATABASE_UNAVAILABLE" {
                return None;
            }
            failed.assert(Code::FailedPrecondition, "LEDGER_DAMAGED");
            assert!(
                failed.message.contains(named),
                "{damage}: {}",
                failed.message
            );
            assert!(
                failed.message.contains("RENAME TO schemad_damaged"),
                "{}",
                failed.message
            );
            Some(())
        })
        .await;
        assert_eq!(
            database.text("SELECT to_regclass('public.t1')").await,
            "NULL"
        );
        // What it says to do works.
        database
            .execute("ALTER SCHEMA schemad RENAME TO schemad_damaged")
            .await;
        daemon.until_ready().await;
        daemon.apply_all().await.finished();
        daemon.stop().await;
    }
}

/// While the daemon runs, and without an operation that would find it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_whose_ledger_loses_a_column_is_not_ready_and_says_which() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    let daemon = TestDaemon::start(&database, &set).await;
    database
        .execute("ALTER TABLE schemad.steps DROP COLUMN down_mac")
        .await;
    eventually("it says so", async || {
        let (status, body) = get(&daemon.admin, "/readyz").await;
        (status == 503 && body.contains("LEDGER_DAMAGED")).then_some(())
    })
    .await;
    let failed = daemon.apply_all().await.failure();
    failed.assert(Code::FailedPrecondition, "LEDGER_DAMAGED");
    assert!(
        failed
            .message
            .starts_with("the column down_mac of schemad.steps is missing: "),
        "{}",
        failed.message
    );
    // What the probe reads.
    database
        .execute("ALTER TABLE schemad.operations DROP COLUMN created_at")
        .await;
    eventually("status says so", async || {
        let failed = daemon.try_status().await.err()?;
        (failed.reason == "LEDGER_DAMAGED" && failed.message.contains("created_at")).then_some(())
    })
    .await;
}

/// Nothing is missing, but what schemad writes is refused; that is no script's fault either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_refuses_the_ledgers_own_rows_is_damage() {
    for (damage, named) in [
        ("ALTER SEQUENCE schemad.steps_id_seq RESTART", "steps_pkey"),
        (
            "ALTER TABLE schemad.steps ADD CONSTRAINT never CHECK (state <> 'applied') NOT VALID",
            "never",
        ),
        (
            "ALTER TABLE schemad.operations ADD CONSTRAINT never CHECK (state <> 'running')",
            "never",
        ),
        (
            "ALTER TABLE schemad.migrations ADD CONSTRAINT never CHECK (version <> '0002')",
            "never",
        ),
    ] {
        let (database, set) = (TestDatabase::new().await, Set::tables(2));
        let daemon = TestDaemon::start(&database, &set).await;
        let first = pb::ApplyRequest {
            target: Some(pb::apply_request::Target::Steps(1)),
            ..Default::default()
        };
        daemon.apply(first).await.finished();
        database.execute(damage).await;
        let failed = daemon.apply_all().await.failure();
        failed.assert(Code::FailedPrecondition, "LEDGER_DAMAGED");
        assert!(
            failed.message.contains(named) && !failed.metadata.contains_key("line"),
            "{damage}: {failed:?}"
        );
        assert_eq!(database.diesel_versions().await, ["0001"], "{damage}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operation_whose_row_was_deleted_blames_the_ledger_and_no_script() {
    let database = TestDatabase::new().await;
    let set = Set::of(&[
        (
            "1_gate",
            "CREATE TABLE one (n int); SELECT pg_advisory_lock(77), pg_advisory_unlock(77);",
            "DROP TABLE one;",
        ),
        ("2_two", "CREATE TABLE two (n int);", "DROP TABLE two;"),
    ]);
    let daemon = TestDaemon::start(&database, &set).await;
    let gate = database.connect().await;
    gate.batch_execute("SELECT pg_advisory_lock(77)")
        .await
        .unwrap();
    let mut client = daemon.client();
    let applying = tokio::spawn(async move {
        crate::harness::daemon::collect(client.apply(pb::ApplyRequest::default()).await, |r| {
            r.event
        })
        .await
    });
    database.until_waiting(77).await;
    database.execute("DELETE FROM schemad.operations").await;
    gate.batch_execute("SELECT pg_advisory_unlock(77)")
        .await
        .unwrap();
    let failed = applying.await.unwrap().failure();
    failed.assert(Code::FailedPrecondition, "LEDGER_DAMAGED");
    assert!(!failed.metadata.contains_key("line"), "{failed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_takes_no_new_sessions_is_not_ready() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    let daemon = TestDaemon::start(&database, &set).await;
    let allow = |allow: bool| format!("ALTER DATABASE {} ALLOW_CONNECTIONS {allow}", database.name);
    let other = TestDatabase::new().await;
    other.execute(&allow(false)).await;
    eventually("it says so", async || {
        let (status, body) = get(&daemon.admin, "/readyz").await;
        (status == 503 && body.contains("DATABASE_UNAVAILABLE")).then_some(())
    })
    .await;
    let failed = daemon.apply_all().await.failure();
    failed.assert(Code::Unavailable, "DATABASE_UNAVAILABLE");
    assert!(failed.message.contains(&allow(true)), "{}", failed.message);
    other.execute(&allow(true)).await;
    daemon.until_ready().await;
    daemon.apply_all().await.finished();
}

/// Ready means that it was looked at: a daemon that lost the race for the lock looks again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_daemon_is_ready_while_the_ledger_cannot_be_made() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    database
        .execute(
            "CREATE FUNCTION no() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no DDL \
             here'; END $$; CREATE EVENT TRIGGER no ON ddl_command_start EXECUTE FUNCTION no()",
        )
        .await;
    let mut daemons = Vec::new();
    for _ in 0..3 {
        let mut command = from_folder(&set, &["serve"]);
        command.env("DATABASE_URL", &database.url);
        daemons.push(Process::start(command).await);
    }
    // Each has said why operations cannot run, and none becomes ready although they go on trying at
    // once.
    for daemon in &mut daemons {
        daemon.event("operation.impossible").await;
    }
    for _ in 0..50 {
        for daemon in &daemons {
            let (status, body) = get(&daemon.admin, "/readyz").await;
            assert_eq!(status, 503, "{body}");
        }
    }
    database.execute("DROP EVENT TRIGGER no").await;
    for daemon in &daemons {
        eventually("it is ready", async || {
            (get(&daemon.admin, "/readyz").await.0 == 200).then_some(())
        })
        .await;
    }
    for mut daemon in daemons {
        daemon.kill().await;
    }
}
