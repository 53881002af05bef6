//! Leases: a migrated database of one's own, that is gone when its time is, however that comes.

use std::time::Duration;

use schemad::{
    LeaseSettings, Settings,
    internals::{postgres::MigrationSession, scratch::sweep},
    pb::{self, lease_response::Event, lease_service_client::LeaseServiceClient},
};
use tonic::{Code, Status, Streaming};

use crate::harness::{
    PATIENCE, Set, TestDaemon, TestDatabase,
    daemon::{Failed, get, settings},
    database::{connect, with_database},
    eventually,
    server::tool,
};

mod command;
mod examples;
mod faults;
mod numbers;
mod room;

/// A place for leases: a role of the test's own that may make databases, and nothing else.
struct Place {
    database: TestDatabase,
    role: String,
}

impl Place {
    async fn new(attributes: &str) -> Self {
        let database = TestDatabase::new().await;
        let role = format!("lease_{}", database.name);
        database
            .execute(&format!(
                "CREATE ROLE {role} LOGIN PASSWORD 'pw' {attributes}"
            ))
            .await;
        Self { database, role }
    }

    fn url(&self) -> String {
        self.database.url_as(&self.role)
    }

    fn leases(&self, pool: usize) -> LeaseSettings {
        LeaseSettings {
            database: self.url().parse().unwrap(),
            client: self.url().parse().unwrap(),
            pool,
            ttl: Duration::from_secs(600),
            max_ttl: Duration::from_secs(3600),
            per_principal: 8,
            most: 8,
        }
    }

    async fn daemon(&self, leases: LeaseSettings, set: &Set) -> TestDaemon {
        TestDaemon::launch(
            Settings {
                leases: Some(leases),
                ..settings(&self.database.url)
            },
            set,
        )
        .await
    }

    /// The template, what is ready and what is leased.
    async fn databases(&self) -> Vec<String> {
        self.database
            .texts(&format!(
                "SELECT datname FROM pg_database WHERE datdba = '{}'::regrole",
                self.role
            ))
            .await
    }

    async fn has(&self, name: &str) -> bool {
        self.databases()
            .await
            .iter()
            .any(|database| database == name)
    }

    async fn until_there_are(&self, n: usize) {
        eventually(&format!("{n} databases"), async || {
            (self.databases().await.len() == n).then_some(())
        })
        .await;
    }

    async fn until_gone(&self, name: &str) {
        eventually(&format!("{name} is gone"), async || {
            (!self.has(name).await).then_some(())
        })
        .await;
    }

    /// Nothing is left behind, so that the role can be dropped. A daemon that ends waits 10 s for
    /// the server to drop its databases, which a server that is busy with other tests does not
    /// always do in time; the next who looks drops the rest, and here that is the test.
    async fn end(self) {
        eventually("no database is left", async || {
            let session = MigrationSession::open(&self.url().parse().unwrap())
                .await
                .unwrap();
            // One that is being dropped may end while it is looked at.
            drop(sweep(session.client()).await);
            self.databases().await.is_empty().then_some(())
        })
        .await;
        self.database
            .execute(&format!("DROP ROLE {}", self.role))
            .await;
    }
}

type Stream = Streaming<pb::LeaseResponse>;

