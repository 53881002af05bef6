//! A refused statement in an operator's words: which file, which statement, which line, and what it means.

mod grant;

use super::ScriptError;
use crate::{
    db::SqlError,
    failure::{Failure, Reason},
    sql::{self, Place},
};

/// The failure that tells where `sql`, the script of `file`, was refused. A script that is one transaction was undone.
pub fn explain(failed: &ScriptError, sql: &str, file: &str, role: &str, one_transaction: bool) -> Failure {
    // An open quote swallows what schemad sends after the script, and the server's words would be about that.
    let open = if failed.error.sqlstate == "42601" { sql::unterminated(sql) } else { None };
    let failed = &match open {
        Some((what, at)) => unterminated(failed, sql, what, at),
        None => located(failed, sql),
    };
    let error = &failed.error;
    let total = sql::count(sql);
    let in_script = failed.statements_done < total;
    let place = match open {
        Some((_, at)) => Some(sql::place(sql, sql::nth_character(sql, at))),
        None if in_script => place(failed, sql),
        None => None,
    };
    let meaning = meaning(failed, role, in_script);
    let consequence = match one_transaction {
        true => "The step was undone completely; the steps before it stay",
        false => {
            "The statements before it stay, and the next Apply goes on from there (a down: the next Rollback); what did not run \
             yet may be changed"
        }
    };

    let mut message = file.to_owned();
    if let Some(Place { line, column }) = place {
        message += &format!(", line {line}, column {column}");
    }
    if in_script {
        message += &format!(", statement {} of {total}", failed.statements_done + 1);
    }
    message += &format!(": {}", error.to_string().trim_end_matches('.'));
    for sentence in meaning.as_deref().into_iter().chain([consequence]) {
        message += &format!(". {sentence}");
    }

    let mut failure = Failure::new(Reason::MigrationFailed, cut(&message))
        .with("sqlstate", &error.sqlstate)
        .with("database_message", cut(&error.message))
        .with("consequence", consequence);
    if in_script {
        failure = failure.with("statement", failed.statements_done + 1).with("statements", total);
    }
    if let Some(place) = place {
        let (source, source_column) = sql::excerpt(sql, place);
        failure = failure.with("line", place.line).with("column", place.column);
        failure = failure.with("source", source).with("source_column", source_column);
    }
    // A statement that the server ran itself, inside a function.
    if let (Some(query), Some(at)) = (&error.internal_query, error.internal_position) {
        let place = sql::place(query, at);
        let (source, source_column) = sql::excerpt(query, place);
        failure = failure.with("inner_line", place.line).with("inner_source", source);
        failure = failure.with("inner_source_column", source_column);
    }
    let texts = [
        ("detail", error.detail.as_deref()),
        ("hint", error.hint.as_deref()),
        ("context", error.context.as_deref()),
        ("meaning", meaning.as_deref()),
    ];
    for (key, text) in texts {
        if let Some(text) = text {
            failure = failure.with(key, cut(text));
        }
    }
    failure
}

/// The error as the server would have put it, had the script come alone.
fn unterminated(failed: &ScriptError, sql: &str, what: &str, at: usize) -> ScriptError {
    let error = SqlError {
        sqlstate: failed.error.sqlstate.clone(),
        message: format!("unterminated {what}"),
        ..SqlError::default()
    };
    let statements_done = sql::statement_of(sql, sql::nth_character(sql, at));
    ScriptError { error, statements_done, preamble: failed.preamble }
}

/// The server reads a whole message before it runs the first statement, so where it points tells more than what was through.
fn located(failed: &ScriptError, sql: &str) -> ScriptError {
    let statements_done = pointed(failed, sql).map_or(failed.statements_done, |at| sql::statement_of(sql, at));
    ScriptError { error: failed.error.clone(), statements_done, preamble: failed.preamble }
}

/// The character of the script (from 1) that the server pointed to.
fn pointed(failed: &ScriptError, sql: &str) -> Option<usize> {
    let at = failed.error.position?.checked_sub(failed.preamble)?;
    (1..=sql.chars().count()).contains(&at).then_some(at)
}

