use std::time::{Duration, Instant};

use schemad::pb;
use tonic::Code;

use crate::harness::{Set, TestDaemon, TestDatabase, daemon::settings, eventually};

const READERS: &str = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'schemad \
    reader' AND datname = current_database()";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_reads_at_once_are_all_answered_within_the_limit() {
    let (database, set) = (TestDatabase::new().await, Set::tables(3));
    let mut wide = settings(&database.url);
    (wide.pool.size, wide.pool.overflow, wide.pool.timeout) = (2, 3, Duration::from_secs(30));
    let daemon = TestDaemon::launch(wide, &set).await;
    daemon.until_ready().await;
    daemon.apply_all().await.finished();
    let session = database.connect().await;
    let count = async || -> i64 { session.query_one(READERS, &[]).await.unwrap().get(0) };
    let reads = futures_util::future::join_all((0..100).map(|_| async {
        daemon
            .client()
            .get_status(pb::GetStatusRequest {
                ..Default::default()
            })
            .await
            .unwrap()
    }));
    tokio::pin!(reads);
    let mut most = 0;
    loop {
        tokio::select! {
            biased;
            answers = &mut reads => {
                assert_eq!(answers.len(), 100);
                break;
            }
            now = count() => most = most.max(now),
        }
    }
    assert!((1..=5).contains(&most), "{most} connections");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_the_server_closed_is_never_handed_out() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    let daemon = TestDaemon::start(&database, &set).await;
    for _ in 0..20 {
        daemon.status().await;
        let closed = database
            .text(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE \
                application_name = 'schemad reader' AND datname = current_database()",
            )
            .await;
        assert_ne!(closed, "0");
        // At once, without giving the daemon time to notice.
        daemon.status().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_real_cause_of_a_failed_connect_is_told_at_once() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    for (url, cause) in [
        (database.url_as("nobody_at_all"), "\"nobody_at_all\""),
        (
            crate::harness::database::with_database(&database.url, "no_such_database"),
            "database \"no_such_database\" does not exist",
        ),
        (
            "postgres://u:s3cret@127.0.0.1:1/d".to_owned(),
            "Connection refused",
        ),
    ] {
        let daemon = TestDaemon::launch(settings(&url), &set).await;
        let asked = Instant::now();
        let told = eventually(cause, async || {
            let status = daemon
                .client()
                .get_status(pb::GetStatusRequest {
                    ..Default::default()
                })
                .await
                .unwrap_err();
            assert_eq!(status.code(), Code::Unavailable);
            assert!(!status.message().contains("s3cret"), "{status:?}");
            status
                .message()
                .contains(cause)
                .then(|| status.message().to_owned())
        })
        .await;
        assert!(asked.elapsed() < Duration::from_secs(5), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_that_finds_no_free_connection_in_time_says_so() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    let mut narrow = settings(&database.url);
    (narrow.pool.size, narrow.pool.overflow, narrow.pool.timeout) =
        (1, 0, Duration::from_millis(100));
    let daemon = TestDaemon::launch(narrow, &set).await;
    daemon.until_ready().await;
    daemon.apply_all().await.finished();
    daemon.status().await; // the connection is there
    let blocker = database.connect().await;
    blocker
        .batch_execute("BEGIN; LOCK schemad.migrations")
        .await
        .unwrap();
    // The first keeps the connection for the 500 ms of its lock_timeout.
    let status = async || {
        daemon
            .client()
            .get_status(pb::GetStatusRequest {
                ..Default::default()
            })
            .await
            .unwrap_err()
    };
    let (one, two) = tokio::join!(status(), status());
    let exhausted = [&one, &two]
        .into_iter()
        .find(|s| s.message().contains("in use"))
        .expect("one of them");
    crate::harness::daemon::Failed::of(exhausted).assert(Code::Unavailable, "POOL_EXHAUSTED");
    blocker.batch_execute("ROLLBACK").await.unwrap();
    daemon.status().await;
}
