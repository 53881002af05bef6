//! The log never decides what the daemon does: neither its level, nor a reader that has stopped
//! reading.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{Read as _, Write as _},
    os::fd::{AsRawFd as _, OwnedFd},
    path::Path,
    process::Stdio,
    time::Duration,
};

use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::signal::{Signal, kill},
    unistd::{Pid, pipe},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    process::{Child, Command},
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::harness::{
    Authority, PATIENCE, TestDatabase, eventually,
    process::{output, schemad, stderr, stdout},
};

const NOBODY: &str = "postgres://nobody@127.0.0.1:1/none";

/// The TCP ports on which a process listens, in the order in which it opened them.
fn listening(pid: u32) -> Vec<u16> {
    let sockets: BTreeMap<String, u16> = fs::read_to_string(format!("/proc/{pid}/net/tcp"))
        .unwrap_or_default()
        .lines()
        .filter_map(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            let port = u16::from_str_radix(fields.get(1)?.rsplit(':').next()?, 16).ok()?;
            (fields[3] == "0A").then(|| (format!("socket:[{}]", fields[9]), port))
        })
        .collect();
    let mut found = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let number: u32 = entry.file_name().to_string_lossy().parse().unwrap();
        let target = fs::read_link(entry.path()).unwrap_or_default();
        if let Some(port) = sockets.get(target.to_string_lossy().as_ref()) {
            found.push((number, *port));
        }
    }
    found.sort_unstable();
    found.into_iter().map(|(_, port)| port).collect()
}

/// The main port and the admin port of a daemon, once it listens on both.
async fn ports(child: &Child) -> (u16, u16) {
    let pid = child.id().unwrap();
    eventually("it listens", async || match listening(pid)[..] {
        [main, admin] => Some((main, admin)),
        _ => None,
    })
    .await
}

/// What the admin listener answers, with the head.
async fn admin(port: u16, path: &str) -> String {
    let ask = async {
        let mut socket = TcpStream::connect(("127.0.0.1", port)).await?;
        socket
            .write_all(
                format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes(),
            )
            .await?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.map(|_| answer)
    };
    tokio::time::timeout(Duration::from_secs(10), ask)
        .await
        .unwrap_or_else(|_| panic!("no answer to {path}"))
        .unwrap()
}

fn terminate(child: &Child) {
    kill(
        Pid::from_raw(child.id().unwrap().cast_signed()),
        Signal::SIGTERM,
    )
    .unwrap();
}

async fn exit_code(child: &mut Child) -> Option<i32> {
    tokio::time::timeout(PATIENCE, child.wait())
        .await
        .expect("it does not end")
        .unwrap()
        .code()
}

/// A flag of `serve`, as its help shows it.
#[derive(Debug, Default)]
struct Flag {
    takes_value: bool,
    values: Vec<String>,
    default: Option<String>,
}

fn flags(help: &str) -> BTreeMap<String, Flag> {
    let mut entries: Vec<String> = Vec::new();
    for line in help.lines().map(str::trim) {
        if line.starts_with("--") || line.starts_with("-h") {
            entries.push(line.to_owned())
        } else {
            entries
                .iter_mut()
                .last()
                .into_iter()
                .for_each(|entry| *entry += &format!(" {line}"))
        }
    }
    let in_brackets = |entry: &str, name: &str| {
        let rest = entry.split_once(&format!("[{name}: "))?.1;
        Some(rest.split_once(']')?.0.to_owned())
    };
    let flag = |entry: &String| {
        let (name, rest) = entry.split_once(' ')?;
        let values = in_brackets(entry, "possible values");
        let flag = Flag {
            takes_value: rest.starts_with('<'),
            values: values
                .iter()
                .flat_map(|values| values.split(", "))
                .map(str::to_owned)
                .collect(),
            default: in_brackets(entry, "default").filter(|default| !default.contains(' ')),
        };
        Some((name.strip_prefix("--")?.to_owned(), flag))
    };
    entries.iter().filter_map(flag).collect()
}