async fn ask(
    daemon: &TestDaemon,
    ttl: Option<Duration>,
) -> Result<(pb::LeasedDatabase, Stream), Status> {
    let request = pb::LeaseRequest {
        ttl: ttl.map(|ttl| ttl.try_into().unwrap()),
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

async fn lease(daemon: &TestDaemon) -> (pb::LeasedDatabase, Stream) {
    ask(daemon, None)
        .await
        .unwrap_or_else(|status| panic!("{status:?}"))
}

/// How it ends.
async fn end_of(mut stream: Stream) -> Failed {
    let end = async {
        loop {
            match stream.message().await {
                Ok(Some(response)) => assert!(matches!(response.event, Some(Event::Heartbeat(_)))),
                Ok(None) => panic!("a lease ends with a reason"),
                Err(status) => return Failed::of(&status),
            }
        }
    };
    tokio::time::timeout(PATIENCE, end)
        .await
        .expect("it does not end")
}

async fn dump(url: &str) -> String {
    let arguments = ["--schema-only", "--no-owner", "--no-acl", "-d", url];
    let output = tokio::process::Command::new(tool("pg_dump"))
        .args(arguments)
        .output()
        .await
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let lines = String::from_utf8(output.stdout).unwrap();
    // A new pg_dump has a random word in it.
    lines
        .lines()
        .filter(|line| !line.starts_with("\\restrict") && !line.starts_with("\\unrestrict"))
        .collect::<Vec<_>>()
        .join("\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_leased_has_the_schema_that_apply_makes_and_is_ones_own() {
    let place = Place::new("CREATEDB").await;
    let set = Set::of(&[
        (
            "1_a",
            "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TABLE a (id serial PRIMARY KEY, m \
             mood);",
            "DROP TABLE a;",
        ),
        (
            "2_v",
            "CREATE VIEW v AS SELECT id FROM a; INSERT INTO a (m) VALUES ('ok');",
            "DROP VIEW v;",
        ),
    ]);
    set.add_non_transactional(
        "3_i",
        "CREATE INDEX CONCURRENTLY i ON a (m);",
        "DROP INDEX i;",
    );
    let daemon = place.daemon(place.leases(0), &set).await;
    let ((one, stream), (two, _other)) = (lease(&daemon).await, lease(&daemon).await);
    daemon.until_ready().await;
    daemon.apply_all().await.finished();
    assert_eq!(dump(&one.url).await, dump(&place.database.url).await);
    assert_eq!(one.set_digest, daemon.status().await.embedded_set_digest);
    let expires = std::time::SystemTime::try_from(one.expire_time.unwrap()).unwrap();
    let left = expires
        .duration_since(std::time::SystemTime::now())
        .unwrap();
    assert!(
        left < Duration::from_secs(601) && left > Duration::from_secs(500),
        "{left:?}"
    );

    // Each has what it does to it, and the rows that migrations made.
    let (first, second) = (connect(&one.url).await, connect(&two.url).await);
    first
        .batch_execute("INSERT INTO a (m) VALUES ('sad')")
        .await
        .unwrap();
    let rows = |client: tokio_postgres::Client| async move {
        client.query("SELECT FROM v", &[]).await.unwrap().len()
    };
    assert_eq!((rows(first).await, rows(second).await), (2, 1));

    drop(stream);
    place.until_gone(&one.name).await;
    assert!(place.has(&two.name).await);
    daemon.stop().await;
    place.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_may_be_another_role_with_what_the_migrations_grant_it() {
    let place = Place::new("CREATEDB").await;
    let app = format!("app_{}", place.database.name);
    place
        .database
        .execute(&format!("CREATE ROLE {app} LOGIN PASSWORD 'pw'"))
        .await;
    let grants = format!(
        "CREATE TABLE a (id int); CREATE TABLE b (id int); GRANT SELECT, INSERT ON a TO {app};"
    );
    let set = Set::of(&[("1_a", &grants, "DROP TABLE a, b;")]);
    let leases = LeaseSettings {
        client: place.database.url_as(&app).parse().unwrap(),
        ..place.leases(0)
    };
    let daemon = place.daemon(leases, &set).await;
    // Whose sessions it could not end, it could drop no database under.
    let refused = Failed::of(&ask(&daemon, None).await.unwrap_err());
    refused.assert(Code::FailedPrecondition, "MISSING_RIGHT");
    assert_eq!(
        refused.metadata["grant"],
        format!("GRANT {app} TO {}", place.role)
    );
    place.database.execute(&refused.metadata["grant"]).await;
    let (leased, _stream) =
        eventually("it is tried again", async || ask(&daemon, None).await.ok()).await;
    assert!(leased.url.contains(&app) && !leased.url.contains(&place.role));
    let client = connect(&leased.url).await;
    client
        .batch_execute("INSERT INTO a VALUES (1); CREATE TEMPORARY TABLE t AS SELECT FROM a")
        .await
        .unwrap();
    // Who has an account there and no lease does not get in.
    let stranger = format!("stranger_{}", place.database.name);
    place
        .database
        .execute(&format!("CREATE ROLE {stranger} LOGIN PASSWORD 'pw'"))
        .await;
    let url = with_database(&place.database.url_as(&stranger), &leased.name);
    let refused = tokio_postgres::connect(&url, tokio_postgres::NoTls)
        .await
        .err()
        .expect("nobody else gets in");
    assert_eq!(
        refused.code(),
        Some(&tokio_postgres::error::SqlState::INSUFFICIENT_PRIVILEGE)
    );
    place
        .database
        .execute(&format!("DROP ROLE {stranger}"))
        .await;
    for refused in [
        "INSERT INTO b VALUES (1)",
        "DROP TABLE a",
        &format!("DROP DATABASE {}", leased.name),
    ] {
        let error = client.batch_execute(refused).await.unwrap_err();
        assert!(error.as_db_error().is_some(), "{refused}: {error}");
    }
    daemon.stop().await;
    place.until_there_are(0).await;
    place.database.execute(&format!("DROP ROLE {app}")).await;
    place.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_its_time_is_over_it_is_dropped_under_whoever_is_connected() {
    let place = Place::new("CREATEDB").await;
    let daemon = place.daemon(place.leases(0), &Set::tables(1)).await;
    let (database, stream) = ask(&daemon, Some(Duration::from_secs(1))).await.unwrap();
    let client = connect(&database.url).await;
    client
        .batch_execute("INSERT INTO t1 VALUES (1)")
        .await
        .unwrap();
    end_of(stream)
        .await
        .assert(Code::DeadlineExceeded, "LEASE_EXPIRED");
    // Whoever is told that it is over finds it gone.
    assert!(!place.has(&database.name).await);
    assert!(client.batch_execute("SELECT 1").await.is_err());

    for ttl in [0, 3601] {
        let failed = Failed::of(
            &ask(&daemon, Some(Duration::from_secs(ttl)))
                .await
                .unwrap_err(),
        );
        failed.assert(Code::InvalidArgument, "INVALID_DURATION");
        assert_eq!(
            failed.message,
            "a lease lasts longer than nothing and at most 1h"
        );
    }
    daemon.stop().await;
    place.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_ends_takes_its_leases_with_it() {
    let place = Place::new("CREATEDB").await;
    let daemon = place.daemon(place.leases(2), &Set::tables(1)).await;
    let (database, stream) = lease(&daemon).await;
    let _user = connect(&database.url).await;
    daemon.terminate();
    end_of(stream)
        .await
        .assert(Code::Unavailable, "SHUTTING_DOWN");
    daemon.stop().await;
    // Nothing to wait for: leases, pool and template are gone.
    assert_eq!(place.databases().await, Vec::<String>::new());
    place.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_principal_and_all_have_so_many_and_what_ends_makes_room() {
    let place = Place::new("CREATEDB").await;
    for (per_principal, most) in [(1, 2), (2, 1)] {
        let leases = LeaseSettings {
            per_principal,
            most,
            ..place.leases(0)
        };
        let daemon = place.daemon(leases, &Set::tables(1)).await;
        let (one, stream) = lease(&daemon).await;
        let refused = Failed::of(&ask(&daemon, None).await.unwrap_err());
        refused.assert(Code::ResourceExhausted, "TOO_MANY_LEASES");
        drop(stream);
        let (two, _stream) =
            eventually("there is room", async || ask(&daemon, None).await.ok()).await;
        assert!(place.has(&two.name).await);
        place.until_gone(&one.name).await;
        daemon.stop().await;
    }
    place.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_after_the_other_needs_room_for_one() {
    let place = Place::new("CREATEDB").await;
    let leases = LeaseSettings {
        most: 1,
        ..place.leases(0)
    };
    let daemon = place.daemon(leases, &Set::tables(1)).await;
    for _ in 0..5 {
        drop(lease(&daemon).await);
    }
    daemon.stop().await;
    place.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_many_copies_are_ready_and_each_that_is_taken_is_replaced() {
    let place = Place::new("CREATEDB").await;
    let daemon = place.daemon(place.leases(2), &Set::tables(1)).await;
    // Nobody has asked yet: two, and the template.
    place.until_there_are(3).await;
    let before = place.databases().await;
    let (database, _stream) = lease(&daemon).await;
    assert!(before.contains(&database.name), "one that was ready");
    place.until_there_are(4).await;
    let metrics = || async { get(&daemon.admin, "/metrics").await.1 };
    eventually("as the metrics say", async || {
        let metrics = metrics().await;
        let has = |line: &str| metrics.contains(&format!("schemad_leases{{state={line}"));
        (has("\"ready\"} 2") && has("\"leased\"} 1")).then_some(())
    })
    .await;
    // A burst is served, too, and the pool is full again afterwards, and no more than full.
    let mut streams = Vec::new();
    for _ in 0..4 {
        streams.push(lease(&daemon).await);
    }
    place.until_there_are(1 + 5 + 2).await;
    drop(streams);
    place.until_there_are(1 + 1 + 2).await;
    daemon.stop().await;
    place.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_are_none_unless_the_daemon_was_given_a_server_for_them() {
    let database = TestDatabase::new().await;
    let daemon = TestDaemon::start(&database, &Set::tables(1)).await;
    let refused = Failed::of(&ask(&daemon, None).await.unwrap_err());
    refused.assert(Code::FailedPrecondition, "LEASES_OFF");
    assert!(
        refused.message.contains("SCHEMAD_LEASE_DATABASE_URL"),
        "{refused:?}"
    );
    daemon.stop().await;
}
