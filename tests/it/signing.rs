//! Signed downs: what was changed in the ledger does not run, and what was never signed waits for
//! somebody who vouches for it.

use schemad::{Settings, SigningKeys, pb};
use tonic::Code;

use crate::harness::{
    Set, TestDaemon, TestDatabase,
    daemon::{Failed, settings},
    process::{output, schemad, stderr, stdout},
};

fn keys(files: &[&str]) -> Option<SigningKeys> {
    let files: Vec<String> = files.iter().map(|key| key.repeat(32)).collect();
    SigningKeys::read(&files).unwrap()
}

/// A daemon whose keys are made of these characters; none: without a key.
async fn daemon(database: &TestDatabase, set: &Set, files: &[&str]) -> TestDaemon {
    let daemon = TestDaemon::launch(
        Settings {
            signing: keys(files),
            ..settings(&database.url)
        },
        set,
    )
    .await;
    daemon.until_ready().await;
    daemon
}

/// Three migrations applied with these keys, and a daemon of the release before, which carries the
/// first only.
async fn applied_and_older(
    database: &TestDatabase,
    applied_with: &[&str],
    older_with: &[&str],
) -> TestDaemon {
    let newer = daemon(database, &Set::tables(3), applied_with).await;
    newer.apply_all().await.finished();
    newer.stop().await;
    daemon(database, &Set::tables(1), older_with).await
}

async fn problems(daemon: &TestDaemon) -> Vec<(String, String, bool)> {
    daemon
        .status()
        .await
        .problems
        .into_iter()
        .map(|p| (p.reason, p.version, p.blocking))
        .collect()
}

fn invalid(version: &str) -> (String, String, bool) {
    ("SIGNATURE_INVALID".into(), version.into(), false)
}

async fn sign(daemon: &TestDaemon, versions: &[&str]) -> Result<pb::SignLedgerResponse, Failed> {
    let versions: Vec<String> = versions.iter().map(|v| (*v).to_owned()).collect();
    let request = pb::SignLedgerRequest {
        all: versions.is_empty(),
        versions,
        reason: "looked at them".into(),
        ..Default::default()
    };
    daemon
        .client()
        .sign_ledger(request)
        .await
        .map(|r| r.into_inner())
        .map_err(|status| Failed::of(&status))
}

