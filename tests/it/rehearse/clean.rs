//! The clean state before each migration, whatever the one before it did.

use super::run;
use crate::harness::{Set, TestDatabase};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_with_rights_can_be_dropped_whatever_was_put_aside() {
    let database = TestDatabase::new().await;
    let pid = std::process::id();
    let (a, b, c) = (format!("clean_a_{pid}"), format!("clean_b_{pid}"), format!("clean_c_{pid}"));
    let grants = |role: &str| format!("CREATE ROLE {role}; GRANT SELECT ON t TO {role};");
    let set = Set::of(&[
        ("1_t", "CREATE TABLE t ();", "DROP TABLE t;"),
        ("2_role", &grants(&a), &format!("REVOKE SELECT ON t FROM {a}; DROP ROLE {a};")),
        ("3_left", &grants(&b), &format!("DROP ROLE {b};")),
        // Its copy is in the way of a down that spoils the database.
        ("4_spoils", &grants(&c), &format!("CREATE TABLE x (); DROP OWNED BY {c}; DROP ROLE {c};")),
        ("6_retired", &format!("DROP OWNED BY {b}; DROP ROLE {b};"), &grants(&b)),
        ("7_after", &format!("CREATE TABLE x (); GRANT SELECT ON x TO {a}, {c};"), "DROP TABLE x;"),
    ]);
    set.add_non_transactional(
        "5_index",
        "CREATE TABLE u ();",
        &format!("DROP TABLE u; DROP OWNED BY {c}; DROP ROLE {c};"),
    );
    let said = run(&set, Some(&database.url), &["--throwaway-server"]).await;
    let expected = [
        ("1", "RESTORES"),
        ("2", "RESTORES"),
        ("3", "DOWN_FAILS"),
        ("4", "DOES_NOT_RESTORE"),
        ("5", "DOES_NOT_RESTORE"),
        ("6", "RESTORES"),
        ("7", "RESTORES"),
    ];
    assert_eq!(said.verdicts(), expected, "{} {}", said.stderr, said.of("2"));
    database.execute(&format!("DROP ROLE IF EXISTS {a}, {b}, {c}")).await;
}
