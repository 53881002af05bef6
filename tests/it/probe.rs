//! `schemad health` against daemons that speak TLS, and the image's own check.

use std::fs;

use crate::harness::{
    Guarded, Set, TestDatabase, eventually, free_port,
    process::{from_folder, output, schemad, stderr, stdout},
};

/// The arguments of the image's HEALTHCHECK, behind the program.
fn healthcheck() -> Vec<String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/Dockerfile");
    let text = fs::read_to_string(path).unwrap();
    let line = text
        .lines()
        .find(|line| line.starts_with("HEALTHCHECK"))
        .unwrap();
    let words: Vec<String> = serde_json::from_str(line.split_once("CMD ").unwrap().1).unwrap();
    words[1..].to_vec()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_images_health_check_works_with_tls_and_wherever_the_admin_listener_is() {
    let (guarded, database) = (Guarded::start().await, TestDatabase::new().await);
    let path = |name: &str| guarded.folder.path().join(name).display().to_string();
    let (certificate, key, access) = (path("cert.pem"), path("key.pem"), path("access.toml"));
    let set = Set::tables(1);
    for host in ["127.0.0.1", "0.0.0.0", "localhost", "[::]", ""] {
        let admin = format!("{host}:{}", free_port());
        let mut command = from_folder(
            &set,
            &[
                "serve",
                "--tls-cert",
                &certificate,
                "--tls-key",
                &key,
                "--access",
                &access,
                "--listen",
                "127.0.0.1:0",
            ],
        );
        command.args(["--tls-client-ca", &path("ca.pem")]);
        // As in a container: the settings are variables, and the check has the same.
        let environment = [
            ("DATABASE_URL", database.url.as_str()),
            ("SCHEMAD_ADMIN_LISTEN", &admin),
            ("SCHEMAD_TLS_CERT", &certificate),
            ("SCHEMAD_TLS_KEY", &key),
            ("SCHEMAD_ADDRESS", "https://schemad.example:50051"),
        ];
        let mut daemon = command
            .envs(environment)
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let words = healthcheck();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let said = eventually(&format!("the check of {admin} succeeds"), async || {
            let mut check = schemad(&words);
            check.envs(environment);
            let output = output(check).await;
            output.status.success().then(|| stdout(&output))
        })
        .await;
        assert!(said.contains("SERVING"), "{said}");
        daemon.kill().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_without_tls_gets_the_hint_that_status_gets() {
    let guarded = Guarded::start().await;
    let (address, ca) = (
        guarded.daemon.address.clone(),
        guarded.folder.path().join("ca.pem"),
    );
    let status = output(schemad(&["status", "--address", &address])).await;
    let health = output(schemad(&["health", "-addr", &address])).await;
    for told in [stderr(&status), stderr(&health)] {
        assert!(told.contains("use https://"), "{told}");
    }
    assert!(matches!(health.status.code(), Some(2 | 3)), "{health:?}");
    let port = address.rsplit(':').next().unwrap();
    let ca = ca.display().to_string();
    let health = output(schemad(&[
        "health",
        "-addr",
        &format!("localhost:{port}"),
        "-tls",
        "-tls-ca-cert",
        &ca,
    ]))
    .await;
    assert_eq!(health.status.code(), Some(0), "{}", stderr(&health));
}
