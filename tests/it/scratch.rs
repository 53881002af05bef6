//! Scratch databases: made, copied, dropped, and swept when whoever made them is gone.

use schemad::{
    DatabaseUrl,
    internals::{
        failure::{Failure, Reason},
        postgres::MigrationSession,
        scratch::{ScratchMaker, ScratchName, ScratchTemplate, sweep},
    },
};

use crate::harness::{TestDatabase, database::connect, database::with_database, eventually};

async fn exists(database: &TestDatabase, name: &ScratchName) -> bool {
    database
        .text(&format!(
            "SELECT count(*) FROM pg_database WHERE datname = '{name}'"
        ))
        .await
        == "1"
}

fn url(database: &TestDatabase) -> DatabaseUrl {
    database.url.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_is_made_copied_and_dropped() {
    let database = TestDatabase::new().await;
    let mut scratch = ScratchMaker::open(&url(&database)).await.unwrap();
    let first = scratch.create(ScratchTemplate::Empty).await.unwrap();
    let session = MigrationSession::open(&scratch.url(&first)).await.unwrap();
    session
        .client()
        .batch_execute("CREATE TABLE public.t (id int); INSERT INTO public.t VALUES (7)")
        .await
        .unwrap();
    // While it is connected, only its own session can copy it.
    let second = scratch.put_aside(&first, session.client()).await.unwrap();
    let refused = MigrationSession::open(&scratch.url(&second))
        .await
        .err()
        .map(|error| error.to_string())
        .unwrap_or_default();
    assert!(
        refused.contains("not currently accepting connections"),
        "{refused}"
    );
    drop(session);
    let third = eventually("a copy of what nobody uses", async || {
        scratch
            .create(ScratchTemplate::Copy(&second.to_string()))
            .await
            .ok()
    })
    .await;
    let copy = MigrationSession::open(&scratch.url(&third)).await.unwrap();
    let rows = copy
        .client()
        .query_typed("SELECT id FROM public.t", &[])
        .await
        .unwrap();
    assert_eq!(rows[0].get::<_, i32>(0), 7);
    let alike = "SELECT count(DISTINCT (encoding, datcollate, datctype)) FROM pg_database WHERE \
         datname IN";
    assert_eq!(
        database
            .text(&format!("{alike} ('{first}', '{}')", database.name))
            .await,
        "1"
    );

    // Under whoever is connected.
    scratch.remove(&third).await.unwrap();
    assert!(!exists(&database, &third).await && exists(&database, &second).await);
    assert_eq!(scratch.databases(), [first, second]);
    scratch.close().await.unwrap();
    assert!(!exists(&database, &first).await && !exists(&database, &second).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_left_behind_is_swept_when_its_maker_is_gone_and_nobody_uses_it() {
    let database = TestDatabase::new().await;
    let mut scratch = ScratchMaker::open(&url(&database)).await.unwrap();
    let [used, unused] = [
        scratch.create(ScratchTemplate::Empty).await.unwrap(),
        scratch.create(ScratchTemplate::Empty).await.unwrap(),
    ];
    let user = connect(&with_database(&database.url, &used.to_string())).await;

    let other = MigrationSession::open(&url(&database)).await.unwrap();
    assert!(
        !sweep(other.client()).await.unwrap().contains(&unused),
        "its maker lives"
    );
    assert!(scratch.is_alive());

    drop(scratch); // as a kill would: nothing is said, the connection ends
    eventually("the unused one is swept", async || {
        drop(sweep(other.client()).await.unwrap()); // another test's may be faster
        (!exists(&database, &unused).await).then_some(())
    })
    .await;
    assert!(exists(&database, &used).await, "somebody is connected");

    drop(user);
    eventually("the next who opens one sweeps", async || {
        ScratchMaker::open(&url(&database)).await.unwrap();
        (!exists(&database, &used).await).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_sweeps_at_its_start() {
    let database = TestDatabase::new().await;
    let mut scratch = ScratchMaker::open(&url(&database)).await.unwrap();
    let left = scratch.create(ScratchTemplate::Empty).await.unwrap();
    drop(scratch);
    // Its backend needs a moment to be gone.
    eventually("its maker is gone", async || {
        let makers = "SELECT count(*) FROM pg_locks WHERE objsubid = 2 AND classid = 1935897185 \
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        (database.text(makers).await == "0").then_some(())
    })
    .await;
    let daemon =
        crate::harness::TestDaemon::start(&database, &crate::harness::Set::tables(1)).await;
    eventually("swept", async || {
        (!exists(&database, &left).await).then_some(())
    })
    .await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_without_createdb_is_told_what_to_ask_for() {
    let database = TestDatabase::new().await;
    let role = format!("scratch_{}", std::process::id());
    database
        .execute(&format!("CREATE ROLE {role} LOGIN PASSWORD 'pw'"))
        .await;
    let mut scratch = ScratchMaker::open(&database.url_as(&role).parse().unwrap())
        .await
        .unwrap();
    let refused = Failure::from(scratch.create(ScratchTemplate::Empty).await.unwrap_err());
    assert_eq!(
        (refused.reason, refused.metadata["grant"].as_str()),
        (
            Reason::MissingRight,
            &*format!("ALTER ROLE {role} CREATEDB")
        )
    );
    // What it says helps.
    database.execute(&refused.metadata["grant"]).await;
    let made = scratch.create(ScratchTemplate::Empty).await.unwrap();
    // Of another role's database it may copy nothing.
    let foreign = Failure::from(
        scratch
            .create(ScratchTemplate::Copy(&database.name))
            .await
            .unwrap_err(),
    );
    assert!(
        foreign.reason == Reason::MissingRight && foreign.message.contains("may not copy"),
        "{foreign}"
    );
    scratch.close().await.unwrap();
    assert!(!exists(&database, &made).await);
    database.execute(&format!("DROP ROLE {role}")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_is_taken_is_passed_over_and_at_last_told() {
    let database = TestDatabase::new().await;
    let mut scratch = ScratchMaker::open(&url(&database)).await.unwrap();
    let first = scratch.create(ScratchTemplate::Empty).await.unwrap();
    let nth = |n: u32| format!("{}_{n}", first.to_string().rsplit_once('_').unwrap().0);
    for n in [2, 4, 5, 6] {
        database
            .execute(&format!("CREATE DATABASE {} TEMPLATE template0", nth(n)))
            .await;
    }
    assert_eq!(
        scratch
            .create(ScratchTemplate::Empty)
            .await
            .unwrap()
            .to_string(),
        nth(3)
    );
    let refused = Failure::from(scratch.create(ScratchTemplate::Empty).await.unwrap_err());
    assert!(
        refused.reason == Reason::ScratchNameTaken && refused.message.contains(&nth(6)),
        "{refused}"
    );
    // While the maker lives, nobody sweeps them.
    for n in [2, 4, 5, 6] {
        database.execute(&format!("DROP DATABASE {}", nth(n))).await;
    }
    scratch.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_are_connected_to_is_not_copied() {
    let database = TestDatabase::new().await;
    let _user = database.connect().await;
    let mut scratch = ScratchMaker::open(&url(&database)).await.unwrap();
    let refused = Failure::from(
        scratch
            .create(ScratchTemplate::Copy(&database.name))
            .await
            .unwrap_err(),
    );
    assert!(
        refused.reason == Reason::ScratchInUse && refused.message.contains(&database.name),
        "{refused}"
    );
    assert!(
        refused.message.contains("connected to it: pid ")
            && refused.message.contains(" (postgres)"),
        "{refused}"
    );
    scratch.close().await.unwrap();
}

/// Whoever has an account on the server has nothing to look for in a copy of what others rehearse.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_but_its_maker_gets_into_one() {
    let database = TestDatabase::new().await;
    let stranger = format!("stranger_{}", database.name);
    database
        .execute(&format!("CREATE ROLE {stranger} LOGIN PASSWORD 'pw'"))
        .await;
    let mut scratch = ScratchMaker::open(&url(&database)).await.unwrap();
    let empty = scratch.create(ScratchTemplate::Empty).await.unwrap();
    let session = MigrationSession::open(&scratch.url(&empty)).await.unwrap();
    let aside = scratch.put_aside(&empty, session.client()).await.unwrap();
    let copy = scratch
        .create(ScratchTemplate::Copy(&aside.to_string()))
        .await
        .unwrap();
    for name in [&empty, &copy] {
        let url = with_database(&database.url_as(&stranger), &name.to_string());
        let refused = tokio_postgres::connect(&url, tokio_postgres::NoTls)
            .await
            .err()
            .map(|error| error.code().cloned());
        assert_eq!(
            refused,
            Some(Some(
                tokio_postgres::error::SqlState::INSUFFICIENT_PRIVILEGE
            )),
            "{name}"
        );
        drop(MigrationSession::open(&scratch.url(name)).await.unwrap());
    }
    scratch.close().await.unwrap();
    database.execute(&format!("DROP ROLE {stranger}")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_role_made_under_such_a_name_is_nobodys_to_sweep() {
    let database = TestDatabase::new().await;
    let mut scratch = ScratchMaker::open(&url(&database)).await.unwrap();
    let [theirs, ours] = [
        scratch.create(ScratchTemplate::Empty).await.unwrap(),
        scratch.create(ScratchTemplate::Empty).await.unwrap(),
    ];
    let other = format!("other_{}", database.name);
    database
        .execute(&format!(
            "CREATE ROLE {other}; ALTER DATABASE {theirs} OWNER TO {other}"
        ))
        .await;
    drop(scratch); // as a kill would
    let session = MigrationSession::open(&url(&database)).await.unwrap();
    eventually("ours is swept", async || {
        drop(sweep(session.client()).await.unwrap());
        (!exists(&database, &ours).await).then_some(())
    })
    .await;
    assert!(
        exists(&database, &theirs).await,
        "a superuser may drop it, and it is not his"
    );
    database.execute(&format!("DROP DATABASE {theirs}")).await;
    database.execute(&format!("DROP ROLE {other}")).await;
}