/// Every flag with every value that it names, its default or one that it could have.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_flag_with_every_value_starts_a_daemon() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let authority = Authority::new();
    let (certificate, key) = authority.issue("localhost");
    for (name, text) in [
        ("cert.pem", certificate),
        ("key.pem", key),
        ("ca.pem", authority.pem()),
        ("crl.pem", authority.revoke(&[])),
        ("signing", "0123456789abcdef".repeat(4)),
        ("url", NOBODY.to_owned()),
        (
            "access.toml",
            format!(
                "[[token]]\nname = \"x\"\nrole = \"viewer\"\nsha256 = \"{}\"\n",
                "ab".repeat(32)
            ),
        ),
    ] {
        fs::write(folder.path().join(name), text).unwrap();
    }
    let tls = [
        "--tls-cert".to_owned(),
        path("cert.pem"),
        "--tls-key".to_owned(),
        path("key.pem"),
    ];
    let with_tls = |more: &[&str]| {
        [
            &tls[..],
            &more.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>(),
        ]
        .concat()
    };
    let (ca, crl) = (path("ca.pem"), path("crl.pem"));
    let words = |words: &[&str]| words.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
    // What a flag needs beside it, and a value where the help has none.
    let arguments = |name: &str, value: Option<&str>| match (name, value) {
        ("listen" | "admin-listen", _) => vec![], // each daemon has its own
        ("role", _) => words(&["--role", "owner"]),
        ("signing-key-file", _) => words(&["--signing-key-file", &path("signing")]),
        ("tls-cert" | "tls-key", _) => with_tls(&[]),
        ("tls-client-ca", _) => with_tls(&["--tls-client-ca", &ca]),
        ("tls-client-crl", _) => with_tls(&["--tls-client-ca", &ca, "--tls-client-crl", &crl]),
        ("tls-client-certificates", Some("off")) => with_tls(&["--tls-client-certificates", "off"]),
        ("tls-client-certificates", Some(when)) => {
            with_tls(&["--tls-client-ca", &ca, "--tls-client-certificates", when])
        }
        ("access", _) => words(&["--access", &path("access.toml")]),
        ("database-url" | "migration-database-url" | "lease-database-url", _) => {
            vec![format!("--{name}"), NOBODY.into()]
        }
        ("database-url-file" | "migration-database-url-file" | "lease-database-url-file", _) => {
            vec![format!("--{name}"), path("url")]
        }
        ("lease-client-url", _) => {
            words(&["--lease-database-url", NOBODY, "--lease-client-url", NOBODY])
        }
        ("lease-client-url-file", _) => words(&[
            "--lease-database-url",
            NOBODY,
            "--lease-client-url-file",
            &path("url"),
        ]),
        ("lease-pool", _) => words(&["--lease-database-url", NOBODY, "--lease-pool", "1"]),
        ("data-dir", _) => words(&["--data-dir", &path("data")]),
        // Refused with a DATABASE_URL, which all of these have; tests/it/dev.rs starts with it.
        ("reset", _) => Vec::new(),
        ("dir", _) => words(&["--dir", concat!(env!("CARGO_MANIFEST_DIR"), "/migrations")]),
        (name, Some(value)) => vec![format!("--{name}"), value.to_owned()],
        (name, None) => vec![format!("--{name}")],
    };
    let mut starts = Vec::new();
    for command in ["serve", "dev"] {
        let help = stdout(&output(schemad(&[command, "-h"])).await);
        let flags = flags(&help);
        assert!(
            flags.len() > 30 && flags["log-level"].values.len() == 5,
            "{flags:#?}"
        );
        // Refused with a DATABASE_URL, too; tests/it/rehearse.rs starts with it.
        for (name, flag) in flags.iter().filter(|(name, _)| *name != "preload") {
            if !flag.takes_value {
                starts.push((command, arguments(name, None)));
                continue;
            }
            let values = if flag.values.is_empty() {
                flag.default.clone().into_iter().collect()
            } else {
                flag.values.clone()
            };
            for value in &values {
                starts.push((command, arguments(name, Some(value))));
            }
            if values.is_empty() {
                let arguments = arguments(name, None);
                assert!(
                    arguments.len() > 1,
                    "--{name} needs a value: say one in this test"
                );
                starts.push((command, arguments));
            }
        }
    }
    starts.sort();
    starts.dedup();
    let room = tokio::sync::Semaphore::new(8);
    let failed = futures_util::future::join_all(starts.iter().map(async |(command, arguments)| {
        let _room = room.acquire().await.unwrap();
        let mut command = schemad(&[
            command,
            "--listen",
            "127.0.0.1:0",
            "--admin-listen",
            "127.0.0.1:0",
        ]);
        command
            .args(arguments)
            .env("DATABASE_URL", NOBODY)
            .env("HOME", folder.path());
        if arguments
            .iter()
            .any(|argument| argument.starts_with("--database-url"))
        {
            command.env_remove("DATABASE_URL");
        }
        serves_and_stops(command)
            .await
            .err()
            .map(|why| format!("{arguments:?}: {why}"))
    }))
    .await;
    let failed: Vec<_> = failed.into_iter().flatten().collect();
    assert!(
        failed.is_empty(),
        "{} of {}:\n{}",
        failed.len(),
        starts.len(),
        failed.join("\n")
    );
}

