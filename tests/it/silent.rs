//! Daemons that are dead or say nothing any more: what they left is closed by another, without
//! delay and whoever they were.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use schemad::pb;

use crate::harness::{
    Process, Server, Set, TestDaemon, TestDatabase, daemon::settings, database::connect,
    eventually, process::from_folder,
};

fn gated() -> Set {
    let wait = "SELECT pg_advisory_lock(77); CREATE TABLE gated (id int);";
    Set::of(&[(
        "1_gated",
        &format!("-- schemad: lock_timeout=0\n{wait}"),
        "DROP TABLE gated;",
    )])
}

async fn serve(set: &Set, url: &str, args: &[&str]) -> Process {
    let mut command = from_folder(set, &[&["serve"], args].concat());
    command.env("DATABASE_URL", url);
    Process::start(command).await
}

async fn state_is(database: &TestDatabase, state: &str) {
    let states = "SELECT state FROM schemad.operations ORDER BY created_at DESC LIMIT 1";
    eventually(state, async || {
        (database.text(states).await == state).then_some(())
    })
    .await;
}

/// pg_stat_activity does not show the other role when its session began.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_daemon_of_another_role_is_taken_over_once_that_is_allowed() {
    let (database, set) = (TestDatabase::new().await, gated());
    let [one, two] = ["one", "two"].map(|name| format!("{name}_{}", database.name));
    database
        .execute(&format!(
            "CREATE ROLE {one} LOGIN NOINHERIT PASSWORD 'pw'; CREATE ROLE {two} LOGIN PASSWORD \
             'pw'; GRANT {two} TO {one}; GRANT CREATE ON DATABASE {} TO {two}; GRANT ALL ON SCHEMA \
             public TO {one}, {two}",
            database.name
        ))
        .await;
    let mut other = serve(&set, &database.url_as(&two), &[]).await;
    database.until_ledger().await;
    database
        .execute(&format!(
            "GRANT ALL ON SCHEMA schemad TO {one}; GRANT ALL ON ALL TABLES IN SCHEMA schemad, \
             public TO {one}; GRANT ALL ON ALL FUNCTIONS IN SCHEMA schemad TO {one}; GRANT ALL ON \
             ALL SEQUENCES IN SCHEMA schemad TO {one}"
        ))
        .await;
    let gate = database.connect().await;
    gate.batch_execute("SELECT pg_advisory_lock(77)")
        .await
        .unwrap();
    let mut stopped = serve(&set, &database.url_as(&one), &["--apply-on-start"]).await;
    database.until_waiting(77).await;
    stopped.freeze().await;
    database
        .execute("UPDATE schemad.operations SET heartbeat_at = heartbeat_at - interval '31 s'")
        .await;
    // Nobody is ended unseen, nor while at work.
    other.event("operation.not_taken_over").await;
    database
        .execute(&format!(
            "GRANT pg_read_all_stats, pg_signal_backend TO {two}"
        ))
        .await;
    looks(&database, &two, 3).await;
    state_is(&database, "running").await;
    gate.batch_execute("SELECT pg_advisory_unlock(77)")
        .await
        .unwrap();
    state_is(&database, "succeeded").await;
    let mut said = Vec::new();
    while let Ok(event) = other.log.try_recv() {
        said.extend(
            event["event"]
                .as_str()
                .filter(|event| event.contains("taken_over"))
                .map(str::to_owned),
        );
    }
    assert_eq!(said, ["operation.taken_over"], "each is said once");
    stopped.signal(Signal::SIGCONT);
    stopped.kill().await;
    other.kill().await;
    database
        .execute(&format!(
            "DROP OWNED BY {one}, {two} CASCADE; DROP ROLE {one}, {two}"
        ))
        .await;
}

