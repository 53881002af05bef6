//! `history`, `watch`, `cancel`, `--detach`, and what `apply` does when its daemon dies.

use crate::harness::{
    Process, Set, TestDaemon, TestDatabase, eventually,
    process::{from_folder, output, schemad, stderr, stdout},
};

async fn run(address: &str, args: &[&str]) -> (i32, String, String) {
    let mut command = schemad(args);
    command.env("SCHEMAD_ADDRESS", address);
    let output = output(command).await;
    (
        output.status.code().unwrap(),
        stdout(&output),
        stderr(&output),
    )
}

fn gated() -> Set {
    Set::of(&[
        ("1_a", "CREATE TABLE a (id int);", "DROP TABLE a;"),
        (
            "2_gated",
            "-- schemad: lock_timeout=0\nSELECT pg_advisory_lock(77); CREATE TABLE b (id int);",
            "DROP TABLE b;",
        ),
    ])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operation_is_begun_listed_watched_and_cancelled_at_the_terminal() {
    let (database, set) = (TestDatabase::new().await, gated());
    let daemon = TestDaemon::start(&database, &set).await;
    let gate = database.connect().await;
    gate.batch_execute("SELECT pg_advisory_lock(77)")
        .await
        .unwrap();
    let (code, out, err) = run(&daemon.address, &["apply", "--detach"]).await;
    assert_eq!((code, out.as_str()), (0, ""), "{err}");
    let id = err.split_whitespace().nth(1).unwrap().to_owned();
    database.until_waiting(77).await;
    let (code, out, _) = run(&daemon.address, &["history"]).await;
    assert!(
        code == 0
            && out
                .lines()
                .nth(1)
                .unwrap()
                .starts_with(&format!("{id}  apply  running  1/2")),
        "{out}"
    );
    let mut watch = schemad(&["watch", &id, "--address", &daemon.address]);
    let watch = watch
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    for short in ["", "0", &id[..7]] {
        let (code, _, err) = run(&daemon.address, &["cancel", short]).await;
        assert!(
            code == 2 && err.contains("give at least 8 characters"),
            "{err}"
        );
    }
    let (code, _, err) = run(&daemon.address, &["cancel", "ffffffff"]).await;
    assert!(
        code == 2 && err.contains("no operation's id begins with \"ffffffff\""),
        "{err}"
    );
    let (code, out, _) = run(&daemon.address, &["cancel", "--running"]).await;
    assert_eq!(
        (code, out.as_str()),
        (0, "Cancelled; 1 of 2 steps are done and stay.\n")
    );
    let watched = watch.wait_with_output().await.unwrap();
    assert_eq!(
        watched.status.code(),
        Some(7),
        "it exits as the operation ended"
    );
    assert_eq!(
        stdout(&watched),
        "Cancelled: 1 of 2 steps done, the current version is 1.\n"
    );
    assert!(
        stderr(&watched).contains("error: CANCELLED: cancelled by anonymous"),
        "{}",
        stderr(&watched)
    );
    let (code, _, err) = run(&daemon.address, &["cancel", &id[..13]]).await;
    assert!(code == 3 && err.contains("OPERATION_ENDED"), "{err}");
    let (code, _, err) = run(&daemon.address, &["watch", "--running"]).await;
    assert!(
        code == 2 && err.contains("no operation is running"),
        "{err}"
    );
    let (code, out, _) = run(
        &daemon.address,
        &["history", "--state", "cancelled", "--output", "json"],
    )
    .await;
    assert!(
        code == 0
            && out.contains(&format!("\"id\":\"{id}\""))
            && out.contains("OPERATION_STATE_CANCELLED"),
        "{out}"
    );
    let (code, out, _) = run(
        &daemon.address,
        &["watch", &id, "--after", "3", "--output", "json"],
    )
    .await;
    let kept: Vec<&str> = out
        .lines()
        .filter(|line| line.contains("\"sequence\":\"4\""))
        .collect();
    assert!(
        code == 7 && kept.len() == 1 && out.lines().count() == 1,
        "{out}"
    );
    let (code, out, err) = run(&daemon.address, &["watch", &id, "--after", "4"]).await;
    assert!(
        code == 7 && out.is_empty() && err.contains("CANCELLED"),
        "all is seen, and it ended as it ended: {err}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn apply_asks_once_more_when_its_daemon_died_and_says_so() {
    let (database, set) = (TestDatabase::new().await, gated());
    let serve = |listen: &str| {
        let mut command = from_folder(
            &set,
            &["serve", "--listen", listen, "--admin-listen", "127.0.0.1:0"],
        );
        command.env("DATABASE_URL", &database.url);
        command
    };
    let mut command = from_folder(&set, &["serve"]);
    command.env("DATABASE_URL", &database.url);
    let mut first = Process::start(command).await;
    let gate = database.connect().await;
    gate.batch_execute("SELECT pg_advisory_lock(77)")
        .await
        .unwrap();
    let mut apply = schemad(&["apply", "--address", &first.address]);
    let apply = apply
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    database.until_waiting(77).await;
    first.kill().await;
    database.until_free().await;
    gate.batch_execute("SELECT pg_advisory_unlock(77)")
        .await
        .unwrap();
    let mut second = serve(&first.address).spawn().unwrap();
    let ended = tokio::time::timeout(crate::harness::PATIENCE, apply.wait_with_output())
        .await
        .expect("it hangs")
        .unwrap();
    let said = stderr(&ended);
    assert_eq!(ended.status.code(), Some(0), "{said}");
    assert_eq!(
        stdout(&ended).lines().last(),
        Some("Done: 1 of 1 steps done, the current version is 2."),
        "{said}"
    );
    assert!(
        said.contains("asking again") && said.contains("asking once more, as request"),
        "{said}"
    );
    let states = "SELECT state FROM schemad.operations ORDER BY created_at";
    eventually("two operations", async || {
        (database.texts(states).await == ["interrupted", "succeeded"]).then_some(())
    })
    .await;
    database.assert_consistent().await;
    second.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queued_apply_outlives_a_deploy_of_its_daemon() {
    let (database, set) = (TestDatabase::new().await, gated());
    let mut command = from_folder(&set, &["serve"]);
    command.env("DATABASE_URL", &database.url);
    let mut first = Process::start(command).await;
    database.until_ledger().await;
    let holder = database.connect().await;
    holder
        .batch_execute("SELECT pg_advisory_lock(32478922351141220)")
        .await
        .unwrap();
    let mut apply = schemad(&[
        "apply",
        "--queue-timeout",
        "60s",
        "--address",
        &first.address,
    ]);
    let apply = apply
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let queued = "SELECT count(*) FROM schemad.events WHERE kind = 'accepted'";
    eventually("it is queued", async || {
        (database.text(queued).await == "1").then_some(())
    })
    .await;
    first.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(first.exit_code().await, Some(0));
    drop(holder);
    let mut command = from_folder(
        &set,
        &[
            "serve",
            "--listen",
            &first.address,
            "--admin-listen",
            "127.0.0.1:0",
        ],
    );
    let mut second = command.env("DATABASE_URL", &database.url).spawn().unwrap();
    let ended = tokio::time::timeout(crate::harness::PATIENCE, apply.wait_with_output())
        .await
        .expect("it hangs")
        .unwrap();
    let (said, result) = (stderr(&ended), stdout(&ended));
    assert_eq!(ended.status.code(), Some(0), "{said}");
    assert!(
        said.contains("by hand") || said.contains("which holds the operation lock"),
        "{said}"
    );
    assert!(
        said.contains("asking once more") && said.contains("is shutting down"),
        "{said}"
    );
    assert_eq!(
        result,
        "Interrupted before the first step.\nDone: 2 of 2 steps done, the current version is 2.\n"
    );
    database.assert_consistent().await;
    second.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_says_why_something_was_settled() {
    let database = TestDatabase::new().await;
    let set = Set::of(&[]);
    set.add_non_transactional("1_half", "CREATE TABLE a ();\nSELECT 1/0;", "");
    let daemon = TestDaemon::start(&database, &set).await;
    daemon.apply_all().await.failure();
    let (code, _, err) = run(
        &daemon.address,
        &["resolve", "1", "--start-over", "--reason", "INC-42"],
    )
    .await;
    assert_eq!(code, 0, "{err}");
    let (code, out, _) = run(&daemon.address, &["history", "--kind", "resolve"]).await;
    let row = out.lines().nth(1).unwrap();
    assert!(code == 0 && row.trim_end().ends_with(": INC-42"), "{out}");
    let (code, _, err) = run(&daemon.address, &["watch", row.split(' ').next().unwrap()]).await;
    assert!(
        code == 0
            && err.starts_with("resolve, asked for by anonymous: 1 ")
            && err.contains(": INC-42"),
        "{err}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_kept_for_longer_than_a_century() {
    let (code, _, err) = run(
        "127.0.0.1:1",
        &["serve", "--keep-operations", "300000years"],
    )
    .await;
    assert!(code == 2 && err.contains("at most 100 years"), "{err}");
}
