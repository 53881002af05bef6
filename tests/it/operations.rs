//! OperationService: what was, what is, following and ending it, from any daemon.

use futures_util::future::join_all;
use schemad::pb::{self, operation_event::Event};
use tonic::{Code, Streaming};
use uuid::Uuid;

use super::cancelling::cancel;
use crate::harness::{
    PATIENCE, Process, Set, TestDaemon, TestDatabase,
    daemon::{Failed, Outcome, collect},
    eventually,
    process::from_folder,
};

/// A step that lasts until it is released.
pub fn gated(n: usize) -> Set {
    let set = Set::tables(n);
    let wait =
        "SELECT pg_advisory_lock(77); CREATE TABLE gated (id int); SELECT pg_advisory_unlock(77);";
    set.add(
        "9999_gated",
        &format!("-- schemad: lock_timeout=0\n{wait}"),
        "DROP TABLE gated;",
    );
    set
}

pub async fn gate(database: &TestDatabase) -> tokio_postgres::Client {
    let gate = database.connect().await;
    gate.batch_execute("SELECT pg_advisory_lock(77)")
        .await
        .unwrap();
    gate
}

pub async fn accepted(
    daemon: &TestDaemon,
    request: pb::ApplyRequest,
) -> (String, Streaming<pb::ApplyResponse>) {
    let mut stream = daemon.client().apply(request).await.unwrap().into_inner();
    let event = stream.message().await.unwrap().unwrap().event.unwrap();
    (event.operation, stream)
}

pub async fn watch(daemon: &TestDaemon, id: &str, after_sequence: i64) -> Outcome {
    let request = pb::WatchOperationRequest {
        id: id.into(),
        after_sequence,
        ..Default::default()
    };
    collect(
        daemon.operations().watch_operation(request).await,
        |r: pb::WatchOperationResponse| r.event,
    )
    .await
}

async fn get(daemon: &TestDaemon, id: &str) -> pb::Operation {
    let request = pb::GetOperationRequest {
        id: id.into(),
        ..Default::default()
    };
    daemon
        .operations()
        .get_operation(request)
        .await
        .unwrap()
        .into_inner()
        .operation
        .unwrap()
}

