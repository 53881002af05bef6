//! A database of its own for each test, on TEST_DATABASE_URL or on a private server of this
//! process.

use std::{
    path::PathBuf,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use schemad::internals::private_server::{
    Durability, PrivatePostgres, PrivateServerError, find_programs,
};
use tokio_postgres::{Client, NoTls};

use super::eventually;

/// The URL of a database on the server, and the server where it is ours.
fn server() -> &'static (String, Option<PrivatePostgres>) {
    static SERVER: OnceLock<(String, Option<PrivatePostgres>)> = OnceLock::new();
    SERVER.get_or_init(|| match std::env::var("TEST_DATABASE_URL") {
        Ok(url) if !url.is_empty() => (url, None),
        _ => {
            let server = private_server();
            (server.url("postgres"), Some(server))
        }
    })
}

/// A data folder is kept between runs, because initdb takes seconds, and used by one process at a
/// time.
fn private_server() -> PrivatePostgres {
    let programs = find_programs().unwrap_or_else(|| panic!("{}", PrivateServerError::NoPrograms));
    let owner = nix::unistd::geteuid();
    let root = std::env::temp_dir().join(format!("schemad-tests-{owner}"));
    let version = programs.to_string_lossy().replace('/', "-");
    for slot in 0..64 {
        let dir: PathBuf = root.join(format!("{}-{slot}", version.trim_matches('-')));
        let start = || PrivatePostgres::start(&programs, &dir, Durability::Throwaway);
        match start() {
            Ok(server) => return server,
            Err(PrivateServerError::InUse(_)) => {}
            // Without fsync, a power cut leaves a folder that does not start. Begin anew, once.
            Err(PrivateServerError::Program { .. }) => {
                let _ = std::fs::remove_dir_all(&dir);
                return start().unwrap_or_else(|error| panic!("{error}"));
            }
            Err(error) => panic!("{error}"),
        }
    }
    panic!("64 test processes at a time");
}

/// A database that is dropped with this value.
pub struct TestDatabase {
    pub url: String,
    pub name: String,
}

impl TestDatabase {
    /// An empty one.
    pub async fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let (base, _) = tokio::task::spawn_blocking(server).await.unwrap();
        let nanos = std::time::SystemTime::UNIX_EPOCH
            .elapsed()
            .unwrap()
            .as_nanos();
        let name = format!("test_{nanos:x}_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let admin = connect(base).await;
        admin
            .batch_execute(&format!("CREATE DATABASE {name} TEMPLATE template0"))
            .await
            .unwrap();
        Self {
            url: with_database(base, &name),
            name,
        }
    }

    /// Drops it under everybody who uses it.
    pub async fn drop_forced(&self) {
        self.administer(&format!("DROP DATABASE {} WITH (FORCE)", self.name))
            .await;
    }

    /// Creates it again, empty.
    pub async fn create_again(&self) {
        self.administer(&format!("CREATE DATABASE {} TEMPLATE template0", self.name))
            .await;
    }

    async fn administer(&self, sql: &str) {
        connect(&server().0)
            .await
            .batch_execute(sql)
            .await
            .unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }

    /// A session on it.
    pub async fn connect(&self) -> Client {
        connect(&self.url).await
    }

    /// Runs statements.
    pub async fn execute(&self, sql: &str) {
        self.connect()
            .await
            .batch_execute(sql)
            .await
            .unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }

    /// The first column of every row, as text.
    pub async fn texts(&self, sql: &str) -> Vec<String> {
        let rows = self
            .connect()
            .await
            .simple_query(sql)
            .await
            .unwrap_or_else(|e| panic!("{sql}: {e:?}"));
        rows.iter()
            .filter_map(|message| match message {
                tokio_postgres::SimpleQueryMessage::Row(row) => {
                    Some(row.get(0).unwrap_or("NULL").to_owned())
                }
                _ => None,
            })
            .collect()
    }

    /// The first column of the only row.
    pub async fn text(&self, sql: &str) -> String {
        self.texts(sql).await.pop().unwrap_or_default()
    }

    /// The versions in Diesel's table, in order.
    pub async fn diesel_versions(&self) -> Vec<String> {
        self.texts("SELECT version FROM __diesel_schema_migrations ORDER BY 1")
            .await
    }

    /// Ledger, Diesel table and steps tell the same story.
    pub async fn assert_consistent(&self) {
        let ledger = self
            .texts("SELECT version FROM schemad.migrations ORDER BY 1")
            .await;
        assert_eq!(self.diesel_versions().await, ledger);
        let of_steps = "SELECT version FROM (SELECT DISTINCT ON (version) version, direction FROM \
            schemad.steps WHERE state = 'applied' ORDER BY version, id DESC) last WHERE direction \
            = 'up' ORDER BY 1";
        assert_eq!(self.texts(of_steps).await, ledger);
    }

    /// Waits until somebody waits for the advisory lock with this key.
    pub async fn until_waiting(&self, key: i64) {
        let waits = format!(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = {key} AND NOT \
             granted AND database = (SELECT oid FROM pg_database WHERE datname = \
             current_database())"
        );
        super::eventually("a wait", async || {
            (self.text(&waits).await == "1").then_some(())
        })
        .await;
    }

    /// Waits until a daemon has made the ledger, and all of its versions.
    pub async fn until_ledger(&self) {
        let version = "SELECT version FROM schemad.ledger";
        let latest = schemad::internals::ledger::VERSION;
        let client = self.connect().await;
        super::eventually("a ledger", async || {
            let row = client.query_one(version, &[]).await.ok()?;
            (row.get::<_, i32>(0) == latest).then_some(())
        })
        .await;
    }

    /// The server's major version.
    pub async fn server_major(&self) -> u32 {
        self.text("SELECT current_setting('server_version_num')::int / 10000")
            .await
            .parse()
            .unwrap()
    }

    /// Waits until nobody holds the lock any more: a killed daemon's backend has noticed.
    /// PostgreSQL 13 notices only when the statement is through, so somebody has to end it.
    pub async fn until_free(&self) {
        if self.server_major().await < 14 {
            self.texts(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = \
                current_database() AND application_name = 'schemad' AND pid <> pg_backend_pid()",
            )
            .await;
        }
        eventually("the lock is free", async || {
            let held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = \
                7562088 AND objid = 1701667172 AND database = (SELECT oid FROM pg_database WHERE \
                datname = current_database())";
            (self.text(held).await == "0").then_some(())
        })
        .await;
    }

    /// The URL for another role, whose password is `pw`.
    pub fn url_as(&self, user: &str) -> String {
        let (scheme, rest) = self.url.split_once("://").unwrap();
        let place = rest.rsplit_once('@').map_or(rest, |(_, place)| place);
        format!("{scheme}://{user}:pw@{place}")
    }
}

impl Drop for TestDatabase {
    /// In a thread with a runtime of its own, because tests drop it from inside theirs.
    fn drop(&mut self) {
        let sql = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async { connect(&server().0).await.batch_execute(&sql).await })
        });
        let _ = dropped.join();
    }
}

/// A session that is driven in the background.
pub async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls)
        .await
        .unwrap_or_else(|e| panic!("connect: {e:?}"));
    tokio::spawn(connection);
    client
}

/// The URL with another database.
pub fn with_database(url: &str, name: &str) -> String {
    let (head, query) = url
        .split_once('?')
        .map_or((url, String::new()), |(head, query)| {
            (head, format!("?{query}"))
        });
    let authority = head.find("://").map_or(0, |at| at + 3);
    let end = head[authority..]
        .find('/')
        .map_or(head.len(), |at| authority + at);
    format!("{}/{name}{query}", &head[..end])
}
