//! The set in migrations/: every down restores the catalog exactly, one step at a time and all
//! together, and goes up again.

use std::process::Stdio;

use schemad::pb;

use crate::harness::{
    Set, TestDaemon, TestDatabase,
    process::{example, output, stderr, stdout},
    server::tool,
};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn set(folder: &str) -> Set {
    let set = Set::of(&[]);
    for entry in std::fs::read_dir(format!("{ROOT}/{folder}")).unwrap() {
        let dir = entry.unwrap().path();
        let read = |file: &str| std::fs::read_to_string(dir.join(file)).unwrap();
        let name = dir.file_name().unwrap().to_str().unwrap();
        if dir.join("metadata.toml").exists() {
            set.add_non_transactional(name, &read("up.sql"), &read("down.sql"))
        } else {
            set.add(name, &read("up.sql"), &read("down.sql"))
        }
    }
    set
}

fn reference_set() -> Set {
    set("migrations")
}

/// The schema as pg_dump writes it, without what schemad keeps.
async fn dump(database: &TestDatabase) -> String {
    let program = tool("pg_dump");
    let output = tokio::process::Command::new(program)
        .args([
            "--schema-only",
            "--no-owner",
            "-N",
            "schemad",
            "-T",
            "__diesel_schema_migrations",
            "-d",
            &database.url,
        ])
        .stderr(Stdio::inherit())
        .output()
        .await
        .unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    // Newer pg_dumps write a random \restrict key.
    text.lines()
        .filter(|line| !line.starts_with('\\'))
        .collect::<Vec<_>>()
        .join("\n")
}

fn one() -> pb::ApplyRequest {
    pb::ApplyRequest {
        target: Some(pb::apply_request::Target::Steps(1)),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_down_restores_the_catalog_exactly_and_every_up_goes_on_again() {
    goes_up_and_down("migrations", 16).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_synth_lab_set_does_too() {
    let tables = goes_up_and_down("tests/schemas/synth_lab", 12).await;
    assert_eq!(
        tables,
        "analysis_cache analysis_runs chart_insights experiment_documents experiments explorations \
         feature_scorecards interview_guides region_analyses research_executions scenario_nodes \
         sensitivity_results simulation_runs synth_groups synth_outcomes synths transcripts"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_document_server_set_does_too() {
    let tables = goes_up_and_down("tests/schemas/document_server", 5).await;
    assert_eq!(tables, "cat collections documents pat_tokens users");
}

const TABLES: &str = "SELECT string_agg(tablename, ' ' ORDER BY tablename) FROM pg_tables WHERE \
    schemaname = 'public' AND tablename <> '__diesel_schema_migrations'";

/// Each migration up, down, up; then all down and all up; returns the tables.
async fn goes_up_and_down(folder: &str, at_least: usize) -> String {
    let (database, set) = (TestDatabase::new().await, set(folder));
    let daemon = TestDaemon::start(&database, &set).await;
    let empty = dump(&database).await;
    let mut before = empty.clone();
    let mut steps = 0;
    loop {
        let finished = daemon.apply(one()).await.finished();
        if finished.nothing_to_do {
            break;
        }
        let after = dump(&database).await;
        assert_ne!(
            before, after,
            "{} changes nothing",
            finished.current_version
        );
        daemon.rollback_steps(1).await.finished();
        assert_eq!(
            dump(&database).await,
            before,
            "the down of {}",
            finished.current_version
        );
        daemon.apply(one()).await.finished();
        assert_eq!(
            dump(&database).await,
            after,
            "the second up of {}",
            finished.current_version
        );
        (before, steps) = (after, steps + 1);
    }
    assert!(steps >= at_least, "{steps} migrations");
    daemon.rollback_all().await.finished();
    assert_eq!(dump(&database).await, empty);
    daemon.apply_all().await.finished();
    assert_eq!(dump(&database).await, before);
    database.text(TABLES).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn enum_types_made_by_hand_are_taken_over_when_their_labels_agree() {
    let database = TestDatabase::new().await;
    database
        .execute("CREATE TYPE userrole AS ENUM ('writer', 'editor', 'admin')")
        .await;
    let daemon = TestDaemon::start(&database, &reference_set()).await;
    daemon.apply_all().await.finished();
    let labels = "SELECT string_agg(enumlabel, ',' ORDER BY enumsortorder) FROM pg_enum WHERE \
        enumtypid = 'userrole'::regtype";
    assert_eq!(database.text(labels).await, "writer,editor,admin");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_enum_type_with_other_labels_is_named_with_both_lists() {
    let database = TestDatabase::new().await;
    database
        .execute("CREATE TYPE outputstatus AS ENUM ('DRAFT', 'SENT')")
        .await;
    let daemon = TestDaemon::start(&database, &reference_set()).await;
    let failed = daemon.apply_all().await.failure();
    failed.assert(tonic::Code::FailedPrecondition, "MIGRATION_FAILED");
    for part in ["outputstatus", "DRAFT", "not_awarded"] {
        assert!(failed.message.contains(part), "{}", failed.message);
    }
    assert!(database.diesel_versions().await.is_empty());
}

/// `examples/models.rs` has every label, and each goes there and back as its value.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_typed_models_know_every_label() {
    let database = TestDatabase::new().await;
    let daemon = TestDaemon::start(&database, &reference_set()).await;
    daemon.apply_all().await.finished();
    let mut command = tokio::process::Command::new(example("models"));
    command.env("DATABASE_URL", &database.url);
    let ran = output(command).await;
    assert!(ran.status.success(), "{}", stderr(&ran));
    let types = [
        ("UserRole", "userrole"),
        ("OutputType", "outputtype"),
        ("OutputStatus", "outputstatus"),
        ("StyleType", "styletype"),
        ("MessageRole", "messagerole"),
    ];
    let mut expected = Vec::new();
    for (rust, sql) in types {
        let labels = format!(
            "SELECT enumlabel FROM pg_enum WHERE enumtypid = '{sql}'::regtype ORDER BY \
             enumsortorder"
        );
        expected.extend(
            database
                .texts(&labels)
                .await
                .into_iter()
                .map(|label| format!("{rust} {label}")),
        );
    }
    assert_eq!(stdout(&ran).lines().collect::<Vec<_>>(), expected);
    assert_eq!(database.text("SELECT count(*) FROM users").await, "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_labels_are_those_of_the_specification() {
    let database = TestDatabase::new().await;
    let daemon = TestDaemon::start(&database, &reference_set()).await;
    daemon.apply_all().await.finished();
    let enums = "SELECT t.typname || ': ' || string_agg(e.enumlabel, ' ' ORDER BY e.enumsortorder) \
        FROM pg_type t JOIN pg_enum e ON e.enumtypid = t.oid GROUP BY t.typname ORDER BY 1";
    assert_eq!(
        database.texts(enums).await,
        [
            "messagerole: system user assistant tool",
            "outputstatus: draft submitted pending awarded not_awarded",
            "outputtype: grant_proposal letter_of_inquiry grant_report other",
            "styletype: narrative technical persuasive academic other",
            "userrole: writer editor admin",
        ]
    );
    assert_eq!(
        database.text(TABLES).await,
        "audit_log conversations document_programs document_tags documents messages outputs \
         prompt_templates system_config user_sessions users writing_styles"
    );
}
