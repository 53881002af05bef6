//! Files that hold a secret and are open to everybody on the machine.

use std::{fs, os::unix::fs::PermissionsExt as _};

use tokio::process::Command;

use crate::harness::{
    Guarded, Set, TestDatabase,
    process::{from_folder, output, schemad, stderr},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_with_secrets_that_others_may_read_are_warned_of() {
    let (guarded, database) = (Guarded::start().await, TestDatabase::new().await);
    let path = |name: &str| guarded.folder.path().join(name);
    let shown = |name: &str| path(name).display().to_string();
    for (name, text) in [
        ("url", database.url.as_str()),
        ("signing", &"k".repeat(40)),
        ("lease", &database.url),
    ] {
        fs::write(path(name), text).unwrap();
    }
    let secrets = ["key.pem", "url", "signing", "lease"];
    let set = Set::tables(1);
    let warned = async |mode: u32| {
        for name in secrets {
            fs::set_permissions(path(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        let mut command: Command = from_folder(
            &set,
            &[
                "serve",
                "--tls-cert",
                &shown("cert.pem"),
                "--tls-key",
                &shown("key.pem"),
            ],
        );
        command.args([
            "--signing-key-file",
            &shown("signing"),
            "--database-url-file",
            &shown("url"),
        ]);
        command.args([
            "--listen",
            "127.0.0.1:0",
            "--admin-listen",
            "127.0.0.1:0",
            "--log-format",
            "json",
        ]);
        command.args(["--lease-client-url", "key=value"]); // ends the start
        command.env("SCHEMAD_LEASE_DATABASE_URL_FILE", shown("lease"));
        stderr(&output(command).await)
    };
    let told = warned(0o644).await;
    for name in secrets {
        let line = told
            .lines()
            .find(|line| line.contains("file.readable_by_all") && line.contains(&shown(name)));
        assert!(
            line.is_some_and(|line| line.contains("chmod o-r")),
            "{name}: {told}"
        );
    }
    assert!(!warned(0o640).await.contains("file.readable_by_all"));

    let token = path("token");
    fs::write(&token, guarded.tokens["viewer"].reveal()).unwrap();
    let port = guarded.daemon.address.rsplit(':').next().unwrap();
    for (mode, is_warned) in [(0o644, true), (0o600, false)] {
        fs::set_permissions(&token, fs::Permissions::from_mode(mode)).unwrap();
        let address = format!("https://localhost:{port}");
        let arguments = [
            "status",
            "--address",
            &address,
            "--tls-ca",
            &shown("ca.pem"),
            "--token-file",
            &shown("token"),
        ];
        let output = output(schemad(&arguments)).await;
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert_eq!(
            stderr(&output).contains("chmod o-r"),
            is_warned,
            "{mode:o}: {}",
            stderr(&output)
        );
    }
}
