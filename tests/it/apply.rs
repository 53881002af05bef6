use schemad::pb::{self, operation_event::Event};
use tonic::Code;

use crate::harness::{Set, TestDaemon, TestDatabase};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_database_becomes_current_and_a_second_apply_has_nothing_to_do() {
    let (database, set) = (TestDatabase::new().await, Set::tables(3));
    let daemon = TestDaemon::start(&database, &set).await;
    assert_eq!(daemon.status().await.state(), pb::SchemaState::Empty);

    let outcome = daemon.apply_all().await;
    let finished = outcome.finished();
    assert_eq!(
        (
            finished.steps_done,
            finished.steps_total,
            finished.current_version.as_str()
        ),
        (3, 3, "0003")
    );
    assert_eq!(outcome.done(), ["0001", "0002", "0003"]);
    assert!(matches!(outcome.events[0].event, Some(Event::Accepted(_))));
    // Accepted, planned, three steps, finished; that a step starts is told live only.
    let sequences: Vec<i64> = outcome.events.iter().map(|e| e.sequence).collect();
    assert_eq!(sequences, [1, 2, 0, 3, 0, 4, 0, 5, 6]);

    let status = daemon.status().await;
    assert_eq!(
        (status.state(), status.applied_count),
        (pb::SchemaState::Current, 3)
    );
    assert!(status.ledger.unwrap().installed);
    database.assert_consistent().await;
    assert_eq!(
        database
            .text("SELECT count(*) FROM pg_class WHERE relname IN ('t1','t2','t3')")
            .await,
        "3"
    );

    let again = daemon.apply_all().await;
    assert!(again.finished().nothing_to_do);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn targets_and_steps_stop_where_they_say() {
    let (database, set) = (TestDatabase::new().await, Set::tables(5));
    let daemon = TestDaemon::start(&database, &set).await;
    let to = |target| pb::ApplyRequest {
        target: Some(target),
        ..Default::default()
    };
    let outcome = daemon
        .apply(to(pb::apply_request::Target::To("0002".into())))
        .await;
    assert_eq!(outcome.done(), ["0001", "0002"]);
    let outcome = daemon.apply(to(pb::apply_request::Target::Steps(1))).await;
    assert_eq!(outcome.done(), ["0003"]);
    let status = daemon.status().await;
    assert_eq!(
        (status.state(), status.pending_count),
        (pb::SchemaState::Behind, 2)
    );
    let pending: Vec<_> = status.pending.iter().map(|m| m.name.as_str()).collect();
    assert_eq!(pending, ["0004_t4", "0005_t5"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_migration_is_undone_wholly_and_tells_where() {
    let database = TestDatabase::new().await;
    let set = Set::of(&[
        ("1_good", "CREATE TABLE good (id int);", "DROP TABLE good;"),
        (
            "2_bad",
            "CREATE TABLE half (id int);\n-- é\nINSERT INTO good VALUES ('ä', missing);\nSELECT \
             1;",
            "",
        ),
        ("3_never", "CREATE TABLE never (id int);", ""),
    ]);
    let daemon = TestDaemon::start(&database, &set).await;
    let outcome = daemon.apply_all().await;
    let failed = outcome.failure();
    failed.assert(Code::FailedPrecondition, "MIGRATION_FAILED");
    let datum = |key: &str| failed.metadata[key].as_str();
    assert_eq!(
        [
            datum("version"),
            datum("file"),
            datum("statement"),
            datum("statements"),
            datum("line"),
            datum("column")
        ],
        ["2", "2_bad/up.sql", "2", "3", "3", "31"]
    );
    assert_eq!(
        (datum("sqlstate"), datum("operation")),
        ("42703", outcome.operation().as_str())
    );
    let finished = outcome.last_finished().unwrap();
    assert_eq!(
        (finished.state(), finished.steps_done),
        (pb::OperationState::Failed, 1)
    );
    assert_eq!(database.diesel_versions().await, ["1"]);
    assert_eq!(
        database
            .text("SELECT count(*) FROM pg_class WHERE relname IN ('half', 'never')")
            .await,
        "0"
    );
    database.assert_consistent().await;
    let recorded = "SELECT state || ' ' || (result->'failure'->>'reason') FROM schemad.operations";
    assert_eq!(database.text(recorded).await, "failed MIGRATION_FAILED");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_away_changes_nothing() {
    let database = TestDatabase::new().await;
    let set = Set::of(&[
        (
            "1_slow",
            "SELECT pg_sleep(0.3); CREATE TABLE a (id int);",
            "",
        ),
        ("2_more", "CREATE TABLE b (id int);", ""),
    ]);
    let daemon = TestDaemon::start(&database, &set).await;
    let mut stream = daemon
        .client()
        .apply(pb::ApplyRequest::default())
        .await
        .unwrap()
        .into_inner();
    let first = stream.message().await.unwrap().unwrap().event.unwrap();
    assert!(matches!(first.event, Some(Event::Accepted(_))));
    drop(stream);
    crate::harness::eventually("both applied", async || {
        (database.diesel_versions().await == ["1", "2"]).then_some(())
    })
    .await;
    database.assert_consistent().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn validate_only_says_what_would_happen_and_writes_nothing() {
    let (database, set) = (TestDatabase::new().await, Set::tables(2));
    let daemon = TestDaemon::start(&database, &set).await;
    let request = pb::ApplyRequest {
        validate_only: true,
        ..Default::default()
    };
    let outcome = daemon.apply(request).await;
    outcome.status.as_ref().unwrap();
    assert_eq!(outcome.events.len(), 1);
    let Some(Event::Planned(plan)) = &outcome.events[0].event else {
        panic!("{:?}", outcome.events)
    };
    assert_eq!(
        plan.steps
            .iter()
            .map(|s| s.version.as_str())
            .collect::<Vec<_>>(),
        ["0001", "0002"]
    );
    assert_eq!(outcome.events[0].operation, "");
    assert_eq!(
        database
            .text("SELECT count(*) FROM schemad.operations")
            .await,
        "0"
    );
    assert!(database.diesel_versions().await.is_empty());

    let unknown = pb::ApplyRequest {
        validate_only: true,
        target: Some(pb::apply_request::Target::To("9".into())),
        ..Default::default()
    };
    daemon
        .apply(unknown)
        .await
        .failure()
        .assert(Code::NotFound, "UNKNOWN_VERSION");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn notices_reach_the_caller_and_a_flood_of_them_does_not() {
    let database = TestDatabase::new().await;
    let set = Set::of(&[
        (
            "1_notice",
            "DO $$ BEGIN RAISE NOTICE 'hello'; RAISE WARNING 'mind'; END $$;",
            "",
        ),
        (
            "2_flood",
            "DO $$ BEGIN FOR i IN 1..20000 LOOP RAISE NOTICE 'n %', i; END LOOP; END $$;",
            "",
        ),
    ]);
    let daemon = TestDaemon::start(&database, &set).await;
    let outcome = daemon.apply_all().await;
    outcome.finished();
    let notices: Vec<(String, String)> = outcome
        .events
        .iter()
        .filter_map(|e| match &e.event {
            Some(Event::Notice(n)) => {
                Some((n.version.clone(), format!("{} {}", n.severity, n.message)))
            }
            _ => None,
        })
        .collect();
    assert!(
        notices.contains(&("1".into(), "NOTICE hello".into())),
        "{notices:?}"
    );
    assert!(
        notices.contains(&("1".into(), "WARNING mind".into())),
        "{notices:?}"
    );
    let flood: Vec<_> = notices
        .iter()
        .filter(|(v, _)| v == "2")
        .map(|(_, message)| message)
        .collect();
    assert_eq!(
        flood.len(),
        101,
        "the first 100, and how many more there were"
    );
    assert!(
        flood[100].starts_with("NOTICE 19900 more"),
        "{}",
        flood[100]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_notice_belongs_to_its_own_step_and_is_cut() {
    let database = TestDatabase::new().await;
    let set = Set::of(&[]);
    for n in 10..40 {
        set.add(
            &format!("{n}_says"),
            &format!("DO $$ BEGIN RAISE NOTICE 'm{n}'; END $$;"),
            "",
        );
    }
    set.add(
        "50_shouts",
        "DO $$ BEGIN RAISE NOTICE '%', repeat('x', 5000000); END $$;",
        "",
    );
    let daemon = TestDaemon::start(&database, &set).await;
    let outcome = daemon.apply_all().await;
    outcome.finished();
    let mut said = Vec::new();
    for event in &outcome.events {
        if let Some(Event::Notice(notice)) = &event.event {
            assert!(
                notice.message == format!("m{}", notice.version) || notice.version == "50",
                "{notice:?}"
            );
            assert!(notice.message.len() <= 8192);
            said.push(notice.version.clone());
        }
    }
    assert_eq!(said.len(), 31, "{said:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_costs_one_round_trip() {
    let database = TestDatabase::new().await;
    let set = Set::tables(40);
    let proxy = crate::harness::Proxy::to(&database).await;
    let mut settings = crate::harness::daemon::settings(&database.url);
    settings.migration_database = Some(proxy.url.parse().unwrap());
    let daemon = TestDaemon::launch(settings, &set).await;
    daemon.until_ready().await;
    let trips = async |steps| {
        let before = proxy.round_trips();
        let request = pb::ApplyRequest {
            target: Some(pb::apply_request::Target::Steps(steps)),
            ..Default::default()
        };
        daemon.apply(request).await.finished();
        proxy.round_trips() - before
    };
    let (one, nine) = (trips(1).await, trips(9).await);
    // Eight steps more. Steps are sent ahead, so they cost less than a round trip each; more would
    // be a regression.
    assert!(
        nine <= one + 8,
        "1 step: {one} round trips, 9 steps: {nine}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_are_paged_and_migrations_are_shown_with_their_sql() {
    let (database, set) = (TestDatabase::new().await, Set::tables(5));
    let daemon = TestDaemon::start(&database, &set).await;
    daemon
        .apply(pb::ApplyRequest {
            target: Some(pb::apply_request::Target::Steps(3)),
            ..Default::default()
        })
        .await
        .finished();
    let mut client = daemon.client();
    let (mut token, mut seen) = (String::new(), Vec::new());
    loop {
        let request = pb::ListMigrationsRequest {
            page_size: 2,
            page_token: token,
            ..Default::default()
        };
        let page = client.list_migrations(request).await.unwrap().into_inner();
        assert!(page.migrations.len() <= 2);
        seen.extend(
            page.migrations
                .iter()
                .map(|m| (m.version.clone(), m.state())),
        );
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    let states: Vec<_> = seen.iter().map(|(_, state)| *state).collect();
    use pb::MigrationState::{Applied, Pending};
    assert_eq!(states, [Applied, Applied, Applied, Pending, Pending]);

    let request = pb::GetMigrationRequest {
        version: "0002".into(),
        ..Default::default()
    };
    let migration = client
        .get_migration(request)
        .await
        .unwrap()
        .into_inner()
        .migration
        .unwrap();
    assert_eq!(
        (migration.up_sql.as_str(), migration.down_sql.as_str()),
        ("CREATE TABLE t2 (id int);", "DROP TABLE t2;")
    );
    assert_eq!(
        migration.recorded_up_checksum,
        migration.embedded_up_checksum
    );
    assert!(!migration.operation.is_empty() && migration.apply_duration.is_some());
    let unknown = client
        .get_migration(pb::GetMigrationRequest {
            version: "7".into(),
            ..Default::default()
        })
        .await
        .unwrap_err();
    crate::harness::daemon::Failed::of(&unknown).assert(Code::NotFound, "UNKNOWN_VERSION");
}

/// pg_stat_statements can be created anywhere, and is of use only where the server loads it when it
/// starts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_extension_that_the_server_has_to_preload_is_explained() {
    let database = TestDatabase::new().await;
    let preloaded = database
        .text("SELECT current_setting('shared_preload_libraries')")
        .await;
    let available =
        "SELECT count(*) FROM pg_available_extensions WHERE name = 'pg_stat_statements'";
    if preloaded.contains("pg_stat_statements") || database.text(available).await == "0" {
        return;
    }
    let up = "CREATE EXTENSION pg_stat_statements;\nSELECT count(*) FROM pg_stat_statements;";
    let daemon = TestDaemon::start(&database, &Set::of(&[("1_statements", up, "SELECT 1;")])).await;
    let failed = daemon.apply_all().await.failure();
    failed.assert(Code::FailedPrecondition, "MIGRATION_FAILED");
    assert_eq!(failed.metadata["statement"], "2", "{failed:?}");
    assert!(
        failed.metadata["meaning"].contains("add it to shared_preload_libraries"),
        "{failed:?}"
    );
}