/// It listens, is alive until SIGTERM, and ends well with that.
async fn serves_and_stops(mut command: Command) -> Result<(), String> {
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pipe = child.stderr.take().unwrap();
    let log = tokio::spawn(async move {
        let mut text = String::new();
        let _ = pipe.read_to_string(&mut text).await;
        text
    });
    let pid = child.id().unwrap();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let lives = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break Err(format!("it ended by itself, with {status}"));
        }
        if let [_, port] = listening(pid)[..] {
            let answer = tokio::time::timeout(PATIENCE, quietly(port)).await;
            break match answer {
                Ok(Ok(answer)) if answer.starts_with("HTTP/1.1 200") => Ok(()),
                answer => Err(format!("/livez: {answer:?}")),
            };
        }
        if tokio::time::Instant::now() > deadline {
            break Err("it never listened".into());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    if lives.is_ok() {
        terminate(&child);
    } else {
        let _ = child.start_kill(); // it may have ended
    }
    let code = exit_code(&mut child).await;
    let log = log.await.unwrap();
    match lives {
        Err(why) => Err(format!("{why}: {log}")),
        Ok(()) if code != Some(0) || log.contains("panicked") => {
            Err(format!("exit {code:?}: {log}"))
        }
        Ok(()) => Ok(()),
    }
}

async fn quietly(port: u16) -> std::io::Result<String> {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).await?;
    socket
        .write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .await?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.map(|_| answer)
}

/// The text of every log macro's arguments in a source file, without strings, and the line on which
/// it begins.
fn log_macros(source: &str) -> Vec<(usize, String)> {
    let names = ["trace", "debug", "info", "warn", "error", "event"]
        .map(|name| format!("tracing::{name}!("));
    let mut found = Vec::new();
    for (at, _) in source.match_indices("tracing::") {
        let Some(name) = names
            .iter()
            .find(|name| source[at..].starts_with(name.as_str()))
        else {
            continue;
        };
        let (mut depth, mut text, mut quoted) = (1, String::new(), false);
        let mut characters = source[at + name.len()..].chars();
        while let Some(c) = characters.next().filter(|_| depth > 0) {
            match c {
                '\\' if quoted => drop(characters.next()),
                '"' => quoted = !quoted,
                _ if quoted => {}
                '(' | '[' | '{' => depth += 1,
                ')' | ']' | '}' => depth -= 1,
                _ => {}
            }
            if !quoted {
                text.push(c);
            }
        }
        found.push((source[..at].lines().count(), text));
    }
    found
}

/// A macro whose level is off evaluates none of its arguments.
#[test]
fn no_log_macro_does_anything_but_log() {
    const EFFECTS: [&str; 27] = [
        ".await",
        "?",
        ".next(",
        ".take(",
        ".pop",
        ".push",
        ".insert(",
        ".remove(",
        ".send(",
        ".try_send(",
        ".recv(",
        ".swap(",
        ".store(",
        ".fetch_",
        ".lock(",
        ".replace(",
        ".drain(",
        ".set(",
        ".inc(",
        ".read(",
        ".write(",
        ".join(",
        ".abort(",
        ".cancel(",
        ".close(",
        "+=",
        "-=",
    ];
    let mut wrong = Vec::new();
    let mut seen = 0;
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            if path.extension().is_none_or(|extension| extension != "rs") {
                continue;
            }
            for (line, text) in log_macros(&fs::read_to_string(&path).unwrap()) {
                seen += 1;
                // `?field` is tracing's way to say Debug.
                let text = text.replace("= ?", "= ").replace(", ?", ", ");
                for effect in EFFECTS.iter().filter(|effect| text.contains(**effect)) {
                    wrong.push(format!("{}:{line}: {effect}", path.display()));
                }
            }
        }
    }
    assert!(seen > 50, "{seen}");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A pipe that holds a page, full but for `room` bytes, which nobody reads.
