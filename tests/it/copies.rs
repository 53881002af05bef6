//! A restored dump or a clone carries another database's ledger: nothing outside this database is
//! touched because of it.

use schemad::Settings;
use tonic::Code;

use crate::harness::{
    Process, Set, TestDaemon, TestDatabase,
    daemon::{get, settings},
    eventually,
    process::from_folder,
};

/// A row of an operation that runs in another database, as a dump has it.
const COPIED: &str = "INSERT INTO schemad.operations (id, kind, principal, request_id, \
        request_hash, state, daemon, backend_pid, backend_start, queue_until, started_at, \
        heartbeat_at, steps_total) SELECT gen_random_uuid(), 'apply', 'p', gen_random_uuid(), 'h', \
        'running', 'prod:1', pid, backend_start, now(), now(), now() - interval '1 hour', 1 FROM \
        pg_stat_activity WHERE pid = {pid}";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copied_row_ends_no_session_of_another_database() {
    let (production, staging, set) = (
        TestDatabase::new().await,
        TestDatabase::new().await,
        Set::tables(1),
    );
    TestDaemon::start(&staging, &set).await.stop().await;
    // Production's migration: it stands still and holds production's lock, so only the database
    // tells it from staging's.
    let session = production.connect().await;
    session
        .batch_execute(
            "SET application_name = 'schemad'; SELECT pg_advisory_lock(32478922351141220)",
        )
        .await
        .unwrap();
    let pid: i32 = session
        .query_one("SELECT pg_backend_pid()", &[])
        .await
        .unwrap()
        .get(0);
    staging
        .execute(&COPIED.replace("{pid}", &pid.to_string()))
        .await;
    staging
        .execute("UPDATE schemad.ledger SET database_oid = 1")
        .await;

    let mut command = from_folder(&set, &["serve"]);
    command.env("DATABASE_URL", &staging.url);
    let mut daemon = Process::start(command).await;
    let copied = daemon.event("ledger.copied").await;
    assert_eq!(copied["closed"], 1, "{copied}");
    let state = "SELECT state || ' ' || (result->'failure'->>'message') FROM schemad.operations";
    let state = staging.text(state).await;
    assert!(
        state.starts_with(
            "interrupted the operation ran in the database that this one is a copy of"
        ),
        "{state}"
    );
    // Another one that comes later, without a change of the ledger's own row.
    staging
        .execute(&COPIED.replace("{pid}", &pid.to_string()))
        .await;
    eventually("it is closed", async || {
        let open = "SELECT count(*) FROM schemad.operations WHERE state = 'running'";
        (staging.text(open).await == "0").then_some(())
    })
    .await;
    session
        .batch_execute("SELECT 1")
        .await
        .expect("production's session was ended");
    daemon.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clone_is_another_database_although_its_ledger_has_the_same_id() {
    let (original, clone, set) = (
        TestDatabase::new().await,
        TestDatabase::new().await,
        Set::tables(1),
    );
    TestDaemon::start(&original, &set).await.stop().await;
    clone.drop_forced().await;
    eventually("a clone of what nobody uses", async || {
        let make = format!("CREATE DATABASE {} TEMPLATE {}", clone.name, original.name);
        let other = TestDatabase::new().await;
        let session = other.connect().await;
        session.batch_execute(&make).await.ok()
    })
    .await;
    let same = "SELECT id::text FROM schemad.ledger";
    assert_eq!(original.text(same).await, clone.text(same).await);
    let migration_database = Some(clone.url.parse().unwrap());
    let daemon = TestDaemon::launch(
        Settings {
            migration_database,
            ..settings(&original.url)
        },
        &set,
    )
    .await;
    eventually("it is not ready for this", async || {
        let (status, body) = get(&daemon.admin, "/readyz").await;
        (status == 503 && body.contains("DATABASES_DIFFER")).then_some(())
    })
    .await;
    daemon
        .apply_all()
        .await
        .failure()
        .assert(Code::FailedPrecondition, "DATABASES_DIFFER");
    assert_eq!(clone.text("SELECT to_regclass('public.t1')").await, "NULL");
}