/// Metadata travels in a trailer, which proxies limit; the first 2,000 characters say what there is to say.
fn cut(text: &str) -> String {
    const LONGEST: usize = 2_000;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Where the server pointed, else the line in a DO block that it named, else where the statement begins.
fn place(failed: &ScriptError, sql: &str) -> Option<Place> {
    match pointed(failed, sql) {
        Some(at) => Some(sql::place(sql, at)),
        None => in_block(failed, sql).or_else(|| sql::start_of(sql, failed.statements_done)),
    }
}

/// The line of a DO block that the outermost context names. PL/pgSQL counts from the line of the opening quote.
fn in_block(failed: &ScriptError, sql: &str) -> Option<Place> {
    let outermost = failed.error.context.as_deref()?.lines().last()?;
    let line: usize =
        outermost.strip_prefix("PL/pgSQL function inline_code_block line ")?.split(' ').next()?.parse().ok()?;
    let statement = sql::split(sql).into_iter().nth(failed.statements_done)?;
    let body = statement.tokens().find(|token| token.starts_with('$'))?;
    let offset = statement.start + statement.sql.find(body)?;
    let opened = sql::place(sql, sql::nth_character(sql, offset)).line;
    let line = opened.checked_add(line)?.checked_sub(1)?;
    let text = sql.split('\n').nth(line.checked_sub(1)?)?;
    let indent = text.chars().take_while(|c| c.is_whitespace()).count();
    Some(Place { line, column: indent + 1 })
}

/// What a SQLSTATE means here, where the server's words alone do not say it.
fn meaning(failed: &ScriptError, role: &str, in_script: bool) -> Option<String> {
    let error = &failed.error;
    let in_guard = error.context.as_deref().is_some_and(|c| c.contains("finish_step_v2"));
    let words = match error.sqlstate.as_str() {
        "SCH03" => "A migration is one transaction with its ledger row; the file must not end it",
        "SCH04" => "The file calls pg_advisory_unlock_all() or releases schemad's own lock; remove that",
        "SCH05" => "The file changes the session's user for good; use SET LOCAL ROLE",
        "SCH06" => "Something else changed the Diesel table meanwhile",
        "42P01" | "3F000" if in_guard => {
            "The file drops Diesel's table of applied migrations, so the migration cannot be recorded"
        }
        "23505" if in_guard => "The file itself inserts into Diesel's table; schemad does that",
        "25001" => {
            "This statement cannot run in a transaction: put it alone into a migration whose metadata.toml says \
             run_in_transaction = false"
        }
        "55P04" => "A new enum label can be used only after it is committed: put its use into a later migration",
        "42501" => return Some(grant::helps(&error.message, role)),
        "53100" => "The server's disk is full",
        "42601" if error.message.contains("\"\\\"") => {
            "A backslash begins a command of psql's, which only psql understands"
        }
        "57014" => "statement_timeout ran out, or somebody cancelled it",
        _ if !in_script && !in_guard && error.sqlstate.starts_with("23") => {
            "A deferred constraint was violated when the file was through"
        }
        _ => return None,
    };
    Some(words.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::SqlError;

    fn failed(sqlstate: &str, position: Option<usize>, statements_done: usize, context: Option<&str>) -> ScriptError {
        ScriptError {
            error: SqlError {
                sqlstate: sqlstate.into(),
                message: "no".into(),
                position: position.map(|p| p + 10),
                context: context.map(Into::into),
                ..SqlError::default()
            },
            statements_done,
            preamble: 10,
        }
    }

    #[test]
    fn the_place_is_counted_in_characters_of_the_file() {
        let failure =
            explain(&failed("42601", Some(14), 1, None), "SELECT 'é';\n SELCT 1", "1_x/up.sql", "deploy", true);
        assert_eq!((failure.metadata["line"].as_str(), failure.metadata["column"].as_str()), ("2", "2"));
        assert_eq!((failure.metadata["statement"].as_str(), failure.reason), ("2", Reason::MigrationFailed));
    }

    #[test]
    fn an_error_without_a_position_is_placed_at_its_statement() {
        let failure =
            explain(&failed("22012", None, 1, None), "SELECT 1;\n-- why\nSELECT 1/0;", "1_x/up.sql", "deploy", true);
        insta::assert_snapshot!(failure.message, @"1_x/up.sql, line 3, column 1, statement 2 of 2: no (SQLSTATE 22012). The step was undone completely; the steps before it stay");
    }

    #[test]
    fn a_line_of_a_do_block_is_a_line_of_the_file() {
        let sql = "SELECT 1;\nDO LANGUAGE plpgsql $x$\nBEGIN\n    RAISE 'no';\nEND\n$x$;";
        let context = "SQL statement \"x\"\nPL/pgSQL function inline_code_block line 3 at RAISE";
        let failure = explain(&failed("P0001", None, 1, Some(context)), sql, "1_x/up.sql", "deploy", true);
        assert_eq!(["line", "column", "source"].map(|k| failure.metadata[k].as_str()), ["4", "5", "    RAISE 'no';"]);
    }

    #[test]
    fn an_error_after_the_script_is_not_blamed_on_a_line() {
        let failure =
            explain(&failed("23503", None, 1, None), "INSERT INTO t VALUES (1)", "1_x/up.sql", "deploy", true);
        assert!(failure.message.contains("deferred constraint"), "{failure}");
        assert!(!failure.metadata.contains_key("line") && !failure.metadata.contains_key("statement"));
        let failure =
            explain(&failed("42P01", None, 1, Some("finish_step_v2")), "DROP TABLE d", "1_x/up.sql", "deploy", true);
        assert!(failure.message.contains("drops Diesel's table"), "{failure}");
    }
}