fn full_pipe(room: usize) -> (OwnedFd, Stdio) {
    let (reads, writes) = pipe().unwrap();
    let size = fcntl(&writes, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    fcntl(&writes, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    let mut file = File::from(writes);
    let filling = vec![b'.'; usize::try_from(size).unwrap() - room];
    if room == 0 {
        while file.write(&filling).is_ok_and(|written| written > 0) {}
    } else {
        file.write_all(&filling).unwrap();
    }
    fcntl(&file, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
    (reads, Stdio::from(file))
}

/// Lines of the log that nobody read.
async fn dropped(port: u16) -> u64 {
    let metrics = admin(port, "/metrics").await;
    let line = metrics
        .lines()
        .find(|line| line.starts_with("schemad_log_lines_dropped_total "));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok())
        .unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_nobody_reads_stops_nothing_and_its_loss_is_told() {
    for format in ["text", "json"] {
        let database = TestDatabase::new().await;
        let (reads, stderr) = full_pipe(100);
        let mut command = schemad(&[
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--admin-listen",
            "127.0.0.1:0",
        ]);
        command
            .args(["--log-level", "trace", "--log-format", format])
            .env("DATABASE_URL", &database.url);
        let mut child = command
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .unwrap();
        let (main, admin_port) = ports(&child).await;
        let address = format!("127.0.0.1:{main}");
        let healthy = async || {
            let channel =
                tonic::transport::Channel::from_shared(format!("http://{address}")).unwrap();
            let mut health = HealthClient::new(channel.connect_lazy());
            let service = "schemad.v1.MigrationService".to_owned();
            let check = health.check(HealthCheckRequest { service });
            let answer = tokio::time::timeout(Duration::from_secs(10), check)
                .await
                .expect("health does not answer");
            answer.unwrap().into_inner().status()
                == tonic_health::pb::health_check_response::ServingStatus::Serving
        };
        eventually("it is ready", async || healthy().await.then_some(())).await;
        eventually("the log is full", async || {
            healthy().await;
            (dropped(admin_port).await > 0).then_some(())
        })
        .await;
        assert!(
            admin(admin_port, "/livez")
                .await
                .starts_with("HTTP/1.1 200")
        );
        assert!(healthy().await);
        let applied = output(schemad(&["apply", "--address", &address])).await;
        assert_eq!(applied.status.code(), Some(0), "{}", self::stderr(&applied));

        // Somebody reads again, until the loss is told.
        fcntl(&reads, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        let mut reads = File::from(reads);
        let mut log = String::new();
        eventually("the loss is told", async || {
            let mut buffer = [0; 65536];
            while let Ok(length @ 1..) = reads.read(&mut buffer) {
                log += &String::from_utf8_lossy(&buffer[..length]);
            }
            log.contains("log.lines_dropped").then_some(())
        })
        .await;
        // Nobody does, and it ends all the same.
        terminate(&child);
        assert_eq!(exit_code(&mut child).await, Some(0), "{format}");
        drop(reads);
    }
}

/// Also what the command line itself has to say.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_cannot_start_ends_although_nobody_reads_why() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    for command in ["serve", "dev"] {
        let (_reads, stderr) = full_pipe(0);
        let mut command = schemad(&[
            command,
            "--listen",
            &listen,
            "--admin-listen",
            "127.0.0.1:0",
        ]);
        command.env("DATABASE_URL", NOBODY);
        let mut child = command
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .unwrap();
        assert_eq!(exit_code(&mut child).await, Some(2));
    }
}

/// True while a thread of the process waits for a pipe's reader.
fn waits_for_a_reader(pid: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    let waits = |thread: fs::DirEntry| {
        fs::read_to_string(thread.path().join("wchan")).is_ok_and(|at| at.contains("pipe_write"))
    };
    threads.into_iter().any(waits)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dev_whose_introduction_nobody_reads_goes_on() {
    let database = TestDatabase::new().await;
    let (reads, to) = full_pipe(0);
    let mut command = schemad(&[
        "dev",
        "--listen",
        "127.0.0.1:0",
        "--admin-listen",
        "127.0.0.1:0",
    ]);
    command.env("DATABASE_URL", &database.url);
    let mut child = command.stdout(to).stderr(Stdio::null()).spawn().unwrap();
    let (_, admin_port) = ports(&child).await;
    let pid = child.id().unwrap();
    eventually("it would introduce itself", async || {
        waits_for_a_reader(pid).then_some(())
    })
    .await;
    assert!(
        admin(admin_port, "/livez")
            .await
            .starts_with("HTTP/1.1 200")
    );
    terminate(&child);
    assert_eq!(exit_code(&mut child).await, Some(0));
    assert!(reads.as_raw_fd() > 0);
}
