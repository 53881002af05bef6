//! A PostgreSQL of one's own, from server programs that are already there: for `schemad dev` and
//! for tests. It belongs to this process, and is gone when this process is, however that ends. It
//! is reached through a unix socket that only the user of the server can open; with [`Loopback`]
//! one role of it also over TCP on 127.0.0.1, with a password, for drivers that cannot use such a
//! socket.
//!
//! No crate does all of this: postgresql_embedded refuses root, downloads its programs and leaves
//! an orphan after SIGKILL; tmp-postgrust leaves one too.

#[expect(
    unsafe_code,
    reason = "pre_exec, and there is no other way to hear of a parent's death"
)]
mod child;
mod fresh;

use std::{
    env, fs, io,
    os::unix::{
        fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, User, geteuid},
};

/// A unix socket's path has at most 107 bytes, and PostgreSQL appends `/.s.PGSQL.5432`.
const MAX_SOCKET_DIR: usize = 90;

/// initdb takes 2 to 5 s, a start 0.2 s, recovery after a kill somewhat longer.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// Lines of what a program says that are shown.
const LINES: usize = 5;

/// Why there is no private PostgreSQL.
#[derive(Debug, thiserror::Error)]
pub enum PrivateServerError {
    /// No server programs.
    #[error(
        "no PostgreSQL server programs found ($PG_BIN, /usr/lib/postgresql/*/bin, PATH). Install \
         them (Debian: apt-get install postgresql), or give DATABASE_URL"
    )]
    NoPrograms,
    /// Another process has the folder.
    #[error("{0} is in use by another process")]
    InUse(PathBuf),
    /// The folder holds something that is not ours.
    #[error(
        "{0} holds files that schemad did not make; choose an empty or a new folder for \
         --data-dir"
    )]
    NotOurs(PathBuf),
    /// PostgreSQL does not run as root, and there is nobody else.
    #[error(
        "running as root, and there is neither a `postgres` nor a `nobody` user to run PostgreSQL \
         as"
    )]
    NobodyToRunAs,
    /// A file or folder.
    #[error("{path}: {error}")]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// No room.
    #[error(
        "{0}: no space left on the device; a private PostgreSQL needs 100 MB, and what the \
         migrations write"
    )]
    NoRoom(PathBuf),
    /// No password can be made.
    #[error("the system has no random numbers")]
    NoRandom,
    /// A program failed.
    #[error("{program} failed: {output}")]
    Program {
        /// initdb or postgres.
        program: &'static str,
        /// What it said.
        output: String,
    },
}

/// What the server is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The data outlive a power cut.
    Durable,
    /// They need not: tests.
    Throwaway,
}

/// How a server is reached over TCP: by one role, with a password, on 127.0.0.1.
pub struct Loopback {
    role: &'static str,
    password: String,
    port: u16,
}

impl Loopback {
    /// With a new password.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn new(role: &'static str) -> Result<Self, PrivateServerError> {
        let mut bytes = [0; 24];
        ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes)
            .map_err(|_| PrivateServerError::NoRandom)?;
        let password = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self {
            role,
            password,
            port: 0,
        })
    }

    /// The password, which the role has to be given: hexadecimal digits.
    pub fn password(&self) -> &str {
        &self.password
    }

    /// Who may come, and how. The databases of the server's owner are closed over TCP: whoever
    /// leases has no business there.
    fn access(&self) -> String {
        let role = self.role;
        format!(
            "local all all trust\n\
             host dev,postgres,template1 all 127.0.0.1/32 reject\n\
             host all {role} 127.0.0.1/32 scram-sha-256\n"
        )
    }
}

/// The password is not shown.
impl std::fmt::Debug for Loopback {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@127.0.0.1:{}", self.role, self.port)
    }
}

/// A running server. Dropping it stops the server.
#[derive(Debug)]
pub struct PrivatePostgres {
    child: Child,
    socket_dir: PathBuf,
    port: u16,
    loopback: Option<Loopback>,
    /// What goes with the server.
    discard: Option<PathBuf>,
    /// The server holds it too; it is free only when both are gone.
    _lock: fs::File,
    /// The thread that forked the server ends when this does; the server's death signal is tied to
    /// that thread.
    _parent: mpsc::Sender<()>,
}

/// The file that keeps the port of the last start.
const PORT: &str = "port";

/// A port that nobody listens on: the one of the last start, where it `may_be_the_last`, so that
/// what was written down then still holds.
fn free_port(dir: &Path, may_be_the_last: bool) -> io::Result<u16> {
    let bind = |port: u16| {
        std::net::TcpListener::bind(("127.0.0.1", port)).and_then(|listener| listener.local_addr())
    };
    let last = || fs::read_to_string(dir.join(PORT)).ok()?.trim().parse().ok();
    let known = if may_be_the_last { last() } else { None };
    let port = known
        .and_then(|port| bind(port).ok())
        .map_or_else(|| bind(0), Ok)?
        .port();
    fs::write(dir.join(PORT), port.to_string())?;
    Ok(port)
}