const SIGNED: &str = "SELECT coalesce(string_agg(version, ' ' ORDER BY version), '') FROM \
    schemad.migrations WHERE mac IS NOT NULL";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_signed_when_it_was_applied_comes_off_through_another_release() {
    let database = TestDatabase::new().await;
    let set = Set::tables(3);
    // Neither form of a script is without, and a line's end is none of a signature's business.
    set.add_non_transactional(
        "0004_index",
        "CREATE INDEX CONCURRENTLY i ON t1 (id);",
        "DROP INDEX\r\nCONCURRENTLY i;",
    );
    set.add("0000_none", "SELECT 1;", "");
    let newer = daemon(&database, &set, &["k"]).await;
    newer.apply_all().await.finished();
    newer.stop().await;
    assert_eq!(database.text(SIGNED).await, "0001 0002 0003 0004");
    let older = daemon(&database, &Set::tables(1), &["k"]).await;
    assert_eq!(problems(&older).await, []);
    database
        .execute("UPDATE schemad.scripts SET sql = replace(sql, E'\\r\\n', E'\\n')")
        .await;
    let but_the_first = pb::RollbackRequest {
        target: Some(pb::rollback_request::Target::To("0000".into())),
        ..Default::default()
    };
    assert_eq!(
        older.rollback(but_the_first).await.done(),
        ["0004", "0003", "0002", "0001"]
    );
    database.assert_consistent().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_somebody_changed_in_the_ledger_is_refused_before_anything_runs() {
    let evil = "DROP TABLE t2; CREATE TABLE evil ();";
    let of_evil = schemad::internals::migration::Checksum::of_script(evil);
    let another_script = format!(
        "INSERT INTO schemad.scripts VALUES ('{of_evil}', '{evil}'); \
         UPDATE schemad.migrations SET down_script = '{of_evil}' WHERE version = '0002'"
    );
    let down = "(SELECT down_script FROM schemad.migrations WHERE version = '0002')";
    for change in [
        // The text under its checksum, and one under a checksum of its own.
        format!("UPDATE schemad.scripts SET sql = '{evil}' WHERE checksum = {down}"),
        another_script,
        "UPDATE schemad.migrations SET down_mode = 'non_transactional' WHERE version = '0002'"
            .into(),
        // Another migration's down, with its signature.
        "UPDATE schemad.migrations m SET down_script = o.down_script, mac = o.mac FROM \
         schemad.migrations o WHERE m.version = '0002' AND o.version = '0003'"
            .into(),
        "UPDATE schemad.migrations SET mac = '' WHERE version = '0002'".into(),
        "UPDATE schemad.migrations SET mac = set_byte(mac, 31, get_byte(mac, 31) # 1) WHERE \
         version = '0002'"
            .into(),
        "UPDATE schemad.migrations SET mac = NULL WHERE version = '0002'".into(),
    ] {
        let database = TestDatabase::new().await;
        let older = applied_and_older(&database, &["k"], &["k"]).await;
        database.execute(&change).await;
        assert_eq!(problems(&older).await, [invalid("0002")], "{change}");
        let failed = older.rollback_all().await.failure();
        failed.assert(Code::FailedPrecondition, "SIGNATURE_INVALID");
        let expected = if change.contains("NULL") {
            "missing"
        } else {
            "wrong"
        };
        assert_eq!(
            (
                failed.metadata["version"].as_str(),
                failed.metadata["signature"].as_str()
            ),
            ("0002", expected)
        );
        assert!(
            failed.message.contains("(SignLedger)"),
            "{}",
            failed.message
        );
        let only_planned = pb::RollbackRequest {
            target: Some(pb::rollback_request::Target::All(true)),
            validate_only: true,
            ..Default::default()
        };
        older
            .rollback(only_planned)
            .await
            .failure()
            .assert(Code::FailedPrecondition, "SIGNATURE_INVALID");
        assert_eq!(database.diesel_versions().await, ["0001", "0002", "0003"]);
        // What comes before it does come off.
        assert_eq!(older.rollback_steps(1).await.done(), ["0003"]);
        assert_eq!(database.text("SELECT to_regclass('evil')").await, "NULL");
        older.stop().await;
    }
}

/// The id is a part of what is signed: another ledger's signatures are worth nothing here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signature_of_another_ledger_is_none() {
    let database = TestDatabase::new().await;
    let older = applied_and_older(&database, &["k"], &["k"]).await;
    database
        .execute("UPDATE schemad.ledger SET id = gen_random_uuid()")
        .await;
    assert_eq!(problems(&older).await, [invalid("0002"), invalid("0003")]);
    older
        .rollback_steps(1)
        .await
        .failure()
        .assert(Code::FailedPrecondition, "SIGNATURE_INVALID");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_down_that_the_binary_carries_needs_no_signature_and_nothing_changed_runs() {
    let database = TestDatabase::new().await;
    let unsigned = daemon(&database, &Set::tables(2), &[]).await;
    unsigned.apply_all().await.finished();
    assert_eq!(database.text(SIGNED).await, "");
    unsigned.stop().await;
    database
        .execute("UPDATE schemad.scripts SET sql = 'CREATE TABLE evil ()' WHERE sql LIKE 'DROP%'")
        .await;
    let same = daemon(&database, &Set::tables(2), &["k"]).await;
    assert_eq!(problems(&same).await, []);
    assert_eq!(same.rollback_all().await.done(), ["0002", "0001"]);
    assert_eq!(database.text("SELECT to_regclass('evil')").await, "NULL");
    database.assert_consistent().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_key_unsigned_downs_run_as_ever() {
    let database = TestDatabase::new().await;
    let older = applied_and_older(&database, &[], &[]).await;
    assert_eq!(problems(&older).await, []);
    assert_eq!(older.rollback_all().await.done(), ["0003", "0002", "0001"]);
    sign(&older, &[])
        .await
        .unwrap_err()
        .assert(Code::FailedPrecondition, "SIGNING_KEY_MISSING");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn older_rows_are_signed_by_an_audited_act_and_come_off_then() {
    let database = TestDatabase::new().await;
    let older = applied_and_older(&database, &[], &["k"]).await;
    assert_eq!(problems(&older).await, [invalid("0002"), invalid("0003")]);
    older
        .rollback_steps(1)
        .await
        .failure()
        .assert(Code::FailedPrecondition, "SIGNATURE_INVALID");
    let answer = sign(&older, &["0003"]).await.unwrap();
    assert_eq!(
        (answer.signed, answer.refused.len()),
        (vec!["0003".to_owned()], 0)
    );
    let operation = answer.operation.unwrap();
    assert_eq!(
        (operation.kind(), operation.state()),
        (pb::OperationKind::Sign, pb::OperationState::Succeeded)
    );
    assert_eq!(
        (operation.message.as_str(), operation.principal.as_str()),
        ("0003: looked at them", "anonymous")
    );
    assert_eq!(problems(&older).await, [invalid("0002")]);
    let listed = pb::ListOperationsRequest {
        kind: pb::OperationKind::Sign.into(),
        ..Default::default()
    };
    let listed = older
        .operations()
        .list_operations(listed)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        listed
            .operations
            .iter()
            .map(|o| o.id.as_str())
            .collect::<Vec<_>>(),
        [operation.id.as_str()]
    );
    // All at once are those that the binary carries and those that a key signed.
    let answer = sign(&older, &[]).await.unwrap();
    let refused: Vec<&str> = answer.refused.iter().map(|r| r.version.as_str()).collect();
    assert_eq!(
        (answer.signed, refused),
        (vec!["0001".to_owned(), "0003".to_owned()], vec!["0002"])
    );
    assert_eq!(sign(&older, &["0002"]).await.unwrap().signed, ["0002"]);
    assert_eq!(older.rollback_all().await.done(), ["0003", "0002", "0001"]);
    database.assert_consistent().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_changed_is_not_signed_with_all_the_others() {
    let database = TestDatabase::new().await;
    let older = applied_and_older(&database, &["k"], &["k"]).await;
    let texts = "UPDATE schemad.scripts s SET sql = 'SELECT 1' FROM schemad.migrations m \
                 WHERE m.version = '0002' AND s.checksum = m.down_script";
    database.execute(texts).await;
    database
        .execute("UPDATE schemad.migrations SET mac = 'x' WHERE version = '0003'")
        .await;
    let answer = sign(&older, &[]).await.unwrap();
    let refused: Vec<&str> = answer.refused.iter().map(|r| r.version.as_str()).collect();
    assert_eq!(
        (answer.signed, refused),
        (vec!["0001".to_owned()], vec!["0002", "0003"])
    );
    // A wrong signature is for a person to judge; a text that is not what was stored is nobody's to
    // sign.
    let answer = sign(&older, &["0002", "0003"]).await.unwrap();
    assert_eq!(
        (answer.signed.as_slice(), answer.refused.len()),
        (["0003".to_owned()].as_slice(), 1)
    );
    assert!(
        answer.refused[0].message.contains("somebody changed it"),
        "{:?}",
        answer.refused
    );
    sign(&older, &["9"])
        .await
        .unwrap_err()
        .assert(Code::NotFound, "UNKNOWN_VERSION");
    assert_eq!(older.rollback_steps(1).await.done(), ["0003"]);
    assert_eq!(
        sign(&older, &["0003"]).await.unwrap_err().reason,
        "UNKNOWN_VERSION"
    );
}

/// Whoever writes the ledger takes a signature away, puts a down of their own under a checksum of
/// its own, and waits for somebody to sign all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_lost_its_signature_is_signed_with_the_others_only_if_it_is_what_the_binary_carries() {
    let database = TestDatabase::new().await;
    let older = applied_and_older(&database, &["k"], &["k"]).await;
    let evil = schemad::internals::migration::Checksum::of_script("CREATE TABLE evil ();");
    database
        .execute(&format!(
            "INSERT INTO schemad.scripts VALUES ('{evil}', 'CREATE TABLE evil ();')"
        ))
        .await;
    let strip = async |change: &str, version: &str| {
        database
            .execute(&format!(
                "UPDATE schemad.migrations SET {change} mac = NULL WHERE version = '{version}'"
            ))
            .await;
    };
    let own = database
        .text("SELECT down_script FROM schemad.migrations WHERE version = '0001'")
        .await;
    strip("", "0001").await;
    strip(&format!("down_script = '{evil}',"), "0002").await;
    let answer = sign(&older, &[]).await.unwrap();
    assert_eq!(answer.signed, ["0001", "0003"]);
    let [refused] = answer.refused.as_slice() else {
        panic!("{:?}", answer.refused)
    };
    assert_eq!(refused.version, "0002");
    assert!(
        refused.message.contains("has no signature") && refused.message.contains(&evil.to_string()),
        "{refused:?}"
    );
    // The binary's own version with another down, or with its own in another mode, is not what it
    // carries.
    for change in [
        format!("down_script = '{evil}',"),
        format!("down_script = '{own}', down_mode = 'non_transactional',"),
    ] {
        strip(&change, "0001").await;
        let answer = sign(&older, &[]).await.unwrap();
        assert_eq!(
            (answer.signed.as_slice(), answer.refused.len()),
            (["0003".to_owned()].as_slice(), 2),
            "{change}"
        );
        assert_eq!(database.text(SIGNED).await, "0003");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_changed_with_two_files_and_an_act() {
    let database = TestDatabase::new().await;
    let both = applied_and_older(&database, &["o"], &["n", "o"]).await;
    assert_eq!(problems(&both).await, []);
    assert_eq!(sign(&both, &[]).await.unwrap().signed.len(), 3);
    both.stop().await;
    let new = daemon(&database, &Set::tables(1), &["n"]).await;
    assert_eq!(problems(&new).await, []);
    assert_eq!(new.rollback_all().await.done().len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_adopted_with_the_binarys_down_is_signed() {
    let database = TestDatabase::new().await;
    database
        .execute(
            "CREATE TABLE __diesel_schema_migrations (version VARCHAR(50) PRIMARY KEY NOT NULL, \
             run_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP); CREATE TABLE t1 (id int); \
             INSERT INTO __diesel_schema_migrations VALUES ('0001')",
        )
        .await;
    let adopting = daemon(&database, &Set::tables(1), &["k"]).await;
    adopting.apply_all().await.finished();
    assert_eq!(database.text(SIGNED).await, "0001");
    adopting.stop().await;
    let empty = daemon(&database, &Set::tables(0), &["k"]).await;
    assert_eq!(empty.rollback_all().await.done(), ["0001"]);
}

/// What the release with ledger version 2 does, by its own guards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_finish_step_still_applies_and_leaves_the_row_unsigned() {
    let database = TestDatabase::new().await;
    let newer = daemon(&database, &Set::tables(2), &["k"]).await;
    let first = pb::ApplyRequest {
        target: Some(pb::apply_request::Target::Steps(1)),
        ..Default::default()
    };
    newer.apply(first).await.finished();
    newer.stop().await;
    let plan = "INSERT INTO schemad.operations (id, kind, principal, request_id, request_hash, \
            state, daemon, backend_pid, queue_until) VALUES \
            ('00000000-0000-0000-0000-000000000001', 'apply', 'p', gen_random_uuid(), 'h', \
            'running', 'd', 1, now()); INSERT INTO schemad.steps (operation, ordinal, version, \
            name, direction, script, mode, up_script, up_mode, down_script, down_mode, \
            lock_timeout_ms, statement_timeout_ms) SELECT '00000000-0000-0000-0000-000000000001', \
            1, '0002', '0002_t2', 'up', 'u', 'transactional', 'u', 'transactional', 'd', \
            'transactional', 0, 0; UPDATE schemad.operations SET steps_total = 1 WHERE steps_total \
            = 0";
    let step = "SELECT pg_advisory_lock(32478922351141220); DO $$ BEGIN PERFORM \
        schemad.begin_step_v1(max(id)) FROM schemad.steps; CREATE TABLE t2 (id int); PERFORM \
        schemad.finish_step_v1(max(id)) FROM schemad.steps; END $$; SELECT \
        pg_advisory_unlock_all()";
    let session = database.connect().await;
    session.batch_execute(plan).await.unwrap();
    session.batch_execute(step).await.unwrap();
    assert_eq!(database.text(SIGNED).await, "0001");
    assert_eq!(database.diesel_versions().await, ["0001", "0002"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_signs_and_says_what_it_did_not() {
    let database = TestDatabase::new().await;
    let older = applied_and_older(&database, &[], &["k"]).await;
    let run = async |args: &[&str]| {
        let mut command = schemad(&[&["ledger", "sign", "--reason", "INC-42"], args].concat());
        command.env("SCHEMAD_ADDRESS", &older.address);
        output(command).await
    };
    let signed = run(&["--version", "0002", "--version", "0003"]).await;
    assert_eq!(signed.status.code(), Some(0), "{}", stderr(&signed));
    assert!(
        stdout(&signed).starts_with("Signed 2 down(s) (operation "),
        "{}",
        stdout(&signed)
    );
    database
        .execute("UPDATE schemad.migrations SET mac = 'x' WHERE version = '0003'")
        .await;
    let refused = run(&["--all"]).await;
    assert_eq!(refused.status.code(), Some(3));
    assert!(
        stderr(&refused).contains("0003        it has a signature that none"),
        "{}",
        stderr(&refused)
    );
    let json = run(&["--version", "0003", "--output", "json"]).await;
    let json: serde_json::Value = serde_json::from_str(&stdout(&json)).unwrap();
    assert_eq!(
        (&json["signed"][0], &json["operation"]["kind"]),
        (&"0003".into(), &"OPERATION_KIND_SIGN".into())
    );
    assert_eq!(run(&[]).await.status.code(), Some(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_without_a_key_ends_the_start_and_is_not_shown() {
    let dir = tempfile::tempdir().unwrap();
    let (short, missing) = (dir.path().join("short"), dir.path().join("missing"));
    std::fs::write(&short, "s3cret\n").unwrap();
    for (file, expected) in [(&short, "openssl rand -hex 32"), (&missing, "No such file")] {
        let mut command = schemad(&[
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--admin-listen",
            "127.0.0.1:0",
        ]);
        command
            .env("DATABASE_URL", "postgres://u@127.0.0.1:1/d")
            .env("SCHEMAD_SIGNING_KEY_FILE", file);
        let ended = output(command).await;
        assert_eq!(ended.status.code(), Some(2));
        let told = stderr(&ended);
        assert!(
            told.contains(expected)
                && told.contains(file.to_str().unwrap())
                && !told.contains("s3cret"),
            "{told}"
        );
    }
}

/// A daemon of the release before may log in as a role to which the ledger's owner gave its rights:
/// they have to be enough after the owner's release has upgraded it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_could_use_a_ledger_of_version_2_can_use_it_after_the_upgrade() {
    let database = TestDatabase::new().await;
    database
        .execute(include_str!("../fixtures/ledger-1.sql"))
        .await;
    database
        .execute(include_str!("../../src/ledger/0002.sql"))
        .await;
    let role = format!("given_{}", database.name);
    database
        .execute(&format!(
            "UPDATE schemad.ledger SET version = 2; CREATE ROLE {role}; GRANT USAGE ON SCHEMA \
             schemad TO {role}; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA \
             schemad TO {role}; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA schemad TO {role}"
        ))
        .await;
    daemon(&database, &Set::tables(0), &[]).await.stop().await;
    assert_eq!(
        database.text("SELECT version FROM schemad.ledger").await,
        "6"
    );
    let tables = format!(
        "SELECT count(*) FROM pg_class WHERE relnamespace = 'schemad'::regnamespace AND relkind = \
         'r' AND NOT (has_table_privilege('{role}', oid, 'SELECT') AND \
         has_table_privilege('{role}', oid, 'INSERT') AND has_table_privilege('{role}', oid, \
         'UPDATE') AND has_table_privilege('{role}', oid, 'DELETE'))"
    );
    assert_eq!(database.text(&tables).await, "0");
    for (who, expected) in [(role.as_str(), "16 of 16"), ("public", "0 of 16")] {
        let may = format!(
            "SELECT count(*) FILTER (WHERE has_function_privilege('{who}', oid, 'EXECUTE')) || ' \
             of ' || count(*) FROM pg_proc WHERE pronamespace = 'schemad'::regnamespace"
        );
        assert_eq!(database.text(&may).await, expected, "{who}");
    }
    database
        .execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}"))
        .await;
}
