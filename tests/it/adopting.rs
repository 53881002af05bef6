//! A Diesel project moves in without a word and out whenever it wants: the same table, the same
//! versions.

use schemad::pb;

use crate::harness::{Set, TestDaemon, TestDatabase, eventually};

/// What diesel_cli leaves behind (diesel 2.3's DDL).
const DIESEL: &str = "CREATE TABLE __diesel_schema_migrations (version VARCHAR(50) PRIMARY KEY NOT \
    NULL, run_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP);";

/// What `diesel migration run` does for one migration.
async fn diesel_run(database: &TestDatabase, version: &str, up: &str) {
    let insert = format!("INSERT INTO __diesel_schema_migrations (version) VALUES ('{version}')");
    database
        .execute(&format!("BEGIN; {up}; {insert}; COMMIT"))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_diesel_database_is_adopted_by_the_first_operation_and_can_be_rolled_back() {
    let (database, set) = (TestDatabase::new().await, Set::tables(3));
    database.execute(DIESEL).await;
    diesel_run(&database, "0001", "CREATE TABLE t1 (id int)").await;
    diesel_run(&database, "0002", "CREATE TABLE t2 (id int)").await;
    let daemon = TestDaemon::start(&database, &set).await;
    let status = daemon.status().await;
    assert_eq!(
        (status.state(), status.applied_count, status.problems.len()),
        (pb::SchemaState::Behind, 2, 0)
    );
    assert_eq!(
        database
            .text("SELECT count(*) FROM schemad.migrations")
            .await,
        "0",
        "reading writes nothing"
    );

    assert_eq!(daemon.apply_all().await.done(), ["0003"]);
    database_agrees(&database).await;
    let adopted = "SELECT string_agg(version || ' ' || name || ' ' || adopted, ',' ORDER BY \
        position) FROM schemad.migrations";
    assert_eq!(
        database.text(adopted).await,
        "0001 0001_t1 true,0002 0002_t2 true,0003 0003_t3 false"
    );
    let audit = "SELECT data->>'versions' FROM schemad.events WHERE kind = 'adopted'";
    assert_eq!(database.text(audit).await, r#"["0001", "0002"]"#);
    assert_eq!(daemon.rollback_all().await.done(), ["0003", "0002", "0001"]);
}

async fn database_agrees(database: &TestDatabase) {
    let ledger = database
        .texts("SELECT version FROM schemad.migrations ORDER BY 1")
        .await;
    assert_eq!(database.diesel_versions().await, ledger);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_diesel_does_afterwards_is_seen_at_once_and_settled_by_the_next_operation() {
    let (database, set) = (TestDatabase::new().await, Set::tables(3));
    let daemon = TestDaemon::start(&database, &set).await;
    daemon
        .apply(pb::ApplyRequest {
            target: Some(pb::apply_request::Target::Steps(2)),
            ..Default::default()
        })
        .await
        .finished();
    // `diesel migration revert`, then `run` of the newest alone
    database
        .execute("DROP TABLE t2; DELETE FROM __diesel_schema_migrations WHERE version = '0002'")
        .await;
    diesel_run(&database, "0003", "CREATE TABLE t3 (id int)").await;
    let status = daemon.status().await;
    let problems: Vec<_> = status
        .problems
        .iter()
        .map(|p| (p.reason.as_str(), p.version.as_str()))
        .collect();
    assert_eq!(
        problems,
        [("OUT_OF_ORDER", "0002"), ("REVERTED_ELSEWHERE", "0002")]
    );

    let insist = pb::ApplyRequest {
        allow_out_of_order: true,
        ..Default::default()
    };
    assert_eq!(daemon.apply(insist).await.done(), ["0002"]);
    database_agrees(&database).await;
    let audit = "SELECT kind || ' ' || (data->>'versions') FROM schemad.events WHERE data ? \
        'versions' ORDER BY sequence";
    assert_eq!(
        database.texts(audit).await,
        [r#"adopted ["0003"]"#, r#"reverted_elsewhere ["0002"]"#]
    );
    assert_eq!(daemon.rollback_all().await.done(), ["0002", "0003", "0001"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schemads_diesel_table_is_diesels_own() {
    let (ours, diesels) = (TestDatabase::new().await, TestDatabase::new().await);
    let daemon = TestDaemon::start(&ours, &Set::tables(2)).await;
    daemon.apply_all().await.finished();
    diesels.execute(DIESEL).await;
    let shape = "SELECT string_agg(concat_ws(' ', column_name, data_type, \
        character_maximum_length, is_nullable, column_default), ', ' ORDER BY ordinal_position) \
        FROM information_schema.columns WHERE table_name = '__diesel_schema_migrations'";
    assert_eq!(ours.text(shape).await, diesels.text(shape).await);
    // What `diesel migration revert` does works on what schemad wrote.
    ours.execute("DROP TABLE t2; DELETE FROM __diesel_schema_migrations WHERE version = '0002'")
        .await;
    eventually("schemad sees it", async || {
        (daemon.status().await.applied_count == 1).then_some(())
    })
    .await;
    // run_on is UTC, as Diesel's connections write it.
    daemon.apply_all().await.finished();
    let age = "SELECT bool_and(abs(extract(epoch FROM run_on - (now() AT TIME ZONE 'UTC'))) < 60) \
        FROM __diesel_schema_migrations";
    assert_eq!(ours.text(age).await, "t");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_diesel_table_is_found_through_the_search_path_of_the_url() {
    let database = TestDatabase::new().await;
    database
        .execute(&format!(
            "CREATE SCHEMA app; SET search_path = app; {DIESEL}"
        ))
        .await;
    let mut settings = crate::harness::daemon::settings(&database.url);
    settings.database = format!("{}?options=-csearch_path%3Dapp", database.url)
        .parse()
        .unwrap();
    let daemon = TestDaemon::launch(settings, &Set::tables(1)).await;
    daemon.until_ready().await;
    daemon.apply_all().await.finished();
    assert_eq!(
        daemon.status().await.database.unwrap().diesel_table,
        "app.__diesel_schema_migrations"
    );
    assert_eq!(
        database
            .text("SELECT version FROM app.__diesel_schema_migrations")
            .await,
        "0001"
    );
    assert_eq!(
        database.text("SELECT to_regclass('app.t1')").await,
        "app.t1"
    );
    daemon.stop().await;
    // The ledger remembers where it is, whatever another URL's search_path says.
    let daemon = TestDaemon::start(&database, &Set::tables(1)).await;
    assert_eq!(daemon.status().await.state(), pb::SchemaState::Current);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_adopted_migration_that_no_binary_carries_cannot_be_rolled_back() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    database.execute(DIESEL).await;
    diesel_run(&database, "0009", "SELECT 1").await;
    let daemon = TestDaemon::start(&database, &set).await;
    let failed = daemon.rollback_all().await.failure();
    failed.assert(tonic::Code::FailedPrecondition, "IRREVERSIBLE");
    assert!(
        failed.message.contains("something other than schemad"),
        "{}",
        failed.message
    );
}
