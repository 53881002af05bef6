//! The schema as values: every change shows, undoing it restores the fingerprint, and it is the
//! same in another database.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use schemad::internals::schema::{self, Difference, Except, Snapshot};

use crate::harness::TestDatabase;

mod describe;
mod large;
mod property;
mod statements;

use statements::UNSEEN;
pub use statements::{BASE, STATEMENTS};

async fn snapshot(database: &TestDatabase) -> Snapshot {
    schema::read(&database.connect().await, &Except::default())
        .await
        .unwrap_or_else(|e| panic!("{e}"))
}

fn lines(differences: &[Difference]) -> String {
    schema::for_people(differences, &schema::Styles::default())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_change_shows_and_undoing_it_restores_the_fingerprint() {
    let database = TestDatabase::new().await;
    let major = database.server_major().await;
    let session = database.connect().await;
    session.batch_execute(BASE).await.unwrap();
    let before = schema::read(&session, &Except::default()).await.unwrap();
    let mut wrong = Vec::new();
    for (_, change, undo) in STATEMENTS
        .iter()
        .chain(UNSEEN)
        .filter(|(since, ..)| *since <= major)
    {
        session
            .batch_execute(change)
            .await
            .unwrap_or_else(|e| panic!("{change}: {e:?}"));
        let after = schema::read(&session, &Except::default()).await.unwrap();
        let differences = schema::diff(&before, &after);
        if differences.is_empty() || after.fingerprint() == before.fingerprint() {
            wrong.push(format!("does not show: {change}"));
        }
        session
            .batch_execute(undo)
            .await
            .unwrap_or_else(|e| panic!("{undo}: {e:?}"));
        let undone = schema::read(&session, &Except::default()).await.unwrap();
        if undone.fingerprint() != before.fingerprint() {
            wrong.push(format!(
                "is not undone: {change}\n{}",
                lines(&schema::diff(&before, &undone))
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The definitions of constraints' indexes are put together without opening the tables; the
/// server's own are the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_is_defined_as_the_server_says() {
    let database = TestDatabase::new().await;
    let session = database.connect().await;
    session.batch_execute(BASE).await.unwrap();
    let mut odd = r#"CREATE SCHEMA "O'd(d"; CREATE TABLE "O'd(d"."T ("" x" (id int, "a ) DEFERRABLE" text COLLATE "C", b int, c varchar(3),
            CONSTRAINT "p (k)" PRIMARY KEY (id, "a ) DEFERRABLE") INCLUDE (b) DEFERRABLE INITIALLY DEFERRED,
            UNIQUE (c, b) DEFERRABLE, UNIQUE (b) WITH (fillfactor = 50));
        CREATE TABLE parts (id int, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
        CREATE TABLE part_1 PARTITION OF parts FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
        CREATE UNIQUE INDEX lower_c ON "O'd(d"."T ("" x" (lower(c) DESC) WHERE b > 1;"#
        .to_owned();
    if database.server_major().await >= 15 {
        odd += "CREATE TABLE nulls (a int, b int, CONSTRAINT n UNIQUE NULLS NOT DISTINCT (a) \
            INCLUDE (b) DEFERRABLE);";
    }
    if database.server_major().await >= 18 {
        odd +=
            "CREATE TABLE spans (ids int4range, at daterange, UNIQUE (ids, at WITHOUT OVERLAPS))";
    }
    session.batch_execute(&odd).await.unwrap();
    let snapshot = schema::read(&session, &Except::default()).await.unwrap();
    let own = "SELECT coalesce((SELECT pg_get_indexdef(c.oid) FROM pg_class c JOIN pg_namespace n \
        ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2), '')";
    assert!(snapshot.indexes.len() > 8, "{:?}", snapshot.indexes);
    for index in &snapshot.indexes {
        let row = session
            .query_one(own, &[&index.table.schema, &index.name])
            .await
            .unwrap();
        assert_eq!(index.definition, row.get::<_, String>(0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_the_search_path_nor_the_order_of_creation_matters() {
    let (one, other) = (TestDatabase::new().await, TestDatabase::new().await);
    one.execute(BASE).await;
    // Other oids, other orders: the second database has seen more.
    other
        .execute(
            "CREATE SCHEMA app; CREATE TABLE app.zzz (id serial PRIMARY KEY); DROP SCHEMA \
        app CASCADE",
        )
        .await;
    other.execute(BASE).await;
    let both =
        "CREATE TABLE public.a (id int PRIMARY KEY, b text DEFAULT E'a\\\\b', c money DEFAULT 1); CREATE INDEX x ON public.a (id); CREATE INDEX y ON public.a (id);
        GRANT SELECT ON public.a TO PUBLIC; ALTER TABLE public.a SET (fillfactor = 50, autovacuum_enabled = off)";
    let reversed = "CREATE TABLE public.a (id int, b text DEFAULT E'a\\\\b', c money DEFAULT 1); CREATE INDEX y ON public.a (id); CREATE INDEX x ON public.a (id);
        ALTER TABLE public.a SET (autovacuum_enabled = off); ALTER TABLE public.a SET (fillfactor = 50);
        GRANT SELECT ON public.a TO PUBLIC; GRANT ALL ON public.a TO CURRENT_USER; ALTER TABLE public.a ADD PRIMARY KEY (id)";
    one.execute(both).await;
    other.execute(reversed).await;
    let expected = snapshot(&one).await;
    let session = other.connect().await;
    for path in ["app, public", "public", "\"$user\"", "pg_catalog"] {
        let settings = "SET DateStyle = German; SET standard_conforming_strings = off; SET \
            escape_string_warning = off";
        session
            .batch_execute(&format!("SET search_path = {path}; {settings}"))
            .await
            .unwrap();
        let found = schema::read(&session, &Except::default()).await.unwrap();
        assert_eq!(lines(&schema::diff(&expected, &found)), "", "{path}");
        assert_eq!(found.fingerprint(), expected.fingerprint());
        let json = serde_json::to_string(&found).unwrap();
        assert_eq!(serde_json::from_str::<Snapshot>(&json).unwrap(), found);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ledger_diesels_table_and_members_of_extensions_are_left_out() {
    let database = TestDatabase::new().await;
    let before = snapshot(&database).await;
    database
        .execute(
            "CREATE SCHEMA schemad; CREATE TABLE schemad.ledger (id serial PRIMARY KEY, x text CHECK (x > ''));
             CREATE FUNCTION schemad.f() RETURNS int LANGUAGE sql AS 'SELECT 1';
             CREATE TABLE __diesel_schema_migrations (version varchar(50) PRIMARY KEY, run_on timestamp DEFAULT now());
             CREATE TEMPORARY TABLE gone (id serial)",
        )
        .await;
    assert_eq!(
        lines(&schema::diff(&before, &snapshot(&database).await)),
        ""
    );
    database.execute("CREATE EXTENSION hstore").await;
    let differences = schema::diff(&before, &snapshot(&database).await);
    assert_eq!(lines(&differences), "+ extension hstore");
}

/// Whatever an extension brings is its own; of some parts the catalog says so in another place than
/// of most.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_any_extension_is_taken_for_the_users() {
    let database = TestDatabase::new().await;
    let before = snapshot(&database).await;
    let client = database.connect().await;
    let names = client
        .query(
            "SELECT name FROM pg_available_extensions ORDER BY name",
            &[],
        )
        .await
        .unwrap();
    let mut created = 0;
    for name in names.iter().map(|row| row.get::<_, &str>(0)) {
        // Some want to be loaded before, or need a file that is not there.
        created += usize::from(
            client
                .batch_execute(&format!(
                    "CREATE EXTENSION IF NOT EXISTS \"{name}\" CASCADE"
                ))
                .await
                .is_ok(),
        );
    }
    assert!(created > 20, "contrib is not installed");
    let differences = lines(&schema::diff(&before, &snapshot(&database).await));
    // A schema that an extension's control file asks for is made for it and not its own: a dump has
    // it, too.
    let is_its_own =
        |line: &&str| line.starts_with("+ extension ") || line.starts_with("+ schema ");
    let foreign: Vec<_> = differences
        .lines()
        .filter(|line| !is_its_own(line))
        .collect();
    assert_eq!(foreign, Vec::<&str>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_difference_in_the_order_of_columns_is_told_apart() {
    let database = TestDatabase::new().await;
    database
        .execute("CREATE TABLE t (a int, b text, c int)")
        .await;
    let before = snapshot(&database).await;
    database.execute("ALTER TABLE t DROP b, ADD b text").await;
    let differences = schema::diff(&before, &snapshot(&database).await);
    assert_eq!(
        lines(&differences),
        "~ table public.t: order of columns …, b, c → …, c, b"
    );
    assert!(differences.iter().all(Difference::is_order_only));
    database
        .execute("ALTER TABLE t ALTER b TYPE varchar, ADD d int")
        .await;
    let differences = schema::diff(&before, &snapshot(&database).await);
    assert_eq!(
        differences.iter().filter(|d| !d.is_order_only()).count(),
        2,
        "{}",
        lines(&differences)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_that_changes_while_it_is_read_is_read_in_one_state() {
    let database = TestDatabase::new().await;
    database.execute(BASE).await;
    let busy = database.connect().await;
    let enough = Arc::new(AtomicBool::new(false));
    let seen = enough.clone();
    // Two objects that are always there together, or not at all; and rows of data, which are
    // nobody's business. The pauses are what a slow machine needs to read in.
    let changing = tokio::spawn(async move {
        while !seen.load(Relaxed) {
            let change = "BEGIN; CREATE TABLE app.pair_a (x int); CREATE VIEW app.pair_b AS SELECT \
                x FROM app.pair_a; COMMIT";
            busy.batch_execute(change).await.unwrap();
            busy.batch_execute("INSERT INTO app.parent SELECT 1; SELECT pg_sleep(0.2)")
                .await
                .unwrap();
            busy.batch_execute("DROP TABLE app.pair_a CASCADE")
                .await
                .unwrap();
            busy.batch_execute("INSERT INTO app.parent SELECT 1; SELECT pg_sleep(0.2)")
                .await
                .unwrap();
        }
    });
    let session = database.connect().await;
    let mut reads = 0;
    while reads < 6 && !changing.is_finished() {
        match schema::read(&session, &Except::default()).await {
            Ok(found) => {
                let table = found
                    .tables
                    .iter()
                    .any(|table| table.relation.name == "pair_a");
                let view = found
                    .views
                    .iter()
                    .any(|view| view.relation.name == "pair_b" && view.columns.len() == 1);
                assert_eq!(table, view);
                reads += 1;
            }
            Err(error) => assert_eq!(error.sql().unwrap().sqlstate, "40001", "{error}"),
        }
    }
    enough.store(true, Relaxed);
    changing.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_database_has_no_rights_of_its_own_on_what_came_with_it() {
    let found = snapshot(&TestDatabase::new().await).await;
    assert_eq!(found.rights, []);
}

/// What the server's functions write is as it is now, also where nothing of the objects themselves
/// has changed, or as good as gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renamed_and_dropped_things_are_read_in_one_state() {
    let database = TestDatabase::new().await;
    let role = format!("{}_owner", database.name);
    let make = "CREATE SCHEMA one; CREATE TYPE one.mood AS ENUM ('a'); CREATE TABLE t (m one.mood, \
         a int)";
    database
        .execute(&format!(
            "{make}; CREATE ROLE {role}_a; ALTER TABLE t OWNER TO {role}_a"
        ))
        .await;
    let busy = database.connect().await;
    let enough = Arc::new(AtomicBool::new(false));
    let seen = enough.clone();
    let names = role.clone();
    let changing = tokio::spawn(async move {
        while !seen.load(Relaxed) {
            for change in [
                "ALTER SCHEMA one RENAME TO two".to_owned(),
                format!("ALTER ROLE {names}_a RENAME TO {names}_b"),
                "CREATE INDEX i ON t (a); CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT \
                 1'"
                .into(),
                "DROP INDEX i; DROP FUNCTION f".into(),
                "ALTER SCHEMA two RENAME TO one".into(),
                format!("ALTER ROLE {names}_b RENAME TO {names}_a"),
            ] {
                busy.batch_execute(&change).await.unwrap();
                busy.batch_execute("SELECT pg_sleep(0.05)").await.unwrap();
            }
        }
    });
    let session = database.connect().await;
    let mut reads = 0;
    while reads < 20 && !changing.is_finished() {
        match schema::read(&session, &Except::default()).await {
            Ok(found) => {
                let schema = &found.enums[0].schema;
                assert_eq!(found.tables[0].columns[0].r#type, format!("{schema}.mood"));
                reads += 1;
            }
            Err(error) => assert_eq!(
                error.sql().unwrap_or_else(|| panic!("{error}")).sqlstate,
                "40001",
                "{error}"
            ),
        }
    }
    enough.store(true, Relaxed);
    changing.await.unwrap();
    database
        .execute(&format!(
            "DROP TABLE t; DROP ROLE IF EXISTS {role}_a, {role}_b"
        ))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_are_sorted_the_same_whatever_the_databases_collation() {
    let database = TestDatabase::new().await;
    database
        .execute(
            "CREATE TABLE \"Zeb\" (); CREATE TABLE \"aNt\" (); CREATE PUBLICATION p FOR TABLE \
            \"Zeb\", \"aNt\"",
        )
        .await;
    assert_eq!(
        snapshot(&database).await.publications[0].tables.0,
        ["\"Zeb\"", "\"aNt\""].map(|name| format!("public.{name}"))
    );
}

/// A class in a family of PostgreSQL's own is all that there is of its members.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_members_of_an_operator_class_are_part_of_it() {
    let (one, other) = (TestDatabase::new().await, TestDatabase::new().await);
    let class = "CREATE OPERATOR CLASS k FOR TYPE pg_lsn USING btree FAMILY integer_ops AS \
        OPERATOR 1 <, FUNCTION 1 pg_lsn_cmp(pg_lsn, pg_lsn)";
    one.execute(class).await;
    other.execute(&format!("{class}, OPERATOR 5 >")).await;
    let differences = lines(&schema::diff(
        &snapshot(&one).await,
        &snapshot(&other).await,
    ));
    assert!(
        differences.starts_with("~ operator class public.k.btree: members "),
        "{differences}"
    );
}

/// Rights on the objects are not needed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_only_connect_reads_the_same() {
    let database = TestDatabase::new().await;
    let role = format!("{}_reader", database.name);
    database.execute(BASE).await;
    database
        .execute(&format!(
            "CREATE ROLE {role} LOGIN PASSWORD 'pw'; REVOKE ALL ON SCHEMA app FROM PUBLIC; ALTER \
             TABLE app.notes ENABLE ROW LEVEL SECURITY; CREATE POLICY own ON app.notes USING (body \
             = 'x'); CREATE STATISTICS app.both ON user_id, body FROM app.notes; CREATE RULE quiet \
             AS ON DELETE TO app.notes DO INSTEAD NOTHING; CREATE PUBLICATION {role}_p FOR TABLE \
             app.users; CREATE EVENT TRIGGER {role}_e ON ddl_command_end EXECUTE FUNCTION \
             app.listen()"
        ))
        .await;
    let (client, connection) =
        tokio_postgres::connect(&database.url_as(&role), tokio_postgres::NoTls)
            .await
            .unwrap();
    let driver = tokio::spawn(connection);
    let theirs = schema::read(&client, &Except::default()).await.unwrap();
    let ours = snapshot(&database).await;
    assert_eq!(schema::diff(&ours, &theirs), []);
    assert_eq!(ours.fingerprint(), theirs.fingerprint());
    drop(client);
    driver.await.unwrap().unwrap();
    database
        .execute(&format!(
            "DROP EVENT TRIGGER {role}_e; DROP PUBLICATION {role}_p; DROP ROLE {role}"
        ))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_with_a_range_type_is_told_with_it() {
    let database = TestDatabase::new().await;
    let before = snapshot(&database).await;
    database
        .execute("CREATE TYPE floats AS RANGE (SUBTYPE = float8)")
        .await;
    let differences = schema::diff(&before, &snapshot(&database).await);
    let told: Vec<_> = differences.iter().map(ToString::to_string).collect();
    assert_eq!(told, ["range type public.floats added"]);
}

/// Others' roles come and go on the same server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_that_come_and_go_are_nobodys_business() {
    let database = TestDatabase::new().await;
    database.execute(BASE).await;
    let (busy, role) = (database.connect().await, format!("{}_other", database.name));
    let enough = Arc::new(AtomicBool::new(false));
    let seen = enough.clone();
    let changing = tokio::spawn(async move {
        while !seen.load(Relaxed) {
            busy.batch_execute(&format!("CREATE ROLE {role}"))
                .await
                .unwrap();
            busy.batch_execute(&format!("DROP ROLE {role}"))
                .await
                .unwrap();
        }
    });
    let session = database.connect().await;
    let mut all = std::collections::HashSet::new();
    for _ in 0..10 {
        all.insert(
            schema::read(&session, &Except::default())
                .await
                .unwrap()
                .fingerprint()
                .to_string(),
        );
    }
    enough.store(true, Relaxed);
    changing.await.unwrap();
    assert_eq!(all.len(), 1);
}
