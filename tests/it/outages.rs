//! What is gone under a daemon that serves: its database, its server's disk.

use schemad::pb;
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;

use crate::harness::{
    Server, Set, TestDaemon, TestDatabase,
    daemon::{Failed, settings},
    database::connect,
    eventually,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_dropped_is_unavailable_until_it_is_created_again() {
    let (database, set) = (TestDatabase::new().await, Set::tables(2));
    let daemon = TestDaemon::start(&database, &set).await;
    daemon.apply_all().await.finished();
    database.drop_forced().await;
    daemon
        .until("schemad.database", ServingStatus::NotServing)
        .await;
    // At first a session was lost; the next attempt knows why.
    let helps = format!("CREATE DATABASE {}", database.name);
    eventually("a read says why", async || {
        let failed = Failed::of(
            &daemon
                .client()
                .get_status(pb::GetStatusRequest {
                    ..Default::default()
                })
                .await
                .unwrap_err(),
        );
        failed.assert(Code::Unavailable, "DATABASE_UNAVAILABLE");
        failed.message.contains("does not exist").then_some(failed)
    })
    .await;
    let failed = daemon.apply_all().await.failure();
    failed.assert(Code::Unavailable, "DATABASE_UNAVAILABLE");
    assert!(failed.message.contains(&helps), "{}", failed.message);
    assert_eq!(
        daemon.check("").await,
        Ok(ServingStatus::Serving),
        "the daemon lives"
    );

    database.create_again().await;
    daemon.until_ready().await;
    assert_eq!(daemon.status().await.state(), pb::SchemaState::Empty);
    assert_eq!(daemon.apply_all().await.finished().steps_done, 2);
    database.assert_consistent().await;
}

/// /dev/full is a disk that is full: every write to it fails with ENOSPC.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_fails_the_migration_and_nothing_else() {
    const APPLIED: &str = "SELECT concat_ws(' / ', (SELECT string_agg(version, ' ' ORDER BY 1) \
        FROM __diesel_schema_migrations), (SELECT string_agg(version, ' ' ORDER BY 1) FROM \
        schemad.migrations))";
    let server = Server::start(&[], &[], "").await;
    let set = Set::of(&[
        ("1_a", "CREATE TABLE a (id int);", ""),
        (
            "2_fills",
            "CREATE TABLE b (id int);\nINSERT INTO filled SELECT generate_series(1, 10);",
            "",
        ),
    ]);
    server.execute("CREATE TABLE filled (n int)").await;
    let text = async |sql: &str| -> String {
        connect(&server.local_url())
            .await
            .query_one(sql, &[])
            .await
            .unwrap()
            .get(0)
    };
    // The table is empty, and so is its file; no session of the daemon's has opened it.
    let file = server.data(&text("SELECT pg_relation_filepath('filled')").await);
    let aside = file.with_extension("aside");
    std::fs::rename(&file, &aside).unwrap();
    std::os::unix::fs::symlink("/dev/full", &file).unwrap();

    let daemon = TestDaemon::launch(settings(&server.local_url()), &set).await;
    daemon.until_ready().await;
    let outcome = daemon.apply_all().await;
    let failed = outcome.failure();
    failed.assert(Code::FailedPrecondition, "MIGRATION_FAILED");
    assert_eq!(
        ["sqlstate", "line"].map(|key| failed.metadata[key].as_str()),
        ["53100", "2"],
        "{failed:?}"
    );
    assert_eq!(failed.metadata["meaning"], "The server's disk is full");
    assert_eq!(failed.metadata["hint"], "Check free disk space.");
    assert_eq!(outcome.last_finished().unwrap().steps_done, 1);
    assert_eq!(text(APPLIED).await, "1 / 1");
    assert_eq!(
        text("SELECT concat(to_regclass('b'))").await,
        "",
        "it was undone"
    );
    assert_eq!(daemon.status().await.applied_count, 1);

    std::fs::rename(&aside, &file).unwrap();
    assert_eq!(daemon.apply_all().await.finished().steps_done, 1);
    assert_eq!(text(APPLIED).await, "1 2 / 1 2");
    assert_eq!(text("SELECT count(*)::text FROM filled").await, "10");
    daemon.stop().await;
}
