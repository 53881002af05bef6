//! A failed statement as compilers show one: the line of the file, a caret, and what the server
//! said about it.

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use anstream::{AutoStream, ColorChoice};
use tonic::Status;
use tonic_types::StatusExt as _;
use unicode_width::UnicodeWidthChar as _;

use super::output::{self, plain};
use crate::cli::client::remedies;
use crate::{failure::status::DOMAIN, sql};

/// What to show instead of the status's message, which says the same in one line. None when it is
/// no failed script's.
pub(crate) fn of(status: &Status) -> Option<String> {
    let colours = AutoStream::choice(&std::io::stderr()) != ColorChoice::Never;
    let renderer = if colours {
        Renderer::styled()
    } else {
        Renderer::plain()
    };
    render(
        status,
        renderer,
        output::width().unwrap_or(120).clamp(60, 160),
    )
}

fn render(status: &Status, renderer: Renderer, width: usize) -> Option<String> {
    let renderer = renderer.term_width(width);
    let info = status
        .get_details_error_info()
        .filter(|info| info.domain == DOMAIN)?;
    let get = |key: &str| {
        info.metadata
            .get(key)
            .map(|text| plain(text))
            .filter(|text| !text.is_empty())
    };
    let number = |key: &str| {
        info.metadata
            .get(key)
            .and_then(|text| text.parse::<usize>().ok())
    };
    // The server's words, or schemad's about a statement that it did not run.
    let title = match (get("database_message"), get("sqlstate")) {
        (Some(message), Some(sqlstate)) => format!("{message} (SQLSTATE {sqlstate})"),
        _ => get("problem")?,
    };
    let file = get("file")?;
    let statement = number("statement")
        .zip(number("statements"))
        .map(|(n, of)| format!("statement {n} of {of}"));

    let title = output::wrapped(
        &title,
        width.saturating_sub("error[]: ".len() + info.reason.len()),
    );
    let mut group = Group::with_title(Level::ERROR.primary_title(title).id(info.reason.as_str()));
    let (source, inner) = (get("source"), get("inner_source"));
    match (&source, number("line"), number("source_column")) {
        (Some(source), Some(line), Some(column)) => {
            let (source, column) =
                fitted(source, column, number("column").unwrap_or(column), width);
            let span = AnnotationKind::Primary
                .span(word(&source, column))
                .label(statement);
            group = group.element(
                Snippet::source(source)
                    .line_start(line)
                    .path(file)
                    .annotation(span),
            );
        }
        _ => {
            group =
                group.element(Level::NOTE.message(format!("in {file}, after its last statement")))
        }
    }
    if let (Some(inner), Some(line), Some(column)) =
        (&inner, number("inner_line"), number("inner_source_column"))
    {
        let (inner, column) = fitted(
            inner,
            column,
            number("inner_column").unwrap_or(column),
            width,
        );
        let span = AnnotationKind::Primary.span(word(&inner, column));
        group = group.element(
            Snippet::source(inner)
                .line_start(line)
                .path("a statement inside it")
                .annotation(span),
        );
    }
    for (name, key) in [
        ("detail", "detail"),
        ("context", "context"),
        ("hint", "hint"),
    ] {
        if let Some(text) = get(key) {
            group = group.element(Level::NOTE.with_name(name).message(wrapped(&text, width)));
        }
    }
    for (level, key) in [(Level::HELP, "meaning"), (Level::NOTE, "consequence")] {
        if let Some(text) = get(key) {
            group = group.element(level.message(wrapped(&remedies::without_methods(&text), width)));
        }
    }
    Some(renderer.render(&[group]))
}

/// What stands beside a line of the file: its number, and the frame.
const MARGIN: usize = 16;

/// As much of a line around `source_column` (from 1, in characters) as a terminal shows: the
/// renderer's own way of shortening does not know that a character may be two columns wide. What is
/// before it is filled with space, which the renderer leaves out again, so that the location it
/// shows is `column`, the file's.
fn fitted(source: &str, source_column: usize, column: usize, width: usize) -> (String, usize) {
    // More than any file's line, and nothing that a daemon says makes this program run out of
    // memory.
    const LONGEST: usize = 1 << 24;
    let (part, at) = part(source, source_column, width - MARGIN);
    let before = column.saturating_sub(at).min(LONGEST);
    (" ".repeat(before) + &part, at + before)
}

