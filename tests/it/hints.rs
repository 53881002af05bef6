//! What people get wrong about addresses, tokens and queues, and what the command line says then.

use std::{fs, os::unix::fs::PermissionsExt as _};

use crate::harness::{
    Guarded, Process, Set, TestDaemon, TestDatabase, free_port,
    process::{from_folder, output, schemad, stderr},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_with_the_word_bearer_before_it_is_named() {
    let guarded = Guarded::start().await;
    let port = guarded.daemon.address.rsplit(':').next().unwrap();
    let address = format!("https://localhost:{port}");
    let ca = guarded.folder.path().join("ca.pem").display().to_string();
    let token = format!("Bearer {}", guarded.tokens["viewer"].reveal());
    let file = guarded.folder.path().join("token");
    fs::write(&file, token.to_lowercase()).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let mut by_variable = schemad(&["status", "--address", &address, "--tls-ca", &ca]);
    by_variable.env("SCHEMAD_TOKEN", &token);
    let mut by_file = schemad(&["status", "--address", &address, "--tls-ca", &ca]);
    by_file.env("SCHEMAD_TOKEN_FILE", &file);
    for command in [by_variable, by_file] {
        let output = output(command).await;
        let told = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{told}");
        assert!(
            told.contains("`Bearer`") && !told.contains("schemad_"),
            "{told}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_finds_another_operation_running_is_told_of_queue_timeout() {
    let database = TestDatabase::new().await;
    let set = Set::of(&[("1_gate", "SELECT pg_advisory_xact_lock(77);", "SELECT 1;")]);
    let daemon = TestDaemon::start(&database, &set).await;
    let gate = database.connect().await;
    gate.batch_execute("SELECT pg_advisory_lock(77)")
        .await
        .unwrap();
    let first = tokio::spawn({
        let command = schemad(&["apply", "--address", &daemon.address]);
        async move { output(command).await }
    });
    database.until_waiting(77).await;
    for (arguments, is_hinted) in [
        (&["apply"][..], true),
        (&["rollback", "--all"], true),
        (&["apply", "--queue-timeout", "1ms"], false),
    ] {
        let mut command = schemad(arguments);
        command.args(["--address", &daemon.address]);
        let output = output(command).await;
        let told = stderr(&output);
        assert_eq!(output.status.code(), Some(4), "{told}");
        assert!(told.contains("BUSY"), "{told}");
        assert_eq!(
            told.contains("--queue-timeout"),
            is_hinted,
            "{arguments:?}: {told}"
        );
    }
    gate.batch_execute("SELECT pg_advisory_unlock(77)")
        .await
        .unwrap();
    assert_eq!(first.await.unwrap().status.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_takes_a_name_or_a_port_alone_and_so_does_an_address() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    for host in ["localhost", ""] {
        let mut command = from_folder(&set, &["serve"]);
        command.env("DATABASE_URL", &database.url);
        let (listen, admin_listen) = (
            format!("{host}:{}", free_port()),
            format!("{host}:{}", free_port()),
        );
        let mut process = Process::start_on(command, &listen, &admin_listen).await;
        assert!(
            process.address.starts_with("127.0.0.1:") || process.address.starts_with("[::1]:"),
            "{}",
            process.address
        );
        for address in [&listen, &admin_listen] {
            let health = output(schemad(&["health", "--addr", address])).await;
            assert_eq!(
                health.status.code(),
                Some(0),
                "{address}: {}",
                stderr(&health)
            );
        }
        let wait = output(schemad(&["wait", "database", "--address", &listen])).await;
        assert_eq!(wait.status.code(), Some(0), "{listen}: {}", stderr(&wait));
        process.kill().await;
    }
    for (listen, word) in [
        ("localhost", "port"),
        ("no.such.host.invalid:1", "no.such.host.invalid"),
        ("localhost:x", "port"),
    ] {
        let mut command = from_folder(&set, &["serve", "--listen", listen]);
        command.env("DATABASE_URL", &database.url);
        let refused = output(command).await;
        assert_eq!(refused.status.code(), Some(2), "{}", stderr(&refused));
        assert!(
            stderr(&refused).contains(word) && stderr(&refused).contains("--listen"),
            "{}",
            stderr(&refused)
        );
    }
}
