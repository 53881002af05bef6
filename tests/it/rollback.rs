use schemad::pb::{self, ScriptSource, operation_event::Event};
use tonic::Code;

use crate::harness::{
    Process, Set, TestDaemon, TestDatabase,
    process::{from_folder, output, schemad, stderr},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_applied_comes_back_off_in_reverse_and_on_again() {
    let (database, set) = (TestDatabase::new().await, Set::tables(4));
    let daemon = TestDaemon::start(&database, &set).await;
    daemon.apply_all().await.finished();
    let outcome = daemon.rollback_steps(3).await;
    assert_eq!(outcome.finished().current_version, "0001");
    assert_eq!(outcome.done(), ["0004", "0003", "0002"]);
    database.assert_consistent().await;
    assert_eq!(daemon.status().await.state(), pb::SchemaState::Behind);
    daemon.apply_all().await.finished();
    assert_eq!(daemon.rollback_all().await.finished().current_version, "");
    assert!(database.diesel_versions().await.is_empty());
    assert!(daemon.rollback_steps(1).await.finished().nothing_to_do);
    daemon.apply_all().await.finished();
    database.assert_consistent().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_binary_that_lacks_the_migrations_rolls_them_back_from_the_ledger() {
    let database = TestDatabase::new().await;
    let newer = TestDaemon::start(&database, &Set::tables(4)).await;
    newer.apply_all().await.finished();
    newer.stop().await;

    let older = TestDaemon::start(&database, &Set::tables(2)).await;
    let status = older.status().await;
    assert_eq!(
        (status.state(), status.unknown_count),
        (pb::SchemaState::Ahead, 2)
    );
    let nothing = older.apply_all().await.finished();
    assert!(
        nothing.nothing_to_do && nothing.warnings[0].contains("ahead"),
        "{nothing:?}"
    );
    let shown = older
        .client()
        .get_migration(pb::GetMigrationRequest {
            version: "0004".into(),
            ..Default::default()
        })
        .await;
    assert_eq!(
        shown.unwrap().into_inner().migration.unwrap().down_sql,
        "DROP TABLE t4;"
    );

    let outcome = older.rollback_steps(2).await;
    assert_eq!(outcome.done(), ["0004", "0003"]);
    let from_ledger = |e: &Event| matches!(e, Event::Planned(p) if p.steps.iter().all(|s| s.source() == ScriptSource::Ledger));
    assert!(outcome.has(from_ledger));
    assert_eq!(older.status().await.state(), pb::SchemaState::Current);
    assert_eq!(
        database
            .text("SELECT count(*) FROM pg_class WHERE relname IN ('t3', 't4')")
            .await,
        "0"
    );
    database.assert_consistent().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_previous_release_uses_a_ledger_that_the_next_one_upgraded() {
    let database = TestDatabase::new().await;
    let daemon = TestDaemon::start(&database, &Set::tables(2)).await;
    daemon.apply_all().await.finished();
    daemon.stop().await;
    // What a next release does: it adds, gives changed guards new names, and stays compatible with
    // version 1.
    database
        .execute(
            "BEGIN; ALTER TABLE schemad.operations ADD ticket text; ALTER TABLE schemad.migrations \
             ADD verdict text; CREATE TABLE schemad.verdicts (version text PRIMARY KEY); CREATE \
             FUNCTION schemad.begin_step_v99(bigint) RETURNS void LANGUAGE sql AS 'SELECT'; UPDATE \
             schemad.ledger SET version = 999, compatible_with = 1; COMMIT",
        )
        .await;
    let previous = TestDaemon::start(&database, &Set::tables(1)).await;
    let ledger = previous.status().await.ledger.unwrap();
    assert_eq!((ledger.version, ledger.compatible_with), (999, 1));
    assert_eq!(previous.rollback_steps(1).await.done(), ["0002"]);
    database.assert_consistent().await;
    assert_eq!(
        database.text("SELECT version FROM schemad.ledger").await,
        "999"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn downs_that_differ_are_refused_until_somebody_chooses() {
    let database = TestDatabase::new().await;
    let first = Set::of(&[("1_a", "CREATE TABLE a (id int);", "DROP TABLE a;")]);
    let daemon = TestDaemon::start(&database, &first).await;
    daemon.apply_all().await.finished();
    daemon.stop().await;
    let second = Set::of(&[(
        "1_a",
        "CREATE TABLE a (id int);",
        "CREATE TABLE binary_ran (id int); DROP TABLE a;",
    )]);
    let daemon = TestDaemon::start(&database, &second).await;
    assert_eq!(daemon.status().await.state(), pb::SchemaState::Current);
    daemon
        .rollback_all()
        .await
        .failure()
        .assert(Code::FailedPrecondition, "DOWNS_DIFFER");
    let choose = |source: ScriptSource| pb::RollbackRequest {
        target: Some(pb::rollback_request::Target::All(true)),
        down_from: source.into(),
        ..Default::default()
    };
    daemon
        .rollback(choose(ScriptSource::Ledger))
        .await
        .finished();
    assert_eq!(
        database.text("SELECT to_regclass('binary_ran')").await,
        "NULL"
    );
    daemon.apply_all().await.finished();
    // Applied by the second binary, so its down is the ledger's now.
    daemon.rollback_all().await.finished();
    assert_eq!(
        database.text("SELECT to_regclass('binary_ran')").await,
        "binary_ran"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_without_a_down_stays_and_so_does_all_the_rest() {
    let database = TestDatabase::new().await;
    let set = Set::of(&[
        ("1_a", "CREATE TABLE a (id int);", "DROP TABLE a;"),
        (
            "2_b",
            "CREATE TABLE b (id int);",
            "-- This file should undo anything in `up.sql`",
        ),
        ("3_c", "CREATE TABLE c (id int);", "DROP TABLE c;"),
    ]);
    let daemon = TestDaemon::start(&database, &set).await;
    daemon.apply_all().await.finished();
    let failed = daemon.rollback_all().await.failure();
    failed.assert(Code::FailedPrecondition, "IRREVERSIBLE");
    assert_eq!(failed.metadata["version"], "2");
    assert_eq!(database.diesel_versions().await, ["1", "2", "3"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_down_is_undone_and_the_steps_before_it_stay() {
    let database = TestDatabase::new().await;
    let set = Set::of(&[
        (
            "1_a",
            "CREATE TABLE a (id int);",
            "DROP TABLE a; SELECT 1/0;",
        ),
        ("2_b", "CREATE TABLE b (id int);", "DROP TABLE b;"),
    ]);
    let daemon = TestDaemon::start(&database, &set).await;
    daemon.apply_all().await.finished();
    let outcome = daemon.rollback_all().await;
    let failed = outcome.failure();
    failed.assert(Code::FailedPrecondition, "MIGRATION_FAILED");
    assert_eq!(
        (
            failed.metadata["file"].as_str(),
            failed.metadata["statement"].as_str()
        ),
        ("1_a/down.sql", "2")
    );
    assert_eq!(database.diesel_versions().await, ["1"]);
    assert_eq!(database.text("SELECT to_regclass('a')").await, "a");
    database.assert_consistent().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn out_of_order_migrations_come_off_in_the_order_they_went_on() {
    let database = TestDatabase::new().await;
    let set = Set::tables(3);
    let daemon = TestDaemon::start(
        &database,
        &Set::of(&[
            ("0001_t1", "CREATE TABLE t1 (id int);", "DROP TABLE t1;"),
            ("0003_t3", "CREATE TABLE t3 (id int);", "DROP TABLE t3;"),
        ]),
    )
    .await;
    daemon.apply_all().await.finished();
    daemon.stop().await;
    let daemon = TestDaemon::start(&database, &set).await;
    assert_eq!(daemon.status().await.state(), pb::SchemaState::Diverged);
    daemon
        .apply_all()
        .await
        .failure()
        .assert(Code::FailedPrecondition, "OUT_OF_ORDER");
    let insist = pb::ApplyRequest {
        allow_out_of_order: true,
        ..Default::default()
    };
    assert_eq!(daemon.apply(insist).await.done(), ["0002"]);
    assert_eq!(daemon.rollback_steps(2).await.done(), ["0002", "0003"]);
}

/// Through a program that reads its folder at start, where no build has looked at it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_of_0_bytes_mean_what_they_mean_to_diesel() {
    let database = TestDatabase::new().await;
    let set = Set::of(&[
        ("1_empty_down", "CREATE TABLE a (id int);", ""),
        ("2_comment_down", "CREATE TABLE b (id int);", "-- nothing\n"),
        (
            "3_empty_metadata",
            "CREATE TABLE c (id int);\nCREATE INDEX CONCURRENTLY i ON c (id);",
            "DROP TABLE c;",
        ),
    ]);
    std::fs::write(set.path().join("1_empty_down/down.sql"), "").unwrap();
    std::fs::write(set.path().join("3_empty_metadata/metadata.toml"), "").unwrap();
    let mut command = from_folder(&set, &["serve"]);
    command.env("DATABASE_URL", &database.url);
    let process = Process::start(command).await;
    let run = async |args: &[&str]| {
        let mut command = schemad(args);
        command.env("SCHEMAD_ADDRESS", &process.address);
        let output = output(command).await;
        (output.status.code().unwrap(), stderr(&output))
    };
    assert_eq!(run(&["wait", "ready"]).await.0, 0);
    let applied = run(&["apply"]).await;
    assert_eq!(applied.0, 0, "{applied:?}");
    let modes = "SELECT string_agg(version || ' ' || mode, ', ' ORDER BY id) FROM schemad.steps";
    assert_eq!(
        database.text(modes).await,
        "1 transactional, 2 transactional, 3 non_transactional"
    );
    assert_eq!(run(&["rollback", "--steps", "1"]).await.0, 0);
    for version in ["2", "1"] {
        let (code, told) = run(&["rollback", "--steps", "1"]).await;
        assert_eq!(
            (
                code,
                told.contains("IRREVERSIBLE") && told.contains(version)
            ),
            (3, true),
            "{told}"
        );
        database
            .execute(&format!(
                "DELETE FROM __diesel_schema_migrations WHERE version = '{version}'"
            ))
            .await;
    }
}

/// The fixture was left by a daemon whose ledger had version 1, with its fourth migration half
/// applied.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_of_version_1_is_upgraded_read_gone_on_with_and_rolled_back() {
    let database = TestDatabase::new().await;
    database
        .execute(include_str!("../fixtures/ledger-1.sql"))
        .await;
    let set = Set::of(&[
        ("1_t", "CREATE TABLE t (n int);", "DROP TABLE t;"),
        ("3_u", "CREATE TABLE u (n int);", "DROP TABLE u;"),
    ]);
    set.add_non_transactional(
        "2_index",
        "CREATE INDEX CONCURRENTLY t_n ON t (n);",
        "DROP INDEX CONCURRENTLY t_n;",
    );
    set.add_non_transactional(
        "4_half",
        "INSERT INTO t VALUES (1);\nINSERT INTO t VALUES (2);",
        "DELETE FROM t;",
    );
    let daemon = TestDaemon::start(&database, &set).await;
    let status = daemon.status().await;
    assert_eq!(
        (status.state(), status.problems[0].reason.as_str()),
        (pb::SchemaState::Behind, "HALF_APPLIED")
    );
    assert_eq!(
        status.ledger.unwrap().version,
        schemad::internals::ledger::VERSION
    );
    let history = daemon
        .operations()
        .list_operations(pb::ListOperationsRequest::default())
        .await
        .unwrap()
        .into_inner();
    let states: Vec<_> = history
        .operations
        .iter()
        .map(|o| (o.state(), o.steps_done, o.reason.as_str()))
        .collect();
    let (failed, succeeded) = (pb::OperationState::Failed, pb::OperationState::Succeeded);
    let half = (failed, 0, "MIGRATION_FAILED");
    assert_eq!(states, [half, half, (succeeded, 3, "")]);
    let watched = pb::WatchOperationRequest {
        id: history.operations[2].id.clone(),
        after_sequence: 0,
        ..Default::default()
    };
    let watched = daemon.operations().watch_operation(watched).await;
    let watched =
        crate::harness::daemon::collect(watched, |r: pb::WatchOperationResponse| r.event).await;
    assert_eq!(watched.done(), ["1", "2", "3"]);

    daemon.apply_all().await.finished();
    assert_eq!(
        database
            .text("SELECT string_agg(n::text, '' ORDER BY n) FROM t")
            .await,
        "12",
        "only what had not run"
    );
    database.assert_consistent().await;
    daemon.rollback_all().await.finished();
    assert_eq!(
        database
            .text("SELECT count(*) FROM pg_class WHERE relname IN ('t', 'u')")
            .await,
        "0"
    );
    database.assert_consistent().await;
}
