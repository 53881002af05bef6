//! The daemon as a process: settings, signals, refusals to start.

use std::{os::unix::fs::PermissionsExt as _, process::Stdio};

use nix::sys::signal::Signal;
use schemad::Daemon;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::harness::{
    PATIENCE, Process, Server, Set, TestDatabase,
    daemon::settings,
    eventually,
    process::{output, schemad, stderr, stdout},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_starts_connects_applies_and_stops_with_stable_events() {
    let database = TestDatabase::new().await;
    let mut command = schemad(&["serve", "--apply-on-start"]);
    command.env("DATABASE_URL", &database.url);
    let mut process = Process::start(command).await;
    process.event("database.connected").await;
    let accepted = process.event("operation.accepted").await;
    let finished = process.event("operation.finished").await;
    assert_eq!(
        (finished["state"].as_str(), &finished["operation"]),
        (Some("succeeded"), &accepted["operation"])
    );
    process.signal(Signal::SIGTERM);
    assert_eq!(process.event("daemon.stopping").await["signal"], "SIGTERM");
    process.event("daemon.stop").await;
    assert_eq!(process.exit_code().await, Some(0));
    database.assert_consistent().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_database_is_logged_and_its_return_too() {
    let database = TestDatabase::new().await;
    let proxy = crate::harness::Proxy::to(&database).await;
    let mut command = schemad(&["serve"]);
    command.env("DATABASE_URL", &proxy.url);
    let mut process = Process::start(command).await;
    process.event("database.connected").await;
    proxy.cut();
    process.event("database.lost").await;
    proxy.open();
    process.event("database.connected").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_settings_end_with_one_line_and_exit_code_2() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let secret = "postgres://app:s3cret@127.0.0.1:5432/x";
    type Case<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], &'a str);
    let cases: &[Case<'_>] = &[
        (&["serve"], &[], "set DATABASE_URL"),
        (&["serve"], &[("DATABASE_URL", "")], "set DATABASE_URL"),
        (
            &["serve"],
            &[("DATABASE_URL", "mysql://u:s3cret@h/d")],
            "DATABASE_URL: not a PostgreSQL URL",
        ),
        (
            &["serve"],
            &[("DATABASE_URL", "postgres://u:s3cret@h/d?sslmode=sometimes")],
            "sslmode is one of",
        ),
        (
            &["serve"],
            &[("DATABASE_URL_FILE", "/no/such/file")],
            "DATABASE_URL_FILE: /no/such/file",
        ),
        (
            &["serve"],
            &[("DATABASE_URL", secret), ("DATABASE_URL_FILE", "/x")],
            "both set",
        ),
        (
            &["serve"],
            &[("DATABASE_URL", "postgres://app:p@s3cret@127.0.0.1/x")],
            "%40",
        ),
        (
            &["serve", "--database-url-file", "/no/such/file"],
            &[("DATABASE_URL", secret)],
            "/no/such/file",
        ),
        (
            &["serve", "--listen", "0.0.0.0:0"],
            &[("DATABASE_URL", secret)],
            "--insecure",
        ),
        (
            &["serve", "--listen", "[::]:0"],
            &[("DATABASE_URL", secret)],
            "--insecure",
        ),
        (
            &["serve", "--tls-client-certificates", "required"],
            &[("DATABASE_URL", secret)],
            "--tls-cert",
        ),
        (
            &["serve"],
            &[
                ("DATABASE_URL", secret),
                ("SCHEMAD_TLS_CLIENT_CERTIFICATES", "required"),
            ],
            "--tls-cert",
        ),
        (
            &["status", "--address", "schemad.internal"],
            &[("SCHEMAD_TOKEN", "s3cret")],
            "sent in plaintext",
        ),
        (
            &["status", "--address", "http://schemad.internal"],
            &[("SCHEMAD_TOKEN", "s3cret")],
            "sent in plaintext",
        ),
        (
            &["status", "--address", "https://10.0.0.1 x"],
            &[],
            "--address is not host:port",
        ),
        (
            &["serve", "--listen", &taken],
            &[("DATABASE_URL", secret)],
            "--listen",
        ),
        (
            &["serve", "--listen", "127.0.0.1:0", "--admin-listen", &taken],
            &[("DATABASE_URL", secret)],
            "--admin-listen",
        ),
        (
            &["serve", "--listen", "localhost"],
            &[("DATABASE_URL", secret)],
            "invalid value 'localhost'",
        ),
        (
            &["serve", "--pool-size", "0"],
            &[("DATABASE_URL", secret)],
            "--pool-size",
        ),
        (
            &["serve", "--pool-timeout", "0s"],
            &[("DATABASE_URL", secret)],
            "--pool-timeout",
        ),
        (
            &["serve"],
            &[("DATABASE_URL", secret), ("SCHEMAD_LOG_LEVEL", "loud")],
            "loud",
        ),
        (
            &["serve"],
            &[("DATABASE_URL", secret), ("SCHEMAD_POOL_SIZE", "many")],
            "many",
        ),
        (
            &["apply", "--to", "1", "--steps", "1"],
            &[],
            "cannot be used with",
        ),
        (&["rollback"], &[], "required"),
        (&["rollback"], &[("SCHEMAD_ALL", "true")], "required"),
        (&["bogus"], &[], "unrecognized subcommand"),
    ];
    for (args, env, expected) in cases {
        let mut command = schemad(args);
        command.envs(env.iter().copied());
        let output = output(command).await;
        let told = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{args:?} {env:?}: {told}");
        assert!(told.contains(expected), "{args:?} {env:?}: {told}");
        assert!(!told.contains("s3cret"), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taken_port_is_one_line() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut command = schemad(&["serve", "--listen", &address]);
    command.env("DATABASE_URL", "postgres://u@127.0.0.1:1/d");
    let output = output(command).await;
    assert_eq!(output.status.code(), Some(2));
    let told = stderr(&output);
    assert!(
        told.starts_with(&format!(
            "error: --listen {address}: Address already in use (os error 98). "
        )),
        "{told}"
    );
    assert!(
        told.lines().count() == 1 && told.contains("--admin-listen 127.0.0.1:0"),
        "{told}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flag_beats_the_environment_which_beats_the_file() {
    let database = TestDatabase::new().await;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("url"), format!("{}\n", database.url)).unwrap();
    let file = format!(
        "DATABASE_URL_FILE={}\nSCHEMAD_LOG_LEVEL=bogus\nSCHEMAD_SHUTDOWN_GRACE=1s\n",
        dir.path().join("url").display()
    );
    std::fs::write(dir.path().join(".env"), file).unwrap();
    // The file alone: its log level is refused.
    let mut command = schemad(&["serve"]);
    command.current_dir(dir.path());
    assert!(stderr(&output(command).await).contains("bogus"));
    // The environment repairs it; the URL still comes from the file's file.
    let mut command = schemad(&["serve"]);
    command
        .current_dir(dir.path())
        .env("SCHEMAD_LOG_LEVEL", "error");
    let flag = ["--log-level", "info"];
    command.args(flag);
    let mut process = Process::start(command).await;
    process.event("database.connected").await;
}

/// In a pipeline, the folder is a checkout, and its .env anybody's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_goes_nowhere_that_only_the_folder_names() {
    let dir = tempfile::tempdir().unwrap();
    let told = async |file: &str, args: &[&str], env: &[(&str, &str)]| {
        std::fs::write(dir.path().join(".env"), file).unwrap();
        let mut command = schemad(&[&["status", "--timeout", "100ms"], args].concat());
        command.current_dir(dir.path()).envs(env.iter().copied());
        let output = output(command).await;
        (output.status.code(), stderr(&output))
    };
    let (elsewhere, token) = (
        "SCHEMAD_ADDRESS=https://192.0.2.1:1\n",
        [("SCHEMAD_TOKEN", "s3cret")],
    );
    let (code, refused) = told(elsewhere, &[], &token).await;
    assert!(
        code == Some(2) && refused.contains("stands in .env"),
        "{refused}"
    );
    // On this machine, too: somebody else may listen there.
    let (code, refused) = told("SCHEMAD_ADDRESS=https://127.0.0.1:1\n", &[], &token).await;
    assert!(
        code == Some(2) && refused.contains("stands in .env"),
        "{refused}"
    );
    std::fs::write(dir.path().join("token"), "s3cret").unwrap();
    let (code, refused) = told(elsewhere, &["--token-file", "token"], &[]).await;
    assert!(
        code == Some(2) && refused.contains("stands in .env"),
        "{refused}"
    );
    for (file, args, env) in [
        (
            elsewhere,
            &["--address", "https://127.0.0.1:1"][..],
            &token[..],
        ),
        (
            elsewhere,
            &[],
            &[
                ("SCHEMAD_TOKEN", "s3cret"),
                ("SCHEMAD_ADDRESS", "https://127.0.0.1:1"),
            ],
        ),
        (
            "SCHEMAD_ADDRESS=https://192.0.2.1:1\nSCHEMAD_TOKEN=s3cret\n",
            &[],
            &[],
        ),
    ] {
        let (code, told) = told(file, args, env).await;
        assert_eq!(code, Some(5), "{file} {args:?}: {told}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_anybody_may_replace_is_told_of() {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key");
    std::fs::write(&key, "0123456789abcdef".repeat(4)).unwrap();
    // The port is taken, so it ends at once.
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    for (mode, open) in [(0o644, false), (0o666, true)] {
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).unwrap();
        let mut command = schemad(&["serve", "--listen", &listen, "--signing-key-file"]);
        command
            .arg(&key)
            .env("DATABASE_URL", "postgres://nobody@127.0.0.1:1/none");
        let told = stderr(&output(command).await);
        assert_eq!(
            told.contains("anybody on this machine may write"),
            open,
            "{told}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hangup_ends_no_daemon() {
    let mut command = schemad(&["serve"]);
    command.env("DATABASE_URL", "postgres://nobody@127.0.0.1:1/none");
    let mut process = Process::start(command).await;
    process.signal(nix::sys::signal::Signal::SIGHUP);
    process.event("daemon.hangup").await;
    process.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(process.exit_code().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_in_another_program_is_not_open_by_mistake_either() {
    let open = async |insecure| {
        let listen = async |address| tokio::net::TcpListener::bind(address).await.unwrap();
        let (main, admin) = (listen("0.0.0.0:0").await, listen("127.0.0.1:0").await);
        let mut settings = settings("postgres://nobody@127.0.0.1:1/none");
        settings.insecure = insecure;
        let daemon = Daemon::builder()
            .migrations(Set::tables(1).source())
            .build(settings)
            .unwrap();
        daemon.serve(main, admin, async {}).await
    };
    let refused = open(false).await.unwrap_err().to_string();
    assert!(
        refused.contains("can be reached from other machines"),
        "{refused}"
    );
    open(true).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_env_file_is_told_without_its_text() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join(".env"),
        "DATABASE_URL=postgres://u:s3cret word@h/d\nx y z",
    )
    .unwrap();
    let mut command = schemad(&["serve"]);
    command.current_dir(dir.path());
    let output = output(command).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains(".env") && !stderr(&output).contains("s3cret"),
        "{}",
        stderr(&output)
    );
}

/// What a service of Type=notify owes systemd.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn systemd_hears_that_it_listens_that_it_lives_and_that_it_stops() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let socket = tokio::net::UnixDatagram::bind(&path).unwrap();
    let mut command = schemad(&["serve"]);
    command
        .env("DATABASE_URL", "postgres://nobody@127.0.0.1:1/none")
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "200000");
    let mut process = Process::start(command).await;
    let next = async || {
        let mut buffer = [0; 200];
        let length = tokio::time::timeout(PATIENCE, socket.recv(&mut buffer))
            .await
            .expect("a message")
            .unwrap();
        String::from_utf8_lossy(&buffer[..length]).trim().to_owned()
    };
    assert_eq!(
        [next().await, next().await, next().await],
        ["READY=1", "WATCHDOG=1", "WATCHDOG=1"]
    );
    process.signal(nix::sys::signal::Signal::SIGTERM);
    while next().await != "STOPPING=1" {}
    assert_eq!(process.exit_code().await, Some(0));
}

/// Its socket has room for some messages only, and a send beyond them waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manager_that_does_not_read_stops_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    let filling = std::os::unix::net::UnixDatagram::unbound().unwrap();
    filling.set_nonblocking(true).unwrap();
    while filling.send_to(b"WATCHDOG=1", &path).is_ok() {}
    let mut command = schemad(&["serve"]);
    command
        .env("DATABASE_URL", "postgres://nobody@127.0.0.1:1/none")
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "20000");
    let mut process = Process::start(command).await;
    process.event("database.unreachable").await;
    assert_eq!(
        crate::harness::daemon::get(&process.admin, "/livez")
            .await
            .0,
        200
    );
    process.signal(Signal::SIGTERM);
    assert_eq!(process.exit_code().await, Some(0));
    drop(socket);
}

