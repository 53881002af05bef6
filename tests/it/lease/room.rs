//! How many databases leases may have: what is leased counts, and what is only waiting to be
//! dropped makes the next lease wait, but does not refuse it.

use std::time::{Duration, Instant};

use schemad::{
    LeaseSettings,
    pb::{self, lease_response::Event, lease_service_client::LeaseServiceClient},
};
use tokio_postgres::Client;
use tonic::{Code, Status};

use super::{Place, Stream, ask};
use crate::harness::{
    Server, Set, TestDaemon,
    daemon::{Failed, get},
    database::connect,
    eventually,
    server::TRUST,
};

/// A session that keeps a database from being dropped for as long as it lives.
async fn keep_from_being_dropped(place: &Place, name: &str) -> Client {
    let client = place.database.connect().await;
    client
        .batch_execute(&format!("BEGIN; COMMENT ON DATABASE {name} IS 'kept'"))
        .await
        .unwrap();
    client
}

/// Asks for a lease and waits so long for room.
async fn ask_within(
    daemon: &TestDaemon,
    wait: Duration,
) -> Result<(pb::LeasedDatabase, Stream), Status> {
    let request = pb::LeaseRequest {
        queue_timeout: Some(wait.try_into().unwrap()),
        ..Default::default()
    };
    let mut stream = LeaseServiceClient::new(daemon.channel())
        .lease(request)
        .await?
        .into_inner();
    match stream.message().await?.unwrap().event.unwrap() {
        Event::Database(database) => Ok((database, stream)),
        Event::Heartbeat(_) => panic!("the database comes first"),
    }
}

/// Waits until the daemon has as many databases that wait to be dropped.
async fn until_dropping(daemon: &TestDaemon, databases: usize) {
    let line = format!("schemad_leases{{state=\"dropping\"}} {databases}\n");
    eventually("as many are being dropped", async || {
        get(&daemon.admin, "/metrics")
            .await
            .1
            .contains(&line)
            .then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_has_ended_makes_room_before_its_database_is_dropped() {
    let place = Place::new("CREATEDB").await;
    let daemon = place
        .daemon(
            LeaseSettings {
                per_principal: 1,
                ..place.leases(0)
            },
            &Set::tables(1),
        )
        .await;
    let (first, stream) = ask(&daemon, None).await.unwrap();
    let keeper = keep_from_being_dropped(&place, &first.name).await;
    drop(stream);
    let (second, _stream) = ask(&daemon, None).await.unwrap();
    assert!(
        place.has(&first.name).await && first.name != second.name,
        "the first is still being dropped"
    );
    drop(keeper);
    place.until_gone(&first.name).await;
    daemon.stop().await;
    place.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_waits_while_too_many_that_ended_are_still_being_dropped() {
    let place = Place::new("CREATEDB").await;
    // Two databases: one that is leased, and one that is being dropped.
    let daemon = place
        .daemon(
            LeaseSettings {
                most: 1,
                ..place.leases(0)
            },
            &Set::tables(1),
        )
        .await;
    let mut keepers = Vec::new();
    for n in 1..=2 {
        let (database, stream) = ask(&daemon, None).await.unwrap();
        keepers.push(keep_from_being_dropped(&place, &database.name).await);
        drop(stream);
        until_dropping(&daemon, n).await;
    }
    let refused = Failed::of(
        &ask_within(&daemon, Duration::from_millis(300))
            .await
            .unwrap_err(),
    );
    refused.assert(Code::ResourceExhausted, "TOO_MANY_LEASES");
    assert!(
        refused.message.contains("still being dropped"),
        "{refused:?}"
    );
    // The template and the two, however often somebody asks.
    assert_eq!(place.databases().await.len(), 3);

    let waiting = ask_within(&daemon, Duration::from_secs(20));
    let dropped = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        drop(keepers.pop());
    };
    let (leased, ()) = tokio::join!(waiting, dropped);
    let (third, _stream) = leased.unwrap();
    assert!(place.has(&third.name).await);
    drop(keepers);
    place.until_there_are(2).await;
    daemon.stop().await;
    place.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_over_a_limit_waits_as_long_as_asked_for_a_lease_to_end() {
    let place = Place::new("CREATEDB").await;
    let daemon = place
        .daemon(
            LeaseSettings {
                per_principal: 1,
                ..place.leases(0)
            },
            &Set::tables(1),
        )
        .await;
    let (_first, stream) = ask(&daemon, None).await.unwrap();
    let begun = Instant::now();
    let refused = Failed::of(&ask_within(&daemon, Duration::ZERO).await.unwrap_err());
    refused.assert(Code::ResourceExhausted, "TOO_MANY_LEASES");
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "asked not to wait, it was refused after {:?}",
        begun.elapsed()
    );
    let ended = async {
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        drop(stream);
    };
    let (leased, ()) = tokio::join!(ask_within(&daemon, Duration::from_secs(20)), ended);
    leased.unwrap();
    daemon.stop().await;
    place.end().await;
}

/// What a suite of tests asks for, each with a database of its own, in four processes: on a server
/// that writes to its disk as production's does, where a DROP DATABASE takes longer than a test.
/// `examples.rs` has a whole suite of pytest's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tests_that_are_faster_than_drop_database_are_not_refused() {
    const TESTS: usize = 100;
    const WORKERS: usize = 4;
    let server = Server::start(&[], &["fsync=on", "full_page_writes=on"], TRUST).await;
    let place = Place::new("").await;
    let url = server.local_url();
    // The limits that `serve` and `dev` have.
    let leases = LeaseSettings {
        database: url.parse().unwrap(),
        client: url.parse().unwrap(),
        per_principal: 32,
        most: 64,
        ..place.leases(0)
    };
    let daemon = place.daemon(leases, &Set::tables(3)).await;
    let worker = async |worker: usize| {
        let mut refused = Vec::new();
        for _ in (worker..TESTS).step_by(WORKERS) {
            match ask(&daemon, None).await {
                Ok((database, _stream)) => {
                    connect(&database.url)
                        .await
                        .batch_execute("INSERT INTO t3 VALUES (1)")
                        .await
                        .unwrap();
                }
                Err(status) => refused.push(Failed::of(&status).reason),
            }
        }
        refused
    };
    let begun = Instant::now();
    let refused = futures_util::future::join_all((0..WORKERS).map(worker))
        .await
        .concat();
    println!("{TESTS} leases in {:.1?}", begun.elapsed());
    assert_eq!(
        refused.len(),
        0,
        "of {TESTS} leases were refused: {refused:?}"
    );
    daemon.stop().await;
    place.end().await;
}
