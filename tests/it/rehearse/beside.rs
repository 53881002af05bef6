//! By RPC, beside a daemon's database; and `--require-rehearsed`.

use schemad::{
    Settings,
    pb::{self, rehearsal_event::Event, rehearse_request::Selection},
};
use tonic::{Code, Status};

use crate::harness::{
    Set, TestDaemon, TestDatabase,
    daemon::{Failed, settings},
    eventually,
    process::{from_folder, output, stderr, stdout},
};

/// The verdicts, with whether each is pending, the summary, and the final status.
type Heard = (
    Vec<(String, String, bool)>,
    Option<pb::RehearsalSummary>,
    Result<(), Status>,
);

async fn rehearse(daemon: &TestDaemon, selection: Option<Selection>) -> Heard {
    let (mut verdicts, mut summary) = (Vec::new(), None);
    let status = async {
        let mut stream = daemon
            .client()
            .rehearse(pb::RehearseRequest {
                selection,
                ..Default::default()
            })
            .await?
            .into_inner();
        while let Some(response) = stream.message().await? {
            match response.event.unwrap().event.unwrap() {
                Event::Rehearsed(one) => verdicts.push((one.version, one.verdict, one.pending)),
                Event::Summary(last) => summary = Some(last),
                _ => {}
            }
        }
        Ok(())
    };
    let status = status.await;
    (verdicts, summary, status)
}

fn plain(verdicts: &[(String, String, bool)]) -> Vec<(&str, &str, bool)> {
    verdicts
        .iter()
        .map(|(version, verdict, pending)| (version.as_str(), verdict.as_str(), *pending))
        .collect()
}

async fn until_waiting(database: &TestDatabase, seconds: &str) -> String {
    let query = format!(
        "SELECT datname FROM pg_stat_activity WHERE datname LIKE 'schemad_scratch_%' AND query \
         LIKE '%pg_sleep({seconds})%'"
    );
    eventually("it sleeps", async || {
        Some(database.text(&query).await).filter(|name| !name.is_empty())
    })
    .await
}