/// The folder of the server programs: `$PG_BIN`, else the newest where distributions put them, else
/// the first on PATH.
pub fn find_programs() -> Option<PathBuf> {
    if let Some(dir) = env::var_os("PG_BIN").filter(|dir| !dir.is_empty()) {
        return Some(dir.into());
    }
    // Debian's, then PGDG's for Fedora and its kin, then Alpine's. `./dev` looks in the same
    // folders.
    let places = [
        ("/usr/lib/postgresql", "", "bin"),
        ("/usr", "pgsql-", "bin"),
        ("/usr/libexec", "postgresql", ""),
    ];
    let versions = places.into_iter().flat_map(|(parent, prefix, rest)| {
        fs::read_dir(parent)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(move |entry| {
                let version: u32 = entry
                    .file_name()
                    .to_str()?
                    .strip_prefix(prefix)?
                    .parse()
                    .ok()?;
                Some((version, entry.path().join(rest)))
            })
    });
    let newest = versions.filter(|(_, dir)| is_complete(dir)).max();
    newest
        .map(|(_, dir)| dir)
        .or_else(|| env::split_paths(&env::var_os("PATH")?).find(|dir| is_complete(dir)))
}

fn is_complete(dir: &Path) -> bool {
    dir.join("postgres").is_file() && dir.join("initdb").is_file()
}

impl PrivatePostgres {
    /// Starts a server on `dir`, which is created on first use. Blocks until it takes connections.
    ///
    /// # Errors
    /// [`PrivateServerError`]; [`PrivateServerError::InUse`] when a live process has `dir`.
    pub fn start(
        programs: &Path,
        dir: &Path,
        durability: Durability,
    ) -> Result<Self, PrivateServerError> {
        let user = run_as()?;
        let dir = owned_dir(dir, user.as_ref())?;
        let lock = lock(&dir)?;
        init(programs, &dir, &dir.join("data"), user.as_ref())?;
        Self::start_locked(programs, &dir, lock, durability, None, &[], user.as_ref())
    }

    /// The same with a port, with data that outlive a power cut, and with these libraries loaded at
    /// its start. The caller gives the role and its password to the server.
    ///
    /// # Errors
    /// [`PrivateServerError`].
    pub fn start_on_loopback(
        programs: &Path,
        dir: &Path,
        mut loopback: Loopback,
        preload: &[String],
    ) -> Result<Self, PrivateServerError> {
        // Somebody else may take a port between the look and the start.
        const TRIES: usize = 5;
        let user = run_as()?;
        let dir = owned_dir(dir, user.as_ref())?;
        let lock = lock(&dir)?;
        init(programs, &dir, &dir.join("data"), user.as_ref())?;
        let mut tries = 0;
        loop {
            tries += 1;
            loopback.port = free_port(&dir, tries == 1).map_err(|error| io_error(&dir, error))?;
            let held = lock.try_clone().map_err(|error| io_error(&dir, error))?;
            let again = Loopback {
                password: loopback.password.clone(),
                ..loopback
            };
            match Self::start_locked(
                programs,
                &dir,
                held,
                Durability::Durable,
                Some(again),
                preload,
                user.as_ref(),
            ) {
                Err(PrivateServerError::Program { output, .. })
                    if tries < TRIES && output.contains("could not create any TCP/IP") => {}
                started => return started,
            }
        }
    }

