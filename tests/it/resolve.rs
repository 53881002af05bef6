//! What a person settles: doubt, half done scripts, edited ups.

use schemad::pb;
use tonic::Code;

use super::journal::{journal, problems, set};
use crate::harness::{
    Process, Set, TestDaemon, TestDatabase, daemon::Failed, process, process::from_folder,
};

pub async fn resolve(
    daemon: &TestDaemon,
    version: &str,
    outcome: pb::ResolveOutcome,
) -> Result<pb::Operation, Failed> {
    let (version, reason) = (version.to_owned(), "looked at it".to_owned());
    let request = pb::ResolveRequest {
        version,
        outcome: outcome.into(),
        reason,
        ..Default::default()
    };
    let answer = daemon.client().resolve(request).await;
    answer
        .map(|r| r.into_inner().operation.unwrap())
        .map_err(|status| Failed::of(&status))
}

/// A statement whose end nobody knows: the daemon is killed while a procedure that commits runs.
async fn in_doubt(database: &TestDatabase) -> Set {
    database
        .execute(
            "CREATE TABLE log (what text); CREATE PROCEDURE slow() LANGUAGE plpgsql AS $$ BEGIN \
             INSERT INTO log VALUES ('ran'); COMMIT; PERFORM pg_advisory_lock(77); PERFORM \
             pg_advisory_unlock(77); END $$",
        )
        .await;
    let set = set(
        "INSERT INTO log VALUES ('before');\nCALL slow();\nINSERT INTO log VALUES ('after');",
        "DELETE FROM log;",
    );
    let gate = database.connect().await;
    gate.batch_execute("SELECT pg_advisory_lock(77)")
        .await
        .unwrap();
    let mut command = from_folder(&set, &["serve", "--apply-on-start"]);
    command.env("DATABASE_URL", &database.url);
    let mut killed = Process::start(command).await;
    database.until_waiting(77).await;
    killed.kill().await;
    database.until_free().await;
    set
}