fn durable(outcome: &Outcome) -> Vec<(i64, String)> {
    let name = |event: &Event| match event {
        Event::Accepted(_) => "accepted".to_owned(),
        Event::Planned(plan) => format!("planned {}", plan.steps.len()),
        Event::StepDone(step) => format!("done {}", step.version),
        Event::Finished(finished) => format!("finished {}", finished.state().as_str_name()),
        other => panic!("{other:?} is no state change"),
    };
    let changes = outcome.events.iter().filter(|e| e.sequence > 0);
    changes
        .map(|e| (e.sequence, name(e.event.as_ref().unwrap())))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_watcher_on_every_daemon_sees_the_same_state_changes_with_the_same_numbers() {
    let (database, set) = (TestDatabase::new().await, gated(3));
    let (runs, other) = (
        TestDaemon::start(&database, &set).await,
        TestDaemon::start(&database, &set).await,
    );
    let gate = gate(&database).await;
    let (id, stream) = accepted(&runs, pb::ApplyRequest::default()).await;
    database.until_waiting(77).await;
    let watchers = async {
        let (here, there, late) = (
            watch(&runs, &id, 0),
            watch(&other, &id, 0),
            watch(&other, &id, 4),
        );
        join_all([
            Box::pin(here) as std::pin::Pin<Box<dyn Future<Output = Outcome>>>,
            Box::pin(there),
            Box::pin(late),
        ])
        .await
    };
    let release = async {
        // Only once the daemon elsewhere has told which step runs: that is told live, so whoever
        // looks too late misses it.
        let request = pb::WatchOperationRequest {
            id: id.clone(),
            after_sequence: 0,
            ..Default::default()
        };
        let mut elsewhere = other
            .operations()
            .watch_operation(request)
            .await
            .unwrap()
            .into_inner();
        let told = async {
            loop {
                match elsewhere
                    .message()
                    .await
                    .unwrap()
                    .unwrap()
                    .event
                    .unwrap()
                    .event
                {
                    Some(Event::StepStarted(step)) if step.version == "9999" => break,
                    _ => {}
                }
            }
        };
        tokio::time::timeout(PATIENCE, told).await.unwrap();
        gate.batch_execute("SELECT pg_advisory_unlock(77)")
            .await
            .unwrap();
    };
    let (seen, ()) = tokio::join!(watchers, release);
    drop(stream);
    let expected: Vec<(i64, String)> = (1..)
        .zip([
            "accepted",
            "planned 4",
            "done 0001",
            "done 0002",
            "done 0003",
            "done 9999",
            "finished OPERATION_STATE_SUCCEEDED",
        ])
        .map(|(n, what)| (n, what.to_owned()))
        .collect();
    assert_eq!(durable(&seen[0]), expected);
    assert_eq!(durable(&seen[1]), expected);
    assert_eq!(durable(&seen[2]), expected[4..]);
    assert!(seen.iter().all(|outcome| outcome.status.is_ok()));
    // And for ever after.
    assert_eq!(durable(&watch(&other, &id, 0).await), expected);
    let beyond = watch(&other, &id, 8).await.failure();
    beyond.assert(Code::InvalidArgument, "INVALID_SEQUENCE");
    let unknown = watch(&runs, &Uuid::new_v4().to_string(), 0).await.failure();
    unknown.assert(Code::NotFound, "UNKNOWN_OPERATION");
    watch(&runs, "x", 0)
        .await
        .failure()
        .assert(Code::InvalidArgument, "INVALID_OPERATION");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_ends_well_and_its_last_event_says_why_the_operation_did_not() {
    let database = TestDatabase::new().await;
    let set = Set::of(&[("1_bad", "SELECT 1;\nSELECT 1/0;", "")]);
    let daemon = TestDaemon::start(&database, &set).await;
    let failed = daemon.apply_all().await;
    let seen = watch(&daemon, &failed.operation(), 0).await;
    assert!(seen.status.is_ok());
    let finished = seen.last_finished().unwrap();
    assert_eq!(finished.state(), pb::OperationState::Failed);
    let failure = finished.failure.unwrap();
    assert_eq!(
        (failure.reason.as_str(), failure.metadata["line"].as_str()),
        ("MIGRATION_FAILED", "2")
    );
    let operation = get(&daemon, &failed.operation()).await;
    assert_eq!(
        (operation.state(), operation.reason.as_str()),
        (pb::OperationState::Failed, "MIGRATION_FAILED")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_detached_call_ends_when_the_operation_is_accepted() {
    let (database, set) = (TestDatabase::new().await, gated(1));
    let daemon = TestDaemon::start(&database, &set).await;
    let gate = gate(&database).await;
    let outcome = daemon
        .apply(pb::ApplyRequest {
            detach: true,
            ..Default::default()
        })
        .await;
    assert!(outcome.status.is_ok());
    assert!(matches!(
        outcome.events.last().unwrap().event,
        Some(Event::Accepted(_))
    ));
    database.until_waiting(77).await;
    gate.batch_execute("SELECT pg_advisory_unlock(77)")
        .await
        .unwrap();
    watch(&daemon, &outcome.operation(), 0).await.finished();
    assert_eq!(database.diesel_versions().await, ["0001", "9999"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operations_are_listed_by_pages_and_filters() {
    let (database, set) = (TestDatabase::new().await, Set::tables(3));
    let daemon = TestDaemon::start(&database, &set).await;
    let mut ids = Vec::new();
    for _ in 0..2 {
        ids.push(daemon.apply_all().await.operation());
        ids.push(daemon.rollback_steps(1).await.operation());
    }
    ids.reverse();
    let list = async |request: pb::ListOperationsRequest| {
        let page = daemon.operations().list_operations(request).await;
        page.map(tonic::Response::into_inner)
            .map_err(|status| Failed::of(&status))
    };
    let listed = |page: &pb::ListOperationsResponse| {
        page.operations
            .iter()
            .map(|o| o.id.clone())
            .collect::<Vec<_>>()
    };
    let all = list(pb::ListOperationsRequest::default()).await.unwrap();
    assert_eq!(
        (listed(&all), all.next_page_token.as_str()),
        (ids.clone(), "")
    );

    let first = list(pb::ListOperationsRequest {
        page_size: 3,
        ..Default::default()
    })
    .await
    .unwrap();
    assert_eq!(listed(&first), ids[..3]);
    let page_token = first.next_page_token;
    let second = list(pb::ListOperationsRequest {
        page_token: page_token.clone(),
        ..Default::default()
    })
    .await
    .unwrap();
    assert_eq!(
        (listed(&second), second.next_page_token.as_str()),
        (ids[3..].to_vec(), "")
    );
    let foreign = pb::ListOperationsRequest {
        page_token,
        kind: 1,
        ..Default::default()
    };
    list(foreign)
        .await
        .unwrap_err()
        .assert(Code::InvalidArgument, "INVALID_PAGE_TOKEN");

    let kind = pb::ListOperationsRequest {
        kind: pb::OperationKind::Rollback.into(),
        ..Default::default()
    };
    assert_eq!(
        listed(&list(kind).await.unwrap()),
        [ids[0].clone(), ids[2].clone()]
    );
    let version = pb::ListOperationsRequest {
        version: "0001".into(),
        ..Default::default()
    };
    assert_eq!(listed(&list(version).await.unwrap()), [ids[3].clone()]);
    let state = pb::ListOperationsRequest {
        state: pb::OperationState::Failed.into(),
        ..Default::default()
    };
    assert_eq!(listed(&list(state).await.unwrap()), [""; 0]);
    let third = get(&daemon, &ids[1]).await.create_time;
    let from = pb::ListOperationsRequest {
        create_time_from: third,
        ..Default::default()
    };
    assert_eq!(listed(&list(from).await.unwrap()), ids[..2]);
    let before = pb::ListOperationsRequest {
        create_time_before: third,
        ..Default::default()
    };
    assert_eq!(listed(&list(before).await.unwrap()), ids[2..]);
    let somebody = pb::ListOperationsRequest {
        principal: "somebody".into(),
        ..Default::default()
    };
    assert_eq!(listed(&list(somebody).await.unwrap()), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_daemons_session_is_ended_and_its_operation_closed() {
    let (database, set) = (TestDatabase::new().await, gated(1));
    let other = TestDaemon::start(&database, &set).await;
    let gate = gate(&database).await;
    let mut command = from_folder(&set, &["serve", "--apply-on-start"]);
    command.env("DATABASE_URL", &database.url);
    let mut stopped = Process::start(command).await;
    let id = stopped.event("operation.accepted").await["operation"]
        .as_str()
        .unwrap()
        .to_owned();
    database.until_waiting(77).await;
    stopped.freeze().await;
    // Half a minute later, for the ledger.
    database
        .execute("UPDATE schemad.operations SET heartbeat_at = heartbeat_at - interval '31 s'")
        .await;
    // A session that is at work is left alone. When it stands still it is ended; all of its steps
    // are committed by then.
    gate.batch_execute("SELECT pg_advisory_unlock(77)")
        .await
        .unwrap();
    eventually("closed", async || {
        (get(&other, &id).await.state() == pb::OperationState::Succeeded).then_some(())
    })
    .await;
    other.apply_all().await.finished();
    database.assert_consistent().await;
    stopped.signal(nix::sys::signal::Signal::SIGCONT);
    stopped.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_after_what_never_comes_is_refused_at_once_or_at_the_end() {
    let (database, set) = (TestDatabase::new().await, gated(3));
    let (runs, other) = (
        TestDaemon::start(&database, &set).await,
        TestDaemon::start(&database, &set).await,
    );
    let _gate = gate(&database).await;
    let (id, _stream) = accepted(&runs, pb::ApplyRequest::default()).await;
    database.until_waiting(77).await;
    for daemon in [&runs, &other] {
        // accepted, planned, four steps, finished
        watch(daemon, &id, 8)
            .await
            .failure()
            .assert(Code::InvalidArgument, "INVALID_SEQUENCE");
    }
    // Cancelled, it ends with 6.
    let (here, there, cancelled) =
        tokio::join!(watch(&runs, &id, 7), watch(&other, &id, 7), async {
            tokio::task::yield_now().await;
            cancel(&runs, &id).await
        });
    cancelled.unwrap();
    here.failure()
        .assert(Code::InvalidArgument, "INVALID_SEQUENCE");
    there
        .failure()
        .assert(Code::InvalidArgument, "INVALID_SEQUENCE");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_step_says_is_heard_while_it_runs() {
    let database = TestDatabase::new().await;
    let says = |what: &str| {
        format!("DO $$ BEGIN RAISE NOTICE '{what}'; PERFORM pg_advisory_lock(77); END $$;")
    };
    let set = Set::of(&[(
        "1_plain",
        &format!("-- schemad: lock_timeout=0\n{}", says("plain")),
        "",
    )]);
    set.add_non_transactional(
        "2_parts",
        &format!("-- schemad: lock_timeout=0\nSELECT 1;\n{}", says("part")),
        "",
    );
    database
        .execute(
            "CREATE PROCEDURE say() LANGUAGE plpgsql AS $$ BEGIN COMMIT; RAISE NOTICE \
            'outside'; PERFORM pg_advisory_lock(77); END $$",
        )
        .await;
    set.add_non_transactional("3_outside", "-- schemad: lock_timeout=0\nCALL say();", "");
    let daemon = TestDaemon::start(&database, &set).await;
    let gate = gate(&database).await;
    let mut stream = daemon
        .client()
        .apply(pb::ApplyRequest::default())
        .await
        .unwrap()
        .into_inner();
    for (version, what) in [("1", "plain"), ("2", "part"), ("3", "outside")] {
        database.until_waiting(77).await;
        let heard = async {
            loop {
                let event = stream
                    .message()
                    .await
                    .unwrap()
                    .unwrap()
                    .event
                    .unwrap()
                    .event;
                if let Some(Event::Notice(notice)) = event {
                    return notice;
                }
            }
        };
        let notice = tokio::time::timeout(crate::harness::PATIENCE, heard)
            .await
            .expect("nothing is heard");
        assert_eq!(
            (notice.version.as_str(), notice.message.as_str()),
            (version, what)
        );
        // In one message, so that the gate stands in line before the next step does.
        let again = if version == "3" {
            ""
        } else {
            "; SELECT pg_advisory_lock(77)"
        };
        gate.batch_execute(&format!("SELECT pg_advisory_unlock(77){again}"))
            .await
            .unwrap();
    }
    while stream.message().await.unwrap().is_some() {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_says_what_the_running_operation_said() {
    let (database, set) = (TestDatabase::new().await, Set::tables(2));
    let daemon = TestDaemon::start(&database, &set).await;
    daemon.apply_all().await.finished();
    let older = TestDaemon::start(&database, &Set::of(&[])).await;
    for live in [
        daemon.rollback_steps(1).await,
        daemon.apply_all().await,
        older.apply_all().await,
    ] {
        let told = |outcome: &Outcome| {
            let durable = outcome.events.iter().filter(|e| e.sequence > 0);
            let what = |event: &pb::OperationEvent| match event.event.clone().unwrap() {
                // The server measures a step, the daemon its answer.
                Event::StepDone(step) => Event::StepDone(pb::StepDone {
                    duration: None,
                    ..step
                }),
                other => other,
            };
            durable.map(what).collect::<Vec<_>>()
        };
        let replayed = watch(&daemon, &live.operation(), 0).await;
        assert_eq!(told(&replayed), told(&live));
    }
}