/// Whatever the log's format, and whoever asks: the password that the server refused is nowhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_that_is_refused_is_not_told() {
    const PASSWORD: &str = "h0rse%2Fbattery";
    let server = Server::start(&[], &[], "host all all 127.0.0.1/32 scram-sha-256").await;
    server
        .execute("CREATE ROLE app LOGIN PASSWORD 'another'")
        .await;
    let url = format!(
        "postgres://app:{PASSWORD}@127.0.0.1:{}/postgres",
        server.port
    );
    for format in ["json", "text"] {
        let mut command = schemad(&[
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--admin-listen",
            "127.0.0.1:0",
        ]);
        command
            .args([
                "--log-level",
                "trace",
                "--log-format",
                format,
                "--apply-on-start",
            ])
            .env("DATABASE_URL", &url);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (sender, mut log) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                let _ = sender.send(line);
            }
        });
        let mut next = async || {
            tokio::time::timeout(PATIENCE, log.recv())
                .await
                .expect("a line, or the end")
        };
        let (mut told, mut address) = (String::new(), None);
        while !told.contains("password authentication failed") {
            let line = next().await.expect("the daemon ended");
            if let Some((_, rest)) = line.split_once("serving on ") {
                let end = rest
                    .find(|c: char| !c.is_ascii_digit() && c != '.' && c != ':')
                    .unwrap_or(rest.len());
                address = Some(rest[..end].to_owned());
            }
            told += &line;
        }
        let to = address.unwrap();
        for args in [
            ["status", "--output", "json"].as_slice(),
            &["status"],
            &["apply"],
            &["list"],
        ] {
            // "has not answered yet" comes first.
            let refused = async || {
                let mut command = schemad(args);
                command.args(["--address", &to]);
                let output = output(command).await;
                assert_eq!(
                    output.status.code(),
                    Some(5),
                    "{args:?}: {}",
                    stderr(&output)
                );
                stderr(&output)
                    .contains("password authentication failed")
                    .then_some(output)
            };
            let output = eventually("it says why", refused).await;
            told += &(stdout(&output) + &stderr(&output));
        }
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(child.id().unwrap().cast_signed()),
            Signal::SIGTERM,
        )
        .unwrap();
        while let Some(line) = next().await {
            told += &line;
        }
        let rest = child.wait_with_output().await.unwrap();
        told += &String::from_utf8_lossy(&rest.stdout);
        for secret in ["h0rse", "battery", PASSWORD] {
            assert!(!told.contains(secret), "{told}");
        }
    }
}

/// Compose files and unit files write `X=` for "not set".
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_variable_is_no_setting() {
    let mut command = schemad(&["serve"]);
    for name in [
        "LISTEN",
        "POOL_SIZE",
        "POOL_TIMEOUT",
        "INSECURE",
        "APPLY_ON_START",
        "ROLE",
        "LOG_LEVEL",
        "LOG_FORMAT",
    ] {
        command.env(format!("SCHEMAD_{name}"), "");
    }
    command
        .env("DATABASE_URL", "postgres://nobody@127.0.0.1:1/none")
        .env("DATABASE_URL_FILE", "");
    let process = Process::start(command).await;
    let mut command = schemad(&["status", "--address", &process.address]);
    command.env("SCHEMAD_OUTPUT", "").env("SCHEMAD_TIMEOUT", "");
    assert_eq!(output(command).await.status.code(), Some(5));
}
