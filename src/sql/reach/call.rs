//! Calls of functions that reach outside, and writes to the catalogs that all databases share.

use super::is;

/// Functions that reach outside; with a `_` at its end, all whose names begin so.
const FUNCTIONS: [&str; 32] = [
    "dblink",
    "dblink_",
    "lo_export",
    "lo_import",
    "pg_backup_",
    "pg_cancel_backend",
    "pg_copy_",
    "pg_create_logical_replication_slot",
    "pg_create_physical_replication_slot",
    "pg_create_restore_point",
    "pg_drop_replication_slot",
    "pg_file_",
    "pg_hba_file_rules",
    "pg_log_backend_memory_contexts",
    "pg_logical_emit_message",
    "pg_logical_slot_",
    "pg_ls_",
    "pg_promote",
    "pg_read_binary_file",
    "pg_read_file",
    "pg_reload_conf",
    "pg_replication_",
    "pg_rotate_logfile",
    "pg_start_backup",
    "pg_stat_file",
    "pg_stat_reset_replication_slot",
    "pg_stat_reset_shared",
    "pg_stat_reset_slru",
    "pg_stop_backup",
    "pg_switch_wal",
    "pg_terminate_backend",
    "pg_wal_replay_",
];

/// What an extension's functions begin with.
const EXTENSION: &str = "postgres_fdw_";

/// Functions that run the SQL they are given.
const RUN: [&str; 6] =
    ["crosstab", "query_to_xml", "query_to_xml_and_xmlschema", "query_to_xmlschema", "ts_rewrite", "ts_stat"];

/// Catalogs that all databases share.
const SHARED: [&str; 11] = [
    "pg_auth_members",
    "pg_authid",
    "pg_database",
    "pg_db_role_setting",
    "pg_parameter_acl",
    "pg_replication_origin",
    "pg_shdepend",
    "pg_shdescription",
    "pg_shseclabel",
    "pg_subscription",
    "pg_tablespace",
];

/// After these words a name is no function's that is called.
const NAMES: [&str; 18] = [
    "aggregate",
    "analyze",
    "as",
    "copy",
    "exists",
    "function",
    "into",
    "only",
    "procedure",
    "recursive",
    "references",
    "routine",
    "table",
    "trigger",
    "type",
    "vacuum",
    "view",
    "with",
];

/// What is called that reaches outside, with a schema before it or not. A table of such a name is none.
pub(super) fn call(tokens: &[&str]) -> Option<&'static str> {
    let found = |at: &usize| is_called(tokens, *at, reaching);
    if (0..tokens.len()).any(|at| found(&at)) {
        return Some("the server's files, sessions or peers");
    }
    (0..tokens.len()).any(|at| is_written(tokens, at)).then_some("a catalog that all databases of the server share")
}

/// True where a string may be SQL that a function runs.
pub(super) fn runs_text(tokens: &[&str]) -> bool {
    (0..tokens.len()).any(|at| is_called(tokens, at, |name| RUN.contains(&name)))
}

fn reaching(name: &str) -> bool {
    let begins = |function: &str| function.ends_with('_') && name.starts_with(function);
    begins(EXTENSION) || FUNCTIONS.iter().any(|function| name == *function || begins(function))
}

fn name(token: &str) -> String {
    token.trim_matches('"').to_ascii_lowercase()
}

/// Where a name begins that ends here, its schema with it.
fn beginning(tokens: &[&str], at: usize) -> usize {
    let mut first = at;
    while first >= 2 && tokens[first - 1] == "." {
        first -= 2;
    }
    first
}

fn is_called(tokens: &[&str], at: usize, function: impl Fn(&str) -> bool) -> bool {
    if tokens[at].starts_with('\'') || !function(&name(tokens[at])) {
        return false;
    }
    let first = beginning(tokens, at);
    let statement = tokens[..first].rsplit(|token| *token == ";").next().unwrap_or_default();
    let word = |back: usize| statement.len().checked_sub(back).map_or("", |at| statement[at]);
    let creates = |what: &[&str]| {
        let create = statement.iter().rposition(|token| is(token, "create"));
        create.is_some_and(|at| statement[at..].iter().take(4).any(|token| what.iter().any(|what| is(token, what))))
    };
    if tokens.get(at + 1) != Some(&"(") {
        // CREATE OPERATOR … (FUNCTION = f), CREATE AGGREGATE … (FINALFUNC = f).
        return word(1) == "=" && creates(&["operator", "aggregate", "type", "search"]);
    }
    match () {
        // CREATE INDEX … ON table (…). Elsewhere an expression follows.
        () if is(word(1), "on") => !creates(&["index"]) || statement.iter().filter(|token| is(token, "on")).count() > 1,
        // CREATE CAST … WITH FUNCTION f (…), which will be called.
        () if is(word(1), "function") => is(word(2), "with"),
        () => !NAMES.iter().any(|before| is(word(1), before)),
    }
}

/// UPDATE, INSERT INTO, MERGE INTO or DELETE FROM a shared catalog.
fn is_written(tokens: &[&str], at: usize) -> bool {
    if !SHARED.contains(&name(tokens[at]).as_str()) {
        return false;
    }
    let first = beginning(tokens, at);
    let first = if first > 0 && is(tokens[first - 1], "only") { first - 1 } else { first };
    let before = &tokens[..first];
    let word = |back: usize| before.len().checked_sub(back).map_or("", |at| before[at]);
    is(word(1), "update") || is(word(1), "into") || is(word(1), "from") && is(word(2), "delete")
}
