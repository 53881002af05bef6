//! The command line against a daemon: what it prints, and how it ends.

use serde_json::Value;

use crate::harness::{
    Set, TestDaemon, TestDatabase,
    process::{output, schemad, stderr, stdout},
};

async fn run(daemon: &TestDaemon, args: &[&str]) -> (i32, String, String) {
    let mut command = schemad(args);
    command.env("SCHEMAD_ADDRESS", &daemon.address);
    let output = output(command).await;
    (
        output.status.code().unwrap(),
        stdout(&output),
        stderr(&output),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_at_the_terminal() {
    let (database, set) = (TestDatabase::new().await, Set::tables(3));
    let daemon = TestDaemon::start(&database, &set).await;
    let (code, out, _) = run(&daemon, &["status"]).await;
    assert!(
        code == 0 && out.contains("EMPTY  3 pending") && out.contains("0003     0003_t3"),
        "{out}"
    );
    let (code, out, _) = run(&daemon, &["apply", "--validate-only"]).await;
    assert!(
        code == 0 && out.contains("up  0001     0001_t1  daemon"),
        "{out}"
    );
    let (code, out, err) = run(&daemon, &["apply"]).await;
    assert_eq!(
        (code, out.as_str()),
        (0, "Done: 3 of 3 steps done, the current version is 0003.\n")
    );
    assert!(err.contains("2/3  up  0002_t2"), "{err}");
    let (code, out, _) = run(&daemon, &["apply"]).await;
    assert_eq!(
        (code, out.as_str()),
        (0, "Nothing to do; the current version is 0003.\n")
    );
    let (code, out, _) = run(&daemon, &["list"]).await;
    assert!(
        code == 0 && out.lines().count() == 4 && out.contains("0002     0002_t2  applied"),
        "{out}"
    );
    // By the folder's name, too.
    assert_eq!(
        run(&daemon, &["show", "0002_t2"]).await,
        run(&daemon, &["show", "0002"]).await
    );
    let (code, out, _) = run(&daemon, &["show", "0002"]).await;
    assert!(
        code == 0 && out.contains("down.sql\nDROP TABLE t2;"),
        "{out}"
    );
    let (code, out, _) = run(&daemon, &["rollback", "--to", "0001_t1"]).await;
    assert_eq!(
        (code, out.as_str()),
        (0, "Done: 2 of 2 steps done, the current version is 0001.\n")
    );
    assert_eq!(
        run(
            &daemon,
            &[
                "health",
                "-addr",
                &daemon.address,
                "-service",
                "schemad.schema.current"
            ]
        )
        .await
        .0,
        4
    );
    assert_eq!(run(&daemon, &["wait", "applied", "0001_t1"]).await.0, 0);
    assert_eq!(
        run(&daemon, &["wait", "current", "--timeout", "300ms"])
            .await
            .0,
        5
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_where_nothing_is_applied_has_nothing_to_do() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    let daemon = TestDaemon::start(&database, &set).await;
    for _ in 0..2 {
        for args in [
            &["rollback", "--steps", "1"][..],
            &["rollback", "--steps", "3"],
            &["rollback", "--all"],
        ] {
            let (code, out, err) = run(&daemon, args).await;
            assert_eq!(
                (code, out.as_str()),
                (0, "Nothing to do; nothing is applied.\n"),
                "{args:?}: {err}"
            );
        }
        // With one applied, two are too many.
        assert_eq!(run(&daemon, &["apply"]).await.0, 0);
        assert_eq!(run(&daemon, &["rollback", "--steps", "2"]).await.0, 3);
        assert_eq!(run(&daemon, &["rollback", "--steps", "1"]).await.0, 0);
    }
}

/// What a refusal is answered with is told as a command, by the one who has commands.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_told_with_the_commands_that_answer_it() {
    let database = TestDatabase::new().await;
    let daemon = TestDaemon::start(
        &database,
        &Set::of(&[("2_b", "CREATE TABLE b ();", "DROP TABLE b;")]),
    )
    .await;
    assert_eq!(run(&daemon, &["apply"]).await.0, 0);
    daemon.stop().await;
    let others = [
        ("1_a", "CREATE TABLE a ();", "DROP TABLE a;"),
        ("2_b", "CREATE TABLE b ();", "DROP TABLE IF EXISTS b;"),
    ];
    let daemon = TestDaemon::start(&database, &Set::of(&others)).await;
    let (code, _, err) = run(&daemon, &["apply"]).await;
    assert!(
        code == 3 && err.ends_with("out of order\n  schemad apply --allow-out-of-order\n"),
        "{err}"
    );
    let (code, _, err) = run(&daemon, &["rollback", "--steps", "1"]).await;
    let ways =
        "\n  schemad rollback … --down-from ledger\n  schemad rollback … --down-from daemon\n";
    assert!(code == 3 && err.ends_with(ways), "{err}");
    let (_, out, _) = run(&daemon, &["status"]).await;
    assert!(
        out.contains("OUT_OF_ORDER\n") && out.contains("\n    schemad apply --allow-out-of-order"),
        "{out}"
    );
    // The daemon's own words are for every client.
    let refused = daemon.apply_all().await.failure();
    assert!(!refused.message.contains("--"), "{}", refused.message);
    // What differs is to be seen before it is needed.
    let (_, out, _) = run(&daemon, &["list"]).await;
    assert!(out.contains("applied, down edited since"), "{out}");
    let (_, out, _) = run(&daemon, &["show", "2"]).await;
    for part in [
        "down.sql as the daemon carries it\nDROP TABLE IF EXISTS b;",
        "in the ledger\nDROP TABLE b;",
    ] {
        assert!(out.contains(part), "{out}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_result_of_an_old_request_says_that_it_is_old() {
    let database = TestDatabase::new().await;
    let set = Set::of(&[("1_bad", "SELECT * FROM missing;", "")]);
    let daemon = TestDaemon::start(&database, &set).await;
    let request = uuid::Uuid::new_v4().to_string();
    let (code, _, err) = run(&daemon, &["apply", "--request-id", &request]).await;
    assert!(
        code == 1 && !err.contains("was accepted before, and"),
        "{err}"
    );
    let (_, out, _) = run(&daemon, &["status"]).await;
    assert!(out.contains("relation \"missing\" does not exist"), "{out}");
    database.execute("CREATE TABLE missing ()").await;
    let (code, _, err) = run(&daemon, &["apply", "--request-id", &request]).await;
    assert!(
        code == 1 && err.contains("was accepted before, and"),
        "{err}"
    );
    assert_eq!(run(&daemon, &["apply"]).await.0, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exit_codes_say_how_it_ended() {
    let database = TestDatabase::new().await;
    let set = Set::of(&[
        ("1_a", "CREATE TABLE a (id int);", ""),
        (
            "2_bad",
            "CREATE TABLE b (id int);\nSELECT * FROM missing;",
            "",
        ),
    ]);
    let daemon = TestDaemon::start(&database, &set).await;
    let (code, out, err) = run(&daemon, &["apply"]).await;
    assert_eq!(code, 1, "{err}");
    assert!(out.contains("Failed: 1 of 2 steps done"), "{out}");
    assert!(
        err.contains("2_bad/up.sql:2:15")
            && err.contains("relation \"missing\" does not exist (SQLSTATE 42P01)"),
        "{err}"
    );
    for (args, expected) in [
        (&["rollback", "--all"][..], 3),
        (&["rollback", "--steps", "0"], 2),
        (&["apply", "--to", "9"], 3),
        (&["show", "9"], 3),
        (&["apply", "--expected-set-digest", "x"], 2),
    ] {
        assert_eq!(run(&daemon, args).await.0, expected, "{args:?}");
    }
    let busy = database.connect().await;
    busy.batch_execute("SELECT pg_advisory_lock(32478922351141220)")
        .await
        .unwrap();
    assert_eq!(run(&daemon, &["apply"]).await.0, 4);
    drop(busy);
    let mut nobody = schemad(&["status", "--address", "127.0.0.1:1"]);
    nobody.kill_on_drop(true);
    let output = output(nobody).await;
    assert_eq!(output.status.code(), Some(5));
    assert!(
        stderr(&output).contains("no answer from 127.0.0.1:1")
            && stderr(&output).contains("Connection refused")
    );
}

/// In a log every statement that is done has its line.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_statements_of_a_journaled_step_have_a_line_each() {
    let (database, set) = (TestDatabase::new().await, Set::of(&[]));
    set.add_non_transactional(
        "1_a",
        "CREATE TABLE a (n int);\nVACUUM a;\nBEGIN;\nSELECT 1;\nSELECT 2;\nCOMMIT;",
        "",
    );
    let daemon = TestDaemon::start(&database, &set).await;
    let (_, _, err) = run(&daemon, &["apply"]).await;
    let lines: Vec<&str> = err
        .lines()
        .filter_map(|line| line.strip_prefix("  "))
        .collect();
    assert_eq!(lines.len(), 3, "{err}");
    for (line, begin) in lines.iter().zip([
        "1/6  CREATE TABLE a (n int)  ",
        "2/6  VACUUM a  ",
        "4-5/6  SELECT 1  ",
    ]) {
        assert!(line.starts_with(begin), "{err}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_get_json_on_stdout_and_nothing_else() {
    let (database, set) = (TestDatabase::new().await, Set::tables(2));
    let daemon = TestDaemon::start(&database, &set).await;
    let (_, out, err) = run(&daemon, &["apply", "--output", "json"]).await;
    assert_eq!(err, "");
    let events: Vec<Value> = out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(events[0]["event"]["accepted"].is_object(), "{out}");
    let last = &events.last().unwrap()["event"]["finished"];
    assert_eq!(
        (last["state"].as_str(), last["stepsDone"].as_i64()),
        (Some("OPERATION_STATE_SUCCEEDED"), Some(2))
    );
    let (_, out, _) = run(&daemon, &["status", "--output", "json"]).await;
    let status: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(status["status"]["state"], "SCHEMA_STATE_CURRENT");
    let (_, out, _) = run(&daemon, &["list", "--output", "json"]).await;
    let list: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(list["migrations"][1]["version"], "0002");
    let (code, out, err) = run(&daemon, &["rollback", "--to", "9", "--output", "json"]).await;
    let error: Value = serde_json::from_str(&err).unwrap();
    assert_eq!(
        (code, out.as_str(), error["reason"].as_str()),
        (3, "", Some("UNKNOWN_VERSION"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn colours_are_for_terminals_and_no_color_is_respected() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    let daemon = TestDaemon::start(&database, &set).await;
    for (key, value, coloured) in [
        ("NO_COLOR", "1", false),
        ("CLICOLOR_FORCE", "1", true),
        ("X", "1", false),
    ] {
        let mut command = schemad(&["status"]);
        command
            .env("SCHEMAD_ADDRESS", &daemon.address)
            .env(key, value);
        assert_eq!(
            stdout(&output(command).await).contains('\u{1b}'),
            coloured,
            "{key}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_speaks_grpc_health_probes_language() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    let daemon = TestDaemon::start(&database, &set).await;
    let health = async |args: &[&str]| {
        let mut command = schemad(&["health"]);
        command.args(args);
        let output = output(command).await;
        (
            output.status.code().unwrap(),
            stdout(&output) + &stderr(&output),
        )
    };
    let address = format!("-addr={}", daemon.address);
    assert_eq!(health(&[&address]).await, (0, "status: SERVING\n".into()));
    let (code, said) = health(&[&address, "-service", "schemad.schema.current"]).await;
    assert!(code == 4 && said.contains("NOT_SERVING"), "{said}");
    let (code, said) = health(&["--addr", &daemon.address, "--service", "nope"]).await;
    assert!(code == 3 && said.contains("NotFound"), "{said}");
    assert_eq!(health(&["-addr", "127.0.0.1:1"]).await.0, 2);
    assert_eq!(health(&["-bogus"]).await.0, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_connection_is_no_result_and_the_same_request_is_sent_again() {
    let database = TestDatabase::new().await;
    let set = Set::of(&[(
        "1_slow",
        "SELECT pg_sleep(1.5); CREATE TABLE a (id int);",
        "",
    )]);
    let daemon = TestDaemon::start(&database, &set).await;
    // A proxy between client and daemon that is cut once.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let through = listener.local_addr().unwrap().to_string();
    let (cut, upstream) = (
        std::sync::Arc::new(tokio::sync::Notify::new()),
        daemon.address.clone(),
    );
    let cutter = cut.clone();
    tokio::spawn(async move {
        let mut first = true;
        while let Ok((mut client, _)) = listener.accept().await {
            let mut server = tokio::net::TcpStream::connect(&upstream).await.unwrap();
            if std::mem::take(&mut first) {
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                    () = cutter.notified() => {}
                }
            } else {
                tokio::spawn(async move {
                    tokio::io::copy_bidirectional(&mut client, &mut server).await
                });
            }
        }
    });
    let mut command = schemad(&["apply", "--address", &through]);
    command
        .stderr(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped());
    let child = command.spawn().unwrap();
    crate::harness::eventually("it runs", async || {
        (database
            .text("SELECT count(*) FROM schemad.operations WHERE state = 'running'")
            .await
            == "1")
            .then_some(())
    })
    .await;
    cut.notify_one();
    let output = child.wait_with_output().await.unwrap();
    let (out, err) = (stdout(&output), stderr(&output));
    assert_eq!(
        (output.status.code(), out.as_str()),
        (
            Some(0),
            "Done: 1 of 1 steps done, the current version is 1.\n"
        ),
        "{err}"
    );
    assert!(err.contains("lost the connection"), "{err}");
    assert_eq!(
        database
            .text("SELECT count(*) FROM schemad.operations")
            .await,
        "1"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reconnect_after_the_end_finds_the_result() {
    let database = TestDatabase::new().await;
    let set = Set::of(&[
        ("1_a", "CREATE TABLE a (id int);", ""),
        ("2_slow", "SELECT pg_sleep(1); CREATE TABLE b (id int);", ""),
    ]);
    let daemon = TestDaemon::start(&database, &set).await;
    let (gate, gates) = tokio::sync::watch::channel(true);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (through, upstream) = (
        listener.local_addr().unwrap().to_string(),
        daemon.address.clone(),
    );
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let (mut gates, upstream) = (gates.clone(), upstream.clone());
            tokio::spawn(async move {
                if *gates.borrow() {
                    let mut server = tokio::net::TcpStream::connect(&upstream).await.unwrap();
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                        _ = gates.wait_for(|open| !open) => {}
                    }
                }
            });
        }
    });
    let mut command = schemad(&["apply", "--address", &through]);
    command
        .stderr(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped());
    let child = command.spawn().unwrap();
    crate::harness::eventually("the first step is done", async || {
        let done = "SELECT count(*) FROM pg_tables WHERE tablename = 'a'";
        (database.text(done).await == "1").then_some(())
    })
    .await;
    gate.send_replace(false);
    crate::harness::eventually("it ends unseen", async || {
        (database.text("SELECT state FROM schemad.operations").await == "succeeded").then_some(())
    })
    .await;
    daemon.apply_all().await.finished(); // by now its log is gone from the daemon's memory
    gate.send_replace(true);
    let output = tokio::time::timeout(crate::harness::PATIENCE, child.wait_with_output())
        .await
        .expect("it loops")
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(
        stdout(&output),
        "Done: 2 of 2 steps done, the current version is 2.\n"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ctrl_c_leaves_the_operation_running_and_says_how_to_find_it() {
    let database = TestDatabase::new().await;
    let set = Set::of(&[("1_slow", "SELECT pg_sleep(1); CREATE TABLE a (id int);", "")]);
    let daemon = TestDaemon::start(&database, &set).await;
    let mut command = schemad(&["apply", "--address", &daemon.address]);
    command.stderr(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut told = tokio::io::BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    tokio::io::AsyncBufReadExt::read_line(&mut told, &mut line)
        .await
        .unwrap();
    assert!(line.contains("operation "), "{line}");
    let pid = nix::unistd::Pid::from_raw(child.id().unwrap() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    assert_eq!(child.wait().await.unwrap().code(), Some(130));
    tokio::io::AsyncReadExt::read_to_string(&mut told, &mut line)
        .await
        .unwrap();
    let id = line
        .split("left operation ")
        .nth(1)
        .and_then(|rest| rest.split(',').next())
        .unwrap_or_default();
    for told in [
        "goes on in the daemon",
        &format!("schemad watch {id} "),
        &format!("schemad cancel {id} "),
    ] {
        assert!(line.contains(told) && !line.contains("error:"), "{line}");
    }
    crate::harness::eventually("it is applied", async || {
        (database.diesel_versions().await == ["1"]).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn completions_and_the_manual_page_know_every_command() {
    let bash = stdout(&output(schemad(&["completions", "bash"])).await);
    let man = stdout(&output(schemad(&["man"])).await);
    assert!(
        man.starts_with(".ie") || man.contains(".TH schemad"),
        "{}",
        &man[..200]
    );
    for command in ["serve", "status", "apply", "rollback", "wait"] {
        assert!(
            bash.contains(command) && man.contains(&format!("SCHEMAD {}", command.to_uppercase())),
            "{command}"
        );
        let page = stdout(&output(schemad(&["man", command])).await);
        assert!(
            page.contains(&format!("schemad\\-{command}")) && page.contains(".SH OPTIONS"),
            "{page}"
        );
    }
    assert!(
        !man.contains("(1)\n") && man.contains("schemad man"),
        "it refers to what there is"
    );
    let unknown = output(schemad(&["man", "aply"])).await;
    assert!(
        unknown.status.code() == Some(2) && stderr(&unknown).contains("apply"),
        "{}",
        stderr(&unknown)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waited_in_vain_is_told_why() {
    let database = TestDatabase::new().await;
    let url = database.url.replacen(&database.name, "no_such_database", 1);
    let daemon = TestDaemon::launch(crate::harness::daemon::settings(&url), &Set::tables(1)).await;
    let (code, _, err) = run(&daemon, &["wait", "--timeout", "1s", "database"]).await;
    assert_eq!(code, 5);
    assert!(
        err.contains("DATABASE_UNAVAILABLE") && err.contains("no_such_database"),
        "{err}"
    );
}

/// What a command does stands before how the daemon is reached; a heading of options reaches no
/// further than those.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn help_shows_what_a_command_does_first() {
    for (command, last) in [
        ("apply", "--detach"),
        ("rollback", "--detach"),
        ("status", "--timeout"),
        ("lease", "--ttl"),
    ] {
        let help = stdout(&output(schemad(&[command, "-h"])).await);
        let at = |text: &str| {
            help.find(text)
                .unwrap_or_else(|| panic!("{command}: no {text} in {help}"))
        };
        assert!(
            at(last) < at("TLS and credential:") && at("TLS and credential:") < at("--tls-ca"),
            "{help}"
        );
    }
}
