//! DescribeSchema and `schemad schema`.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use schemad::{
    internals::schema::{self, Except, Kind as ObjectKind},
    pb::{
        self, SchemaObjectKind as Kind,
        schema_service_client::SchemaServiceClient,
        schema_service_server::{SchemaService, SchemaServiceServer},
    },
};
use tonic::{Request, Response, Status, transport::server::TcpIncoming};

use super::statements::{BASE, STATEMENTS};
use crate::harness::{
    Set, TestDaemon, TestDatabase,
    daemon::Failed,
    process::{output, schemad, stderr, stdout},
};

async fn describe(
    daemon: &TestDaemon,
    request: pb::DescribeSchemaRequest,
) -> pb::DescribeSchemaResponse {
    let mut client = SchemaServiceClient::new(daemon.channel());
    client
        .describe_schema(request)
        .await
        .unwrap_or_else(|e| panic!("{e:?}"))
        .into_inner()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_is_described_page_by_page_without_what_is_schemads() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    database.execute(BASE).await;
    database
        .execute(
            "INSERT INTO app.users (name) SELECT 'x' FROM generate_series(1, 50); ANALYZE \
        app.users",
        )
        .await;
    let daemon = TestDaemon::start(&database, &set).await;
    daemon.apply_all().await.finished();
    let whole = describe(
        &daemon,
        pb::DescribeSchemaRequest {
            page_size: 1000,
            ..Default::default()
        },
    )
    .await;
    assert!(
        whole.next_page_token.is_empty() && whole.fingerprint.starts_with("schema-v1:pg"),
        "{whole:?}"
    );
    assert!(
        whole
            .objects
            .iter()
            .all(|object| object.schema != "schemad" && !object.name.contains("diesel")),
        "{whole:?}"
    );
    let (mut pages, mut request) = (
        Vec::new(),
        pb::DescribeSchemaRequest {
            page_size: 3,
            ..Default::default()
        },
    );
    loop {
        let page = describe(&daemon, request.clone()).await;
        assert!(page.objects.len() <= 3);
        pages.extend(page.objects);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    let names = |objects: &[pb::SchemaObject]| -> Vec<_> {
        objects
            .iter()
            .map(|object| (object.kind, object.schema.clone(), object.name.clone()))
            .collect()
    };
    assert_eq!(names(&pages), names(&whole.objects));
    let users = whole
        .objects
        .iter()
        .find(|object| object.name == "users")
        .unwrap();
    assert_eq!(
        (
            users.row_estimate,
            users.columns.len(),
            users.referenced_by.len()
        ),
        (50, 5, 1),
        "{users:?}"
    );
    assert!(users.total_bytes.unwrap() >= 16_384);
    let filtered = pb::DescribeSchemaRequest {
        schemas: vec!["ap?".into()],
        name_pattern: "*s".into(),
        kinds: vec![Kind::Table.into(), Kind::MaterializedView.into()],
        ..Default::default()
    };
    let found = describe(&daemon, filtered.clone()).await.objects;
    let found: Vec<&str> = found.iter().map(|object| object.name.as_str()).collect();
    assert_eq!(found, ["events", "notes", "users", "counts"]);
    let foreign = pb::DescribeSchemaRequest {
        page_token: "x".into(),
        ..filtered
    };
    let status = SchemaServiceClient::new(daemon.channel())
        .describe_schema(foreign)
        .await
        .unwrap_err();
    Failed::of(&status).assert(tonic::Code::InvalidArgument, "INVALID_PAGE_TOKEN");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pages_of_a_listing_are_of_one_schema() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    database
        .execute("CREATE TABLE a (); CREATE TABLE c (); CREATE TABLE d ()")
        .await;
    let daemon = TestDaemon::start(&database, &set).await;
    let first = pb::DescribeSchemaRequest {
        kinds: vec![Kind::Table.into()],
        page_size: 1,
        ..Default::default()
    };
    let page = describe(&daemon, first.clone()).await;
    database.execute("CREATE TABLE b ()").await;
    let next = pb::DescribeSchemaRequest {
        page_token: page.next_page_token,
        ..first.clone()
    };
    let next = describe(&daemon, next).await;
    assert_eq!(
        (next.objects[0].name.as_str(), &next.fingerprint),
        ("c", &page.fingerprint)
    );
    let anew = describe(&daemon, first.clone()).await;
    assert_ne!(anew.fingerprint, page.fingerprint);
    // Of what is not kept any more, the next page is of the schema as it is.
    let last = pb::DescribeSchemaRequest {
        page_token: next.next_page_token,
        ..first
    };
    let last = describe(&daemon, last).await;
    assert_eq!(
        (last.objects[0].name.as_str(), &last.fingerprint),
        ("d", &anew.fingerprint)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_shows_tables_details_json_and_a_diagram() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    database.execute(BASE).await;
    let daemon = TestDaemon::start(&database, &set).await;
    let run = async |args: &[&str]| {
        let mut command = schemad(&[&["schema"], args].concat());
        command.env("SCHEMAD_ADDRESS", &daemon.address);
        let output = output(command).await;
        assert!(output.status.success(), "{output:?}");
        stdout(&output)
    };
    let overview = run(&[]).await;
    assert!(
        overview.contains("app.users") && overview.contains("sad, ok, happy"),
        "{overview}"
    );
    let details = run(&["--name", "notes"]).await;
    assert!(
        details.contains("table app.notes") && details.contains("FOREIGN KEY (user_id)"),
        "{details}"
    );
    assert!(!details.contains("app.events"), "{details}");
    let json = run(&["--schema", "app", "--output", "json"]).await;
    assert!(json.contains("\"SCHEMA_OBJECT_KIND_ENUM_TYPE\""), "{json}");
    let diagram = run(&["--output", "mermaid"]).await;
    assert!(
        diagram.contains("\"users\" |o--o{ \"notes\" : \"user_id\""),
        "{diagram}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_somebody_has_locked_is_described_without_its_size() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    database
        .execute(
            "CREATE TABLE other (); CREATE TABLE p (a int) PARTITION BY LIST (a); CREATE \
            TABLE t PARTITION OF p (PRIMARY KEY (a), a DEFAULT 1) FOR VALUES IN (1)",
        )
        .await;
    let daemon = TestDaemon::start(&database, &set).await;
    let session = database.connect().await;
    session.batch_execute("BEGIN; LOCK TABLE t").await.unwrap();
    let sizes = async || {
        let tables = pb::DescribeSchemaRequest {
            kinds: vec![Kind::Table.into()],
            ..Default::default()
        };
        let found = describe(&daemon, tables).await.objects;
        found
            .into_iter()
            .map(|table| (table.name, table.total_bytes.is_some()))
            .collect::<Vec<_>>()
    };
    let others = ["other", "p"].map(|name| (name.to_owned(), true));
    assert_eq!(
        sizes().await,
        [&others[..], &[("t".into(), false)]].concat()
    );
    // Its index alone is enough.
    session
        .batch_execute("ROLLBACK; BEGIN; REINDEX INDEX t_pkey")
        .await
        .unwrap();
    database.execute("CREATE TABLE toasted (x text)").await;
    assert_eq!(
        sizes().await,
        [
            &others[..],
            &[("t".into(), false), ("toasted".into(), true)]
        ]
        .concat()
    );
    // And so is its TOAST table's.
    session.batch_execute("ROLLBACK; BEGIN").await.unwrap();
    let index = "SELECT indexrelid::regclass::text FROM pg_index JOIN pg_class c ON \
        c.reltoastrelid = indrelid WHERE c.relname = 'toasted'";
    session
        .batch_execute(&format!("REINDEX INDEX {}", database.text(index).await))
        .await
        .unwrap();
    assert_eq!(
        sizes().await,
        [
            &others[..],
            &[("t".into(), true), ("toasted".into(), false)]
        ]
        .concat()
    );
}

/// Only the server can write a CHECK, and it opens the table for that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_read_for_a_lock_is_told_as_that() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    database
        .execute("CREATE TABLE t (a int CHECK (a > 0))")
        .await;
    let daemon = TestDaemon::start(&database, &set).await;
    let session = database.connect().await;
    session.batch_execute("BEGIN; LOCK TABLE t").await.unwrap();
    let status = SchemaServiceClient::new(daemon.channel())
        .describe_schema(pb::DescribeSchemaRequest::default())
        .await;
    let failed = Failed::of(&status.unwrap_err());
    failed.assert(tonic::Code::Unavailable, "DATABASE_UNAVAILABLE");
    assert!(
        failed
            .message
            .starts_with("somebody holds a lock on a table"),
        "{failed:?}"
    );
}

/// Kinds that DescribeSchema does not list.
const NOT_LISTED: &[ObjectKind] = &[
    ObjectKind::Schema,
    ObjectKind::EventTrigger,
    ObjectKind::Cast,
    ObjectKind::Operator,
    ObjectKind::OperatorFamily,
    ObjectKind::OperatorClass,
    ObjectKind::Collation,
    ObjectKind::Conversion,
    ObjectKind::Language,
    ObjectKind::Transform,
    ObjectKind::AccessMethod,
    ObjectKind::TextSearch,
    ObjectKind::ForeignDataWrapper,
    ObjectKind::ForeignServer,
    ObjectKind::Publication,
    ObjectKind::DefaultPrivileges,
    ObjectKind::Rights,
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_changes_what_is_listed_shows() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    database.execute(BASE).await;
    let daemon = TestDaemon::start(&database, &set).await;
    let session = database.connect().await;
    let major = schema::read(&session, &Except::default())
        .await
        .unwrap()
        .server_major;
    let (mut hidden, mut seen) = (Vec::new(), 0);
    for (_, change, undo) in STATEMENTS.iter().filter(|(since, ..)| *since <= major) {
        let request = pb::DescribeSchemaRequest {
            page_size: 1000,
            ..Default::default()
        };
        let before = (
            schema::read(&session, &Except::default()).await.unwrap(),
            describe(&daemon, request.clone()).await,
        );
        session
            .batch_execute(change)
            .await
            .unwrap_or_else(|e| panic!("{change}: {e:?}"));
        let after = (
            schema::read(&session, &Except::default()).await.unwrap(),
            describe(&daemon, request).await,
        );
        session
            .batch_execute(undo)
            .await
            .unwrap_or_else(|e| panic!("{undo}: {e:?}"));
        let differences = schema::diff(&before.0, &after.0);
        if differences.iter().all(|one| NOT_LISTED.contains(&one.kind)) {
            continue;
        }
        seen += 1;
        let told = |mut described: pb::DescribeSchemaResponse| {
            described
                .objects
                .iter_mut()
                .for_each(|object| (object.row_estimate, object.total_bytes) = (0, None));
            described.objects
        };
        if told(before.1) == told(after.1) {
            hidden.push(format!("{change}: {}", schema::in_one_line(&differences)));
        }
    }
    assert!(
        hidden.is_empty() && seen > 50,
        "of {seen} changes these do not show:\n{}",
        hidden.join("\n")
    );
}

/// A daemon whose schema changes after each of its first pages.
struct Changing {
    times: usize,
    calls: AtomicUsize,
}

#[tonic::async_trait]
impl SchemaService for Changing {
    async fn describe_schema(
        &self,
        request: Request<pb::DescribeSchemaRequest>,
    ) -> Result<Response<pb::DescribeSchemaResponse>, Status> {
        let is_first = request.get_ref().page_token.is_empty();
        let call = self.calls.fetch_add(1, Relaxed);
        // Two calls a try.
        let version = if call / 2 < self.times {
            call
        } else {
            self.times * 2
        };
        let name = format!("{}_of_{version}", if is_first { "first" } else { "second" });
        Ok(Response::new(pb::DescribeSchemaResponse {
            objects: vec![pb::SchemaObject {
                kind: Kind::Table.into(),
                name,
                row_estimate: -1,
                ..Default::default()
            }],
            next_page_token: if is_first {
                "next".into()
            } else {
                String::new()
            },
            fingerprint: format!("schema-v1:{version}"),
            ..Default::default()
        }))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_begins_again_when_the_schema_changes_between_two_pages() {
    for (times, code) in [(1, 0), (9, 5)] {
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = incoming.local_addr().unwrap().to_string();
        let service = SchemaServiceServer::new(Changing {
            times,
            calls: AtomicUsize::new(0),
        });
        let server = tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(incoming),
        );
        let output = output(schemad(&["schema", "--address", &address])).await;
        server.abort();
        let (said, complained) = (stdout(&output), stderr(&output));
        assert_eq!(output.status.code(), Some(code), "{said}{complained}");
        if code == 0 {
            assert!(
                said.contains("first_of_2")
                    && said.contains("second_of_2")
                    && !said.contains("_of_0"),
                "{said}"
            );
        } else {
            assert!(
                said.is_empty() && complained.contains("went on changing"),
                "{said}{complained}"
            );
        }
    }
}
