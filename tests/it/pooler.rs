//! Real PgBouncer: through a session pool everything works, through a transaction pool operations
//! are refused.

use std::{path::PathBuf, process::Stdio};

use schemad::internals::{
    doctor::{self, CheckStatus, DoctorSettings},
    migration::MigrationSet,
};
use tokio::process::{Child, Command};
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;

use crate::harness::{Set, TestDaemon, TestDatabase, daemon::settings, eventually};

struct PgBouncer {
    _child: Child,
    _dir: tempfile::TempDir,
    url: String,
}

impl PgBouncer {
    async fn start(database: &TestDatabase, mode: &str, pool_size: u32, round_robin: bool) -> Self {
        let config: tokio_postgres::Config = database.url.parse().unwrap();
        let host = match &config.get_hosts()[0] {
            tokio_postgres::config::Host::Unix(path) => path.display().to_string(),
            tokio_postgres::config::Host::Tcp(name) => name.clone(),
        };
        let server_port = config.get_ports().first().copied().unwrap_or(5432);
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let dir = tempfile::tempdir().unwrap();
        let (ini, users) = (
            dir.path().join("pgbouncer.ini"),
            dir.path().join("users.txt"),
        );
        let password = config
            .get_password()
            .map(|p| String::from_utf8_lossy(p).into_owned())
            .unwrap_or_default();
        let user = config.get_user().unwrap();
        std::fs::write(&users, format!("\"{user}\" \"{password}\"\n")).unwrap();
        std::fs::write(
            &ini,
            format!(
                "[databases]\n* = host={host} port={server_port}\n[pgbouncer]\nlisten_addr = \
                 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = trust\nauth_file \
                 = {}\npool_mode = {mode}\ndefault_pool_size = {pool_size}\nserver_round_robin = \
                 {}\nmax_client_conn = 200\n",
                users.display(),
                i32::from(round_robin)
            ),
        )
        .unwrap();
        let mut command = Command::new(program());
        if nix::unistd::geteuid().is_root() {
            use std::os::unix::fs::PermissionsExt as _;
            std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
            // It refuses root, and the private server's folder is this user's.
            command.args(["-u", "postgres"]);
        }
        let child = command
            .arg(&ini)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let url = format!("postgres://{user}@127.0.0.1:{port}/{}", database.name);
        eventually("PgBouncer answers", async || {
            tokio_postgres::connect(&url, tokio_postgres::NoTls)
                .await
                .ok()
                .map(drop)
        })
        .await;
        Self {
            _child: child,
            _dir: dir,
            url,
        }
    }
}

/// Debian's package puts it where only root looks.
fn program() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into()])
        .map(|dir| dir.join("pgbouncer"))
        .find(|file| file.is_file())
        .expect("no pgbouncer: ./dev test installs it (Debian: apt-get install pgbouncer)")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_a_session_pool_everything_works() {
    let (database, set) = (TestDatabase::new().await, Set::tables(3));
    let bouncer = PgBouncer::start(&database, "session", 20, false).await;
    let daemon = TestDaemon::launch(settings(&bouncer.url), &set).await;
    daemon.until_ready().await;
    daemon.apply_all().await.finished();
    daemon.rollback_all().await.finished();
    database.assert_consistent().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_a_transaction_pool_operations_are_refused_and_reads_work() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    for (pool_size, round_robin) in [(20, false), (20, true), (1, false)] {
        let bouncer = PgBouncer::start(&database, "transaction", pool_size, round_robin).await;
        let mut through = settings(&database.url);
        through.migration_database = Some(bouncer.url.parse().unwrap());
        let daemon = TestDaemon::launch(through, &set).await;
        daemon
            .until("schemad.database", ServingStatus::Serving)
            .await;
        let failed = daemon.apply_all().await.failure();
        failed.assert(Code::FailedPrecondition, "TRANSACTION_POOLER");
        assert!(
            failed.message.contains("MIGRATION_DATABASE_URL"),
            "{}",
            failed.message
        );
        assert_eq!(
            daemon.check("schemad.v1.MigrationService").await,
            Ok(ServingStatus::NotServing)
        );
        assert_eq!(daemon.status().await.pending_count, 1);
        daemon.stop().await;
        // Asked beforehand, the doctor says it, and goes on to the rest.
        let plan = DoctorSettings {
            database: database.url.parse().unwrap(),
            migration_database: Some(bouncer.url.parse().unwrap()),
            role: None,
            signing: None,
            leases: None,
        };
        let report = doctor::examine(&plan, &MigrationSet::load(&set.source()).unwrap()).await;
        let failed: Vec<_> = report
            .checks
            .iter()
            .filter(|check| check.status == CheckStatus::Fail)
            .collect();
        assert_eq!(
            failed.iter().map(|check| check.check).collect::<Vec<_>>(),
            ["pooler"],
            "{failed:?}"
        );
        assert!(failed[0].todo[0].contains("MIGRATION_DATABASE_URL"));
    }
    assert_eq!(
        database
            .text("SELECT to_regclass('__diesel_schema_migrations')")
            .await,
        "NULL"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_go_through_a_transaction_pool_and_migrations_directly() {
    let (database, set) = (TestDatabase::new().await, Set::tables(2));
    for (pool_size, round_robin) in [(5, false), (5, true), (20, true)] {
        let bouncer = PgBouncer::start(&database, "transaction", pool_size, round_robin).await;
        // Several server connections, so that one after the other is given out.
        let warm: Vec<_> = futures_util::future::join_all(
            (0..3).map(|_| crate::harness::database::connect(&bouncer.url)),
        )
        .await;
        futures_util::future::join_all(
            warm.iter()
                .map(|one| one.batch_execute("BEGIN; SELECT pg_sleep(0.1); COMMIT")),
        )
        .await;
        let mut both = settings(&bouncer.url);
        both.migration_database = Some(database.url.parse().unwrap());
        let daemon = TestDaemon::launch(both, &set).await;
        daemon.until_ready().await;
        daemon.apply_all().await.finished();
        futures_util::future::join_all(
            (0..20).map(async |_| assert_eq!(daemon.status().await.applied_count, 2)),
        )
        .await;
        for _ in 0..20 {
            assert_eq!(daemon.status().await.applied_count, 2);
        }
        daemon.rollback_all().await.finished();
        daemon.stop().await;
    }
}
