//! Diesel's table is gone, empty, or hidden: nothing is applied a second time because of that.

use schemad::{Settings, pb};
use tonic::Code;

use super::resolve::resolve;
use crate::harness::{
    Set, TestDaemon, TestDatabase,
    daemon::{get, settings},
    eventually,
    process::{from_folder, output, schemad, stdout},
};

/// A migration that does harm when it runs twice.
fn set() -> Set {
    Set::of(&[
        (
            "1_prices",
            "CREATE TABLE prices (n int); INSERT INTO prices VALUES (10);",
            "DROP TABLE prices;",
        ),
        (
            "2_double",
            "UPDATE prices SET n = n * 2;",
            "UPDATE prices SET n = n / 2;",
        ),
    ])
}

const GONE: [&str; 3] = [
    "DROP TABLE __diesel_schema_migrations",
    "ALTER TABLE __diesel_schema_migrations RENAME TO elsewhere",
    "DELETE FROM __diesel_schema_migrations",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_diesel_table_that_is_gone_or_empty_blocks_until_the_ledger_is_said_to_be_right() {
    for gone in GONE {
        let (database, set) = (TestDatabase::new().await, set());
        let daemon = TestDaemon::start(&database, &set).await;
        daemon.apply_all().await.finished();
        database.execute(gone).await;
        for outcome in [daemon.apply_all().await, daemon.rollback_all().await] {
            outcome
                .failure()
                .assert(Code::FailedPrecondition, "DIESEL_TABLE_LOST");
        }
        assert_eq!(database.text("SELECT n FROM prices").await, "20", "{gone}");
        assert_eq!(
            database
                .texts("SELECT version FROM schemad.migrations ORDER BY 1")
                .await,
            ["1", "2"],
            "{gone}"
        );
        let status = daemon.status().await;
        assert_eq!(status.state(), pb::SchemaState::Diverged);
        let problems: Vec<_> = status
            .problems
            .iter()
            .map(|p| (p.reason.as_str(), p.blocking))
            .collect();
        assert_eq!(problems, [("DIESEL_TABLE_LOST", true)]);

        let named = resolve(&daemon, "1", pb::ResolveOutcome::RestoreDieselTable)
            .await
            .unwrap_err();
        named.assert(Code::InvalidArgument, "INVALID_VERSION");
        resolve(&daemon, "", pb::ResolveOutcome::RestoreDieselTable)
            .await
            .unwrap();
        assert_eq!(database.diesel_versions().await, ["1", "2"]);
        database.assert_consistent().await;
        assert!(daemon.apply_all().await.finished().nothing_to_do);
        assert_eq!(daemon.rollback_all().await.done(), ["2", "1"]);
        let again = resolve(&daemon, "", pb::ResolveOutcome::RestoreDieselTable)
            .await
            .unwrap_err();
        again.assert(Code::FailedPrecondition, "NOTHING_TO_RESOLVE");
    }
}

/// What another program has written into an emptied table since does not make it the truth.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_was_begun_anew_blocks_too() {
    let (database, set) = (TestDatabase::new().await, set());
    let daemon = TestDaemon::start(&database, &set).await;
    daemon.apply_all().await.finished();
    database
        .execute(
            "TRUNCATE __diesel_schema_migrations; INSERT INTO __diesel_schema_migrations \
            (version) VALUES ('0')",
        )
        .await;
    for outcome in [daemon.apply_all().await, daemon.rollback_all().await] {
        outcome
            .failure()
            .assert(Code::FailedPrecondition, "DIESEL_TABLE_LOST");
    }
    assert_eq!(database.text("SELECT n FROM prices").await, "20");
    resolve(&daemon, "", pb::ResolveOutcome::RestoreDieselTable)
        .await
        .unwrap();
    assert_eq!(database.diesel_versions().await, ["0", "1", "2"]);
    assert!(daemon.apply_all().await.finished().nothing_to_do);
    // One of those that the ledger lists is enough: the rest was reverted by another program.
    database
        .execute("DELETE FROM __diesel_schema_migrations WHERE version = '2'")
        .await;
    assert_eq!(daemon.apply_all().await.done(), ["2"]);
    assert_eq!(database.text("SELECT n FROM prices").await, "40");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_reset_of_the_schema_somebody_says_so_and_everything_is_pending_again() {
    let (database, set) = (TestDatabase::new().await, set());
    let daemon = TestDaemon::start(&database, &set).await;
    daemon.apply_all().await.finished();
    database
        .execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        .await;
    daemon
        .apply_all()
        .await
        .failure()
        .assert(Code::FailedPrecondition, "DIESEL_TABLE_LOST");
    let mut command = schemad(&[
        "resolve",
        "--nothing-applied",
        "--reason",
        "the schema was reset",
    ]);
    command.args(["--address", &daemon.address]);
    let resolved = output(command).await;
    assert!(
        stdout(&resolved).starts_with("Resolved Diesel's table (operation "),
        "{resolved:?}"
    );
    assert_eq!(daemon.apply_all().await.done(), ["1", "2"]);
    assert_eq!(database.text("SELECT n FROM prices").await, "20");
    database.assert_consistent().await;
    let audit = "SELECT data->>'versions' FROM schemad.events WHERE kind = 'reverted_elsewhere'";
    assert_eq!(database.text(audit).await, r#"["1", "2"]"#);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_row_security_hides_are_not_taken_for_none() {
    let (database, set) = (TestDatabase::new().await, set());
    let role = format!("reader_{}", database.name);
    let owner = TestDaemon::start(&database, &set).await;
    owner.apply_all().await.finished();
    owner.stop().await;
    database
        .execute(&format!(
            "CREATE ROLE {role} LOGIN PASSWORD 'pw'; GRANT ALL ON SCHEMA schemad, public TO \
             {role}; GRANT ALL ON ALL TABLES IN SCHEMA schemad, public TO {role}; GRANT ALL ON ALL \
             SEQUENCES IN SCHEMA schemad TO {role}; GRANT ALL ON ALL FUNCTIONS IN SCHEMA schemad \
             TO {role}"
        ))
        .await;
    for table in ["public.__diesel_schema_migrations", "schemad.migrations"] {
        database
            .execute(&format!("ALTER TABLE {table} ENABLE ROW LEVEL SECURITY"))
            .await;
        let daemon = TestDaemon::launch(settings(&database.url_as(&role)), &set).await;
        eventually("it is not ready for this", async || {
            let (status, body) = get(&daemon.admin, "/readyz").await;
            (status == 503 && body.contains("ROW_SECURITY")).then_some(())
        })
        .await;
        let failed = daemon.apply_all().await.failure();
        failed.assert(Code::FailedPrecondition, "ROW_SECURITY");
        assert!(
            failed
                .message
                .contains(&format!("ALTER TABLE {table} DISABLE")),
            "{}",
            failed.message
        );
        let mut command = from_folder(&set, &["doctor"]);
        command.env("DATABASE_URL", database.url_as(&role));
        let examined = output(command).await;
        assert_eq!(examined.status.code(), Some(3));
        assert!(
            stdout(&examined).contains("ROW_SECURITY"),
            "{}",
            stdout(&examined)
        );
        database
            .execute(&format!("ALTER TABLE {table} DISABLE ROW LEVEL SECURITY"))
            .await;
        daemon.until_ready().await;
        assert!(daemon.apply_all().await.finished().nothing_to_do);
        daemon.stop().await;
    }
    assert_eq!(database.text("SELECT n FROM prices").await, "20");
    // Its owner is not subject to it.
    database
        .execute("ALTER TABLE __diesel_schema_migrations ENABLE ROW LEVEL SECURITY")
        .await;
    let owner = TestDaemon::launch(
        Settings {
            ..settings(&database.url)
        },
        &set,
    )
    .await;
    owner.until_ready().await;
    assert!(owner.apply_all().await.finished().nothing_to_do);
    owner.stop().await;
    database
        .execute(&format!("DROP OWNED BY {role} CASCADE; DROP ROLE {role}"))
        .await;
}
