//! Where settings come from: what a file `.env`, which may have come with a checkout, can set and
//! what it cannot.

use std::{fs, os::unix::fs::symlink, path::Path};

use tokio::process::Command;

use crate::harness::{
    Guarded, TestDatabase,
    process::{output, schemad, stderr, stdout},
};

/// A folder with a file `.env`, and another one that no checkout can write to.
struct Checkout {
    folder: tempfile::TempDir,
    elsewhere: tempfile::TempDir,
}

impl Checkout {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            elsewhere: tempfile::tempdir().unwrap(),
        }
    }

    fn write(&self, name: &str, content: &str) {
        let path = self.folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// Writes a file outside of the checkout, and returns its path.
    fn write_elsewhere(&self, name: &str, content: &str) -> String {
        let path = self.elsewhere.path().join(name);
        fs::write(&path, content).unwrap();
        path.display().to_string()
    }

    /// schemad, started in the checkout with these lines in `.env`.
    fn schemad(
        &self,
        env_file: &[&str],
        environment: &[(&str, &str)],
        arguments: &[&str],
    ) -> Command {
        self.write(".env", &(env_file.join("\n") + "\n"));
        let mut command = schemad(arguments);
        command
            .current_dir(self.folder.path())
            .envs(environment.iter().copied());
        command
    }
}

