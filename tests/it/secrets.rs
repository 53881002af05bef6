//! Secrets cannot print: with marked ones everywhere a person might put them, every failing start
//! and every failing request, at the most verbose log level, and then nothing that was said holds a
//! mark, in any encoding.

use std::{path::Path, process::Stdio};

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use nix::sys::signal::{Signal, kill};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    process::Command,
};

use crate::harness::{
    PATIENCE, Server, TestDatabase, eventually,
    process::{output, schemad, stderr, stdout},
};

/// Letters and digits only, so that it is itself in a URL, too.
const MARK: &str = "Zq7markZq7";

/// The mark as it is, as %XX, as the numbers of its bytes, and what base64 makes of it after zero,
/// one and two bytes.
fn encodings() -> Vec<String> {
    let percent = |upper: bool| -> String {
        MARK.bytes()
            .map(|b| {
                if upper {
                    format!("%{b:02X}")
                } else {
                    format!("%{b:02x}")
                }
            })
            .collect()
    };
    let base64 = (0..3).map(|offset| {
        let text = STANDARD_NO_PAD.encode([&b"xx"[..offset], MARK.as_bytes()].concat());
        // The first and the last signs belong to what stands beside it, too.
        text[if offset == 0 { 0 } else { offset + 1 }..text.len() - 2].to_owned()
    });
    let numbers = MARK
        .bytes()
        .map(|b| b.to_string())
        .collect::<Vec<_>>()
        .join(", ");
    [
        MARK.to_lowercase(),
        numbers,
        percent(true).to_lowercase(),
        percent(false).to_lowercase(),
    ]
    .into_iter()
    .chain(base64.map(|text| text.to_lowercase()))
    .collect()
}

#[track_caller]
fn nothing_told(what: &str, told: &str) {
    let lower = told.to_lowercase();
    for encoding in encodings() {
        assert!(
            !lower.contains(&encoding),
            "{what} tells {encoding}: {told}"
        );
    }
}

#[test]
fn a_mark_is_found_in_every_encoding() {
    for told in [
        format!("x{MARK}x"),
        "%5A%71%37%6D%61%72%6B%5A%71%37".into(),
        format!("{:?}", MARK.as_bytes()),
        STANDARD_NO_PAD.encode(format!("user:{MARK}!")),
        STANDARD_NO_PAD.encode(format!("use:{MARK}!")),
        STANDARD_NO_PAD.encode(format!("us:{MARK}!")),
    ] {
        let found = std::panic::catch_unwind(|| nothing_told("it", &told));
        assert!(found.is_err(), "{told}");
    }
}

