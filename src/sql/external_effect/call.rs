//! Finds calls of functions with an effect outside the database, and writes to the shared catalogs.

use super::is;

/// Functions with an effect outside the database. A `_` at the end stands for all names that begin
/// so.
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

/// The prefix of the functions of the extension postgres_fdw.
const EXTENSION: &str = "postgres_fdw_";

/// Functions that run the SQL in their arguments.
const RUN: [&str; 6] = [
    "crosstab",
    "query_to_xml",
    "query_to_xml_and_xmlschema",
    "query_to_xmlschema",
    "ts_rewrite",
    "ts_stat",
];

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

/// Words after which a name is not the call of a function.
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

/// The words of a statement or a body, with the context before each of them. The context is
/// computed once for all searches.
pub(super) struct FunctionCalls<'a> {
    pub(super) tokens: &'a [&'a str],
    before: Vec<PrecedingToken>,
}

/// The context before a word.
#[derive(Clone, Copy, Default)]
struct PrecedingToken {
    /// The index where the qualified name begins that the word is part of.
    name: usize,
    /// The index where the word's statement begins, by the semicolons.
    statement: usize,
    /// The last CREATE before the word in its statement.
    create: Option<usize>,
    /// The number of words ON before it in its statement.
    ons: usize,
}

impl<'a> FunctionCalls<'a> {
    pub(super) fn new(tokens: &'a [&'a str]) -> Self {
        let mut before: Vec<PrecedingToken> = Vec::with_capacity(tokens.len());
        let mut now = PrecedingToken::default();
        for (at, token) in tokens.iter().enumerate() {
            now.name = match at.checked_sub(2) {
                Some(first) if tokens[at - 1] == "." => before[first].name,
                _ => at,
            };
            before.push(now);
            if *token == ";" {
                now = PrecedingToken {
                    statement: at + 1,
                    ..PrecedingToken::default()
                };
            } else if is(token, "create") {
                now.create = Some(at);
            } else if is(token, "on") {
                now.ons += 1;
            }
        }
        Self { tokens, before }
    }

    /// Returns what is affected by a call of one of [`FUNCTIONS`], with or without a schema, or by
    /// a write to a shared catalog. A table with the name of a function does not count.
    pub(super) fn reach(&self) -> Option<&'static str> {
        let mut places = 0..self.tokens.len();
        if places.clone().any(|at| self.is_called(at, reaching)) {
            return Some("the server's files, sessions or peers");
        }
        places
            .any(|at| self.is_written(at))
            .then_some("a catalog that all databases of the server share")
    }

    /// Returns whether the word is the name of a table that an UPDATE writes.
    pub(super) fn is_updated(&self, at: usize) -> bool {
        let word = |back: usize| {
            self.before[at]
                .name
                .checked_sub(back)
                .map_or("", |at| self.tokens[at])
        };
        is(word(1), "update") || is(word(1), "only") && is(word(2), "update")
    }

    /// Returns whether the word at `at` is the name of a called function that `function` accepts.
    fn is_called(&self, at: usize, function: impl Fn(&str) -> bool) -> bool {
        let tokens = self.tokens;
        if tokens[at].starts_with('\'') || !function(&name(tokens[at])) {
            return false;
        }
        let first = self.before[at].name;
        let before = self.before[first];
        let word = |back: usize| match first.checked_sub(back) {
            Some(at) if at >= before.statement => tokens[at],
            _ => "",
        };
        let creates = |what: &[&str]| {
            let after = before.create.map(|at| &tokens[at..first.min(at + 4)]);
            after.is_some_and(|after| {
                after
                    .iter()
                    .any(|token| what.iter().any(|what| is(token, what)))
            })
        };
        if tokens.get(at + 1) != Some(&"(") {
            // CREATE OPERATOR … (FUNCTION = f), CREATE AGGREGATE … (FINALFUNC = f).
            return word(1) == "=" && creates(&["operator", "aggregate", "type", "search"]);
        }
        match () {
            // CREATE INDEX … ON table (…). In other statements an expression follows ON.
            () if is(word(1), "on") => !creates(&["index"]) || before.ons > 1,
            // CREATE CAST … WITH FUNCTION f (…): the function will be called.
            () if is(word(1), "function") => is(word(2), "with"),
            () => !NAMES.iter().any(|before| is(word(1), before)),
        }
    }

    /// Returns whether a shared catalog is written: UPDATE, INSERT INTO, MERGE INTO or DELETE FROM.
    fn is_written(&self, at: usize) -> bool {
        let tokens = self.tokens;
        if tokens[at].starts_with('\'') || !SHARED.contains(&name(tokens[at]).as_str()) {
            return false;
        }
        let first = self.before[at].name;
        let first = if first > 0 && is(tokens[first - 1], "only") {
            first - 1
        } else {
            first
        };
        let word = |back: usize| first.checked_sub(back).map_or("", |at| tokens[at]);
        is(word(1), "update") || is(word(1), "into") || is(word(1), "from") && is(word(2), "delete")
    }
}

/// Returns whether a string may be SQL that a function runs.
pub(super) fn runs_text(calls: &FunctionCalls<'_>) -> bool {
    (0..calls.tokens.len()).any(|at| calls.is_called(at, |name| RUN.contains(&name)))
}

fn reaching(name: &str) -> bool {
    let begins = |function: &str| function.ends_with('_') && name.starts_with(function);
    begins(EXTENSION)
        || FUNCTIONS
            .iter()
            .any(|function| name == *function || begins(function))
}

fn name(token: &str) -> String {
    token.trim_matches('"').to_ascii_lowercase()
}
