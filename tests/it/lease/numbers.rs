//! Numbers for people, not asserted: `cargo test --release --test it lease::numbers -- --ignored
//! --nocapture`.

use std::time::{Duration, Instant};

use schemad::{
    LeaseSettings,
    pb::{self, lease_service_client::LeaseServiceClient},
};
use tonic::transport::Channel;

use super::{Place, Stream, lease};
use crate::harness::{Set, database::connect, eventually};

type Client = LeaseServiceClient<Channel>;

/// Over a connection that is there already, as a test suite has it after its first test.
async fn again(client: &mut Client) -> Stream {
    let mut stream = client
        .lease(pb::LeaseRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert!(stream.message().await.unwrap().is_some());
    stream
}

fn median(of: &mut [f64]) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Each pair is one lease and one plain CREATE DATABASE of the same template, now the one first and
/// now the other; nothing is dropped between, for a drop slows what comes after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a number for people"]
async fn a_lease_against_create_database() {
    let (place, set) = (Place::new("CREATEDB").await, Set::tables(50));
    let daemon = place
        .daemon(
            LeaseSettings {
                per_principal: 1000,
                most: 1000,
                ..place.leases(0)
            },
            &set,
        )
        .await;
    let first = lease(&daemon).await;
    let template = place
        .databases()
        .await
        .into_iter()
        .find(|name| *name != first.0.name)
        .unwrap();
    let plain = connect(&place.url()).await;
    let (mut leases, mut creates, mut ratios, mut streams) =
        (Vec::new(), Vec::new(), Vec::new(), vec![first.1]);
    let mut client = Client::new(daemon.channel());
    for n in 0..60 {
        let mut took = [0.0; 2];
        for turn in 0..2 {
            let begun = Instant::now();
            match (n + turn) % 2 {
                0 => {
                    streams.push(again(&mut client).await);
                    took[0] = ms(begun.elapsed());
                }
                _ => {
                    let name = format!("plain_{}_{n}", place.database.name);
                    plain
                        .batch_execute(&format!("CREATE DATABASE {name} TEMPLATE {template}"))
                        .await
                        .unwrap();
                    took[1] = ms(begun.elapsed());
                }
            }
        }
        leases.push(took[0]);
        creates.push(took[1]);
        ratios.push(took[0] / took[1]);
    }
    println!(
        "a lease without a pool: median {:.1} ms; CREATE DATABASE … TEMPLATE: median {:.1} ms; \
         ratio of each pair: median {:.3}",
        median(&mut leases),
        median(&mut creates),
        median(&mut ratios)
    );
    drop(streams);
    for n in 0..60 {
        plain
            .batch_execute(&format!("DROP DATABASE plain_{}_{n}", place.database.name))
            .await
            .unwrap();
    }
    daemon.stop().await;
    place.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a number for people"]
async fn a_lease_from_the_pool() {
    let (place, set) = (Place::new("CREATEDB").await, Set::tables(50));
    let daemon = place
        .daemon(
            LeaseSettings {
                per_principal: 1000,
                most: 1000,
                ..place.leases(4)
            },
            &set,
        )
        .await;
    place.until_there_are(5).await;
    let mut client = Client::new(daemon.channel());
    client.lease(pb::LeaseRequest::default()).await.unwrap();
    place.until_there_are(5).await;
    let (mut took, mut streams) = (Vec::new(), Vec::new());
    for n in 1..=100 {
        let begun = Instant::now();
        streams.push(again(&mut client).await);
        took.push(ms(begun.elapsed()));
        eventually("the pool is full", async || {
            (place.databases().await.len() == 5 + n).then_some(())
        })
        .await;
    }
    let all = median(&mut took); // sorted
    println!(
        "a lease from the pool: n {}, median {all:.2} ms, p99 {:.2} ms, max {:.2} ms",
        took.len(),
        took[98],
        took[99]
    );
    // A daemon that ends has 10 s for all of them.
    while streams.pop().is_some() {
        eventually("it is dropped", async || {
            (place.databases().await.len() <= 5 + streams.len()).then_some(())
        })
        .await;
    }
    daemon.stop().await;
    place.end().await;
}
