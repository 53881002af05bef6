//! DATABASE_URL and MIGRATION_DATABASE_URL that lead to two databases: a mistake that has to show
//! before anything is changed.

use schemad::Settings;
use tonic::Code;

use crate::harness::{
    Set, TestDaemon, TestDatabase,
    daemon::{get, settings},
    eventually,
    process::{from_folder, output, stderr, stdout},
};

async fn apart(reading: &TestDatabase, migrating: &TestDatabase) -> TestDaemon {
    let migration_database = Some(migrating.url.parse().unwrap());
    TestDaemon::launch(
        Settings {
            migration_database,
            ..settings(&reading.url)
        },
        &Set::tables(1),
    )
    .await
}

async fn with_ledger() -> TestDatabase {
    let database = TestDatabase::new().await;
    TestDaemon::start(&database, &Set::tables(1))
        .await
        .stop()
        .await;
    database
}

async fn refuses(daemon: &TestDaemon) {
    eventually("it is not ready for this", async || {
        let (status, body) = get(&daemon.admin, "/readyz").await;
        (status == 503 && body.contains("DATABASES_DIFFER")).then_some(())
    })
    .await;
    let problem = &daemon.status().await.problems[0];
    assert_eq!(
        (problem.reason.as_str(), problem.blocking),
        ("DATABASES_DIFFER", true)
    );
    daemon
        .apply_all()
        .await
        .failure()
        .assert(Code::FailedPrecondition, "DATABASES_DIFFER");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operations_are_refused_and_nothing_is_made_where_it_does_not_belong() {
    let (one, two, none) = (
        with_ledger().await,
        with_ledger().await,
        TestDatabase::new().await,
    );
    for (reading, migrating) in [(&one, &two), (&one, &none), (&none, &one)] {
        let daemon = apart(reading, migrating).await;
        // Whoever comes before it was noticed is refused, too.
        daemon
            .apply_all()
            .await
            .failure()
            .assert(Code::FailedPrecondition, "DATABASES_DIFFER");
        refuses(&daemon).await;
        daemon.stop().await;
    }
    assert_eq!(none.text("SELECT to_regnamespace('schemad')").await, "NULL");
    assert_eq!(
        one.text("SELECT count(*) FROM schemad.operations").await,
        "0"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_that_are_new_are_told_apart_before_anything_is_made() {
    let (reading, migrating) = (TestDatabase::new().await, TestDatabase::new().await);
    let daemon = apart(&reading, &migrating).await;
    refuses(&daemon).await;
    for database in [&reading, &migrating] {
        assert_eq!(
            database.text("SELECT to_regnamespace('schemad')").await,
            "NULL"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_database_by_two_addresses_is_one() {
    let database = TestDatabase::new().await;
    let daemon = apart(&database, &database).await;
    daemon.apply_all().await.finished();
    daemon.until_ready().await;
    assert_eq!(daemon.status().await.problems, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn doctor_tells_one_database_from_two() {
    let (one, two, none) = (
        with_ledger().await,
        with_ledger().await,
        TestDatabase::new().await,
    );
    let set = Set::tables(1);
    for (reading, migrating, code, status) in [
        (&one, &two, 3, "FAIL"),
        (&one, &none, 3, "FAIL"),
        (&none, &one, 3, "FAIL"),
        (&one, &one, 0, "OK"),
        (&none, &none, 0, "OK"),
    ] {
        let mut command = from_folder(&set, &["doctor", "--output", "json"]);
        command
            .env("DATABASE_URL", &reading.url)
            .env("MIGRATION_DATABASE_URL", &migrating.url);
        let answer = output(command).await;
        let json: serde_json::Value = serde_json::from_str(&stdout(&answer))
            .unwrap_or_else(|_| panic!("{}", stderr(&answer)));
        let checks = json["checks"].as_array().unwrap();
        let check = checks
            .iter()
            .find(|check| check["check"] == "databases")
            .expect("no databases");
        assert_eq!(
            (answer.status.code(), check["status"].as_str()),
            (Some(code), Some(status)),
            "{json}"
        );
    }
}
