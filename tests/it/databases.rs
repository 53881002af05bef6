//! The field `database`, which every request about a database has.

use prost_reflect::DescriptorPool;
use schemad::{internals::methods::METHODS, pb};
use tonic::{Code, Status, codegen::Service as _, transport::Endpoint};

use crate::harness::{Set, TestDaemon, TestDatabase};

/// The field's number in every request.
const FIELD: u32 = 15;

/// A gRPC message whose field `database` is `name`.
fn message(name: &str) -> Vec<u8> {
    let mut body = Vec::new();
    prost::encoding::string::encode(FIELD, &name.to_owned(), &mut body);
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[0][..], &length, &body].concat()
}

#[test]
fn every_request_of_schemad_names_its_database() {
    let pool = DescriptorPool::decode(pb::DESCRIPTORS).unwrap();
    let mut methods = 0;
    for method in pool
        .services()
        .flat_map(|service| service.methods().collect::<Vec<_>>())
    {
        let input = method.input();
        let field = input.get_field_by_name("database");
        assert_eq!(
            field.map(|field| field.number()),
            Some(FIELD),
            "{}",
            input.name()
        );
        methods += 1;
    }
    assert!(methods >= 14, "{methods}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_name_than_the_databases_own_is_not_found_by_any_method() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    let daemon = TestDaemon::start(&database, &set).await;
    let mut channel = Endpoint::from_shared(format!("http://{}", daemon.address))
        .unwrap()
        .connect()
        .await
        .unwrap();
    for method in METHODS
        .iter()
        .filter(|method| method.path.starts_with("/schemad.v1."))
    {
        let request = http::Request::post(format!("http://{}{}", daemon.address, method.path))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(tonic::body::Body::new(axum::body::Body::from(message(
                "another",
            ))))
            .unwrap();
        std::future::poll_fn(|cx| channel.poll_ready(cx))
            .await
            .unwrap();
        let response = channel.call(request).await.unwrap();
        let status = Status::from_header_map(response.headers()).expect("an error without a body");
        assert_eq!(status.code(), Code::NotFound, "{}: {status:?}", method.path);
        assert!(
            status.message().contains("\"another\""),
            "{}: {status:?}",
            method.path
        );
    }
    for name in ["", database.name.as_str()] {
        let request = pb::GetStatusRequest {
            database: name.into(),
        };
        let mut client = daemon.client();
        client.get_status(request).await.unwrap();
    }
    daemon.stop().await;
}
