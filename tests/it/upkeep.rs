//! What daemons keep beside operations: who watches what, refusals, and for how long.

use std::time::Duration;

use schemad::{Retention, Settings, pb};
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;

use crate::harness::{
    Set, TestDaemon, TestDatabase,
    daemon::{get, settings},
    eventually,
};

async fn watch(
    daemon: &TestDaemon,
    version: &str,
) -> tonic::Streaming<tonic_health::pb::HealthCheckResponse> {
    let request = HealthCheckRequest {
        service: format!("schemad.schema.applied.{version}"),
    };
    daemon.health().watch(request).await.unwrap().into_inner()
}

fn all(force: bool) -> pb::RollbackRequest {
    pb::RollbackRequest {
        target: Some(pb::rollback_request::Target::All(true)),
        force,
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_clients_of_any_daemon_watch_is_not_rolled_back_unless_that_is_forced() {
    let (database, set) = (TestDatabase::new().await, Set::tables(3));
    let (one, two) = (
        TestDaemon::start(&database, &set).await,
        TestDaemon::start(&database, &set).await,
    );
    one.apply_all().await.finished();
    let watches = [
        watch(&one, "0002").await,
        watch(&two, "0002").await,
        watch(&two, "0001").await,
    ];
    let said = "SELECT sum(clients) FROM schemad.watchers";
    eventually("three watches", async || {
        (database.text(said).await == "3").then_some(())
    })
    .await;
    one.rollback_steps(1).await.finished();
    for daemon in [&one, &two] {
        let failed = daemon.rollback(all(false)).await.failure();
        failed.assert(Code::FailedPrecondition, "IN_USE");
        assert_eq!(
            (
                failed.metadata["version"].as_str(),
                failed.metadata["clients"].as_str()
            ),
            ("0002", "2")
        );
        let dry = pb::RollbackRequest {
            validate_only: true,
            ..all(false)
        };
        daemon
            .rollback(dry)
            .await
            .failure()
            .assert(Code::FailedPrecondition, "IN_USE");
    }
    assert_eq!(database.diesel_versions().await, ["0001", "0002"]);
    drop(watches);
    eventually("no watch", async || {
        (database.text("SELECT count(*) FROM schemad.watchers").await == "0").then_some(())
    })
    .await;
    assert_eq!(one.rollback_steps(1).await.done(), ["0002"]);
    let _again = watch(&one, "0001").await;
    one.rollback(all(false))
        .await
        .failure()
        .assert(Code::FailedPrecondition, "IN_USE");
    assert_eq!(one.rollback(all(true)).await.done(), ["0001"]);
    database.assert_consistent().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_are_kept_or_where_they_are_a_flood_counted() {
    let database = TestDatabase::new().await;
    let set = Set::of(&[("1_a", "CREATE TABLE a ();", "")]);
    let daemon = TestDaemon::start(&database, &set).await;
    daemon.apply_all().await.finished();
    for _ in 0..20 {
        daemon
            .rollback(all(false))
            .await
            .failure()
            .assert(Code::FailedPrecondition, "IRREVERSIBLE");
    }
    let kept = "SELECT DISTINCT kind || ' ' || reason || ' ' || principal FROM schemad.refusals";
    eventually("a refusal", async || {
        (!database.texts(kept).await.is_empty()).then_some(())
    })
    .await;
    assert_eq!(
        database.texts(kept).await,
        ["rollback IRREVERSIBLE anonymous"]
    );
    eventually("each is kept or counted", async || {
        let kept: usize = database
            .text("SELECT count(*) FROM schemad.refusals")
            .await
            .parse()
            .unwrap();
        let metrics = get(&daemon.admin, "/metrics").await.1;
        let counted = metrics
            .lines()
            .find_map(|line| line.strip_prefix("schemad_refusals_not_kept_total{cause=\"rate\"} "));
        let counted = counted.map_or(0, |count| count.parse::<usize>().unwrap());
        (kept >= 5 && kept + counted == 20).then_some(())
    })
    .await;
    assert_eq!(
        database
            .text("SELECT count(*) FROM schemad.operations")
            .await,
        "1"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_operations_go_but_for_those_that_explain_what_is_applied() {
    let (database, set) = (TestDatabase::new().await, Set::tables(2));
    let daemon = TestDaemon::start(&database, &set).await;
    let applied = daemon.apply_all().await.operation();
    let nothing = daemon.apply_all().await.operation();
    daemon.stop().await;
    database
        .execute(
            "INSERT INTO schemad.operations (id, kind, principal, request_id, request_hash, state, \
                 daemon, backend_pid, queue_until, created_at, finished_at) SELECT \
                 gen_random_uuid(), 'apply', 'p', gen_random_uuid(), 'h', 'succeeded', 'd', 0, \
                 now(), now() - interval '1 year', now() FROM generate_series(1, 2500); INSERT \
                 INTO schemad.refusals (at, daemon, principal, kind, request_id, reason, message) \
                 SELECT now() - interval '1 year', 'd', 'p', 'apply', gen_random_uuid(), 'BUSY', \
                 'm' FROM generate_series(1, 2500)",
        )
        .await;
    let retention = Retention {
        operations: Duration::from_millis(1),
        refusals: Duration::from_secs(60),
    };
    let daemon = TestDaemon::launch(
        Settings {
            retention,
            ..settings(&database.url)
        },
        &set,
    )
    .await;
    daemon.until_ready().await;
    let left = "SELECT id::text FROM schemad.operations";
    eventually("only what explains", async || {
        (database.texts(left).await == [applied.clone()]).then_some(())
    })
    .await;
    eventually("no refusals", async || {
        (database.text("SELECT count(*) FROM schemad.refusals").await == "0").then_some(())
    })
    .await;
    assert_ne!(applied, nothing);
    daemon.rollback_all().await.finished();
    database.assert_consistent().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_the_way_of_deleting_is_no_matter_of_readiness() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    TestDaemon::start(&database, &set).await.stop().await;
    let old = "INSERT INTO schemad.refusals (at, daemon, principal, kind, request_id, reason, \
               message) SELECT now() - interval '1 year', 'd', 'p', 'apply', gen_random_uuid(), \
               'BUSY', 'm'";
    database.execute(old).await;
    let user = database.connect().await;
    user.batch_execute("BEGIN; LOCK TABLE schemad.refusals IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    let daemon = TestDaemon::launch(settings(&database.url), &set).await;
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = \
        'schemad.refusals'::regclass";
    eventually("the deleting waits", async || {
        (database.text(waits).await == "1").then_some(())
    })
    .await;
    daemon.until_ready().await;
    let request = HealthCheckRequest {
        service: "schemad.v1.MigrationService".into(),
    };
    let mut ready = daemon.health().watch(request).await.unwrap().into_inner();
    let said = ready.message().await.unwrap().unwrap();
    let change = tokio::time::timeout(Duration::from_secs(3), ready.message()).await;
    assert!(change.is_err(), "{said:?}, then {change:?}");
    user.batch_execute("COMMIT").await.unwrap();
    eventually("no refusals", async || {
        (database.text("SELECT count(*) FROM schemad.refusals").await == "0").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operations_of_many_steps_go_a_few_at_a_time() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    TestDaemon::start(&database, &set).await.stop().await;
    database
        .execute(
            "INSERT INTO schemad.operations (id, kind, principal, request_id, request_hash, state, \
                 daemon, backend_pid, queue_until, created_at, finished_at) SELECT \
                 gen_random_uuid(), 'apply', 'p', gen_random_uuid(), 'h', 'succeeded', 'd', 0, \
                 now(), now() - i * interval '1 day', now() FROM generate_series(400, 419) i; \
                 INSERT INTO schemad.steps (operation, ordinal, version, name, direction, script, \
                 mode, lock_timeout_ms, statement_timeout_ms, state) SELECT id, n, n::text, 'n', \
                 'up', 's', 'transactional', 1, 1, 'applied' FROM schemad.operations, \
                 generate_series(1, 400) n",
        )
        .await;
    let client = database.connect().await;
    let keep = |operations| Retention {
        operations,
        refusals: Duration::from_secs(60),
    };
    // Longer than time goes back.
    assert_eq!(
        schemad::internals::ledger::prune(&client, keep(Duration::MAX))
            .await
            .unwrap(),
        0
    );
    let mut batches = Vec::new();
    while let gone @ 1.. = schemad::internals::ledger::prune(&client, keep(Duration::from_secs(60)))
        .await
        .unwrap()
    {
        batches.push(gone);
    }
    assert_eq!(batches, [5, 5, 5, 5]);
}
