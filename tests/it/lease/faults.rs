//! What can go wrong with leases: an error that says what to do, and nothing left behind.

use schemad::LeaseSettings;
use tonic::Code;

use super::{Place, ask, end_of, lease};
use crate::faults::disk::Disk;
use crate::harness::{
    Process, Server, Set,
    daemon::Failed,
    database::{connect, with_database},
    eventually,
    process::from_folder,
    server::TRUST,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_without_createdb_is_told_what_to_ask_for() {
    let place = Place::new("").await;
    let daemon = place.daemon(place.leases(0), &Set::tables(1)).await;
    let refused = Failed::of(&ask(&daemon, None).await.unwrap_err());
    refused.assert(Code::FailedPrecondition, "MISSING_RIGHT");
    assert_eq!(
        refused.metadata["grant"],
        format!("ALTER ROLE {} CREATEDB", place.role)
    );
    // What it says helps, without a restart.
    place.database.execute(&refused.metadata["grant"]).await;
    let (_database, _stream) =
        eventually("it is tried again", async || ask(&daemon, None).await.ok()).await;
    daemon.stop().await;
    place.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_set_that_cannot_be_applied_is_told_with_file_and_line_and_leaves_nothing() {
    let place = Place::new("CREATEDB").await;
    for (name, sql, line, word) in [
        ("2_typo", "CREATE TABLE b (\n  id txt\n);", "2", "txt"),
        (
            "2_extension",
            "-- first\nCREATE EXTENSION not_here;",
            "2",
            "not_here",
        ),
    ] {
        let set = Set::of(&[
            ("1_a", "CREATE TABLE a ();", "DROP TABLE a;"),
            (name, sql, "SELECT 1;"),
        ]);
        let daemon = place.daemon(place.leases(0), &set).await;
        let refused = Failed::of(&ask(&daemon, None).await.unwrap_err());
        refused.assert(Code::FailedPrecondition, "MIGRATION_FAILED");
        assert_eq!(refused.metadata["file"], format!("{name}/up.sql"));
        assert_eq!(refused.metadata["line"], line);
        assert!(refused.message.contains(word), "{refused:?}");
        // It is no operation that anybody could look up.
        assert!(!refused.metadata.contains_key("operation"));
        assert_eq!(place.databases().await, Vec::<String>::new());
        daemon.stop().await;
    }
    place.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_daemons_on_one_server_leave_each_others_databases_alone() {
    let place = Place::new("CREATEDB").await;
    let set = Set::tables(2);
    let (one, two) = (
        place.daemon(place.leases(1), &set).await,
        place.daemon(place.leases(1), &set).await,
    );
    // Both begin at once, each sweeps.
    let ((first, _a), (second, _b)) = tokio::join!(lease(&one), lease(&two));
    // A third comes, sweeps and goes.
    let third = place.daemon(place.leases(0), &set).await;
    let (gone, _c) = lease(&third).await;
    third.stop().await;
    assert!(!place.has(&gone.name).await);
    for database in [&first, &second] {
        connect(&database.url)
            .await
            .batch_execute("INSERT INTO t2 VALUES (1)")
            .await
            .unwrap();
    }
    one.stop().await;
    assert!(place.has(&second.name).await);
    let (again, _d) = lease(&two).await;
    assert!(place.has(&again.name).await);
    two.stop().await;
    place.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_daemon_had_is_dropped_by_the_next_under_who_is_connected() {
    let place = Place::new("CREATEDB").await;
    let set = Set::tables(1);
    let serve = || {
        let mut command = from_folder(&set, &["serve", "--lease-pool", "1"]);
        command
            .env("DATABASE_URL", &place.database.url)
            .env("SCHEMAD_LEASE_DATABASE_URL", place.url());
        command
    };
    let mut killed = Process::start(serve()).await;
    let channel = tonic::transport::Channel::from_shared(format!("http://{}", killed.address))
        .unwrap()
        .connect_lazy();
    let mut client = schemad::pb::lease_service_client::LeaseServiceClient::new(channel);
    let mut stream = client
        .lease(schemad::pb::LeaseRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert!(stream.message().await.unwrap().is_some());
    place.until_there_are(3).await;
    let left = place.databases().await;
    // A pool of connections that nobody closes.
    let leased = &stream_name(&left, &place).await;
    let user = connect(&with_database(&place.url(), leased)).await;
    killed.kill().await;

    let mut next = Process::start(serve()).await;
    for name in &left {
        place.until_gone(name).await;
    }
    assert!(user.batch_execute("SELECT 1").await.is_err());
    place.until_there_are(2).await;
    next.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(next.exit_code().await, Some(0));
    place.end().await;
}

/// One that can be connected to.
async fn stream_name(names: &[String], place: &Place) -> String {
    let open = "SELECT datname FROM pg_database WHERE datallowconn";
    let open = place.database.texts(open).await;
    names
        .iter()
        .find(|name| open.contains(name))
        .unwrap()
        .clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_template_that_somebody_dropped_is_made_anew() {
    let place = Place::new("CREATEDB").await;
    let daemon = place.daemon(place.leases(0), &Set::tables(1)).await;
    let (first, mut stream) = lease(&daemon).await;
    let template = place
        .databases()
        .await
        .into_iter()
        .find(|name| *name != first.name)
        .unwrap();
    place
        .database
        .execute(&format!("DROP DATABASE {template}"))
        .await;
    let (second, _other) = lease(&daemon).await;
    connect(&second.url)
        .await
        .batch_execute("INSERT INTO t1 VALUES (1)")
        .await
        .unwrap();
    // The lease from before goes on.
    connect(&first.url)
        .await
        .batch_execute("INSERT INTO t1 VALUES (1)")
        .await
        .unwrap();
    assert!(futures_util::FutureExt::now_or_never(stream.message()).is_none());
    drop(stream);
    place.until_gone(&first.name).await;
    daemon.stop().await;
    place.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_end_with_the_session_that_keeps_others_from_sweeping_them() {
    let place = Place::new("CREATEDB").await;
    let daemon = place.daemon(place.leases(1), &Set::tables(1)).await;
    let (first, stream) = lease(&daemon).await;
    place
        .database
        .texts(
            "SELECT pg_terminate_backend(l.pid) FROM pg_locks l WHERE l.objsubid = 2 AND l.classid \
            = 1935897185 AND l.database = (SELECT oid FROM pg_database WHERE datname = \
            current_database())",
        )
        .await;
    end_of(stream)
        .await
        .assert(Code::Unavailable, "DATABASE_UNAVAILABLE");
    place.until_gone(&first.name).await;
    let (second, _stream) = lease(&daemon).await;
    assert!(place.has(&second.name).await);
    // The old template, too: one template, one lease, one that is ready.
    place.until_there_are(3).await;
    daemon.stop().await;
    place.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_told_and_leaves_nothing() {
    let Some(disk) = Disk::mount() else {
        println!("skipped: no small disk may be mounted here");
        return;
    };
    let settings = ["min_wal_size=32MB", "max_wal_size=32MB"];
    let mut server = Server::start_in(disk.path(), &[], &settings, TRUST).await;
    let place = Place::new("").await;
    let url = server.local_url();
    let leases = LeaseSettings {
        database: url.parse().unwrap(),
        client: url.parse().unwrap(),
        ..place.leases(0)
    };
    let daemon = place.daemon(leases, &Set::tables(1)).await;
    let before = lease(&daemon).await;
    disk.fill();
    // What is preallocated is soon used up.
    let mut streams = Vec::new();
    let refused = loop {
        match ask(&daemon, None).await {
            Ok(lease) => streams.push(lease),
            Err(status) => break Failed::of(&status),
        }
    };
    refused.assert(Code::Unavailable, "DATABASE_UNAVAILABLE");
    // Or, where there was no room for WAL, that it is away.
    assert!(
        ["disk is full", "connect", "lost"]
            .iter()
            .any(|word| refused.message.contains(word)),
        "{refused:?}"
    );
    disk.free();
    // Without room for its WAL it goes down.
    if !server.is_up() {
        server.start_again().await;
    }
    drop((before, streams));
    let last = eventually("a lease", async || ask(&daemon, None).await.ok()).await;
    let made = || async {
        let count = "SELECT count(*) FROM pg_database WHERE starts_with(datname::text, \
             'schemad_scratch_')";
        connect(&url)
            .await
            .query_one(count, &[])
            .await
            .unwrap()
            .get::<_, i64>(0)
    };
    eventually("the template and the lease", async || {
        (made().await == 2).then_some(())
    })
    .await;
    drop(last);
    daemon.stop().await;
    assert_eq!(made().await, 0);
    place.end().await;
}