fn write(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// A start that fails at once: arguments, environment, and .env.
struct Start {
    what: String,
    args: Vec<String>,
    env: Vec<(String, String)>,
    file: Option<String>,
}

fn start(what: &str, args: &[&str], env: &[(&str, &str)]) -> Start {
    let text = |text: &&str| (*text).to_owned();
    Start {
        what: what.into(),
        args: args.iter().map(text).collect(),
        env: env
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
        file: None,
    }
}

fn failing_starts(dir: &Path) -> Vec<Start> {
    let url = format!("postgres://app:{MARK}@127.0.0.1:1/shop");
    // Each by flag, by variable, by file, and as the place where migrations run.
    let mut starts = Vec::new();
    let texts = [
        format!("mysql://app:{MARK}@h/d"),
        MARK.to_owned(),
        format!("postgres//app:{MARK}@h/d"),
        format!("postgres://app:{MARK}"),
        format!("postgres://app:x@{MARK}@h/d"),
        format!("postgres://app:x@y/{MARK}@h/d"),
        format!("postgres://app:x@{MARK}/y@h/d"),
        format!("postgres://app:x/{MARK}@h/d"),
        format!("postgres://app:1/{MARK}@h/d"),
        format!("postgres://app:1?{MARK}@h/d"),
        format!("postgres://app:1?a@{MARK}/b@h/d"),
        format!("postgres://app:1?sslrootcert={MARK}@h/d"),
        format!("postgres://app:1#{MARK}@h:port/d"),
        format!("postgres://app:{MARK}@h:port/d"),
        format!("postgres://app:%zz{MARK}@h:99999/d"),
        format!("postgres://app:{MARK}@h/d?sslmode=sometimes"),
        format!("postgres://app:{MARK}@h/d?sslmode=verify-full&sslcert=/c.pem"),
        format!("postgres://app@h/d?sslpassword={MARK}"),
        format!("postgres://app@h/d?passwrd={MARK}"),
        format!("postgres://app@h/d?password={MARK}&connect_timeout=soon"),
        format!("postgres://app@h/d?password={MARK}&service=x"),
        format!("postgres://app:{MARK}@/d"),
        format!("host=h user=app password={MARK} sslmode=sometimes"),
        format!("host=h user=app password=a {MARK}"),
        format!("host=h user=app password=a {MARK}=b"),
        format!("host=h user=app password='{MARK}"),
        format!("host=h user=app password='a' {MARK}'"),
        format!("host=h port=many password={MARK}"),
        format!("user=app password={MARK}"),
        format!("host=h passfile=/x password={MARK}"),
        format!("host=h PASSWORD={MARK}"),
    ];
    for (n, text) in texts.iter().enumerate() {
        let file = write(dir, &format!("url{n}"), text);
        starts.extend([
            start(text, &["serve"], &[("DATABASE_URL", text)]),
            start(text, &["serve", "--database-url", text], &[]),
            start(text, &["serve"], &[("DATABASE_URL_FILE", &file)]),
            start(
                text,
                &["serve"],
                &[("DATABASE_URL", &url), ("MIGRATION_DATABASE_URL", text)],
            ),
            start(
                text,
                &["serve"],
                &[("DATABASE_URL", &url), ("SCHEMAD_LEASE_DATABASE_URL", text)],
            ),
            start(
                text,
                &[
                    "serve",
                    "--lease-database-url",
                    &url,
                    "--lease-client-url-file",
                    &file,
                ],
                &[("DATABASE_URL", &url)],
            ),
        ]);
    }
    let unreadable = dir.join("a folder").display().to_string();
    std::fs::create_dir(&unreadable).unwrap();
    let binary = write(dir, "binary", "");
    std::fs::write(
        &binary,
        [b"postgres://app:", MARK.as_bytes(), b"\xff@h/d"].concat(),
    )
    .unwrap();
    let pem = |lines: &[&str]| lines.join("");
    let (begin, end) = ("-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----");
    for (n, key) in [
        pem(&[begin, MARK, end]),
        pem(&[begin, MARK, "\n", end, "\n"]),
        pem(&[begin, "\n", MARK, "\n"]),
        pem(&[begin, "\n", MARK, "!\n", end, "\n"]),
        MARK.to_owned(),
    ]
    .iter()
    .enumerate()
    {
        let file = write(dir, &format!("key{n}"), key);
        let local: &[(&str, &str)] = &[("DATABASE_URL", &url)];
        let doctor =
            format!("postgres://app@127.0.0.1:1/d?sslmode=prefer&sslcert={file}&sslkey={file}");
        starts.extend([
            start(
                "a key without its lines",
                &["serve", "--tls-cert", &file, "--tls-key", &file],
                local,
            ),
            start(
                "a key without its lines",
                &["serve", "--signing-key-file", &file, "--tls-key", &file],
                local,
            ),
            start(
                "a key without its lines",
                &["doctor", "--database-url", &doctor],
                &[],
            ),
            start(
                "a key without its lines",
                &["status", "--client-cert", &file, "--client-key", &file],
                &[],
            ),
            start(
                "a key without its lines",
                &[
                    "status",
                    "--address",
                    "https://127.0.0.1:1",
                    "--tls-ca",
                    &file,
                ],
                &[],
            ),
        ]);
    }
    for text in [
        pem(&[begin, "\n", MARK, "\n", end, "\n"]),
        pem(&[begin, MARK, end]),
        format!("schemad_{MARK}"),
        format!("eyJhbGciOiJub25lIn0.{MARK}.x"),
        format!("app:{MARK}@h/d"),
        format!("postgres://app:{MARK}@h/d"),
    ] {
        for flag in [
            "--tls-key",
            "--tls-cert",
            "--tls-client-ca",
            "--tls-client-crl",
            "--access",
            "--signing-key-file",
        ] {
            starts.push(start(
                "a secret for a file's name",
                &["serve", flag, &text],
                &[("DATABASE_URL", &url)],
            ));
        }
        starts.extend([
            start(
                "a secret for a file's name",
                &["serve"],
                &[("DATABASE_URL", &url), ("SCHEMAD_TLS_KEY", &text)],
            ),
            start(
                "a secret for a file's name",
                &["serve"],
                &[("DATABASE_URL_FILE", &text)],
            ),
            start(
                "a secret for a file's name",
                &["status"],
                &[("SCHEMAD_TOKEN_FILE", &text)],
            ),
            start(
                "a secret for a file's name",
                &["status", "--client-key", &text, "--client-cert", &text],
                &[],
            ),
            start(
                "a secret for a file's name",
                &[
                    "health",
                    "--tls-client-key",
                    &text,
                    "--tls-client-cert",
                    &text,
                ],
                &[],
            ),
        ]);
    }
    for address in [
        format!("host=h password={MARK}"),
        format!("postgres://app:{MARK}"),
        format!("app:{MARK}@h"),
    ] {
        starts.push(start(
            "a database for an address",
            &["status", "--address", &address],
            &[],
        ));
    }
    starts.extend([
        start(
            "both variables",
            &["serve"],
            &[("DATABASE_URL", &url), ("DATABASE_URL_FILE", "/x")],
        ),
        start(
            "both flags",
            &["serve", "--database-url", &url, "--database-url-file", "/x"],
            &[],
        ),
        start(
            "a URL for a file's name",
            &["serve"],
            &[("DATABASE_URL_FILE", &url)],
        ),
        start(
            "a URL for a file's name",
            &["serve", "--database-url-file", &url],
            &[],
        ),
        start(
            "a DSN for a file's name",
            &[
                "serve",
                "--database-url-file",
                &format!("host=h password={MARK}"),
            ],
            &[],
        ),
        start(
            "an unreadable file",
            &["serve"],
            &[
                ("DATABASE_URL", &url),
                ("MIGRATION_DATABASE_URL_FILE", &unreadable),
            ],
        ),
        start(
            "a file that is no text",
            &["serve"],
            &[("DATABASE_URL_FILE", &binary)],
        ),
        start(
            "a DSN for leases",
            &[
                "serve",
                "--lease-database-url",
                &format!("host=h user=u password={MARK}"),
            ],
            &[("DATABASE_URL", &url)],
        ),
        start(
            "no server for leases",
            &["serve"],
            &[("DATABASE_URL", &url), ("SCHEMAD_LEASE_CLIENT_URL", &url)],
        ),
        start(
            "a public address",
            &["serve", "--listen", "0.0.0.0:0"],
            &[("DATABASE_URL", &url)],
        ),
        start(
            "a number",
            &["serve", "--pool-size", "many"],
            &[("DATABASE_URL", &url)],
        ),
        start(
            "an unknown flag",
            &["serve", "--bogus", "--database-url", &url],
            &[],
        ),
        start(
            "a flag that is misspelt",
            &["serve", &format!("--databse-url={url}")],
            &[],
        ),
        start(
            "a flag that is misspelt",
            &["serve", "--databse-url", &url],
            &[],
        ),
        start("a flag that is forgotten", &["serve", &url], &[]),
        start("a URL for an address", &["serve", "--listen", &url], &[]),
        start(
            "a URL for a daemon's address",
            &["status", "--address", &url],
            &[],
        ),
        start("a URL for a command", &[&url], &[]),
        start("a token for a command", &[&format!("schemad_{MARK}")], &[]),
        start(
            "a token behind a command",
            &["status", &format!("schemad_{MARK}")],
            &[],
        ),
        start(
            "a JWT behind a command",
            &["status", &format!("eyJ{MARK}")],
            &[],
        ),
        start(
            "a URL in another's variable",
            &["serve"],
            &[("SCHEMAD_LISTEN", &url), ("DATABASE_URL", &url)],
        ),
    ]);
    for text in [
        format!("DATABASE_URL=postgres://app:{MARK} x@h/d\nx y z"),
        format!("DATABASE_URL='postgres://app:{MARK}"),
        format!("postgres://app:{MARK}@h/d"),
        format!("DATABASE_URL=\"{MARK}${{{MARK}\""),
        format!("export DATABASE_URL postgres://app:{MARK}@h/d"),
        format!("DATABASE_URL=mysql://app:{MARK}@h/d"),
    ] {
        starts.push(Start {
            file: Some(text.clone()),
            ..start(&format!(".env: {text}"), &["serve"], &[])
        });
    }
    starts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_failing_start_tells_a_secret() {
    let dir = tempfile::tempdir().unwrap();
    for (n, start) in failing_starts(dir.path()).into_iter().enumerate() {
        let Start {
            what,
            args,
            env,
            file,
        } = start;
        let format = ["text", "json"][n % 2];
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let mut command = schemad(&args);
        command
            .envs(env)
            .env("SCHEMAD_LOG_LEVEL", "trace")
            .env("SCHEMAD_LOG_FORMAT", format)
            .env("PGPASSWORD", MARK);
        command.env("RUST_BACKTRACE", "full");
        if let Some(text) = file {
            let cwd = dir.path().join(format!("cwd{n}"));
            std::fs::create_dir(&cwd).unwrap();
            write(&cwd, ".env", &text);
            command.current_dir(cwd);
        }
        let output = output(command).await;
        assert!(
            matches!(output.status.code(), Some(1 | 2 | 5)),
            "{what}: {}",
            stderr(&output)
        );
        nothing_told(&what, &(stdout(&output) + &stderr(&output)));
    }
}

/// What all of these say: the daemon's log, and every answer.
async fn told_by_a_daemon(mut command: Command, sure: &str) -> String {
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
    let (mut told, mut addresses) = (String::new(), Vec::new());
    while addresses.is_empty() || !told.contains(sure) {
        let line = next()
            .await
            .unwrap_or_else(|| panic!("the daemon ended: {told}"));
        if line.contains("serving on ") {
            let words = line.split(|c: char| !c.is_ascii_digit() && c != '.' && c != ':');
            addresses = words
                .filter(|word| word.starts_with("127.0.0.1:"))
                .map(str::to_owned)
                .collect();
        }
        told += &(line + "\n");
    }
    let main = addresses[0].clone();
    let admin = addresses
        .iter()
        .find(|address| **address != main)
        .expect("the admin listener's address");
    for args in [
        &["status"][..],
        &["status", "--output", "json"],
        &["list"],
        &["show", "1"],
        &["apply"],
        &["apply", "--output", "json"],
        &["rollback", "--all"],
        &["history"],
        &["lease"],
        &["health"],
        &["wait", "database", "--timeout", "50ms"],
    ] {
        let refused = async || {
            let mut command = schemad(args);
            command.args(if args[0] == "health" {
                ["--addr", &main]
            } else {
                ["--address", &main]
            });
            let output = output(command).await;
            let said = stdout(&output) + &stderr(&output);
            // "Has not answered yet" comes first.
            (args[0] != "status" || said.contains(sure)).then_some(said)
        };
        told += &eventually("it says why", refused).await;
    }
    for path in ["/metrics", "/livez", "/readyz", "/health/db", "/"] {
        let mut socket = tokio::net::TcpStream::connect(admin).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        socket.read_to_string(&mut told).await.unwrap();
    }
    kill(
        nix::unistd::Pid::from_raw(child.id().unwrap().cast_signed()),
        Signal::SIGTERM,
    )
    .unwrap();
    while let Some(line) = next().await {
        told += &(line + "\n");
    }
    let rest = child.wait_with_output().await.unwrap();
    told + &String::from_utf8_lossy(&rest.stdout)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_daemon_without_its_database_tells_a_secret() {
    let server = Server::start(&[], &[], "host all all 127.0.0.1/32 scram-sha-256").await;
    server
        .execute("CREATE ROLE app LOGIN PASSWORD 'another'")
        .await;
    let port = server.port;
    let dir = tempfile::tempdir().unwrap();
    let key = write(
        dir.path(),
        "key.pem",
        &format!("-----BEGIN PRIVATE KEY-----\n{MARK}\n-----END PRIVATE KEY-----\n"),
    );
    let no_key = write(dir.path(), "no key.pem", &format!("{MARK}\n"));
    let no_certificate = write(
        dir.path(),
        "ca.pem",
        &format!("-----BEGIN CERTIFICATE-----\n{MARK}!\n-----END CERTIFICATE-----\n"),
    );
    let encoded: String = MARK.bytes().map(|b| format!("%{b:02X}")).collect();
    for (n, (url, sure)) in [
        (format!("postgres://app:{MARK}@127.0.0.1:{port}/postgres"), "password authentication \
            failed"),
        (format!("postgres://app:a%40{encoded}%2Fb@127.0.0.1:{port}/postgres"), "password \
            authentication failed"),
        (format!("postgres://app@127.0.0.1:{port}/postgres?password={MARK}"), "password \
            authentication failed"),
        (
            format!("host=127.0.0.1 port={port} user=app dbname=postgres password='a@/\\' {MARK}'"),
            "password authentication failed",
        ),
        (format!("postgres://app:{MARK}@127.0.0.1:1/postgres"), "refused"),
        (format!("postgres://app:{MARK}@nowhere.invalid/postgres"), "nowhere.invalid"),
        (format!("postgres://app:{MARK}@127.0.0.1:{port}/postgres?sslmode=require"), "TLS"),
        (format!("postgres://app:{MARK}@127.0.0.1:{port}/d?sslmode=verify-ca&sslrootcert={no_certificate}"), "ca.pem"),
        (
            format!(
                "host=127.0.0.1 port={port} user=app password={MARK} sslmode=prefer \
                 sslcert='{key}' sslkey='{key}'"
            ),
            "key.pem",
        ),
        (
            format!("host=127.0.0.1 port={port} user=app password={MARK} sslcert='{no_key}' \
                sslkey='{no_key}'"),
            "no key.pem",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let mut command = schemad(&["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
        command.args(["--log-level", "trace", "--log-format", ["json", "text"][n % 2], "--apply-on-start"]);
        command.env("DATABASE_URL", &url).env("PGPASSWORD", MARK).env("MIGRATION_DATABASE_URL", &url);
        // Leases on a URL that is one.
        if url.contains("://") {
            command.env("SCHEMAD_LEASE_DATABASE_URL", &url);
        }
        nothing_told(&url, &told_by_a_daemon(command, sure).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leases_password_is_told_to_who_leases_and_nobody_else() {
    let (database, dir) = (TestDatabase::new().await, tempfile::tempdir().unwrap());
    let role = format!("secret_{}", database.name);
    database
        .execute(&format!(
            "CREATE ROLE {role} LOGIN CREATEDB PASSWORD '{MARK}'"
        ))
        .await;
    let url = database.url_as(&role).replace(":pw@", &format!(":{MARK}@"));
    let log = dir.path().join("log");
    let mut command = schemad(&[
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--admin-listen",
        "127.0.0.1:0",
        "--log-level",
        "trace",
    ]);
    command
        .env("DATABASE_URL", &database.url)
        .env("SCHEMAD_LEASE_DATABASE_URL", &url)
        .env("SCHEMAD_LEASE_POOL", "1");
    let mut daemon = command
        .stderr(std::fs::File::create(&log).unwrap())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let told = || std::fs::read_to_string(&log).unwrap();
    let address = eventually("it serves", async || {
        let told = told();
        let words = told.split("serving on ").nth(1)?.split_whitespace();
        words.map(str::to_owned).next()
    })
    .await;
    let mut lease = schemad(&[
        "lease",
        "--address",
        &address,
        "--",
        "sh",
        "-c",
        "echo $DATABASE_URL",
    ]);
    lease.env("SCHEMAD_LOG_LEVEL", "trace");
    let lease = output(lease).await;
    assert!(stdout(&lease).contains(MARK), "{}", stderr(&lease));
    nothing_told("schemad lease", &stderr(&lease));
    let status = output(schemad(&["status", "--address", &address])).await;
    nothing_told("status", &(stdout(&status) + &stderr(&status)));
    eventually("the lease is over", async || {
        told().contains("lease.ended").then_some(())
    })
    .await;
    kill(
        nix::unistd::Pid::from_raw(daemon.id().unwrap().cast_signed()),
        Signal::SIGTERM,
    )
    .unwrap();
    assert!(daemon.wait().await.unwrap().success());
    assert!(told().contains("lease.begun"));
    nothing_told("the log", &told());
    database.execute(&format!("DROP ROLE {role}")).await;
}