/// Waits until the daemon of this role has looked so often.
async fn looks(database: &TestDatabase, role: &str, times: usize) {
    let last = format!(
        "SELECT max(query_start)::text FROM pg_stat_activity WHERE usename = '{role}' AND \
         application_name = 'schemad'"
    );
    for _ in 0..times {
        let before = database.text(&last).await;
        eventually("another look", async || {
            (database.text(&last).await != before).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queued_operation_does_not_outlive_its_daemon() {
    let (database, set) = (TestDatabase::new().await, gated());
    let other = TestDaemon::start(&database, &set).await;
    let holder = database.connect().await;
    holder
        .batch_execute("SELECT pg_advisory_lock(32478922351141220)")
        .await
        .unwrap();
    for cancel in [false, true] {
        let mut killed = serve(&set, &database.url, &[]).await;
        let address = format!("http://{}", killed.address);
        let client = pb::migration_service_client::MigrationServiceClient::connect(address).await;
        let queue_timeout = Some(prost_types::Duration {
            seconds: 600,
            nanos: 0,
        });
        let request = pb::ApplyRequest {
            queue_timeout,
            detach: true,
            ..Default::default()
        };
        let mut accepted = client.unwrap().apply(request).await.unwrap().into_inner();
        let id = accepted
            .message()
            .await
            .unwrap()
            .unwrap()
            .event
            .unwrap()
            .operation;
        state_is(&database, "pending").await;
        killed.kill().await;
        let asked = Instant::now();
        if cancel {
            // Closed by it, or already.
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
        state_is(&database, "interrupted").await;
        assert!(
            asked.elapsed() < Duration::from_secs(10),
            "{:?}",
            asked.elapsed()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_daemon_ran_is_closed_as_soon_as_its_lock_is_free() {
    let (database, set) = (TestDatabase::new().await, gated());
    let _other = TestDaemon::start(&database, &set).await;
    let gate = database.connect().await;
    gate.batch_execute("SELECT pg_advisory_lock(77)")
        .await
        .unwrap();
    let mut killed = serve(&set, &database.url, &["--apply-on-start"]).await;
    database.until_waiting(77).await;
    killed.kill().await;
    database.until_free().await;
    let free = Instant::now();
    state_is(&database, "interrupted").await;
    // The promise is one second; before, it took nine.
    assert!(
        free.elapsed() < Duration::from_secs(4),
        "{:?}",
        free.elapsed()
    );
}

/// What daemons tell each other does not wait for a standby, so a daemon whose step waits for one
/// is not taken for dead.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_that_is_away_makes_no_daemon_silent() {
    let server = Server::start(&[], &[], "").await;
    let daemon = TestDaemon::launch(settings(&server.local_url()), &gated()).await;
    daemon.until_ready().await;
    let client = connect(&server.local_url()).await;
    client
        .batch_execute("SELECT pg_advisory_lock(77)")
        .await
        .unwrap();
    let started = daemon
        .apply(pb::ApplyRequest {
            detach: true,
            ..Default::default()
        })
        .await
        .operation();
    let text = async |sql: &str| -> String { client.query_one(sql, &[]).await.unwrap().get(0) };
    eventually("the step waits", async || {
        (text("SELECT count(*)::text FROM pg_locks WHERE objid = 77 AND NOT granted").await == "1")
            .then_some(())
    })
    .await;
    for sql in [
        "ALTER SYSTEM SET synchronous_standby_names = 'nobody'",
        "SELECT pg_reload_conf()",
    ] {
        client.batch_execute(sql).await.unwrap();
    }
    let standbys = "SHOW synchronous_standby_names";
    eventually("commits wait", async || {
        (text(standbys).await == "nobody").then_some(())
    })
    .await;
    let beat = "SELECT heartbeat_at::text FROM schemad.operations";
    let before = text(beat).await;
    eventually("it says that it lives", async || {
        (text(beat).await != before).then_some(())
    })
    .await;
    let mut operations = daemon.operations();
    let cancelled = tokio::spawn(async move {
        operations
            .cancel_operation(pb::CancelOperationRequest {
                id: started,
                ..Default::default()
            })
            .await
    });
    let asked = "SELECT coalesce(cancel_requested_by, '') FROM schemad.operations";
    eventually("the cancel is there", async || {
        (!text(asked).await.is_empty()).then_some(())
    })
    .await;
    for sql in [
        "ALTER SYSTEM RESET synchronous_standby_names",
        "SELECT pg_reload_conf()",
    ] {
        client.batch_execute(sql).await.unwrap();
    }
    let operation = cancelled
        .await
        .unwrap()
        .unwrap()
        .into_inner()
        .operation
        .unwrap();
    assert_eq!(operation.state(), pb::OperationState::Cancelled);
    daemon.stop().await;
}
