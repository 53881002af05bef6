//! Events say the same whoever reads them and when: an event keeps its own time, a repeat is told
//! that it is one, and a step has its own duration.

use std::time::Duration;

use schemad::pb::{self, OperationEvent, operation_event::Event};

use crate::harness::{Proxy, Set, TestDaemon, TestDatabase, daemon::settings, eventually};

const GATE: &str = "SELECT pg_advisory_lock(77)";

fn accepted(event: &OperationEvent) -> (i64, bool) {
    let time = event.time.expect("a time");
    let Some(Event::Accepted(accepted)) = &event.event else {
        panic!("{event:?}")
    };
    (
        time.seconds * 1_000_000 + i64::from(time.nanos) / 1_000,
        accepted.repeated,
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeat_is_told_so_and_its_acceptance_has_its_own_time() {
    let database = TestDatabase::new().await;
    let set = Set::of(&[(
        "1_gate",
        "SELECT pg_advisory_xact_lock(77); CREATE TABLE a ();",
        "DROP TABLE a;",
    )]);
    let (one, two) = (
        TestDaemon::start(&database, &set).await,
        TestDaemon::start(&database, &set).await,
    );
    let gate = database.connect().await;
    gate.batch_execute(GATE).await.unwrap();
    let request = || pb::ApplyRequest {
        request_id: "6b3ce5c5-9d6e-4a3f-8a51-0d5f0a2f1f11".into(),
        ..Default::default()
    };
    let first_of = async |daemon: &TestDaemon| {
        let mut stream = daemon.client().apply(request()).await.unwrap().into_inner();
        let event = stream.message().await.unwrap().unwrap().event.unwrap();
        (accepted(&event), event.operation, stream)
    };
    let (first, id, _stream) = first_of(&one).await;
    assert!(!first.1, "{first:?}");
    database.until_waiting(77).await;
    let created =
        "SELECT (extract(epoch from created_at) * 1000000)::bigint FROM schemad.operations";
    let created: i64 = database.text(created).await.parse().unwrap();
    assert_eq!(first.0, created);
    // While it runs, here and elsewhere.
    for daemon in [&one, &two] {
        assert_eq!(first_of(daemon).await.0, (created, true));
    }
    gate.batch_execute("SELECT pg_advisory_unlock(77)")
        .await
        .unwrap();
    eventually("it is applied", async || {
        (database.diesel_versions().await.len() == 1).then_some(())
    })
    .await;
    eventually("its end is recorded", async || {
        (database.text("SELECT state FROM schemad.operations").await == "succeeded").then_some(())
    })
    .await;
    // Afterwards. Whoever watches repeats nothing.
    for daemon in [&one, &two] {
        assert_eq!(first_of(daemon).await.0, (created, true));
        let watch = pb::WatchOperationRequest {
            id: id.clone(),
            ..Default::default()
        };
        let mut watched = daemon
            .operations()
            .watch_operation(watch)
            .await
            .unwrap()
            .into_inner();
        let event = watched.message().await.unwrap().unwrap().event.unwrap();
        assert_eq!(accepted(&event), (created, false));
    }
}

/// How long each step took, as it was told and as the ledger has it.
async fn durations(
    database: &TestDatabase,
    events: &[OperationEvent],
) -> Vec<(Duration, Duration)> {
    let recorded = "SELECT (extract(epoch from finished_at - started_at) * 1000000)::bigint::text \
        FROM schemad.steps ORDER BY ordinal";
    let recorded = database
        .texts(recorded)
        .await
        .into_iter()
        .map(|took| Duration::from_micros(took.parse().unwrap()));
    let told = events.iter().filter_map(|event| match &event.event {
        Some(Event::StepDone(step)) => Some(Duration::try_from(step.duration.unwrap()).unwrap()),
        _ => None,
    });
    told.zip(recorded).collect()
}

fn sleepers() -> Set {
    let names: Vec<_> = (1..=4)
        .map(|n| {
            (
                format!("{n}_sleeps"),
                format!("SELECT pg_sleep(0.2); CREATE TABLE t{n} ();"),
            )
        })
        .collect();
    Set::of(
        &names
            .iter()
            .map(|(name, up)| (name.as_str(), up.as_str(), ""))
            .collect::<Vec<_>>(),
    )
}

/// All are sent ahead, and their answers arrive together.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_steps_duration_is_its_own_however_its_answer_arrives() {
    for lost in [false, true] {
        let (database, set) = (TestDatabase::new().await, sleepers());
        let proxy = Proxy::to(&database).await;
        let daemon = TestDaemon::launch(settings(&proxy.url), &set).await;
        daemon.until_ready().await;
        let count = async |query: &str| {
            database
                .text(query)
                .await
                .parse::<usize>()
                .unwrap_or_default()
        };
        let asleep = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND \
            query LIKE 'BEGIN%pg_sleep%' AND state = 'active' AND pid <> pg_backend_pid()";
        let applied = "SELECT count(*) FROM __diesel_schema_migrations";
        let (outcome, ()) = tokio::join!(daemon.apply_all(), async {
            eventually("the first sleeps", async || {
                (count(asleep).await > 0).then_some(())
            })
            .await;
            proxy.stall();
            eventually("all are applied", async || {
                (count(applied).await == 4).then_some(())
            })
            .await;
            if lost {
                proxy.cut();
            }
            proxy.open();
        });
        assert_eq!(outcome.finished().steps_done, 4);
        let durations = durations(&database, &outcome.events).await;
        assert_eq!(durations.len(), 4, "{durations:?}");
        for (told, recorded) in &durations {
            assert!(
                told.abs_diff(*recorded) < Duration::from_millis(150),
                "lost: {lost}: {durations:?}"
            );
        }
    }
}