    /// Starts a server on a cluster that is there, in a folder whose lock is held.
    fn start_locked(
        programs: &Path,
        dir: &Path,
        lock: fs::File,
        durability: Durability,
        loopback: Option<Loopback>,
        preload: &[String],
        user: Option<&User>,
    ) -> Result<Self, PrivateServerError> {
        let data = dir.join("data");
        let port = loopback.as_ref().map_or(5432, |loopback| loopback.port);
        let socket_dir = socket_dir(dir, user)?;

        let log = dir.join("server.log");
        let log_file = fs::File::create(&log).map_err(|error| io_error(&log, error))?;
        let mut command = command(programs, "postgres", dir, user);
        command
            .arg("-D")
            .arg(&data)
            .arg("-k")
            .arg(&socket_dir)
            .args(["-p", &port.to_string()]);
        match &loopback {
            None => {
                command.args(["-c", "listen_addresses="]);
            }
            Some(loopback) => {
                let access = dir.join("pg_hba.conf");
                let written = fs::write(&access, loopback.access());
                let readable = || fs::set_permissions(&access, fs::Permissions::from_mode(0o644));
                written
                    .and_then(|()| readable())
                    .map_err(|error| io_error(&access, error))?;
                command.args([
                    "-c",
                    "listen_addresses=127.0.0.1",
                    "-c",
                    &format!("hba_file={}", access.display()),
                ]);
            }
        }
        command.args([
            "-c",
            "max_connections=200",
            "-c",
            "log_min_messages=warning",
        ]);
        if !preload.is_empty() {
            command.args([
                "-c",
                &format!("shared_preload_libraries={}", preload.join(",")),
            ]);
        }
        if durability == Durability::Throwaway {
            for setting in [
                "fsync=off",
                "synchronous_commit=off",
                "full_page_writes=off",
            ] {
                command.args(["-c", setting]);
            }
        }
        let for_stderr = log_file
            .try_clone()
            .map_err(|error| io_error(&log, error))?;
        // A group of its own: the terminal's Ctrl-C reaches us only, and we stop the server after
        // our own shutdown.
        command.stdout(log_file).stderr(for_stderr).process_group(0);
        child::die_with_parent(&mut command, &lock).map_err(|error| io_error(&log, error))?;

        let (child, parent) =
            child::spawn(command).map_err(|error| io_error(&programs.join("postgres"), error))?;
        let mut server = Self {
            child,
            socket_dir,
            port,
            loopback,
            discard: None,
            _lock: lock,
            _parent: parent,
        };
        server.wait_until_ready(&data, &log)?;
        Ok(server)
    }

    /// The URL of a database, through the unix socket.
    pub fn url(&self, database: &str) -> String {
        self.url_as("postgres", database)
    }

    /// The URL of a database over TCP, for the role that may come so, as every driver takes it.
    /// `None`: it has no port.
    pub fn loopback_url(&self, database: &str) -> Option<String> {
        let Loopback {
            role,
            password,
            port,
            ..
        } = self.loopback.as_ref()?;
        Some(format!(
            "postgresql://{role}:{password}@127.0.0.1:{port}/{database}"
        ))
    }

    /// The URL of a database for another role, through the unix socket.
    pub fn url_as(&self, role: &str, database: &str) -> String {
        let host: String = self
            .socket_dir
            .to_string_lossy()
            .bytes()
            .map(|b| {
                if b.is_ascii_alphanumeric() || b"-_.".contains(&b) {
                    char::from(b).to_string()
                } else {
                    format!("%{b:02X}")
                }
            })
            .collect();
        format!("postgres://{role}@{host}:{}/{database}", self.port)
    }