async fn is_there(database: &TestDatabase, name: &str) -> bool {
    database
        .text(&format!(
            "SELECT count(*) FROM pg_database WHERE datname = '{name}'"
        ))
        .await
        == "1"
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_pending_is_rehearsed_and_only_that_counts() {
    let database = TestDatabase::new().await;
    let set = Set::of(&[
        ("1_bad", "CREATE TABLE t (id int);", "SELECT 1;"),
        (
            "2_good",
            "ALTER TABLE t ADD COLUMN a int;",
            "ALTER TABLE t DROP COLUMN a;",
        ),
    ]);
    let daemon = TestDaemon::start(&database, &set).await;
    daemon
        .apply(pb::ApplyRequest {
            target: Some(pb::apply_request::Target::Steps(1)),
            ..Default::default()
        })
        .await
        .finished();
    let (verdicts, summary, status) = rehearse(&daemon, None).await;
    assert_eq!(
        (plain(&verdicts), status.is_ok()),
        (vec![("2", "RESTORES", true)], true)
    );
    assert_eq!(summary.unwrap().verdicts["RESTORES"], 1);
    let (verdicts, _, status) = rehearse(&daemon, Some(Selection::All(true))).await;
    assert_eq!(
        plain(&verdicts),
        [("1", "UP_FAILS_AFTER_DOWN", false), ("2", "RESTORES", true)]
    );
    assert!(status.is_ok(), "what is applied is past help: {status:?}");

    // Nothing of it is in the database; the command line shows the same.
    assert_eq!(database.diesel_versions().await, ["1"]);
    daemon.rollback_all().await.finished();
    database.execute("DROP TABLE t").await;
    let shown = output(from_folder(
        &set,
        &["rehearse", "--address", &daemon.address],
    ))
    .await;
    assert_eq!(shown.status.code(), Some(3), "{}", stderr(&shown));
    assert!(
        stdout(&shown).contains("+ table public.t"),
        "{}",
        stdout(&shown)
    );
    assert!(
        stderr(&shown).contains("REHEARSAL_BAD"),
        "{}",
        stderr(&shown)
    );
    let (_, summary, status) = rehearse(&daemon, Some(Selection::Last(2))).await;
    Failed::of(&status.unwrap_err()).assert(Code::FailedPrecondition, "REHEARSAL_BAD");
    assert_eq!(summary.unwrap().bad, ["1"]);
    let (.., status) = rehearse(&daemon, Some(Selection::Last(0))).await;
    Failed::of(&status.unwrap_err()).assert(Code::InvalidArgument, "INVALID_SELECTION");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beside_the_real_database_nothing_that_reaches_outside_is_run() {
    let database = TestDatabase::new().await;
    let role = format!("outside_{}", std::process::id());
    let set = Set::of(&[(
        "1_role",
        &format!("DO $$ BEGIN CREATE ROLE {role}; END $$"),
        &format!("DROP ROLE {role}"),
    )]);
    let daemon = TestDaemon::start(&database, &set).await;
    let (verdicts, ..) = rehearse(&daemon, None).await;
    assert_eq!(plain(&verdicts), [("1", "UP_FAILS", true)]);
    assert_eq!(
        database
            .text(&format!(
                "SELECT count(*) FROM pg_roles WHERE rolname = '{role}'"
            ))
            .await,
        "0"
    );
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_runs_at_a_time_and_ends_with_its_call() {
    let database = TestDatabase::new().await;
    let set = Set::of(&[("1_sleeps", "SELECT pg_sleep(1001);", "SELECT 1;")]);
    let daemon = TestDaemon::start(&database, &set).await;
    let mut stream = daemon
        .client()
        .rehearse(pb::RehearseRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert!(matches!(
        stream
            .message()
            .await
            .unwrap()
            .unwrap()
            .event
            .unwrap()
            .event,
        Some(Event::Began(_))
    ));
    let scratch = until_waiting(&database, "1001").await;
    let (.., status) = rehearse(&daemon, None).await;
    Failed::of(&status.unwrap_err()).assert(Code::Aborted, "BUSY");
    drop(stream);
    eventually("its databases are gone", async || {
        (!is_there(&database, &scratch).await).then_some(())
    })
    .await;
    // And there is room for another, which a shutdown ends.
    let mut stream = eventually("another begins", async || {
        Some(
            daemon
                .client()
                .rehearse(pb::RehearseRequest::default())
                .await
                .ok()?
                .into_inner(),
        )
    })
    .await;
    let scratch = until_waiting(&database, "1001").await;
    daemon.terminate();
    let ended = async {
        while stream.message().await?.is_some() {}
        Ok::<_, Status>(())
    };
    Failed::of(&ended.await.unwrap_err()).assert(Code::Unavailable, "SHUTTING_DOWN");
    daemon.stop().await;
    assert!(!is_there(&database, &scratch).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_without_createdb_says_what_it_needs() {
    let database = TestDatabase::new().await;
    let role = format!("no_createdb_{}", std::process::id());
    database
        .execute(&format!(
            "CREATE ROLE {role} LOGIN PASSWORD 'pw'; GRANT CREATE ON DATABASE {} TO {role}; \
             GRANT CREATE, USAGE ON SCHEMA public TO {role}",
            database.name
        ))
        .await;
    let daemon = TestDaemon::launch(settings(&database.url_as(&role)), &Set::tables(1)).await;
    daemon.until_ready().await;
    let (.., status) = rehearse(&daemon, None).await;
    let failed = Failed::of(&status.unwrap_err());
    failed.assert(Code::FailedPrecondition, "MISSING_RIGHT");
    assert_eq!(
        failed.metadata["grant"],
        format!("ALTER ROLE {role} CREATEDB")
    );
    // That is enough.
    database.execute(&failed.metadata["grant"]).await;
    let (verdicts, _, status) = rehearse(&daemon, None).await;
    assert_eq!(
        (plain(&verdicts), status.is_ok()),
        (vec![("0001", "RESTORES", true)], true)
    );
    daemon.stop().await;
    database
        .execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}"))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rehearsal_runs_as_the_role_that_migrations_run_as() {
    let database = TestDatabase::new().await;
    let owner = format!("rehearsing_owner_{}", std::process::id());
    database
        .execute(&format!(
            "CREATE ROLE {owner}; GRANT CREATE, USAGE ON SCHEMA public TO {owner}"
        ))
        .await;
    let as_owner = format!(
        "DO $$ BEGIN ASSERT current_user = '{owner}'; END $$; CREATE TABLE t (id int); INSERT INTO \
         t VALUES (1);"
    );
    let set = Set::of(&[
        ("1_t", &as_owner, "DROP TABLE t;"),
        ("2_u", "CREATE TABLE u ();", "DROP TABLE u;"),
    ]);
    let daemon = TestDaemon::launch(
        Settings {
            role: Some(owner.clone()),
            ..settings(&database.url)
        },
        &set,
    )
    .await;
    daemon.until_ready().await;
    let (verdicts, ..) = rehearse(&daemon, None).await;
    assert_eq!(
        plain(&verdicts),
        [("1", "RESTORES", true), ("2", "RESTORES", true)]
    );
    daemon.stop().await;
    database
        .execute(&format!("DROP OWNED BY {owner}; DROP ROLE {owner}"))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_can_require_that_exactly_these_scripts_were_rehearsed_well() {
    let database = TestDatabase::new().await;
    let required = || Settings {
        require_rehearsed: true,
        ..settings(&database.url)
    };
    let set = Set::of(&[
        ("1_t", "CREATE TABLE t (id int);", "DROP TABLE t;"),
        ("2_bad", "CREATE TABLE u ();", "SELECT 1;"),
    ]);
    let daemon = TestDaemon::launch(required(), &set).await;
    daemon.until_ready().await;
    let first = || pb::ApplyRequest {
        target: Some(pb::apply_request::Target::Steps(1)),
        ..Default::default()
    };
    let failed = daemon.apply(first()).await.failure();
    failed.assert(Code::FailedPrecondition, "NOT_REHEARSED");
    let validated = daemon
        .apply(pb::ApplyRequest {
            validate_only: true,
            ..first()
        })
        .await
        .failure();
    validated.assert(Code::FailedPrecondition, "NOT_REHEARSED");

    rehearse(&daemon, None).await.2.unwrap_err();
    daemon.apply(first()).await.finished();
    let failed = daemon.apply_all().await.failure();
    failed.assert(Code::FailedPrecondition, "NOT_REHEARSED");
    assert_eq!(failed.metadata["verdict"], "UP_FAILS_AFTER_DOWN");
    // Back goes what went forth.
    daemon.rollback_steps(1).await.finished();
    daemon.stop().await;

    // Another down is another migration.
    set.add("1_t", "CREATE TABLE t (id int);", "DROP TABLE IF EXISTS t;");
    let edited = TestDaemon::launch(required(), &set).await;
    edited.until_ready().await;
    edited
        .apply(first())
        .await
        .failure()
        .assert(Code::FailedPrecondition, "NOT_REHEARSED");
    edited.stop().await;
    // Who does not require it goes on.
    let plain = TestDaemon::start(&database, &set).await;
    plain.apply_all().await.finished();
    plain.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_found_counts_when_the_rest_is_left() {
    let database = TestDatabase::new().await;
    let set = Set::of(&[
        ("1_t", "CREATE TABLE t (id int);", "DROP TABLE t;"),
        ("2_sleeps", "SELECT pg_sleep(1002);", "SELECT 1;"),
    ]);
    let required = Settings {
        require_rehearsed: true,
        ..settings(&database.url)
    };
    let daemon = TestDaemon::launch(required, &set).await;
    daemon.until_ready().await;
    let stream = daemon
        .client()
        .rehearse(pb::RehearseRequest::default())
        .await
        .unwrap()
        .into_inner();
    until_waiting(&database, "1002").await;
    let kept = "SELECT string_agg(version || ' ' || verdict, ',') FROM schemad.rehearsals";
    eventually("it is kept", async || {
        (database.text(kept).await == "1 RESTORES").then_some(())
    })
    .await;
    drop(stream);
    let first = pb::ApplyRequest {
        target: Some(pb::apply_request::Target::Steps(1)),
        ..Default::default()
    };
    daemon.apply(first).await.finished();
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_verdict_that_cannot_be_kept_is_told() {
    let database = TestDatabase::new().await;
    let daemon = TestDaemon::start(&database, &Set::tables(2)).await;
    daemon.until_ready().await;
    database
        .execute("ALTER TABLE schemad.rehearsals RENAME TO away")
        .await;
    let (verdicts, summary, status) = rehearse(&daemon, None).await;
    assert_eq!(
        plain(&verdicts),
        [("0001", "RESTORES", true), ("0002", "RESTORES", true)]
    );
    assert!(summary.is_none());
    let failed = Failed::of(&status.unwrap_err());
    assert!(
        failed
            .message
            .starts_with("2 of the verdicts are not in the ledger: "),
        "{failed:?}"
    );
    // A session that is gone is another's business.
    database
        .execute(
            "ALTER TABLE schemad.away RENAME TO rehearsals; UPDATE schemad.ledger SET version = 3",
        )
        .await;
    let (.., status) = rehearse(&daemon, None).await;
    Failed::of(&status.unwrap_err()).assert(Code::FailedPrecondition, "LEDGER_DAMAGED");
    daemon.stop().await;
}
