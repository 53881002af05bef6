//! Others create functions, operators and types in schemas of the search_path, under every name
//! that schemad's own SQL uses. None of them may run, because it would run with the daemon's
//! rights.

use std::{collections::BTreeSet, path::PathBuf};

use schemad::pb;
use tonic_health::pb::health_check_response::ServingStatus;

use crate::harness::{
    Set, TestDaemon, TestDatabase,
    database::connect,
    process::{from_folder, output, stderr},
};

/// Types for which inexact calls are planted: a function of another schema wins over one of
/// pg_catalog when its types fit better.
const TYPES: [&str; 8] = [
    "name", "text", "int4", "int8", "float8", "numeric", "oid", "regclass",
];

/// A folder in which every planted function that runs leaves a file of its name. The server writes
/// there, on this machine.
struct Traces(tempfile::TempDir);

impl Traces {
    fn new() -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        Self(folder)
    }

    fn ran(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect()
    }

    /// Creates the schema `app`, the planted objects in it and in `public`, and puts both before
    /// pg_catalog.
    async fn plant(&self, database: &TestDatabase) {
        let words = own_words();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let types: String = TYPES.iter().map(|name| format!("'{name}',")).collect();
        let url = format!(
            "{}?options=-csearch_path%3Dpg_catalog",
            database.url.split('?').next().unwrap()
        );
        let admin = connect(&keep_query(&database.url, &url)).await;
        admin.batch_execute("CREATE SCHEMA app").await.unwrap();
        let plant = format!(
            r#"DO $plant$
DECLARE
    schema text;
    f record;
    args text;
    body text;
    planted integer := 0;
BEGIN
    FOREACH schema IN ARRAY ARRAY['app', 'public'] LOOP
        body := format('BEGIN EXECUTE %L; RETURN NULL; END', 'COPY (SELECT 1) TO ''{folder}/%s''');
        -- Every function of a name that the program's source holds: the same types, and others that fit better.
        FOR f IN
            SELECT DISTINCT p.proname, pg_get_function_identity_arguments(p.oid) args FROM pg_proc p
            WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.proname::text = ANY (ARRAY[{words}])
                AND p.prokind = 'f' AND p.pronargs < 5
            UNION SELECT p.proname, concat_ws(', ', a, b) FROM (SELECT DISTINCT proname, pronargs FROM pg_proc
                WHERE pronamespace = 'pg_catalog'::regnamespace AND proname::text = ANY (ARRAY[{words}])
                AND prokind = 'f' AND pronargs BETWEEN 1 AND 2) p, unnest(ARRAY[{types}NULL]) a, unnest(ARRAY[{types}NULL]) b
            WHERE a IS NOT NULL AND (pronargs = 2) = (b IS NOT NULL)
        LOOP
            BEGIN
                EXECUTE format('CREATE FUNCTION %I.%I(%s) RETURNS boolean LANGUAGE plpgsql AS %L',
                    schema, f.proname, f.args, format(body, f.proname));
                planted := planted + 1;
            EXCEPTION WHEN OTHERS THEN NULL; -- of types that no function can have
            END;
        END LOOP;
        -- Every operator between the types, and between one type and itself for all others that have it.
        FOR f IN
            SELECT DISTINCT o.oprname, format_type(o.oprleft, NULL) l, format_type(o.oprright, NULL) r FROM pg_operator o
            WHERE o.oprnamespace = 'pg_catalog'::regnamespace AND o.oprleft <> 0 AND o.oprright <> 0
            UNION SELECT o, l, r FROM unnest(ARRAY['=','<>','<','<=','>','>=','+','-','*','/','%','||','~','~~','!~','!~~',
                '@>','<@','&&','->','->>']) o, unnest(ARRAY[{types}'bool']) l, unnest(ARRAY[{types}'bool']) r
        LOOP
            BEGIN
                EXECUTE format('CREATE FUNCTION %I.%I(%s, %s) RETURNS boolean LANGUAGE plpgsql AS %L', schema,
                    'op_' || md5(f.oprname || f.l || f.r), f.l, f.r, format(body, 'operator ' || replace(f.oprname, '/', 'by')));
                EXECUTE format('CREATE OPERATOR %I.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = %I.%I)', schema, f.oprname,
                    f.l, f.r, schema, 'op_' || md5(f.oprname || f.l || f.r));
                planted := planted + 1;
            EXCEPTION WHEN OTHERS THEN NULL;
            END;
        END LOOP;
        -- Every type whose name the source holds, as a domain that runs a function.
        EXECUTE format('CREATE FUNCTION %I.planted_check(text) RETURNS boolean LANGUAGE plpgsql AS %L', schema,
            format(body, 'a type'));
        FOR f IN SELECT t.typname FROM pg_type t WHERE t.typnamespace = 'pg_catalog'::regnamespace AND t.typtype = 'b'
            AND (t.typname::text = ANY (ARRAY[{words}]) OR t.typname::text IN ('_text', '_int4', '_int8', '_oid'))
        LOOP
            BEGIN
                EXECUTE format('CREATE DOMAIN %I.%I AS pg_catalog.%I CHECK (%I.planted_check(pg_catalog.%I(VALUE)))', schema,
                    f.typname, f.typname, schema, 'text');
                planted := planted + 1;
            EXCEPTION WHEN OTHERS THEN
                EXECUTE format('CREATE DOMAIN %I.%I AS pg_catalog.%I CHECK (%I.planted_check(''''::pg_catalog.text))', schema,
                    f.typname, f.typname, schema);
                planted := planted + 1;
            END;
        END LOOP;
    END LOOP;
    IF planted < 5000 THEN
        RAISE EXCEPTION 'only % objects were planted', planted;
    END IF;
    EXECUTE format('ALTER DATABASE %I SET search_path = app, public, pg_catalog', current_database());
END
$plant$"#,
            folder = self.0.path().display(),
            words = words
                .iter()
                .map(|word| format!("'{word}'"))
                .collect::<Vec<_>>()
                .join(","),
        );
        admin
            .batch_execute(&plant)
            .await
            .unwrap_or_else(|error| panic!("{error:?}"));
    }

    #[track_caller]
    fn assert_none(&self, what: &str) {
        assert_eq!(
            self.ran(),
            Vec::<String>::new(),
            "{what} ran what others had planted"
        );
    }
}

/// `url` has no query of its own yet; `of` may have one.
fn keep_query(of: &str, url: &str) -> String {
    match of.split_once('?') {
        Some((_, query)) => format!("{url}&{query}"),
        None => url.to_owned(),
    }
}

/// Every lower-case word of the program's source, its SQL among them.
fn own_words() -> BTreeSet<String> {
    fn add(folder: PathBuf, words: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                add(path, words);
            } else if path
                .extension()
                .is_some_and(|extension| extension == "rs" || extension == "sql")
            {
                let text = std::fs::read_to_string(&path).unwrap();
                let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
                words.extend(
                    text.split(|c| !is_word(c))
                        .filter(|word| word.len() > 2)
                        .map(str::to_owned),
                );
            }
        }
    }
    let mut words = BTreeSet::new();
    add(
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src"),
        &mut words,
    );
    words
}

/// Tables with qualified names, so that the scripts themselves use nothing that was planted; one is
/// not a transaction.
fn set() -> Set {
    let set = Set::of(&[
        (
            "1_a",
            "CREATE TABLE app.a (n integer);",
            "DROP TABLE app.a;",
        ),
        (
            "2_b",
            "CREATE TABLE app.b (n integer);",
            "DROP TABLE app.b;",
        ),
    ]);
    set.add_non_transactional(
        "3_c",
        "CREATE TABLE app.c (n integer);\nCREATE INDEX CONCURRENTLY c_n ON app.c (n);\nVACUUM \
         app.c;",
        "DROP INDEX CONCURRENTLY app.c_n;\nDROP TABLE app.c;",
    );
    set
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_others_planted_in_the_search_path_runs_as_the_daemon() {
    let (database, traces, set) = (TestDatabase::new().await, Traces::new(), set());
    traces.plant(&database).await;
    // What plants is heard: a client that is not careful runs it.
    let careless = connect(&database.url).await;
    let _ = careless
        .batch_execute("SELECT quote_ident(current_user)")
        .await;
    assert_eq!(traces.ran(), ["quote_ident"]);
    std::fs::remove_file(traces.0.path().join("quote_ident")).unwrap();

    let mut doctor = from_folder(&set, &["doctor"]);
    doctor.env("DATABASE_URL", &database.url);
    let examined = output(doctor).await;
    traces.assert_none(&format!("doctor, which said {}", stderr(&examined)));

    let daemon = TestDaemon::start(&database, &set).await;
    traces.assert_none("the start");
    daemon.status().await;
    daemon.apply_all().await.finished();
    traces.assert_none("apply");
    let found = database.connect().await;
    found
        .batch_execute("SET search_path = pg_catalog")
        .await
        .unwrap();
    let place = "SELECT diesel_schema::text FROM schemad.ledger";
    let place: String = found.query_one(place, &[]).await.unwrap().get(0);
    assert_eq!(place, "app", "Diesel's table is where the search_path says");

    let mut client = daemon.client();
    client
        .list_migrations(pb::ListMigrationsRequest::default())
        .await
        .unwrap();
    let request = pb::GetMigrationRequest {
        version: "1".into(),
        ..Default::default()
    };
    client.get_migration(request).await.unwrap();
    let mut operations = daemon.operations();
    let listed = operations
        .list_operations(pb::ListOperationsRequest::default())
        .await
        .unwrap()
        .into_inner();
    let operation = listed.operations[0].id.clone();
    operations
        .get_operation(pb::GetOperationRequest {
            id: operation.clone(),
            ..Default::default()
        })
        .await
        .unwrap();
    let _ = operations
        .cancel_operation(pb::CancelOperationRequest {
            id: operation,
            ..Default::default()
        })
        .await;
    traces.assert_none("reading");
    let mut schema = pb::schema_service_client::SchemaServiceClient::new(daemon.channel());
    schema
        .describe_schema(pb::DescribeSchemaRequest::default())
        .await
        .unwrap();
    traces.assert_none("DescribeSchema");
    let second = TestDaemon::start(&database, &set).await;
    daemon.rollback_all().await.finished();
    second.apply_all().await.finished();
    traces.assert_none("rollback and a second daemon");
    let mut rehearsed = client
        .rehearse(pb::RehearseRequest::default())
        .await
        .unwrap()
        .into_inner();
    while let Ok(Some(_)) = rehearsed.message().await {}
    traces.assert_none("rehearse");
    // What is done now and then has been done once it has seen what another program wrote.
    found
        .batch_execute("DELETE FROM app.__diesel_schema_migrations")
        .await
        .unwrap();
    for daemon in [&daemon, &second] {
        daemon
            .until("schemad.schema.current", ServingStatus::NotServing)
            .await;
    }
    traces.assert_none("the probes");
    second.stop().await;
    daemon.stop().await;
    traces.assert_none("the end");
}
