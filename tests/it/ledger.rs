use schemad::grpc::pb;
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;

use crate::harness::{Set, TestDaemon, TestDatabase, daemon::settings};

/// A role that owns nothing.
async fn role(database: &TestDatabase) -> String {
    let role = format!("role_{}", database.name);
    database
        .execute(&format!("CREATE ROLE {role} LOGIN PASSWORD 'pw'; REVOKE CREATE ON SCHEMA public FROM PUBLIC"))
        .await;
    role
}

async fn drop_role(database: &TestDatabase, role: &str) {
    database.execute(&format!("DROP OWNED BY {role} CASCADE; DROP ROLE {role}")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_missing_right_names_the_grant_that_helps_and_the_grants_are_enough() {
    let (database, set) = (TestDatabase::new().await, Set::tables(2));
    let role = role(&database).await;
    let daemon = TestDaemon::launch(settings(&database.url_as(&role)), &set).await;
    daemon.until("schemad.database", ServingStatus::Serving).await;
    let mut grants = Vec::new();
    loop {
        let outcome = daemon.apply_all().await;
        if outcome.status.is_ok() {
            break;
        }
        let failed = outcome.failure();
        failed.assert(Code::FailedPrecondition, "MISSING_RIGHT");
        let grant = failed.metadata["grant"].clone();
        assert!(!grants.contains(&grant), "{grant} did not help");
        database.execute(&grant).await;
        grants.push(grant);
    }
    assert_eq!(
        grants,
        [
            format!("GRANT CREATE ON DATABASE {} TO {role}", database.name),
            format!("GRANT USAGE, CREATE ON SCHEMA public TO {role}"),
        ]
    );
    database.assert_consistent().await;
    daemon.rollback_all().await.finished();
    daemon.stop().await;
    drop_role(&database, &role).await;
}

/// The ledger belongs to another role: first the reading, then the writing needs its rights.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_right_missing_on_a_ledger_that_exists_is_named_too() {
    let (database, set) = (TestDatabase::new().await, Set::tables(2));
    let owners = TestDaemon::start(&database, &set).await;
    owners.apply_all().await.finished();
    owners.stop().await;
    let role = role(&database).await;
    database.execute(&format!("ALTER TABLE t1 OWNER TO {role}; ALTER TABLE t2 OWNER TO {role}")).await;
    let daemon = TestDaemon::launch(settings(&database.url_as(&role)), &set).await;
    crate::harness::eventually("the database was asked", async || {
        let refused = daemon.client().get_status(pb::GetStatusRequest {}).await.err()?;
        (!refused.message().contains("not answered yet")).then_some(())
    })
    .await;
    let mut grants = Vec::new();
    loop {
        let outcome = daemon.rollback_all().await;
        if outcome.status.is_ok() {
            break;
        }
        let failed = outcome.failure();
        failed.assert(Code::FailedPrecondition, "MISSING_RIGHT");
        let grant = failed.metadata["grant"].clone();
        assert!(!grants.contains(&grant), "{grant} did not help");
        database.execute(&grant).await;
        grants.push(grant);
        if let Err(status) = daemon.client().get_status(pb::GetStatusRequest::default()).await {
            let failed = crate::harness::daemon::Failed::of(&status);
            failed.assert(Code::FailedPrecondition, "MISSING_RIGHT");
            let grant = failed.metadata["grant"].clone();
            database.execute(&grant).await;
            grants.push(grant);
        }
    }
    assert_eq!(
        grants,
        [
            format!("GRANT USAGE ON SCHEMA schemad TO {role}"),
            format!("GRANT SELECT ON ALL TABLES IN SCHEMA schemad TO {role}"),
            format!("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA schemad TO {role}"),
            format!("GRANT SELECT ON __diesel_schema_migrations TO {role}"),
            format!("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA schemad TO {role}"),
            format!("GRANT SELECT, INSERT, DELETE ON __diesel_schema_migrations TO {role}"),
        ]
    );
    database.assert_consistent().await;
    daemon.stop().await;
    drop_role(&database, &role).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_that_a_dba_made_is_used() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    let role = role(&database).await;
    database
        .execute(&format!("CREATE SCHEMA schemad AUTHORIZATION {role}; GRANT CREATE ON SCHEMA public TO {role}"))
        .await;
    let daemon = TestDaemon::launch(settings(&database.url_as(&role)), &set).await;
    daemon.until_ready().await;
    daemon.apply_all().await.finished();
    daemon.stop().await;
    drop_role(&database, &role).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_of_that_name_that_is_not_ours_is_left_alone() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    database.execute("CREATE SCHEMA schemad; CREATE TABLE schemad.customers (id int)").await;
    let daemon = TestDaemon::launch(settings(&database.url), &set).await;
    daemon.until("schemad.database", ServingStatus::Serving).await;
    let failed = daemon.apply_all().await.failure();
    failed.assert(Code::FailedPrecondition, "LEDGER_FOREIGN");
    assert!(failed.message.contains("customers"), "{}", failed.message);
    assert_eq!(daemon.check("schemad.v1.MigrationService").await, Ok(ServingStatus::NotServing));
    assert_eq!(daemon.status().await.state(), pb::SchemaState::Empty);
    assert_eq!(database.text("SELECT count(*) FROM pg_class WHERE relnamespace = 'schemad'::regnamespace").await, "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_that_needs_a_newer_daemon_is_refused_and_still_reported() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    let daemon = TestDaemon::start(&database, &set).await;
    daemon.apply_all().await.finished();
    database.execute("UPDATE schemad.ledger SET version = 7, compatible_with = 5").await;
    let failed = daemon.rollback_all().await.failure();
    failed.assert(Code::FailedPrecondition, "LEDGER_TOO_NEW");
    assert_eq!(failed.metadata["compatible_with"], "5");
    let status = crate::harness::eventually("the problem is told", async || {
        let status = daemon.status().await;
        (status.problems.first()?.reason == "LEDGER_TOO_NEW").then_some(status)
    })
    .await;
    assert_eq!(status.ledger.unwrap().version, 7);
    assert_eq!(database.diesel_versions().await, ["0001"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reading_writes_nothing_and_needs_no_ledger() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    let role = role(&database).await;
    let daemon = TestDaemon::launch(settings(&database.url_as(&role)), &set).await;
    daemon.until("schemad.database", ServingStatus::Serving).await;
    let status = daemon.status().await;
    assert_eq!((status.state(), status.ledger.unwrap().installed), (pb::SchemaState::Empty, false));
    let list = daemon.client().list_migrations(pb::ListMigrationsRequest::default()).await.unwrap().into_inner();
    assert_eq!(list.migrations.len(), 1);
    let mine =
        "SELECT count(*) FROM pg_class WHERE relname LIKE '%diesel%' OR relnamespace = to_regnamespace('schemad')";
    assert_eq!(database.text(mine).await, "0");
    daemon.stop().await;
    drop_role(&database, &role).await;
}

/// A refusal by the first guard itself, which is none by the script.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guard_that_is_missing_fails_the_operation_before_its_script() {
    let (database, set) = (TestDatabase::new().await, Set::tables(2));
    let daemon = TestDaemon::start(&database, &set).await;
    database.execute("ALTER FUNCTION schemad.begin_step_v1 RENAME TO elsewhere").await;
    let outcome = daemon.apply_all().await;
    let failed = outcome.failure();
    failed.assert(Code::Internal, "INTERNAL");
    assert!(failed.message.contains("begin_step_v1"), "{}", failed.message);
    assert!(!failed.metadata.contains_key("line"), "{:?}", failed.metadata);
    assert_eq!(database.diesel_versions().await, [""; 0]);
    database.execute("ALTER FUNCTION schemad.elsewhere RENAME TO begin_step_v1").await;
    daemon.apply_all().await.finished();
    database.assert_consistent().await;
}
