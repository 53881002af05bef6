//! sslmode as libpq means it, against a real server with certificates of three authorities.

use schemad::internals::{
    doctor::{self, CheckResult, CheckStatus, DoctorSettings},
    migration::MigrationSet,
};
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;

use crate::harness::{Authority, Server, Set, TestDaemon, daemon::settings};

/// Ok, or why the database cannot be reached.
async fn reach(url: &str) -> Result<(), String> {
    let daemon = TestDaemon::launch(settings(url), &Set::tables(1)).await;
    let outcome = crate::harness::eventually("an answer", async || {
        let outcome = daemon.apply_all().await;
        match &outcome.status {
            Err(status) if status.message().contains("has not answered yet") => None,
            _ => Some(outcome),
        }
    })
    .await;
    let result = match outcome.status {
        Ok(()) => {
            daemon
                .until("schemad.database", ServingStatus::Serving)
                .await;
            daemon.rollback_all().await.finished();
            Ok(())
        }
        Err(status) => {
            assert_eq!(status.code(), Code::Unavailable, "{status:?}");
            Err(status.message().to_owned())
        }
    };
    daemon.stop().await;
    result
}

/// What the doctor says of one thing.
async fn doctors(url: &str, name: &str) -> CheckResult {
    let plan = DoctorSettings {
        database: url.parse().unwrap(),
        migration_database: None,
        role: None,
        signing: None,
        leases: None,
    };
    let report = doctor::examine(
        &plan,
        &MigrationSet::load(&Set::tables(1).source()).unwrap(),
    )
    .await;
    report
        .checks
        .into_iter()
        .find(|check| check.check == name)
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_sslmode_means_what_libpq_means() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let (cert, key) = ours.issue("localhost");
    let files = [
        ("ca.pem", ours.pem()),
        ("server.crt", cert.clone()),
        ("server.key", key),
    ];
    let files: Vec<_> = files
        .iter()
        .map(|(name, content)| (*name, content.as_str()))
        .collect();
    let tls = [
        "ssl=on",
        "ssl_cert_file={dir}/server.crt",
        "ssl_key_file={dir}/server.key",
        "ssl_ca_file={dir}/ca.pem",
    ];
    let hba = "hostssl all certified all cert\nhostssl all scrammed all scram-sha-256\nhostssl all \
        postgres all trust";
    let server = Server::start(&files, &tls, hba).await;
    server
        .execute(
            "CREATE ROLE certified LOGIN SUPERUSER; SET password_encryption = \
        'scram-sha-256'; CREATE ROLE scrammed LOGIN SUPERUSER PASSWORD 'pw'",
        )
        .await;
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (role_cert, role_key) = ours.issue("certified");
    let (ca, other, own) = (
        file("ca.pem", &ours.pem()),
        file("other.pem", &theirs.pem()),
        file("own.pem", &cert),
    );
    let (role_cert, role_key) = (file("role.crt", &role_cert), file("role.key", &role_key));
    let at = |user: &str, host: &str, options: &str| {
        format!(
            "postgres://{user}@{host}:{}/postgres?{options}",
            server.port
        )
    };

    for (user, host, options) in [
        ("postgres", "localhost", ""),
        ("postgres", "127.0.0.1", "sslmode=prefer"),
        ("postgres", "localhost", "sslmode=require"),
        (
            "postgres",
            "127.0.0.1",
            &format!("sslmode=verify-ca&sslrootcert={ca}"),
        ),
        (
            "postgres",
            "localhost",
            &format!("sslmode=verify-full&sslrootcert={ca}"),
        ),
        (
            "postgres",
            "localhost",
            &format!("sslmode=verify-full&sslrootcert={own}"),
        ),
        (
            "postgres",
            "localhost",
            &format!("sslmode=verify-full&sslrootcert={ca}&ssl_min_protocol_version=TLSv1.3"),
        ),
        (
            "scrammed:pw",
            "localhost",
            "sslmode=require&channel_binding=require",
        ),
        (
            "certified",
            "localhost",
            &format!("sslmode=verify-full&sslrootcert={ca}&sslcert={role_cert}&sslkey={role_key}"),
        ),
    ] {
        assert_eq!(
            reach(&at(user, host, options)).await,
            Ok(()),
            "{user} {host} {options}"
        );
    }
    for (user, host, options, word) in [
        (
            "postgres",
            "localhost",
            "sslmode=disable".to_owned(),
            "no pg_hba.conf entry",
        ),
        (
            "postgres",
            "127.0.0.1",
            format!("sslmode=verify-full&sslrootcert={ca}"),
            "for another name",
        ),
        (
            "postgres",
            "localhost",
            format!("sslmode=verify-ca&sslrootcert={other}"),
            "no authority in sslrootcert",
        ),
        (
            "postgres",
            "localhost",
            format!("sslmode=require&sslrootcert={other}"),
            "no authority in sslrootcert",
        ),
        (
            "postgres",
            "localhost",
            "sslmode=verify-full".to_owned(),
            "no authority in sslrootcert",
        ),
        (
            "postgres",
            "localhost",
            "sslmode=verify-ca&sslrootcert=/nowhere/ca.pem".to_owned(),
            "/nowhere/ca.pem",
        ),
        (
            "certified",
            "localhost",
            "sslmode=require".to_owned(),
            "certificate",
        ),
    ] {
        let error = reach(&at(user, host, &options)).await.unwrap_err();
        assert!(error.contains(word), "{user} {host} {options}: {error}");
    }
    for (options, expected) in [
        (
            format!("sslmode=verify-full&sslrootcert={ca}"),
            "sslmode=verify-full: a certificate of a known authority for",
        ),
        (
            "sslmode=require".to_owned(),
            "sslmode=require: TLS, and no proof of who answers",
        ),
    ] {
        let check = doctors(&at("postgres", "localhost", &options), "connection").await;
        assert!(
            check.found.contains("with TLSv1.3 TLS_AES") && check.found.contains(expected),
            "{check:?}"
        );
    }
    // A DSN, and a cancel over TLS.
    let dsn = format!(
        "host=localhost port={} user=postgres dbname=postgres sslmode=verify-full \
         sslrootcert='{ca}'",
        server.port
    );
    assert_eq!(reach(&dsn).await, Ok(()));
    let mut impatient = settings(&dsn);
    impatient.shutdown_grace = std::time::Duration::ZERO;
    let daemon = TestDaemon::launch(
        impatient,
        &Set::of(&[("1_slow", "SELECT pg_sleep(60);", "")]),
    )
    .await;
    daemon.until_ready().await;
    let stopping = async {
        crate::harness::eventually("it runs", async || {
            daemon.status().await.running_operation.map(drop)
        })
        .await;
        daemon.terminate();
    };
    let (outcome, ()) = tokio::join!(daemon.apply_all(), stopping);
    outcome.failure().assert(Code::Aborted, "INTERRUPTED");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_reports_and_a_list_of_hosts_finds_the_primary() {
    let primary = Server::start(&[], &[], "host all all 127.0.0.1/32 trust").await;
    let standby = primary.standby().await;
    let set = Set::tables(2);
    let both = format!(
        "postgres://postgres@127.0.0.1:{},127.0.0.1:{}/postgres",
        standby.port, primary.port
    );
    let daemon = TestDaemon::launch(settings(&both), &set).await;
    daemon.until_ready().await;
    daemon.apply_all().await.finished();
    daemon.stop().await;

    let only = format!("postgres://postgres@127.0.0.1:{}/postgres", standby.port);
    let daemon = TestDaemon::launch(settings(&only), &set).await;
    daemon
        .until("schemad.schema.current", ServingStatus::Serving)
        .await;
    assert_eq!(
        daemon.check("schemad.v1.MigrationService").await,
        Ok(ServingStatus::NotServing)
    );
    let status = daemon.status().await;
    assert!(status.database.unwrap().read_only);
    assert_eq!(status.applied_count, 2);
    daemon
        .rollback_all()
        .await
        .failure()
        .assert(Code::FailedPrecondition, "READ_ONLY_SERVER");
    daemon.stop().await;
    let check = doctors(&only, "server").await;
    assert!(
        check.status == CheckStatus::Fail && check.found.ends_with(", a standby"),
        "{check:?}"
    );
    assert_eq!(doctors(&both, "server").await.status, CheckStatus::Ok);
}
