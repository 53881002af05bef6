//! A statement after whose error the server ends the session, as CREATE EXTENSION does with a
//! library that has to be preloaded: what the server said is the operation's result, with its file
//! and place, and not that the session is gone.

use schemad::pb::{self, rehearsal_event::Event, rehearse_request::Selection};
use tonic::Code;

use crate::harness::{
    Proxy, Set, TestDaemon, TestDatabase,
    daemon::settings,
    process::{output, schemad, stderr},
};

const FATAL: &str = "DO $$ BEGIN RAISE EXCEPTION 'extension \"x\" must be preloaded' USING HINT = \
    'Preload the library.', ERRCODE = '0A000'; END $$;";

struct Place {
    database: TestDatabase,
    proxy: Proxy,
    daemon: TestDaemon,
}

async fn place(set: &Set) -> Place {
    let database = TestDatabase::new().await;
    let proxy = Proxy::to(&database).await;
    let daemon = TestDaemon::launch(settings(&proxy.url), set).await;
    daemon.until_ready().await;
    Place {
        database,
        proxy,
        daemon,
    }
}

impl Place {
    /// Applies everything, and is told by the server's own words why not.
    async fn is_told(&self, file: &str, statement: &str, words: &str, steps_done: usize) {
        self.proxy.make_errors_fatal(true);
        let outcome = self.daemon.apply_all().await;
        self.proxy.make_errors_fatal(false);
        let failed = outcome.failure();
        failed.assert(Code::FailedPrecondition, "MIGRATION_FAILED");
        assert!(
            failed.message.contains(words) && failed.message.contains(file),
            "{}",
            failed.message
        );
        assert_eq!(failed.metadata["file"], file);
        assert_eq!(failed.metadata["statement"], statement, "{failed:?}");
        assert_eq!(outcome.done().len(), steps_done);
        assert_eq!(
            outcome.last_finished().unwrap().steps_done,
            i32::try_from(steps_done).unwrap()
        );
        let id = outcome.operation();
        let state = self
            .database
            .text(&format!(
                "SELECT state FROM schemad.operations WHERE id = '{id}'"
            ))
            .await;
        assert_eq!(state, "failed");
        self.database.assert_consistent().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_servers_last_word_is_told_and_not_the_loss_of_the_session() {
    let set = Set::of(&[
        ("1_a", "CREATE TABLE a ();", "DROP TABLE a;"),
        (
            "2_b",
            &format!("CREATE TABLE b ();\n{FATAL}\nCREATE TABLE c ();"),
            "DROP TABLE b;",
        ),
        ("3_d", "CREATE TABLE d ();", "DROP TABLE d;"),
    ]);
    let place = place(&set).await;
    place
        .is_told("2_b/up.sql", "2", "must be preloaded", 1)
        .await;
    assert_eq!(
        place
            .database
            .text("SELECT to_regclass('b') IS NULL AND to_regclass('d') IS NULL")
            .await,
        "t"
    );

    // The same by the command line, which asks once.
    place.proxy.make_errors_fatal(true);
    let applied = output(schemad(&["apply", "--address", &place.daemon.address])).await;
    let told = stderr(&applied);
    assert_eq!(applied.status.code(), Some(1), "{told}");
    assert!(
        told.contains("must be preloaded")
            && told.contains("Preload the library")
            && told.contains("2_b/up.sql"),
        "{told}"
    );
    let operations = "SELECT count(*) FROM schemad.operations";
    assert_eq!(place.database.text(operations).await, "2", "{told}");

    // And by a rehearsal beside the database.
    let request = pb::RehearseRequest {
        selection: Some(Selection::All(true)),
        ..Default::default()
    };
    let mut stream = place
        .daemon
        .client()
        .rehearse(request)
        .await
        .unwrap()
        .into_inner();
    let mut failed = None;
    while let Ok(Some(response)) = stream.message().await {
        if let Event::Rehearsed(one) = response.event.unwrap().event.unwrap()
            && one.version == "2"
        {
            failed = Some(one);
        }
    }
    let failed = failed.expect("a verdict");
    assert_eq!(failed.verdict, "UP_FAILS", "{failed:?}");
    assert!(
        format!("{failed:?}").contains("must be preloaded"),
        "{failed:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_it_is_in_a_script_that_is_not_one_transaction() {
    let set = Set::tables(1);
    let up = format!("CREATE TABLE b (id int);\nINSERT INTO b VALUES (1), (1);\n{FATAL}");
    set.add_non_transactional("0002_b", &up, "DROP TABLE b;");
    let place = place(&set).await;
    place
        .is_told("0002_b/up.sql", "3", "must be preloaded", 1)
        .await;
    assert_eq!(
        place.database.text("SELECT count(*) FROM b").await,
        "2",
        "what was committed before stays"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_it_is_of_a_statement_outside_a_transaction() {
    let set = Set::tables(1);
    let up = "CREATE TABLE b (id int);\nINSERT INTO b VALUES (1), (1);\nCREATE UNIQUE INDEX \
        CONCURRENTLY b_id ON b (id);";
    set.add_non_transactional("0002_b", up, "DROP TABLE b;");
    let place = place(&set).await;
    place
        .is_told("0002_b/up.sql", "3", "could not create unique index", 1)
        .await;
    // The next try finds out what became of it.
    place
        .database
        .execute("DELETE FROM b WHERE ctid = (SELECT min(ctid) FROM b)")
        .await;
    place.daemon.apply_all().await.finished();
    let valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'b_id'::regclass";
    assert_eq!(place.database.text(valid).await, "t");
}

/// A FATAL that the server itself makes, where it knows this setting.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_it_is_when_a_script_sets_a_timeout_that_ends_its_session() {
    let set = Set::of(&[(
        "1_slow",
        "SET transaction_timeout = '200ms';\nSELECT pg_sleep(20);",
        "",
    )]);
    let place = place(&set).await;
    if place.database.server_major().await < 17 {
        println!("skipped: this server has no transaction_timeout");
        return;
    }
    let outcome = place.daemon.apply_all().await;
    let failed = outcome.failure();
    failed.assert(Code::FailedPrecondition, "MIGRATION_FAILED");
    assert_eq!(failed.metadata["sqlstate"], "25P04", "{failed:?}");
    assert_eq!(failed.metadata["file"], "1_slow/up.sql");
}
