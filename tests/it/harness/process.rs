//! schemad as a process of its own: the real binary for the command line, and the `from_folder`
//! example where a test brings its own migrations.

use std::{
    path::PathBuf,
    process::{Output, Stdio},
};

use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

use super::{PATIENCE, Set, eventually};

/// The real binary with nothing from outside in its environment, around the example's migrations
/// where no others are given.
pub fn schemad(args: &[&str]) -> Command {
    let mut command = clean(Command::new(env!("CARGO_BIN_EXE_schemad")), args);
    command.env("SCHEMAD_EXAMPLE", "true");
    command
}

/// The example around a folder.
pub fn from_folder(set: &Set, args: &[&str]) -> Command {
    let mut command = clean(Command::new(example("from_folder")), args);
    command.env("MIGRATIONS_DIR", set.path());
    command
}

/// The program of an example.
pub fn example(name: &str) -> PathBuf {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_schemad"))
        .with_file_name("examples")
        .join(name);
    assert!(
        program.exists(),
        "{} is not built: run `cargo test` without --test",
        program.display()
    );
    program
}

fn clean(mut command: Command, args: &[&str]) -> Command {
    command
        .args(args)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default());
    // `./dev coverage` counts what these processes run, too.
    if let Some(file) = std::env::var_os("LLVM_PROFILE_FILE") {
        command.env("LLVM_PROFILE_FILE", file);
    }
    command
        .current_dir("/")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

/// Runs to the end.
pub async fn output(mut command: Command) -> Output {
    tokio::time::timeout(PATIENCE, command.output())
        .await
        .expect("the command hangs")
        .unwrap()
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A daemon's process; killed when dropped.
pub struct Process {
    pub child: Child,
    pub address: String,
    pub admin: String,
    pub log: tokio::sync::mpsc::UnboundedReceiver<serde_json::Value>,
}

impl Process {
    /// Starts `command` (a `serve` on ports 0 that logs JSON) and waits until it listens.
    pub async fn start(command: Command) -> Self {
        Self::start_on(command, "127.0.0.1:0", "127.0.0.1:0").await
    }

    /// The same on these addresses.
    pub async fn start_on(mut command: Command, listen: &str, admin_listen: &str) -> Self {
        command.args([
            "--listen",
            listen,
            "--admin-listen",
            admin_listen,
            "--log-format",
            "json",
        ]);
        let mut child = command
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (sender, log) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                let event = serde_json::from_str(&line)
                    .unwrap_or_else(|_| serde_json::json!({ "line": line }));
                let _ = sender.send(event);
            }
        });
        let mut process = Self {
            child,
            address: String::new(),
            admin: String::new(),
            log,
        };
        let start = process.event("daemon.start").await;
        process.address = start["listen"].as_str().unwrap().into();
        process.admin = start["admin_listen"].as_str().unwrap().into();
        process
    }

    /// Waits for a log event.
    pub async fn event(&mut self, name: &str) -> serde_json::Value {
        let wait = async {
            let mut seen = Vec::new();
            while let Some(event) = self.log.recv().await {
                if event["event"] == name {
                    return event;
                }
                seen.push(event);
            }
            panic!("the daemon ended before {name}: {seen:?}");
        };
        tokio::time::timeout(PATIENCE, wait)
            .await
            .unwrap_or_else(|_| panic!("no {name} in time"))
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().unwrap() as i32);
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    /// SIGSTOP, and waits until every thread has stopped: on a busy machine one runs on after the
    /// signal was sent.
    pub async fn freeze(&self) {
        self.signal(nix::sys::signal::Signal::SIGSTOP);
        let tasks = format!("/proc/{}/task", self.child.id().unwrap());
        eventually("it has stopped", async || {
            let threads = std::fs::read_dir(&tasks)
                .unwrap()
                .map(|task| task.unwrap().path().join("stat"));
            let stopped = |stat: String| {
                stat.rsplit_once(") ")
                    .is_some_and(|(_, fields)| fields.starts_with('T'))
            };
            threads
                .into_iter()
                .all(|stat| std::fs::read_to_string(stat).is_ok_and(stopped))
                .then_some(())
        })
        .await;
    }

    /// kill -9, and waits until it is gone.
    pub async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }

    /// Waits for its end and returns the exit code.
    pub async fn exit_code(&mut self) -> Option<i32> {
        tokio::time::timeout(PATIENCE, self.child.wait())
            .await
            .expect("it does not end")
            .unwrap()
            .code()
    }
}