    /// The server's process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// pg_ctl's own test: our pid on line 1 of postmaster.pid (a killed server leaves its file),
    /// "ready" on line 8.
    fn wait_until_ready(&mut self, data: &Path, log: &Path) -> Result<(), PrivateServerError> {
        let failed = |output: String| PrivateServerError::Program {
            program: "postgres",
            output,
        };
        let (begun, pid) = (Instant::now(), self.child.id().to_string());
        loop {
            let state = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
            let mut lines = state.lines().map(str::trim);
            if lines.next() == Some(&pid) && lines.nth(6) == Some("ready") {
                return Ok(());
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                let said = fs::read_to_string(log).unwrap_or_default();
                let (lines, log) = (said.lines().collect::<Vec<_>>(), log.display());
                let last = lines[lines.len().saturating_sub(LINES)..].join("\n");
                return Err(failed(format!("{status}; {log} ends with:\n{last}")));
            }
            if begun.elapsed() > READY_WITHIN {
                return Err(failed(format!(
                    "not ready within {READY_WITHIN:?}; see {}",
                    log.display()
                )));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl PrivatePostgres {
    /// Returns when the server is down.
    fn stop(&mut self) {
        let Ok(pid) = i32::try_from(self.child.id()).map(Pid::from_raw) else {
            return;
        };
        // Fast shutdown; it fails only when the server is gone already.
        let _ = kill(pid, Signal::SIGINT);
        for _ in 0..1000 {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = kill(pid, Signal::SIGQUIT);
        let _ = self.child.wait();
    }
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        self.stop();
        if let Some(data) = &self.discard {
            let _ = fresh::remove(data); // else whoever uses the folder next does
        }
    }
}

fn io_error(path: &Path, error: io::Error) -> PrivateServerError {
    PrivateServerError::Io {
        path: path.into(),
        error,
    }
}

/// PostgreSQL refuses to run as root.
fn run_as() -> Result<Option<User>, PrivateServerError> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let found = ["postgres", "nobody"]
        .into_iter()
        .find_map(|name| User::from_name(name).ok().flatten());
    found.map(Some).ok_or(PrivateServerError::NobodyToRunAs)
}

/// In every folder that is ours. Nothing else is touched, whatever is asked for.
const MARKER: &str = "schemad.private-postgres";

/// Creates `dir`, or takes it when it is empty or was ours before, for the server alone:
/// authentication is `trust`, and who can reach the socket is in.
fn owned_dir(dir: &Path, user: Option<&User>) -> Result<PathBuf, PrivateServerError> {
    let failed = |error| io_error(dir, error);
    fs::create_dir_all(dir).map_err(failed)?;
    let dir = dir.canonicalize().map_err(failed)?;
    if !dir.join(MARKER).exists() {
        // Another process may be making the same folder ours just now, and the marker is what it
        // writes first.
        let mut entries = fs::read_dir(&dir).map_err(failed)?;
        if entries.any(|entry| entry.is_ok_and(|entry| entry.file_name() != MARKER))
            && !dir.join(MARKER).exists()
        {
            return Err(PrivateServerError::NotOurs(dir));
        }
        fs::write(dir.join(MARKER), "").map_err(failed)?;
    }
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).map_err(failed)?;
    if let Some(user) = user {
        chown(&dir, Some(user.uid.as_raw()), Some(user.gid.as_raw())).map_err(failed)?;
    }
    Ok(dir)
}

/// The folder for the socket: `dir`, or where that is too long a private one in the temporary
/// folder.
fn socket_dir(dir: &Path, user: Option<&User>) -> Result<PathBuf, PrivateServerError> {
    if dir.as_os_str().len() <= MAX_SOCKET_DIR {
        return Ok(dir.into());
    }
    let digest = crate::migration::Checksum::of_script(&dir.to_string_lossy()).to_string();
    let owner = user.map_or_else(geteuid, |user| user.uid).as_raw();
    let short = PathBuf::from(format!("/tmp/schemad-{owner}-{}", &digest[7..23]));
    let failed = |error| io_error(&short, error);
    match fs::DirBuilder::new().mode(0o700).create(&short) {
        Ok(()) => owned_dir(&short, user).map(drop)?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed(error)),
    }
    let found = fs::symlink_metadata(&short).map_err(failed)?;
    if !found.is_dir() || found.uid() != owner || found.mode() & 0o077 != 0 {
        return Err(failed(io::Error::other(
            "belongs to somebody else; remove it, or choose a shorter --data-dir",
        )));
    }
    Ok(short)
}

fn lock(dir: &Path) -> Result<fs::File, PrivateServerError> {
    let path = dir.join("lock");
    let file = fs::File::create(&path).map_err(|error| io_error(&path, error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        // A server whose parent was killed needs a moment to go down.
        Err(fs::TryLockError::WouldBlock) => {
            let deadline = Instant::now() + Duration::from_secs(5);
            while Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(50));
                if file.try_lock().is_ok() {
                    return Ok(file);
                }
            }
            Err(PrivateServerError::InUse(dir.into()))
        }
        Err(fs::TryLockError::Error(error)) => Err(io_error(&path, error)),
    }
}

/// Runs initdb unless it has been run to its end before.
fn init(
    programs: &Path,
    dir: &Path,
    data: &Path,
    user: Option<&User>,
) -> Result<(), PrivateServerError> {
    let complete = data.join("schemad.initialized");
    if complete.exists() {
        return Ok(());
    }
    if data.exists() {
        fs::remove_dir_all(data).map_err(|error| io_error(data, error))?;
    }
    let output = command(programs, "initdb", dir, user)
        .args([
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C",
            "--no-sync",
            "-D",
        ])
        .arg(data)
        .output()
        .map_err(|error| io_error(&programs.join("initdb"), error))?;
    if !output.status.success() {
        return Err(failed("initdb", dir, &output.stderr));
    }
    fs::write(&complete, "").map_err(|error| io_error(&complete, error))
}

/// That a program failed, and what it said, as far as a person reads on: cp complains of every
/// file.
fn failed(program: &'static str, dir: &Path, stderr: &[u8]) -> PrivateServerError {
    let text = String::from_utf8_lossy(stderr);
    if text.contains("No space left on device") {
        return PrivateServerError::NoRoom(dir.into());
    }
    let lines: Vec<&str> = text.trim().lines().collect();
    let more = lines.len().saturating_sub(LINES);
    let first = lines[..lines.len() - more].join("\n");
    let output = if more == 0 {
        first
    } else {
        format!("{first}\n… and {more} lines more")
    };
    PrivateServerError::Program { program, output }
}

fn command(programs: &Path, program: &str, dir: &Path, user: Option<&User>) -> Command {
    let mut command = Command::new(programs.join(program));
    for (key, _) in env::vars_os() {
        if key.as_encoded_bytes().starts_with(b"PG") {
            command.env_remove(key);
        }
    }
    if let Some(user) = user {
        command
            .uid(user.uid.as_raw())
            .gid(user.gid.as_raw())
            .env("HOME", dir)
            .env("USER", &user.name);
    }
    command.current_dir(dir).stdin(Stdio::null());
    command
}
