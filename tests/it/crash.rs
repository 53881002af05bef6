//! kill -9 in the middle, and sessions that break: ledger, Diesel table and catalog agree, and a
//! new request gets to the end.

use schemad::pb::{
    self, OperationEvent, migration_service_client::MigrationServiceClient, operation_event::Event,
};
use tonic::Code;

use crate::harness::{
    PATIENCE, Process, Proxy, Set, TestDaemon, TestDatabase, eventually, process::from_folder,
};

/// Tables and the data in them, so that half a step would show.
fn set(n: usize) -> Set {
    let set = Set::of(&[]);
    for i in 1..=n {
        set.add(
            &format!("{i:04}_t{i}"),
            &format!(
                "CREATE TABLE t{i} (id int); INSERT INTO t{i} SELECT generate_series(1, \
                2000); CREATE INDEX i{i} ON t{i} (id);"
            ),
            &format!("DROP INDEX i{i}; DELETE FROM t{i}; DROP TABLE t{i};"),
        );
    }
    set
}

async fn assert_whole(database: &TestDatabase) {
    database.assert_consistent().await;
    let applied = database.diesel_versions().await;
    let tables = database
        .texts(
            "SELECT lpad(substr(relname, 2), 4, '0') FROM pg_class WHERE relname ~ '^t[0-9]+$' \
            ORDER BY 1",
        )
        .await;
    let indexes = database
        .texts(
            "SELECT lpad(substr(relname, 2), 4, '0') FROM pg_class WHERE relname ~ '^i[0-9]+$' \
            ORDER BY 1",
        )
        .await;
    assert_eq!((&tables, &indexes), (&applied, &applied));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_daemon_leaves_whole_steps_up_and_down_and_the_next_one_goes_on() {
    const MIGRATIONS: usize = 60;
    let (database, set) = (TestDatabase::new().await, set(MIGRATIONS));
    let mut interrupted = 0;
    for round in 0..8 {
        let mut command = from_folder(&set, &["serve"]);
        command.env("DATABASE_URL", &database.url);
        let mut process = Process::start(command).await;
        let address = process.address.clone();
        let goes_up = database.diesel_versions_or_none().await < MIGRATIONS / 2;
        let (progress, mut steps) = tokio::sync::mpsc::unbounded_channel();
        let asked = tokio::spawn(async move {
            let mut client = MigrationServiceClient::connect(format!("http://{address}"))
                .await
                .unwrap();
            let patient = Some(prost_types::Duration {
                seconds: 20,
                nanos: 0,
            });
            let told = |event: Option<OperationEvent>| {
                if let Some(Event::StepDone(_)) = event.and_then(|e| e.event) {
                    let _ = progress.send(());
                }
            };
            if goes_up {
                let request = pb::ApplyRequest {
                    queue_timeout: patient,
                    ..Default::default()
                };
                let mut stream = client.apply(request).await.unwrap().into_inner();
                while let Ok(Some(message)) = stream.message().await {
                    told(message.event);
                }
            } else {
                let target = Some(pb::rollback_request::Target::All(true));
                let request = pb::RollbackRequest {
                    target,
                    queue_timeout: patient,
                    ..Default::default()
                };
                let mut stream = client.rollback(request).await.unwrap().into_inner();
                while let Ok(Some(message)) = stream.message().await {
                    told(message.event);
                }
            }
        });
        process.event("operation.accepted").await;
        // After another step each time. More are under way by then, so the kill hits any part of
        // one.
        for _ in 0..round * 4 {
            tokio::time::timeout(PATIENCE, steps.recv())
                .await
                .expect("no progress");
        }
        process.kill().await;
        asked.await.unwrap();
        database.until_free().await;
        assert_whole(&database).await;
        interrupted += usize::from(
            database
                .text("SELECT count(*) FROM schemad.operations WHERE state = 'running'")
                .await
                == "1",
        );
    }
    assert!(
        interrupted >= 4,
        "only {interrupted} of 8 kills hit an operation"
    );

    let daemon = TestDaemon::start(&database, &set).await;
    daemon.apply_all().await.finished();
    assert_eq!(database.diesel_versions().await.len(), MIGRATIONS);
    assert_whole(&database).await;
    assert_eq!(
        database
            .text("SELECT count(*) FROM schemad.operations WHERE state IN ('running', 'pending')")
            .await,
        "0"
    );
    daemon.rollback_all().await.finished();
    assert_whole(&database).await;
}

impl TestDatabase {
    /// How many versions the Diesel table lists; none without the table.
    async fn diesel_versions_or_none(&self) -> usize {
        match self
            .text("SELECT to_regclass('__diesel_schema_migrations')")
            .await
            .as_str()
        {
            "NULL" => 0,
            _ => self.diesel_versions().await.len(),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_killed_daemons_operation_is_closed_with_what_it_reached() {
    let database = TestDatabase::new().await;
    let set = Set::of(&[
        ("1_a", "CREATE TABLE a (id int);", ""),
        ("2_slow", "SELECT pg_sleep(60);", ""),
    ]);
    let mut command = from_folder(&set, &["serve", "--apply-on-start"]);
    command.env("DATABASE_URL", &database.url);
    let mut process = Process::start(command).await;
    eventually("the second step runs", async || {
        let running = database
            .text(
                "SELECT count(*) FROM pg_stat_activity WHERE query LIKE \
            '%pg_sleep(60)%' AND state = 'active' AND pid <> pg_backend_pid() AND datname = \
            current_database()",
            )
            .await;
        (running == "1").then_some(())
    })
    .await;
    process.kill().await;
    database.until_free().await;
    let daemon = TestDaemon::start(&database, &set).await;
    let state = "SELECT state || ' ' || (result->'finished'->>'steps_done') || ' ' || \
        (result->'failure'->>'reason') FROM schemad.operations";
    assert_eq!(database.text(state).await, "interrupted 1 INTERRUPTED");
    drop(daemon);
    assert_eq!(database.diesel_versions().await, ["1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminated_session_interrupts_the_operation_and_tells_what_it_reached() {
    let database = TestDatabase::new().await;
    let set = Set::of(&[
        ("1_a", "CREATE TABLE a (id int);", ""),
        ("2_slow", "SELECT pg_sleep(60);", ""),
    ]);
    let daemon = TestDaemon::start(&database, &set).await;
    let applying = daemon.apply_all();
    let terminating = eventually("the second step runs", async || {
        let ended = database
            .text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE \
            query LIKE '%pg_sleep(60)%' AND state = 'active' AND pid <> pg_backend_pid() AND \
            datname = current_database()",
            )
            .await;
        (ended == "t").then_some(())
    });
    let (outcome, ()) = tokio::join!(applying, terminating);
    let failed = outcome.failure();
    failed.assert(Code::Aborted, "INTERRUPTED");
    assert_eq!(failed.metadata["operation"], outcome.operation());
    assert_eq!(outcome.last_finished().unwrap().steps_done, 1);
    assert_eq!(database.diesel_versions().await, ["1"]);
    assert_eq!(
        database.text("SELECT state FROM schemad.operations").await,
        "interrupted"
    );
}

/// The answers of the steps behind never come.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_is_lost_with_a_window_in_flight_ends_the_operation() {
    let (database, set) = (TestDatabase::new().await, Set::tables(20));
    set.add("0000_slow", "SELECT pg_sleep(60);", "");
    let daemon = TestDaemon::start(&database, &set).await;
    let terminating = eventually("the first step runs", async || {
        let ended = database
            .text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE \
            query LIKE '%pg_sleep(60)%' AND state = 'active' AND pid <> pg_backend_pid() AND \
            datname = current_database()",
            )
            .await;
        (ended == "t").then_some(())
    });
    let ended = async {
        tokio::time::timeout(PATIENCE, daemon.apply_all())
            .await
            .expect("it hangs")
    };
    let (outcome, ()) = tokio::join!(ended, terminating);
    outcome.failure().assert(Code::Aborted, "INTERRUPTED");
    assert_eq!(database.diesel_versions().await, [""; 0]);
    daemon.stop().await;
}

/// Two migrations of which the second waits until the test lets it go on.
fn gated() -> Set {
    Set::of(&[
        ("1_a", "CREATE TABLE a (id int);", ""),
        (
            "2_gated",
            "SELECT pg_advisory_xact_lock(77); CREATE TABLE b (id int);",
            "",
        ),
    ])
}

/// Lets the gated step commit while no answer passes through the proxy. Returns before anybody
/// knows.
async fn commit_unheard(database: &TestDatabase, proxy: &Proxy, gate: tokio_postgres::Client) {
    database.until_waiting(77).await;
    proxy.stall();
    drop(gate);
    eventually("it is committed", async || {
        (database.diesel_versions().await == ["1", "2"]).then_some(())
    })
    .await;
}

async fn closed_gate(database: &TestDatabase) -> tokio_postgres::Client {
    let gate = database.connect().await;
    gate.batch_execute("SELECT pg_advisory_lock(77)")
        .await
        .unwrap();
    gate
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_committed_while_the_answer_was_lost_counts_as_done() {
    let (database, set) = (TestDatabase::new().await, gated());
    let (proxy, gate) = (Proxy::to(&database).await, closed_gate(&database).await);
    let mut settings = crate::harness::daemon::settings(&database.url);
    settings.migration_database = Some(proxy.url.parse().unwrap());
    let daemon = TestDaemon::launch(settings, &set).await;
    daemon.until_ready().await;
    let losing = async {
        commit_unheard(&database, &proxy, gate).await;
        proxy.cut();
        proxy.open();
    };
    let (outcome, ()) = tokio::join!(daemon.apply_all(), losing);
    let finished = outcome.finished();
    assert_eq!(
        (finished.steps_done, finished.state()),
        (2, pb::OperationState::Succeeded)
    );
    database.assert_consistent().await;
}

/// Whoever wins the lock first after a loss tells the same end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operation_whose_steps_are_all_committed_has_succeeded_whoever_records_it() {
    let (database, set) = (TestDatabase::new().await, gated());
    let (proxy, gate) = (Proxy::to(&database).await, closed_gate(&database).await);
    let mut command = from_folder(&set, &["serve", "--apply-on-start"]);
    command
        .env("DATABASE_URL", &database.url)
        .env("MIGRATION_DATABASE_URL", &proxy.url);
    let mut process = Process::start(command).await;
    commit_unheard(&database, &proxy, gate).await;
    process.kill().await;
    proxy.cut();
    database.until_free().await;
    let daemon = TestDaemon::start(&database, &set).await;
    let ended = "SELECT state || ' ' || (result->'finished'->>'steps_done') || ' ' || \
        (result->'finished'->>'current') || ' ' || coalesce(result->>'failure', 'no failure') FROM \
        schemad.operations";
    assert_eq!(database.text(ended).await, "succeeded 2 2 no failure");
    drop(daemon);
    database.assert_consistent().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_down_that_was_killed_is_undone_wholly() {
    let database = TestDatabase::new().await;
    let set = Set::of(&[
        ("1_a", "CREATE TABLE a (id int);", "DROP TABLE a;"),
        (
            "2_slow",
            "CREATE TABLE b (id int);",
            "DROP TABLE b; SELECT pg_sleep(60);",
        ),
        ("3_c", "CREATE TABLE c (id int);", "DROP TABLE c;"),
    ]);
    let mut command = from_folder(&set, &["serve", "--apply-on-start"]);
    command.env("DATABASE_URL", &database.url);
    let mut process = Process::start(command).await;
    process.event("operation.finished").await;
    let mut client = MigrationServiceClient::connect(format!("http://{}", process.address))
        .await
        .unwrap();
    let target = Some(pb::rollback_request::Target::All(true));
    let mut stream = client
        .rollback(pb::RollbackRequest {
            target: target.clone(),
            ..Default::default()
        })
        .await
        .unwrap()
        .into_inner();
    eventually("the slow down runs", async || {
        let running = database
            .text(
                "SELECT count(*) FROM pg_stat_activity WHERE query LIKE \
            '%pg_sleep(60)%' AND state = 'active' AND pid <> pg_backend_pid() AND datname = \
            current_database()",
            )
            .await;
        (running == "1").then_some(())
    })
    .await;
    process.kill().await;
    while let Ok(Some(_)) = stream.message().await {}
    database.until_free().await;
    assert_eq!(database.diesel_versions().await, ["1", "2"]);
    let tables = "SELECT string_agg(relname, '' ORDER BY relname) FROM pg_class WHERE relname IN \
        ('a', 'b', 'c')";
    assert_eq!(database.text(tables).await, "ab");
    database.assert_consistent().await;
    // The next daemon closes it and goes on; the binary's down is quick by then.
    let mended = Set::of(&[
        ("1_a", "CREATE TABLE a (id int);", "DROP TABLE a;"),
        ("2_slow", "CREATE TABLE b (id int);", "DROP TABLE b;"),
        ("3_c", "CREATE TABLE c (id int);", "DROP TABLE c;"),
    ]);
    let daemon = TestDaemon::start(&database, &mended).await;
    let state = "SELECT state || ' ' || (result->'finished'->>'steps_done') FROM \
        schemad.operations WHERE kind = 'rollback'";
    assert_eq!(database.text(state).await, "interrupted 1");
    let request = pb::RollbackRequest {
        target,
        down_from: pb::ScriptSource::Binary.into(),
        ..Default::default()
    };
    daemon.rollback(request).await.finished();
    assert_eq!(database.text(tables).await, "NULL");
    database.assert_consistent().await;
}