async fn log(database: &TestDatabase) -> Vec<String> {
    database.texts("SELECT what FROM log").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_in_doubt_is_gone_on_after_or_with_as_a_person_says() {
    for (outcome, expected) in [
        (pb::ResolveOutcome::Applied, vec!["before", "ran", "after"]),
        (
            pb::ResolveOutcome::NotApplied,
            vec!["before", "ran", "ran", "after"],
        ),
        (
            pb::ResolveOutcome::Retry,
            vec!["before", "ran", "ran", "after"],
        ),
    ] {
        let database = TestDatabase::new().await;
        let set = in_doubt(&database).await;
        let daemon = TestDaemon::start(&database, &set).await;
        let status = daemon.status().await;
        assert_eq!(status.state(), pb::SchemaState::InDoubt);
        assert!(
            status.problems[0].message.contains("CALL slow()"),
            "{}",
            status.problems[0].message
        );
        daemon
            .apply_all()
            .await
            .failure()
            .assert(Code::FailedPrecondition, "IN_DOUBT");
        let settled = resolve(&daemon, "2", outcome).await.unwrap();
        assert_eq!(
            (settled.kind(), settled.state()),
            (pb::OperationKind::Resolve, pb::OperationState::Succeeded)
        );
        assert!(
            settled.message.ends_with(": looked at it"),
            "{}",
            settled.message
        );
        daemon.apply_all().await.finished();
        assert_eq!(log(&database).await, expected);
        resolve(&daemon, "2", outcome)
            .await
            .unwrap_err()
            .assert(Code::FailedPrecondition, "NOTHING_TO_RESOLVE");
        database.assert_consistent().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_done_script_that_is_given_up_begins_anew() {
    let database = TestDatabase::new().await;
    let set = set(
        "CREATE TABLE a ();\nSELECT 1/0;",
        "DROP TABLE a;\nSELECT 1/0;",
    );
    let daemon = TestDaemon::start(&database, &set).await;
    daemon
        .apply_all()
        .await
        .failure()
        .assert(Code::FailedPrecondition, "MIGRATION_FAILED");
    database.execute("DROP TABLE a").await;
    resolve(&daemon, "2", pb::ResolveOutcome::StartOver)
        .await
        .unwrap();
    assert_eq!(
        (problems(&daemon).await, journal(&database).await),
        (vec![], vec![])
    );
    daemon.stop().await;
    set.add_non_transactional("2_wide", "CREATE TABLE a ();", "DROP TABLE a;\nSELECT 1/0;");
    let daemon = TestDaemon::start(&database, &set).await;
    daemon.apply_all().await.finished();
    daemon
        .rollback_steps(1)
        .await
        .failure()
        .assert(Code::FailedPrecondition, "MIGRATION_FAILED");
    assert_eq!(problems(&daemon).await, ["HALF_REVERTED"]);
    database.execute("CREATE TABLE a ()").await;
    resolve(&daemon, "2", pb::ResolveOutcome::StartOver)
        .await
        .unwrap();
    assert_eq!(daemon.status().await.state(), pb::SchemaState::Current);
    database.assert_consistent().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edited_up_is_accepted_and_apply_goes_on() {
    let database = TestDatabase::new().await;
    let daemon = TestDaemon::start(
        &database,
        &Set::of(&[("1_a", "CREATE TABLE a ();", "DROP TABLE a;")]),
    )
    .await;
    daemon.apply_all().await.finished();
    daemon.stop().await;
    let edited = Set::of(&[
        ("1_a", "CREATE TABLE a (); -- why", "DROP TABLE a;"),
        ("2_b", "CREATE TABLE b ();", ""),
    ]);
    let daemon = TestDaemon::start(&database, &edited).await;
    daemon
        .apply_all()
        .await
        .failure()
        .assert(Code::FailedPrecondition, "EDITED");
    resolve(&daemon, "1", pb::ResolveOutcome::Accept)
        .await
        .unwrap();
    assert_eq!(daemon.apply_all().await.done(), ["2"]);
    let migration = pb::GetMigrationRequest {
        version: "1".into(),
        ..Default::default()
    };
    let migration = daemon
        .client()
        .get_migration(migration)
        .await
        .unwrap()
        .into_inner()
        .migration
        .unwrap();
    assert!(!migration.edited && migration.recorded_up_checksum == migration.embedded_up_checksum);
    database.assert_consistent().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resolve_without_a_reason_or_an_outcome_is_refused() {
    let database = TestDatabase::new().await;
    let daemon = TestDaemon::start(&database, &Set::tables(1)).await;
    let ask = async |request: pb::ResolveRequest| {
        Failed::of(&daemon.client().resolve(request).await.unwrap_err())
    };
    let base = pb::ResolveRequest {
        version: "0001".into(),
        outcome: 1,
        reason: "r".into(),
        ..Default::default()
    };
    let no_reason = pb::ResolveRequest {
        reason: " ".into(),
        ..base.clone()
    };
    ask(no_reason)
        .await
        .assert(Code::InvalidArgument, "INVALID_REASON");
    let no_outcome = pb::ResolveRequest {
        outcome: 0,
        ..base.clone()
    };
    ask(no_outcome)
        .await
        .assert(Code::InvalidArgument, "INVALID_OUTCOME");
    let unknown = pb::ResolveRequest {
        version: "9".into(),
        ..base.clone()
    };
    ask(unknown).await.assert(Code::NotFound, "UNKNOWN_VERSION");
    ask(base)
        .await
        .assert(Code::FailedPrecondition, "NOTHING_TO_RESOLVE");
    // The same through the real program.
    let mut command = process::schemad(&[
        "resolve",
        "0001",
        "--applied",
        "--reason",
        "seen",
        "--address",
        &daemon.address,
    ]);
    command.env("NO_COLOR", "1");
    let output = process::output(command).await;
    assert_eq!(output.status.code(), Some(3));
    assert!(
        process::stderr(&output).contains("nothing about it is in doubt"),
        "{}",
        process::stderr(&output)
    );
}
