//! Whoever says no name gets what is left: strangers cannot take what known callers need, and one
//! of them not what others need.

use std::net::{IpAddr, Ipv4Addr};

use schemad::{
    Limits,
    pb::{self, migration_service_client::MigrationServiceClient},
};
use tonic::{Code, Request, Status, Streaming};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
    health_client::HealthClient,
};

use super::access::spiffe;
use crate::harness::{Guarded, PATIENCE, daemon::Failed, eventually, guarded::said};

type Watch = Streaming<HealthCheckResponse>;

fn applied(n: usize) -> HealthCheckRequest {
    HealthCheckRequest {
        service: format!("schemad.schema.applied.{n}"),
    }
}

/// A connection of its own, from one of this machine's addresses.
fn health(guarded: &Guarded, host: u8) -> HealthClient<tonic::transport::Channel> {
    let address = IpAddr::V4(Ipv4Addr::new(127, 0, 0, host));
    HealthClient::new(
        guarded
            .endpoint(None)
            .local_address(Some(address))
            .connect_lazy(),
    )
}

async fn watch(
    guarded: &Guarded,
    host: u8,
    request: Request<HealthCheckRequest>,
) -> Result<Watch, Status> {
    health(guarded, host)
        .watch(request)
        .await
        .map(tonic::Response::into_inner)
}

#[track_caller]
fn too_many(result: Result<Watch, Status>) {
    Failed::of(&result.unwrap_err()).assert(Code::ResourceExhausted, "TOO_MANY_WATCHERS");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_leave_watches_and_names_to_known_callers_and_to_each_other() {
    let limits = Limits {
        watchers: 20,
        watchers_per_client: 12,
        watched_names: 10,
        watched_names_per_client: 5,
        ..Limits::default()
    };
    let guarded = Guarded::start_with(|settings| settings.limits = limits).await;
    let viewer = guarded.tokens["viewer"].reveal();
    let mut open = Vec::new();
    // Names: five of one address, eight of all strangers, however many watch one.
    for n in 0..5 {
        open.push(watch(&guarded, 1, Request::new(applied(n))).await.unwrap());
    }
    too_many(watch(&guarded, 1, Request::new(applied(5))).await);
    open.push(watch(&guarded, 1, Request::new(applied(0))).await.unwrap());
    for n in 4..8 {
        open.push(watch(&guarded, 2, Request::new(applied(n))).await.unwrap());
    }
    too_many(watch(&guarded, 2, Request::new(applied(8))).await);
    // Who shows what is no credential is a stranger, and Health is open to it.
    too_many(watch(&guarded, 3, said("garbage", applied(8))).await);
    open.push(watch(&guarded, 1, said(viewer, applied(8))).await.unwrap());
    let certificate = spiffe(&guarded.authority, "ops");
    let mut of_certificate = HealthClient::new(guarded.channel(Some(&certificate)));
    open.push(of_certificate.watch(applied(9)).await.unwrap().into_inner());
    too_many(watch(&guarded, 1, said(viewer, applied(10))).await);
    open.push(watch(&guarded, 3, Request::new(applied(0))).await.unwrap());
    // Watches: sixteen of all strangers.
    let any = || Request::new(HealthCheckRequest::default());
    for _ in 11..16 {
        open.push(watch(&guarded, 2, any()).await.unwrap());
    }
    too_many(watch(&guarded, 2, any()).await);
    too_many(watch(&guarded, 3, any()).await);
    open.push(
        watch(&guarded, 1, said(viewer, HealthCheckRequest::default()))
            .await
            .unwrap(),
    );
    // Whatever is taken, Health answers.
    health(&guarded, 2)
        .check(HealthCheckRequest::default())
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_that_only_watches_makes_room_and_a_known_caller_does_not() {
    let limits = Limits {
        connections: 6,
        ..Limits::default()
    };
    let guarded = Guarded::start_with(|settings| settings.limits = limits).await;
    let viewer = guarded.tokens["viewer"].reveal();
    let crowd = async || {
        let mut watches = Vec::new();
        for _ in 0..10 {
            watches.push(
                watch(&guarded, 1, Request::new(HealthCheckRequest::default()))
                    .await
                    .unwrap(),
            );
        }
        watches
    };
    let mut first = crowd().await;
    let channel = guarded.channel(None);
    MigrationServiceClient::new(channel.clone())
        .get_status(said(
            viewer,
            pb::GetStatusRequest {
                ..Default::default()
            },
        ))
        .await
        .unwrap();
    let current = HealthCheckRequest {
        service: "schemad.schema.applied.1".into(),
    };
    let mut known = HealthClient::new(channel)
        .watch(said(viewer, current))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        known.message().await.unwrap().unwrap().status(),
        ServingStatus::NotServing
    );
    let _second = crowd().await;
    let table = "SELECT to_regclass('__diesel_schema_migrations') IS NOT NULL";
    eventually("Diesel's table", async || {
        (guarded.database.text(table).await == "t").then_some(())
    })
    .await;
    // The first of the crowd was sent away; the known caller's watch goes on.
    let ended = async { while let Ok(Some(_)) = first[0].message().await {} };
    tokio::time::timeout(PATIENCE, ended)
        .await
        .expect("it is not closed");
    guarded
        .database
        .execute("INSERT INTO __diesel_schema_migrations VALUES ('1', now())")
        .await;
    let news = tokio::time::timeout(PATIENCE, known.message())
        .await
        .expect("no news")
        .unwrap();
    assert_eq!(news.unwrap().status(), ServingStatus::Serving);
}
