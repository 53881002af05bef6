//! Numbers for people, not asserted: `cargo test --release --test it numbers:: -- --ignored
//! --nocapture --test-threads=1`.

use std::time::{Duration, Instant, SystemTime};

use schemad::pb::{self, operation_event::Event};

use crate::harness::{
    Guarded, Process, Set, TestDaemon, TestDatabase, eventually, process::from_folder,
};

fn sleeping() -> Set {
    Set::of(&[
        ("1_a", "CREATE TABLE a ();", "DROP TABLE a;"),
        ("2_sleeps", "SELECT pg_sleep(600);", "SELECT 1;"),
    ])
}

fn shown(name: &str, mut of: Vec<Duration>) {
    of.sort();
    let at = |share: f64| of[((of.len() - 1) as f64 * share) as usize];
    println!(
        "{name}: n {}, median {:.1?}, p99 {:.1?}, max {:.1?}",
        of.len(),
        at(0.5),
        at(0.99),
        at(1.0)
    );
}

async fn accepted(daemon: &TestDaemon) -> (String, tonic::Streaming<pb::ApplyResponse>) {
    let mut stream = daemon
        .client()
        .apply(pb::ApplyRequest::default())
        .await
        .unwrap()
        .into_inner();
    let id = stream
        .message()
        .await
        .unwrap()
        .unwrap()
        .event
        .unwrap()
        .operation;
    (id, stream)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a number for people"]
async fn cancelling_a_running_statement() {
    let (database, set) = (TestDatabase::new().await, sleeping());
    let (one, two) = (
        TestDaemon::start(&database, &set).await,
        TestDaemon::start(&database, &set).await,
    );
    let sleeps = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = \
        current_database()";
    for (name, from) in [
        ("cancel on its daemon", &one),
        ("cancel from another", &two),
    ] {
        let mut took = Vec::new();
        for _ in 0..20 {
            let (id, stream) = accepted(&one).await;
            eventually("it sleeps", async || {
                (database.text(sleeps).await == "1").then_some(())
            })
            .await;
            let begun = Instant::now();
            let request = pb::CancelOperationRequest {
                id,
                ..Default::default()
            };
            let ended = from
                .operations()
                .cancel_operation(request)
                .await
                .unwrap()
                .into_inner()
                .operation
                .unwrap();
            assert_eq!(ended.state(), pb::OperationState::Cancelled);
            took.push(begun.elapsed());
            drop(stream);
        }
        shown(name, took);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a number for people"]
async fn a_committed_step_reaches_two_hundred_watchers() {
    for (pace, sleep) in [
        ("every 20 ms", "SELECT pg_sleep(0.02);"),
        ("as fast as they run", ""),
    ] {
        let (database, set) = (TestDatabase::new().await, Set::of(&[]));
        set.add(
            "0000_gate",
            "SELECT pg_advisory_lock(77), pg_advisory_unlock(77);",
            "",
        );
        for n in 1..=200 {
            set.add(
                &format!("{n:04}_t"),
                &format!("CREATE TABLE t{n} (id int); {sleep}"),
                "",
            );
        }
        let daemon = TestDaemon::start(&database, &set).await;
        let gate = database.connect().await;
        gate.batch_execute("SELECT pg_advisory_lock(77)")
            .await
            .unwrap();
        let (id, _stream) = accepted(&daemon).await;
        database.until_waiting(77).await;
        let mut watchers = Vec::new();
        for _ in 0..200 {
            let request = pb::WatchOperationRequest {
                id: id.clone(),
                after_sequence: 0,
                ..Default::default()
            };
            let stream = daemon
                .operations()
                .watch_operation(request)
                .await
                .unwrap()
                .into_inner();
            watchers.push(tokio::spawn(late(stream)));
        }
        gate.batch_execute("SELECT pg_advisory_unlock(77)")
            .await
            .unwrap();
        let mut all = Vec::new();
        for watcher in watchers {
            all.extend(watcher.await.unwrap());
        }
        shown(
            &format!("committed to received by 200 watchers in this process, steps {pace}"),
            all,
        );
    }
}

/// How late each step was told; its time is when the daemon had read the commit.
async fn late(mut stream: tonic::Streaming<pb::WatchOperationResponse>) -> Vec<Duration> {
    let mut late = Vec::new();
    while let Some(response) = stream.message().await.unwrap() {
        let event = response.event.unwrap();
        if matches!(event.event, Some(Event::StepDone(_))) {
            let told = SystemTime::try_from(event.time.unwrap()).unwrap();
            late.push(SystemTime::now().duration_since(told).unwrap_or_default());
        }
    }
    late
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a number for people"]
async fn a_dead_daemons_operation_is_closed_at_the_next_start() {
    let (database, set) = (TestDatabase::new().await, sleeping());
    let mut took = Vec::new();
    for _ in 0..5 {
        let mut command = from_folder(&set, &["serve", "--apply-on-start"]);
        command.env("DATABASE_URL", &database.url);
        let mut killed = Process::start(command).await;
        let sleeps = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND \
            datname = current_database()";
        eventually("it sleeps", async || {
            (database.text(sleeps).await == "1").then_some(())
        })
        .await;
        killed.kill().await;
        database.until_free().await;
        let mut command = from_folder(&set, &["serve"]);
        command.env("DATABASE_URL", &database.url);
        let begun = Instant::now();
        let mut next = Process::start(command).await;
        next.event("operation.interrupted").await;
        took.push(begun.elapsed());
        next.kill().await;
    }
    shown("exec of the next daemon to INTERRUPTED", took);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a number for people"]
async fn a_million_old_operations() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    let daemon = TestDaemon::start(&database, &set).await;
    let measure = async |name: &str| {
        let (mut apply, mut status, mut list, mut rest) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for _ in 0..20 {
            let begun = Instant::now();
            daemon.apply_all().await.finished();
            daemon.rollback_steps(1).await.finished();
            apply.push(begun.elapsed());
            let begun = Instant::now();
            daemon.status().await;
            status.push(begun.elapsed());
            let begun = Instant::now();
            daemon
                .operations()
                .list_operations(pb::ListOperationsRequest::default())
                .await
                .unwrap();
            list.push(begun.elapsed());
            let begun = Instant::now();
            let next = pb::ListOperationsRequest {
                version: "0001".into(),
                ..Default::default()
            };
            daemon.operations().list_operations(next).await.unwrap();
            rest.push(begun.elapsed());
        }
        shown(&format!("{name}: apply and roll back"), apply);
        shown(&format!("{name}: status"), status);
        shown(&format!("{name}: list"), list);
        shown(&format!("{name}: list by version"), rest);
    };
    measure("few operations").await;
    database
        .execute(
            "INSERT INTO schemad.operations (id, kind, principal, request_id, request_hash, state, \
                 daemon, backend_pid, queue_until, created_at, finished_at) SELECT \
                 gen_random_uuid(), 'apply', 'p' || n % 10, gen_random_uuid(), 'h', 'succeeded', \
                 'd', 0, now(), now() - n * interval '1 s', now() FROM generate_series(1, 1000000) \
                 n; INSERT INTO schemad.steps (operation, ordinal, version, name, direction, \
                 script, mode, lock_timeout_ms, statement_timeout_ms, state) SELECT id, 1, '0001', \
                 'n', 'up', 's', 'transactional', 0, 0, 'applied' FROM schemad.operations WHERE \
                 daemon = 'd'; ANALYZE schemad.operations; ANALYZE schemad.steps",
        )
        .await;
    measure("a million more").await;
}

/// GetStatus with and without a credential, over TLS both, in turn: the ratio of the medians of
/// each pair.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a number for people"]
async fn authenticated_against_unauthenticated() {
    let (closed, open) = (Guarded::start().await, Guarded::start_open().await);
    for kind in ["token", "identity"] {
        let ((mut guarded, bearer), (mut unguarded, _)) = (closed.client(kind), open.client(kind));
        let mut ratios = Vec::new();
        for _ in 0..15 {
            let mut medians = [Vec::new(), Vec::new()];
            for _ in 0..400 {
                let mut request = tonic::Request::new(pb::GetStatusRequest {
                    ..Default::default()
                });
                request
                    .metadata_mut()
                    .insert("authorization", bearer.clone());
                let begun = Instant::now();
                guarded.get_status(request).await.unwrap();
                medians[0].push(begun.elapsed());
                let begun = Instant::now();
                unguarded
                    .get_status(pb::GetStatusRequest {
                        ..Default::default()
                    })
                    .await
                    .unwrap();
                medians[1].push(begun.elapsed());
            }
            medians.iter_mut().for_each(|of| of.sort());
            ratios.push(medians[0][200].as_secs_f64() / medians[1][200].as_secs_f64());
        }
        ratios.sort_by(f64::total_cmp);
        let (least, median, most) = (ratios[0], ratios[7], ratios[14]);
        println!(
            "GetStatus with a {kind} against without: median {median:.3} ({least:.3} to \
             {most:.3})"
        );
    }
}

/// Certificate, access file and an issuer's keys are written again and again while clients ask, on
/// old and new connections.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a number for people"]
async fn reloads_under_load() {
    let guarded = std::sync::Arc::new(Guarded::start().await);
    let until = Instant::now() + Duration::from_secs(20);
    let asking = (0..8).map(|n| {
        let guarded = guarded.clone();
        tokio::spawn(async move {
            let (mut asked, mut failed) = (0, 0);
            while Instant::now() < until {
                let (mut client, bearer) =
                    guarded.client(if n % 2 == 0 { "token" } else { "identity" });
                for _ in 0..20 {
                    let mut request = tonic::Request::new(pb::GetStatusRequest {
                        ..Default::default()
                    });
                    request
                        .metadata_mut()
                        .insert("authorization", bearer.clone());
                    asked += 1;
                    failed += usize::from(
                        client
                            .get_status(request)
                            .await
                            .inspect_err(|e| println!("{e:?}"))
                            .is_err(),
                    );
                }
            }
            (asked, failed)
        })
    });
    let asking: Vec<_> = asking.collect();
    let mut rounds = 0;
    while Instant::now() < until {
        guarded.touch(rounds);
        rounds += 1;
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    let (mut asked, mut failed) = (0, 0);
    for task in asking {
        let (of_asked, of_failed) = task.await.unwrap();
        asked += of_asked;
        failed += of_failed;
    }
    println!("{rounds} reloads under load: {asked} requests, {failed} failed");
}
