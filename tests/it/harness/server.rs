//! A server of a test's own, for what needs another one than all tests share: TLS, standbys,
//! shutdowns.

use std::{
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use nix::{sys::signal::Signal, unistd::Pid, unistd::User};
use schemad::internals::private_server::{Durability, PrivatePostgres, find_programs};

use super::eventually;

pub struct Server {
    child: Child,
    dir: tempfile::TempDir,
    settings: Vec<String>,
    pub port: u16,
}

/// Who may connect over the loopback interface: everybody.
pub const TRUST: &str = "host all all 127.0.0.1/32 trust";

impl Server {
    /// A new server on a loopback port. `files` are put beside its data, with their contents;
    /// `settings` may name them as `{dir}/name`.
    pub async fn start(files: &[(&str, &str)], settings: &[&str], hba: &str) -> Self {
        Self::start_in(&std::env::temp_dir(), files, settings, hba).await
    }

    /// The same with its data in a folder under `parent`, for example on a small disk.
    pub async fn start_in(
        parent: &Path,
        files: &[(&str, &str)],
        settings: &[&str],
        hba: &str,
    ) -> Self {
        let dir = tempfile::tempdir_in(parent).unwrap();
        let root = dir.path().join("server");
        let programs = find_programs().expect("server programs");
        // Its initdb, and who owns what.
        let (place, made) = (root.clone(), programs.clone());
        tokio::task::spawn_blocking(move || {
            drop(PrivatePostgres::start(&made, &place, Durability::Throwaway).unwrap())
        })
        .await
        .unwrap();
        for (name, content) in files {
            give(&root.join(name), content);
        }
        std::fs::write(
            root.join("data/pg_hba.conf"),
            format!("local all all trust\nlocal replication all trust\n{hba}\n"),
        )
        .unwrap();
        let settings = settings
            .iter()
            .map(|s| s.replace("{dir}", root.to_str().unwrap()))
            .collect::<Vec<_>>();
        Self::run(dir, &settings).await
    }

    /// A standby that follows this server.
    pub async fn standby(&self) -> Self {
        self.standby_through(self.root().to_str().unwrap(), self.port)
            .await
    }

    /// A standby that follows this server by way of another address.
    pub async fn standby_through(&self, host: &str, port: u16) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("server");
        std::fs::create_dir(&root).unwrap();
        own(&root);
        let output = as_server(&tool("pg_basebackup"), &root)
            .args([
                "-h",
                self.root().to_str().unwrap(),
                "-p",
                &self.port.to_string(),
                "-U",
                "postgres",
                "-R",
                "-X",
                "stream",
                "-c",
                "fast",
                "-D",
            ])
            .arg(root.join("data"))
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        // What a newer pg_basebackup writes, an older server does not understand.
        let primary = format!("primary_conninfo=host={host} port={port} user=postgres");
        Self::run(dir, &[primary]).await
    }

    async fn run(dir: tempfile::TempDir, settings: &[String]) -> Self {
        let root = dir.path().join("server");
        if nix::unistd::geteuid().is_root() {
            use std::os::unix::fs::PermissionsExt as _;
            std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let child = spawn(&root, port, settings);
        let server = Self {
            child,
            dir,
            settings: settings.to_vec(),
            port,
        };
        server.answers().await;
        server
    }

    async fn answers(&self) {
        eventually("the server answers", async || {
            tokio_postgres::connect(&self.local_url(), tokio_postgres::NoTls)
                .await
                .ok()
                .map(drop)
        })
        .await;
    }

    /// What `pg_ctl stop -m immediate` does: no checkpoint, no goodbye.
    pub fn stop_immediately(&mut self) {
        let _ = nix::sys::signal::kill(
            Pid::from_raw(self.child.id().cast_signed()),
            Signal::SIGQUIT,
        );
        let _ = self.child.wait();
    }

    /// Starts it again where it was, and recovers.
    pub async fn start_again(&mut self) {
        self.child = spawn(&self.root(), self.port, &self.settings);
        self.answers().await;
    }

    /// True while the server's process lives.
    pub fn is_up(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Makes a standby the primary.
    pub async fn promote(&self) {
        self.execute("SELECT pg_promote(true, 30)").await;
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("server")
    }

    /// A file of its data.
    pub fn data(&self, path: &str) -> PathBuf {
        self.root().join("data").join(path)
    }

    /// Through the unix socket, which trusts.
    pub fn local_url(&self) -> String {
        format!(
            "postgres://postgres@{}:{}/postgres",
            self.root().to_str().unwrap().replace('/', "%2F"),
            self.port
        )
    }

    pub async fn execute(&self, sql: &str) {
        let (client, connection) =
            tokio_postgres::connect(&self.local_url(), tokio_postgres::NoTls)
                .await
                .unwrap();
        tokio::spawn(connection);
        client
            .batch_execute(sql)
            .await
            .unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.is_up() {
            self.stop_immediately();
        }
    }
}

fn spawn(root: &Path, port: u16, settings: &[String]) -> Child {
    let mut command = as_server(&find_programs().unwrap().join("postgres"), root);
    command.arg("-D").arg(root.join("data")).arg("-k").arg(root);
    command.args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1"]);
    for setting in ["fsync=off", "log_min_messages=fatal"]
        .into_iter()
        .chain(settings.iter().map(String::as_str))
    {
        command.args(["-c", setting]);
    }
    command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// A client program: `$PG_TOOLS`, else beside the server's, else on PATH.
pub fn tool(name: &str) -> PathBuf {
    let given = std::env::var_os("PG_TOOLS")
        .filter(|dir| !dir.is_empty())
        .map(PathBuf::from);
    let dirs = given.into_iter().chain(find_programs());
    dirs.map(|dir| dir.join(name))
        .find(|program| program.is_file())
        .unwrap_or_else(|| name.into())
}

fn user() -> Option<User> {
    if !nix::unistd::geteuid().is_root() {
        return None;
    }
    ["postgres", "nobody"]
        .into_iter()
        .find_map(|name| User::from_name(name).unwrap())
}

fn as_server(program: &Path, dir: &Path) -> Command {
    let mut command = Command::new(program);
    if let Some(user) = user() {
        command
            .uid(user.uid.as_raw())
            .gid(user.gid.as_raw())
            .env("HOME", dir);
    }
    command.current_dir(dir).stdin(Stdio::null());
    command
}

fn own(path: &Path) {
    if let Some(user) = user() {
        std::os::unix::fs::chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
    }
}

fn give(path: &Path, content: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(path, content).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    own(path);
}
