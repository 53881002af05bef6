//! A rolling deploy: an old and a new release behind one address, while an apply runs.

use schemad::pb;
use tokio::{net::TcpStream, sync::watch};
use tonic::Code;

use crate::harness::{
    PATIENCE, Set, TestDaemon, TestDatabase,
    process::{schemad, stderr, stdout},
};

/// One address; which daemon is behind it can be changed, and that cuts every connection, as a
/// deploy does.
async fn behind_one_address(first: String) -> (String, watch::Sender<String>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (switch, upstreams) = watch::channel(first);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut upstreams = upstreams.clone();
            tokio::spawn(async move {
                let upstream = upstreams.borrow_and_update().clone();
                let Ok(mut server) = TcpStream::connect(upstream).await else {
                    return;
                };
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                    _ = upstreams.changed() => {}
                }
            });
        }
    });
    (address, switch)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_apply_outlives_the_switch_to_another_release_and_either_undoes_the_others_work() {
    let database = TestDatabase::new().await;
    let (older, newer) = (Set::tables(2), Set::tables(3));
    newer.add(
        "9999_gated",
        "-- schemad: lock_timeout=0\nSELECT pg_advisory_lock(77); CREATE TABLE gated ();",
        "DROP TABLE gated;",
    );
    let (old, new) = (
        TestDaemon::start(&database, &older).await,
        TestDaemon::start(&database, &newer).await,
    );
    let gate = database.connect().await;
    gate.batch_execute("SELECT pg_advisory_lock(77)")
        .await
        .unwrap();
    let (address, switch) = behind_one_address(new.address.clone()).await;

    let digest = new.status().await.embedded_set_digest;
    let mut apply = schemad(&[
        "apply",
        "--expected-set-digest",
        &digest,
        "--address",
        &address,
    ]);
    let apply = apply
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    database.until_waiting(77).await;
    switch.send_replace(old.address.clone());
    // The old release follows what the new one runs, and begins nothing beside it.
    let running = old.status().await.running_operation.unwrap();
    let watched = pb::WatchOperationRequest {
        id: running.id,
        after_sequence: 0,
        ..Default::default()
    };
    let mut watched = old
        .operations()
        .watch_operation(watched)
        .await
        .unwrap()
        .into_inner();
    assert!(watched.message().await.unwrap().is_some());
    old.apply_all()
        .await
        .failure()
        .assert(Code::Aborted, "BUSY");
    gate.batch_execute("SELECT pg_advisory_unlock(77)")
        .await
        .unwrap();
    let ended = tokio::time::timeout(PATIENCE, apply.wait_with_output())
        .await
        .expect("it hangs")
        .unwrap();
    assert_eq!(ended.status.code(), Some(0), "{}", stderr(&ended));
    assert_eq!(
        stdout(&ended),
        "Done: 4 of 4 steps done, the current version is 9999.\n"
    );

    // A pipeline that reaches the old release by mistake is stopped; what it asks for otherwise is
    // in place.
    let expecting = pb::ApplyRequest {
        expected_set_digest: digest,
        ..Default::default()
    };
    old.apply(expecting)
        .await
        .failure()
        .assert(Code::FailedPrecondition, "SET_MISMATCH");
    assert!(old.apply_all().await.finished().nothing_to_do);
    assert_eq!(old.status().await.state(), pb::SchemaState::Ahead);
    assert_eq!(old.rollback_steps(2).await.done(), ["9999", "0003"]);
    assert_eq!(database.diesel_versions().await, ["0001", "0002"]);
    database.assert_consistent().await;
}