/// Runs to the end; the exit code and what is on stderr.
async fn run(command: Command) -> (Option<i32>, String) {
    let output = output(command).await;
    (output.status.code(), stderr(&output))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_only_the_env_file_names_gets_only_what_lies_beside_it() {
    let (guarded, checkout) = (Guarded::start().await, Checkout::new());
    let token = guarded.tokens["viewer"].reveal();
    let port = guarded.daemon.address.rsplit(':').next().unwrap();
    let (url, address) = (
        format!("https://localhost:{port}"),
        format!("SCHEMAD_ADDRESS=https://localhost:{port}"),
    );
    let (certificate, key) = guarded.authority.issue("localhost");
    checkout.write("ca.pem", &guarded.authority.pem());
    checkout.write("token", token);
    checkout.write(".git/token", token);
    checkout.write("cert.pem", &certificate);
    checkout.write("key.pem", &key);
    let outside = checkout.write_elsewhere("secret", token);
    let (outside_cert, outside_key) = (
        checkout.write_elsewhere("cert.pem", &certificate),
        checkout.write_elsewhere("key.pem", &key),
    );
    symlink(&outside, checkout.folder.path().join("link")).unwrap();
    symlink(
        checkout.elsewhere.path(),
        checkout.folder.path().join("folder"),
    )
    .unwrap();
    let ca = "SCHEMAD_TLS_CA=ca.pem";

    let set = |name: &str, value: &str| format!("{name}={value}");
    for line in [
        set("SCHEMAD_TOKEN_FILE", &outside),
        set("SCHEMAD_TOKEN_FILE", "link"),
        set("SCHEMAD_TOKEN_FILE", "folder/secret"),
        set("SCHEMAD_TOKEN_FILE", ".git/token"),
        format!("SCHEMAD_CLIENT_CERT={outside_cert}\nSCHEMAD_CLIENT_KEY={outside_key}"),
        format!(
            "SCHEMAD_CLIENT_CERT=cert.pem\nSCHEMAD_CLIENT_KEY={outside_key}\nSCHEMAD_TOKEN={token}"
        ),
    ] {
        let (code, told) = run(checkout.schemad(&[&address, ca, &line], &[], &["status"])).await;
        assert_eq!(code, Some(2), "{line}: {told}");
        assert!(
            told.contains(".env") && told.contains("--address"),
            "{told}"
        );
    }
    let only_address: &[&str] = &[&address, ca];
    for (environment, arguments) in [
        (&[("SCHEMAD_TOKEN", token)][..], &["status"][..]),
        (&[("SCHEMAD_TOKEN_FILE", outside.as_str())], &["status"]),
        (&[], &["status", "--token-file", &outside]),
        (
            &[
                ("SCHEMAD_CLIENT_CERT", outside_cert.as_str()),
                ("SCHEMAD_CLIENT_KEY", &outside_key),
            ],
            &["status"],
        ),
        (
            &[],
            &[
                "health",
                "--tls-client-cert",
                &outside_cert,
                "--tls-client-key",
                &outside_key,
            ],
        ),
    ] {
        let (code, told) = run(checkout.schemad(only_address, environment, arguments)).await;
        let usage = if arguments[0] == "health" { 1 } else { 2 };
        assert_eq!(code, Some(usage), "{environment:?} {arguments:?}: {told}");
    }
    for line in [
        set("SCHEMAD_TOKEN_FILE", "token"),
        set("SCHEMAD_TOKEN", token),
    ] {
        let (code, told) = run(checkout.schemad(&[&address, ca, &line], &[], &["status"])).await;
        assert_eq!(code, Some(0), "{line}: {told}");
    }
    // So does whoever says which authorities are believed about an address far away.
    let far = [
        ("SCHEMAD_ADDRESS", "https://schemad.invalid:1"),
        ("SCHEMAD_TOKEN", token),
    ];
    let (code, told) = run(checkout.schemad(&[ca], &far, &["status"])).await;
    assert!(
        code == Some(2) && told.contains("--tls-ca"),
        "{code:?} {told}"
    );
    let (code, told) = run(checkout.schemad(&[ca], &far[..1], &["status"])).await;
    assert_eq!(code, Some(5), "nothing is shown to it: {told}");
    // Whoever names the address in the environment or on the command line has chosen where it goes.
    let names_token = set("SCHEMAD_TOKEN_FILE", &outside);
    let lines: &[&str] = &[&address, ca, &names_token];
    for (environment, arguments) in [
        (&[][..], &["status", "--address", url.as_str()][..]),
        (&[("SCHEMAD_ADDRESS", url.as_str())], &["status"]),
    ] {
        let (code, told) = run(checkout.schemad(lines, environment, arguments)).await;
        assert_eq!(code, Some(0), "{environment:?} {arguments:?}: {told}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_env_file_puts_no_variable_of_the_environment_into_what_it_sets() {
    let (guarded, checkout) = (Guarded::start().await, Checkout::new());
    let port = guarded.daemon.address.rsplit(':').next().unwrap();
    let address = format!("SCHEMAD_ADDRESS=https://localhost:{port}");
    checkout.write("ca.pem", &guarded.authority.pem());
    for token in ["SCHEMAD_TOKEN=$CI_SECRET", "SCHEMAD_TOKEN=\"${CI_SECRET}\""] {
        let lines: &[&str] = &[&address, "SCHEMAD_TLS_CA=ca.pem", token];
        let environment = [("CI_SECRET", guarded.tokens["viewer"].reveal())];
        let (code, told) = run(checkout.schemad(lines, &environment, &["status"])).await;
        assert!(matches!(code, Some(2 | 6)), "{token}: {code:?} {told}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_environment_beats_the_env_file_whichever_form_each_has() {
    let (guarded, checkout) = (Guarded::start().await, Checkout::new());
    let port = guarded.daemon.address.rsplit(':').next().unwrap();
    let address = format!("https://localhost:{port}");
    let ca = checkout.write_elsewhere("ca.pem", &guarded.authority.pem());
    let token = guarded.tokens["viewer"].reveal();
    checkout.write("wrong", "schemad_wrong");
    let environment = [
        ("SCHEMAD_ADDRESS", address.as_str()),
        ("SCHEMAD_TLS_CA", &ca),
        ("SCHEMAD_TOKEN", token),
    ];
    let (code, told) =
        run(checkout.schemad(&["SCHEMAD_TOKEN_FILE=wrong"], &environment, &["status"])).await;
    assert_eq!(code, Some(0), "{told}");

    let database = TestDatabase::new().await;
    for (line, name, value) in [
        (
            "DATABASE_URL_FILE=nowhere",
            "DATABASE_URL",
            database.url.clone(),
        ),
        (
            "DATABASE_URL=postgres://nobody@127.0.0.1:1/x",
            "DATABASE_URL_FILE",
            { checkout.write_elsewhere("url", &database.url) },
        ),
    ] {
        let (code, told) = run(checkout.schemad(&[line], &[(name, &value)], &["doctor"])).await;
        assert_eq!(code, Some(0), "{line}: {told}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_env_file_names_secrets_only_beside_it() {
    let (checkout, database) = (Checkout::new(), TestDatabase::new().await);
    let outside = checkout.write_elsewhere("url", &database.url);
    let key = checkout.write_elsewhere("key", &"k".repeat(40));
    symlink(&outside, checkout.folder.path().join("link")).unwrap();
    let url = format!("DATABASE_URL={}", database.url);
    let with_key = format!(
        "DATABASE_URL=postgres://u@127.0.0.1:1/d?sslmode=require&sslcert={key}&sslkey={key}"
    );
    for lines in [
        &[format!("DATABASE_URL_FILE={outside}")][..],
        &["DATABASE_URL_FILE=link".into()],
        &[
            url.clone(),
            format!("MIGRATION_DATABASE_URL_FILE={outside}"),
        ],
        &[
            url.clone(),
            format!("SCHEMAD_LEASE_DATABASE_URL_FILE={outside}"),
        ],
        &[
            url.clone(),
            format!("SCHEMAD_LEASE_DATABASE_URL={}", database.url),
            format!("SCHEMAD_LEASE_CLIENT_URL_FILE={outside}"),
        ],
        &[url.clone(), format!("SCHEMAD_SIGNING_KEY_FILE={key}")],
        &[with_key],
    ] {
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let (code, told) = run(checkout.schemad(&lines, &[], &["doctor"])).await;
        assert_eq!(code, Some(2), "{lines:?}: {told}");
        assert!(told.contains(".env"), "{told}");
    }
    checkout.write("url", &database.url);
    checkout.write("key", &"k".repeat(40));
    let lines = ["DATABASE_URL_FILE=url", "SCHEMAD_SIGNING_KEY_FILE=./key"];
    let (code, told) = run(checkout.schemad(&lines, &[], &["doctor"])).await;
    assert_eq!(code, Some(0), "{told}");
    // Nothing but schemad's own settings is taken from the file.
    let marker = checkout.elsewhere.path().join("ran");
    checkout.write(
        "bin/postgres",
        &format!("#!/bin/sh\ntouch {}\n", marker.display()),
    );
    checkout.write(
        "bin/initdb",
        &format!("#!/bin/sh\ntouch {}\n", marker.display()),
    );
    for name in ["postgres", "initdb"] {
        make_executable(&checkout.folder.path().join("bin").join(name));
    }
    let bin = format!("PG_BIN={}", checkout.folder.path().join("bin").display());
    let mut rehearse = checkout.schemad(&[&bin], &[], &["rehearse"]);
    rehearse
        .env(
            "SCHEMAD_REHEARSE_DIR",
            checkout.elsewhere.path().join("data"),
        )
        .env("PATH", "/nonexistent");
    let _ = output(rehearse).await;
    assert!(!marker.exists(), "a program that .env names was run");
}

fn make_executable(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_byte_order_mark_is_no_part_of_a_name_and_a_line_that_cannot_be_read_is_named() {
    let (checkout, database) = (Checkout::new(), TestDatabase::new().await);
    let first = format!("\u{feff}DATABASE_URL={}", database.url);
    let (code, told) = run(checkout.schemad(&[&first], &[], &["doctor"])).await;
    assert_eq!(code, Some(0), "{told}");
    for (lines, number) in [
        (&["# x", "", "DATABASE_URL postgres://a:s3cret@h/d"][..], 3),
        (&["A=1", "B='two", "lines'", "C=s3cret x"], 4),
        (&["A=1", "DATABASE_URL=\"s3cret", "", "x"], 2),
        (&["A=1\r", "B=s3\\cret\r"], 2),
    ] {
        let (code, told) = run(checkout.schemad(lines, &[], &["doctor"])).await;
        assert_eq!(code, Some(2), "{told}");
        assert!(
            told.contains(&format!("line {number} of .env")) && !told.contains("s3cret"),
            "{told}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_setting_is_warned_of_with_the_name_that_was_meant() {
    let checkout = Checkout::new();
    for (name, meant) in [
        ("SCHEMAD_LISTN", "SCHEMAD_LISTEN"),
        ("SCHEMAD_TOKEN_FIEL", "SCHEMAD_TOKEN_FILE"),
        ("SCHEMAD_DATABASE_URL", "DATABASE_URL"),
        ("SCHEMAD_ALL", "no setting"),
    ] {
        let (code, told) = run(checkout.schemad(
            &[],
            &[(name, "s3cret")],
            &["token", "new", "--name", "x", "--role", "viewer"],
        ))
        .await;
        assert_eq!(code, Some(0), "{told}");
        assert!(
            told.contains(name) && told.contains(meant) && !told.contains("s3cret"),
            "{told}"
        );
        let line = format!("{name}=s3cret");
        let (_, told) = run(checkout.schemad(
            &[&line],
            &[],
            &["token", "new", "--name", "x", "--role", "viewer"],
        ))
        .await;
        assert!(told.contains(name) && told.contains(".env"), "{told}");
    }
    // What Kubernetes sets for a service of this name, and every setting that there is.
    let quiet = [
        ("SCHEMAD_SERVICE_HOST", "10.0.0.1"),
        ("SCHEMAD_SERVICE_PORT", "50051"),
        ("SCHEMAD_SERVICE_PORT_GRPC", "50051"),
        ("SCHEMAD_PORT", "tcp://10.0.0.1:50051"),
        ("SCHEMAD_PORT_50051_TCP", "tcp://10.0.0.1:50051"),
        ("SCHEMAD_PORT_50051_TCP_ADDR", "10.0.0.1"),
        ("SCHEMAD_LEASE_DATABASE_URL_FILE", "/x"),
        ("SCHEMAD_TOKEN", "x"),
        ("SCHEMAD_LISTEN", "x"),
        ("SCHEMAD_TTL", "1h"),
    ];
    let output = output(checkout.schemad(
        &[],
        &quiet,
        &["token", "new", "--name", "x", "--role", "viewer"],
    ))
    .await;
    assert!(
        !stderr(&output).contains("SCHEMAD_") && !stdout(&output).is_empty(),
        "{}",
        stderr(&output)
    );
}
