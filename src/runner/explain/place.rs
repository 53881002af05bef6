//! Where a script was refused. The server names a character, a line of a block or nothing, and what
//! schemad sends around the script is in its way.

use crate::runner::message;
use crate::{
    postgres::SqlError,
    runner::ScriptError,
    sql::{self, TextPosition},
};

/// A refused statement, found in its file.
pub(super) struct RefusedStatement {
    /// With the words that the server would have had for the script alone.
    pub failed: ScriptError,
    pub place: Option<TextPosition>,
    /// All statements of the script, or of its part, were through.
    pub is_through: bool,
}

impl RefusedStatement {
    /// Without what the server quotes of a statement that holds a password.
    pub(super) fn without_secrets(self, sql: &str) -> Self {
        let statement = sql::split(sql).into_iter().nth(self.failed.statements_done);
        let is_of_secret = statement.is_some_and(|statement| statement.holds_secret());
        let error = self
            .failed
            .error
            .without(&sql::SecretWords::of(sql), is_of_secret);
        Self {
            failed: ScriptError {
                error,
                ..self.failed
            },
            ..self
        }
    }
}

pub(super) fn find(failed: &ScriptError, sql: &str) -> RefusedStatement {
    let is_syntax = failed.error.sqlstate == "42601";
    // An open quote swallows what schemad sends after the script, and the server's words would be
    // about that; unless it stopped before it got there.
    let reached = |at: usize| {
        script_position(failed).is_none_or(|stopped| stopped >= sql::nth_character(sql, at))
    };
    if let Some((what, at)) = sql::unterminated(sql).filter(|(_, at)| is_syntax && reached(*at)) {
        return broken_off(failed, sql, format!("unterminated {what}"), at);
    }
    // Behind the script the server reads schemad's semicolon, and the file has none there.
    if is_syntax
        && script_position(failed).is_some_and(|at| at > sql.chars().count())
        && let Some(last) = sql::split(sql).last()
    {
        return broken_off(
            failed,
            sql,
            "syntax error at end of input".into(),
            last.end(),
        );
    }
    let is_through = failed
        .undone
        .map_or(failed.statements_done >= sql::count(sql), |undone| {
            undone.through
        });
    // The server reads a whole message before it runs the first statement, so where it points tells
    // more than what was through.
    let pointed = pointed(failed, sql);
    let suspect = || suspect(failed, sql).filter(|_| is_through);
    let statement = pointed
        .map(|at| sql::statement_of(sql, at))
        .or_else(suspect);
    let failed = with_statement(failed, statement.unwrap_or(failed.statements_done));
    let place = match pointed {
        Some(at) => Some(sql::place(sql, at)),
        None => in_block(&failed, sql).or_else(|| sql::start_of(sql, failed.statements_done)),
    };
    RefusedStatement {
        failed,
        place,
        is_through,
    }
}

/// The error as the server would have put it, had the script come alone.
fn broken_off(failed: &ScriptError, sql: &str, message: String, at: usize) -> RefusedStatement {
    let error = SqlError {
        sqlstate: failed.error.sqlstate.clone(),
        message,
        ..SqlError::default()
    };
    let nth = sql::nth_character(sql, at);
    let failed = ScriptError {
        error,
        ..with_statement(failed, sql::statement_of(sql, nth))
    };
    RefusedStatement {
        failed,
        place: Some(sql::place(sql, nth)),
        is_through: false,
    }
}

fn with_statement(failed: &ScriptError, statements_done: usize) -> ScriptError {
    let ScriptError {
        error,
        preamble,
        undone,
        ..
    } = failed;
    ScriptError {
        error: error.clone(),
        statements_done,
        preamble: *preamble,
        undone: *undone,
    }
}

/// The character that the server pointed to, counted from the script's first as 1.
fn script_position(failed: &ScriptError) -> Option<usize> {
    failed
        .error
        .position?
        .checked_sub(failed.preamble)
        .filter(|at| *at > 0)
}

/// The character of the script (from 1) that the server pointed to.
fn pointed(failed: &ScriptError, sql: &str) -> Option<usize> {
    script_position(failed).filter(|at| *at <= sql.chars().count())
}

/// The statement that names what the second guard misses.
fn suspect(failed: &ScriptError, sql: &str) -> Option<usize> {
    let error = &failed.error;
    let in_guard = error
        .context
        .as_deref()
        .is_some_and(|context| context.contains(message::FINISH_STEP));
    let name = match error.sqlstate.as_str() {
        "SCH04" => "advisory_unlock",
        "23505" | "42P01" | "3F000" if in_guard => "__diesel_schema_migrations",
        "3F000" | "42883" if error.message.contains("schemad") => "schemad",
        _ => return None,
    };
    sql::split(sql)
        .iter()
        .position(|statement| statement.sql.to_ascii_lowercase().contains(name))
}

/// The line of a DO block that the outermost context names. PL/pgSQL counts from the line of the
/// opening quote.
fn in_block(failed: &ScriptError, sql: &str) -> Option<TextPosition> {
    let outermost = failed.error.context.as_deref()?.lines().last()?;
    let line: usize = outermost
        .strip_prefix("PL/pgSQL function inline_code_block line ")?
        .split(' ')
        .next()?
        .parse()
        .ok()?;
    let statement = sql::split(sql).into_iter().nth(failed.statements_done)?;
    let body = body_of_block(&statement)?;
    let offset = body.as_ptr() as usize - statement.sql.as_ptr() as usize;
    let opened = sql::place(sql, sql::nth_character(sql, statement.start + offset)).line;
    let line = opened.checked_add(line)?.checked_sub(1)?;
    let text = sql.split('\n').nth(line.checked_sub(1)?)?;
    let indent = text.chars().take_while(|c| c.is_whitespace()).count();
    Some(TextPosition {
        line,
        column: indent + 1,
    })
}

/// The quoted text of a DO; its language may be quoted as well.
fn body_of_block<'a>(statement: &sql::Statement<'a>) -> Option<&'a str> {
    let mut tokens = statement.tokens();
    while let Some(token) = tokens.next() {
        if token.eq_ignore_ascii_case("language") {
            tokens.next();
        } else if token.starts_with(['$', '\'']) || token.contains('\'') {
            return Some(token);
        }
    }
    None
}