/// What fits into `room` columns, and where the column is in it. … stands for what is left out
/// behind it; the renderer says so of what is before it.
fn part(source: &str, column: usize, room: usize) -> (String, usize) {
    let characters: Vec<char> = source.chars().collect();
    let shown = sql::around(&characters, column.saturating_sub(1), room, |c| {
        c.width().unwrap_or_default()
    });
    let column = column - shown.start.min(column);
    let more = if shown.end < characters.len() {
        "…"
    } else {
        ""
    };
    (String::from_iter(&characters[shown]) + more, column)
}

/// Notes are not wrapped by themselves.
fn wrapped(text: &str, width: usize) -> String {
    output::wrapped(text, width - MARGIN)
}

/// The bytes of the word, or the one sign, at a column (from 1, in characters).
fn word(source: &str, column: usize) -> std::ops::Range<usize> {
    let start = source
        .char_indices()
        .nth(column.saturating_sub(1))
        .map_or(source.len(), |(at, _)| at);
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let rest = &source[start..];
    let length = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
    let length = length.max(rest.chars().next().map_or(0, char::len_utf8));
    start..start + length
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        failure::status::status_from_failure,
        migration::{
            Checksum, Direction, JournalRecord, MigrationRow, RunningPart, Script, ScriptMode,
            run_mode,
            set::{
                MigrationSet,
                tests::{Hand, Source},
            },
        },
        planner::{ApplyRequest, plan_apply},
        postgres::SqlError,
        runner::{ScriptError, explain},
    };

    /// What a person sees when `error` comes after `statements_done` of `sql`.
    fn shown(
        sql: &str,
        statements_done: usize,
        position: Option<usize>,
        error: SqlError,
    ) -> String {
        let error = SqlError {
            position,
            sqlstate: if error.sqlstate.is_empty() {
                "42601".into()
            } else {
                error.sqlstate
            },
            ..error
        };
        let failed = ScriptError {
            error,
            statements_done,
            preamble: 0,
            undone: None,
        };
        let status = status_from_failure(
            &explain(&failed, sql, "2026-01-05_users/up.sql", "deploy", false)
                .with("file", "2026-01-05_users/up.sql"),
        );
        render(&status, Renderer::plain(), 80).unwrap()
    }

    fn said(message: &str) -> SqlError {
        SqlError {
            message: message.into(),
            ..SqlError::default()
        }
    }

    #[test]
    fn a_syntax_error() {
        let sql =
            "CREATE TABLE a (id int);\nCREATE TABLE b (\n    id int,\n    name txt NOT NULL\n);\n";
        let error = SqlError {
            sqlstate: "42704".into(),
            hint: Some("Is it text?".into()),
            ..said("type \"txt\" does not exist")
        };
        insta::assert_snapshot!(shown(sql, 1, Some(64), error));
    }

    #[test]
    fn an_error_without_a_position() {
        let error = SqlError {
            sqlstate: "22012".into(),
            ..said("division by zero")
        };
        insta::assert_snapshot!(shown("SELECT 1;\n-- why\nSELECT\n 1/0;", 1, None, error));
    }

    #[test]
    fn an_error_in_a_do_block() {
        let error = SqlError {
            sqlstate: "P0001".into(),
            context: Some("PL/pgSQL function inline_code_block line 3 at RAISE".into()),
            ..said("the table is not empty")
        };
        insta::assert_snapshot!(shown(
            "DO $$\nBEGIN\n    RAISE 'the table is not empty';\nEND $$;",
            0,
            None,
            error
        ));
    }

    #[test]
    fn an_error_inside_a_function() {
        let error = SqlError {
            sqlstate: "42703".into(),
            internal_query: Some("INSERT INTO log\n  VALUES (nobody)".into()),
            internal_position: Some(27),
            context: Some("PL/pgSQL function note() line 2 at SQL statement".into()),
            ..said("column \"nobody\" does not exist")
        };
        insta::assert_snapshot!(shown("UPDATE t SET n = 1;", 0, None, error));
    }

    #[test]
    fn a_very_long_line_of_double_width() {
        let sql = format!("SELECT '{}' || nope;", "日".repeat(240));
        insta::assert_snapshot!(shown(
            &sql,
            0,
            Some(254),
            said("column \"nope\" does not exist")
        ));
    }

    #[test]
    fn text_of_several_bytes_and_of_double_width() {
        insta::assert_snapshot!(shown(
            "SELECT 'größe', '漢字', wo FROM t;",
            0,
            Some(23),
            said("column \"wo\" does not exist")
        ));
    }

    #[test]
    fn a_very_long_line() {
        let sql = format!(
            "INSERT INTO t VALUES ({}oops, {});",
            "1, ".repeat(3000),
            "2, ".repeat(3000)
        );
        insta::assert_snapshot!(shown(
            &sql,
            0,
            Some(9023),
            said("column \"oops\" does not exist")
        ));
    }

    #[test]
    fn a_deferred_constraint_at_the_end() {
        let error = SqlError {
            sqlstate: "23503".into(),
            detail: Some("Key (p)=(1) is not present in table \"p\".".into()),
            ..said("insert or update on table \"c\" violates foreign key constraint \"c_p_fkey\"")
        };
        insta::assert_snapshot!(shown("INSERT INTO c VALUES (1);", 1, None, error));
    }

    #[test]
    fn a_very_long_line_inside_a_function() {
        let query = format!("SELECT {}oops", "1, ".repeat(1000));
        let error = SqlError {
            sqlstate: "42703".into(),
            internal_position: Some(query.chars().count() - 3),
            internal_query: Some(query),
            ..said("column \"oops\" does not exist")
        };
        insta::assert_snapshot!(shown("DO $$ BEGIN EXECUTE f(); END $$;", 0, None, error));
    }

    #[test]
    fn a_file_that_ends_too_early() {
        let sql = "CREATE TABLE a (i int);\nALTER TABLE a ADD COLUMN\n";
        insta::assert_snapshot!(shown(
            sql,
            0,
            Some(sql.len() + 1),
            said("syntax error at or near \";\"")
        ));
    }

    #[test]
    fn a_statement_that_cannot_run() {
        let script = Script::new(
            "SELECT 1;\nCREATE INDEX CONCURRENTLY i ON t (n);\n",
            ScriptMode::Transactional,
        );
        let refused =
            run_mode::parts("1_i", &"1".parse().unwrap(), Direction::Up, &script).unwrap_err();
        insta::assert_snapshot!(
            render(&status_from_failure(&refused), Renderer::plain(), 80).unwrap()
        );
    }

    #[test]
    fn a_statement_in_doubt() {
        let script = "SELECT 1;\nCALL work();\n";
        let running = RunningPart {
            checksum: Checksum::of_script("CALL work()").to_string(),
            in_doubt: true,
            failed: false,
        };
        let journal = JournalRecord {
            step: 7,
            direction: Direction::Up,
            name: "1_a".into(),
            done: vec!["a".into()],
            running: Some(running),
            tried: None,
            script: Some(script.into()),
        };
        let row = MigrationRow {
            version: "1".parse().unwrap(),
            run_on: None,
            recorded: None,
            journal: Some(journal),
        };
        let refusal = plan_apply(&catalog(), &[row], &ApplyRequest::default()).unwrap_err();
        insta::assert_snapshot!(
            render(&status_from_failure(&refusal.into()), Renderer::plain(), 80).unwrap()
        );
    }

    fn catalog() -> MigrationSet {
        MigrationSet::load(&Source(vec![Hand("1_a", vec!["SELECT 1"], None)])).unwrap()
    }

    #[test]
    fn nothing_commands_the_terminal() {
        let text = shown("SELECT '\u{1b}[2J', x", 0, Some(16), said("no\u{1b}[2J"));
        assert!(!text.contains('\u{1b}'), "{text:?}");
    }
}
