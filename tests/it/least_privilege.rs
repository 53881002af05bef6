//! docs/least-privilege.md, to the letter: it is enough, it is not more than needed, and whatever
//! is taken away is asked for.

use schemad::{
    Settings,
    internals::{
        doctor::{self, CheckStatus, DoctorSettings},
        migration::MigrationSet,
        sql,
    },
};

use crate::harness::{
    Server, Set, TestDaemon,
    daemon::{Failed, settings},
    database::connect,
    eventually,
    server::TRUST,
};

/// The statements of the guide, each with the database it belongs to.
fn guide() -> Vec<(String, String)> {
    blocks(false)
}

/// Those that follow for a login of its own for migrations.
pub(crate) fn login_of_its_own() -> Vec<(String, String)> {
    blocks(true)
}

fn blocks(for_a_login: bool) -> Vec<(String, String)> {
    let text = include_str!("../../docs/least-privilege.md");
    let blocks = text
        .split("```sql\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap());
    let blocks =
        blocks.filter(|block| block.lines().next().unwrap().contains(FOR_A_LOGIN) == for_a_login);
    let statements = blocks.flat_map(|block| {
        let head = block.lines().next().unwrap().replace(FOR_A_LOGIN, "");
        let database = head
            .strip_prefix("-- As a superuser, in the database ")
            .and_then(|rest| rest.strip_suffix('.'));
        let database = database
            .unwrap_or_else(|| panic!("who runs it, and where? {head}"))
            .to_owned();
        sql::split(block)
            .into_iter()
            .map(move |statement| (database.clone(), statement.sql.to_owned()))
    });
    statements.collect()
}

/// Says so at the head of a block.
const FOR_A_LOGIN: &str = ", for a login of its own";

pub(crate) struct Followed {
    pub server: Server,
}

impl Followed {
    pub(crate) async fn guide() -> Self {
        let followed = Self {
            server: Server::start(&[], &[], TRUST).await,
        };
        for (database, statement) in guide() {
            followed.run(&database, &statement).await;
        }
        followed
    }

    pub(crate) async fn run(&self, database: &str, statement: &str) {
        let session = connect(&self.url("postgres", database)).await;
        session
            .batch_execute(statement)
            .await
            .unwrap_or_else(|e| panic!("{statement}: {e:?}"));
    }

    pub(crate) fn url(&self, role: &str, database: &str) -> String {
        format!(
            "postgres://{role}@127.0.0.1:{}/{database}",
            self.server.port
        )
    }

    async fn launch(&self, set: &Set) -> TestDaemon {
        let settings = Settings {
            migration_database: Some(self.url("schemad_daemon", "app").parse().unwrap()),
            role: Some("app_owner".into()),
            ..settings(&self.url("schemad_reader", "app"))
        };
        TestDaemon::launch(settings, set).await
    }

    async fn doctor(&self, set: &Set) -> doctor::DoctorReport {
        let plan = DoctorSettings {
            database: self.url("schemad_reader", "app").parse().unwrap(),
            migration_database: Some(self.url("schemad_daemon", "app").parse().unwrap()),
            role: Some("app_owner".into()),
            signing: None,
            leases: None,
        };
        doctor::examine(&plan, &MigrationSet::load(&set.source()).unwrap()).await
    }

    /// The first column of every row.
    pub(crate) async fn texts(&self, query: &str) -> Vec<String> {
        let rows = connect(&self.url("postgres", "app"))
            .await
            .query(query, &[])
            .await
            .unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }
}

/// Both forms of a statement: with and without indexes built outside a transaction.
pub(crate) fn set() -> Set {
    let set = Set::tables(2);
    set.add_non_transactional(
        "0003_index",
        "CREATE INDEX CONCURRENTLY i ON t1 (id);",
        "DROP INDEX CONCURRENTLY i;",
    );
    set
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_guide_is_enough_and_gives_nothing_that_is_not_needed() {
    let (followed, set) = (Followed::guide().await, set());
    let before = followed.doctor(&set).await;
    assert_eq!(
        before
            .checks
            .iter()
            .filter(|c| c.status == CheckStatus::Fail)
            .collect::<Vec<_>>(),
        [] as [&doctor::CheckResult; 0]
    );
    // Before there is a ledger that knows where Diesel's table is.
    followed
        .run("app", "REVOKE USAGE ON SCHEMA public FROM schemad_daemon")
        .await;
    let hidden = followed.doctor(&set).await;
    let todo: Vec<_> = hidden
        .checks
        .iter()
        .filter(|c| c.check == "rights")
        .flat_map(|c| &c.todo)
        .collect();
    assert_eq!(todo, ["GRANT USAGE ON SCHEMA public TO schemad_daemon"]);
    followed
        .run("app", "GRANT USAGE ON SCHEMA public TO schemad_daemon")
        .await;

    let daemon = followed.launch(&set).await;
    daemon.until_ready().await;
    daemon.apply_all().await.finished();
    assert_eq!(daemon.status().await.applied_count, 3);
    let owners =
        "SELECT DISTINCT relowner::regrole::text FROM pg_class WHERE relname IN ('t1', 't2', 'i')";
    assert_eq!(followed.texts(owners).await, ["app_owner"]);

    let attributes = "SELECT rolname::text FROM pg_roles WHERE rolname IN ('schemad_daemon', \
        'schemad_reader', 'app_owner') AND (rolsuper OR rolcreatedb OR rolcreaterole OR \
        rolreplication OR rolbypassrls)";
    assert_eq!(followed.texts(attributes).await, [""; 0]);
    let owned = "SELECT DISTINCT coalesce(c.relnamespace, p.pronamespace, n.oid, \
        0)::regnamespace::text FROM pg_shdepend d LEFT JOIN pg_class c ON d.classid = \
        'pg_class'::regclass AND c.oid = d.objid LEFT JOIN pg_proc p ON d.classid = \
        'pg_proc'::regclass AND p.oid = d.objid LEFT JOIN pg_namespace n ON d.classid = \
        'pg_namespace'::regclass AND n.oid = d.objid WHERE d.deptype = 'o' AND d.classid <> \
        'pg_default_acl'::regclass AND d.refobjid IN ('schemad_daemon'::regrole, \
        'schemad_reader'::regrole)";
    assert_eq!(followed.texts(owned).await, ["schemad"]);
    for (role, others) in [("app_owner", "schemad"), ("schemad_daemon", "public")] {
        let may = format!("SELECT 'x' WHERE has_schema_privilege('{role}', '{others}', 'CREATE')");
        assert_eq!(followed.texts(&may).await, [""; 0], "{role}");
    }
    let after = followed.doctor(&set).await;
    let warned: Vec<_> = after
        .checks
        .iter()
        .filter(|c| c.status != CheckStatus::Ok)
        .map(|c| c.check)
        .collect();
    assert_eq!(warned, ["visibility", "signing"], "{after:?}");

    assert_eq!(daemon.rollback_all().await.done(), ["0003", "0002", "0001"]);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_has_nothing_on_the_ledger_whatever_default_privileges_say() {
    let followed = Followed::guide().await;
    let give = "ALTER DEFAULT PRIVILEGES FOR ROLE schemad_daemon GRANT ALL ON TABLES TO PUBLIC; \
        ALTER DEFAULT PRIVILEGES FOR ROLE schemad_daemon GRANT ALL ON SEQUENCES TO PUBLIC; \
        GRANT USAGE ON SCHEMA schemad TO PUBLIC";
    followed.run("app", give).await;
    let daemon = followed.launch(&set()).await;
    daemon.until_ready().await;
    daemon.apply_all().await.finished();
    let query = "SELECT s.nspname::text FROM pg_namespace s WHERE s.nspname = 'schemad' AND \
        has_schema_privilege('public', s.oid, 'USAGE, CREATE') UNION ALL SELECT c.relname::text \
        FROM pg_class c WHERE c.relnamespace = 'schemad'::regnamespace AND c.relkind = 'r' AND \
        has_table_privilege('public', c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, \
        REFERENCES, TRIGGER') UNION ALL SELECT c.relname::text FROM (SELECT * FROM pg_class WHERE \
        relkind = 'S' OFFSET 0) c WHERE c.relnamespace = 'schemad'::regnamespace AND \
        has_sequence_privilege('public', c.oid, 'USAGE, SELECT, UPDATE') UNION ALL SELECT \
        p.proname::text FROM pg_proc p WHERE p.pronamespace = 'schemad'::regnamespace AND \
        has_function_privilege('public', p.oid, 'EXECUTE')";
    assert_eq!(followed.texts(query).await, [""; 0]);
    let count = "SELECT count(*)::text FROM pg_proc WHERE pronamespace = 'schemad'::regnamespace";
    assert_eq!(
        followed.texts(count).await,
        ["16"],
        "the query above looks at them all"
    );
    daemon.stop().await;
}

/// A GRANT of the guide, what takes it away, and how it is asked for.
fn grants() -> Vec<(String, String, String)> {
    let grants = guide().into_iter().filter_map(|(database, statement)| {
        if statement.starts_with("ALTER DEFAULT PRIVILEGES") {
            let asked = "GRANT SELECT ON ALL TABLES IN SCHEMA schemad TO schemad_reader".to_owned();
            return Some((database, asked));
        }
        statement
            .starts_with("GRANT ")
            .then_some((database, statement))
    });
    grants
        .map(|(database, grant)| {
            let revoke = grant
                .replacen("GRANT ", "REVOKE ", 1)
                .replacen(" TO ", " FROM ", 1);
            (database, grant, revoke)
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_grant_is_taken_away_is_asked_for() {
    let (followed, set) = (Followed::guide().await, set());
    let daemon = followed.launch(&set).await;
    daemon.until_ready().await;
    daemon.apply_all().await.finished();
    daemon.stop().await;
    let grants = grants();
    assert_eq!(grants.len(), 9);
    // Names may be qualified or not.
    let plain = |text: &str| text.replace("public.", "");
    for (database, grant, revoke) in grants {
        followed.run(&database, &revoke).await;
        let report = followed.doctor(&set).await;
        let todo: Vec<&String> = report
            .checks
            .iter()
            .filter(|c| c.status == CheckStatus::Fail)
            .flat_map(|c| &c.todo)
            .collect();
        assert!(
            todo.iter().any(|todo| plain(todo) == plain(&grant)),
            "{grant}: {report:#?}"
        );
        let daemon = followed.launch(&set).await;
        let failed = eventually(&grant, async || {
            let read = daemon
                .client()
                .get_status(schemad::pb::GetStatusRequest {
                    ..Default::default()
                })
                .await
                .err();
            let ran = daemon.rollback_steps(1).await.status.err();
            let failures: Vec<Failed> = read.iter().chain(&ran).map(Failed::of).collect();
            failures
                .into_iter()
                .find(|failed| failed.reason == "MISSING_RIGHT")
        })
        .await;
        assert_eq!(
            failed.metadata.get("grant").map(|named| plain(named)),
            Some(plain(&grant)),
            "{failed:?}"
        );
        daemon.stop().await;
        followed.run(&database, &grant).await;
        // What could still roll back has; it is applied again.
        let daemon = followed.launch(&set).await;
        daemon.until_ready().await;
        daemon.apply_all().await.finished();
        daemon.stop().await;
    }
}
