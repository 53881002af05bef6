//! Analyses SQL without a server: finds the statements, the line of a character, the effect of a
//! statement on its transaction, and the settings in a file's leading comments.

use std::ops::Range;

use crate::runtime::blocking::in_place;

mod extension;
pub(crate) mod external_effect;
mod ident;
mod kind;
pub(crate) mod non_transactional;
mod search_path;
mod secret;
pub(crate) mod session_state;
mod settings;
mod split;
mod units;

pub(crate) use extension::CreateExtension;
pub use external_effect::{
    ExternalEffect, drops_roles, first_reach, first_role_change, is_dynamic,
};
pub(crate) use ident::{ident, literal};
pub use kind::StatementKind;
pub(crate) use non_transactional::NonTransactional;
pub use secret::NOT_SHOWN;
pub(crate) use secret::SecretWords;
pub(crate) use session_state::{SessionLoss, loses_session};
pub use settings::settings;
pub(crate) use settings::{ScriptSettings, may_define};
pub use split::{Statement, split, unterminated};
pub(crate) use split::{semicolon_after, statements};
pub(crate) use units::{Hazard, ScriptUnit, mentions};
pub use units::{UnitWork, has_own_transactions, hazard, lone_begin, transaction_modes, units};

/// A line and a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextPosition {
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
}

/// Returns the position of the `nth` character (from 1) of `sql`.
pub fn place(sql: &str, nth: usize) -> TextPosition {
    in_place(sql.len(), || count_lines(sql, nth))
}

fn count_lines(sql: &str, nth: usize) -> TextPosition {
    let mut place = TextPosition { line: 1, column: 1 };
    for c in sql.chars().take(nth.saturating_sub(1)) {
        place = match c {
            '\n' => TextPosition {
                line: place.line + 1,
                column: 1,
            },
            _ => TextPosition {
                column: place.column + 1,
                ..place
            },
        };
    }
    place
}

/// Returns the number (from 1) of the character at byte `at` of `sql`.
pub fn nth_character(sql: &str, at: usize) -> usize {
    in_place(at, || sql[..at].chars().count() + 1)
}

/// The most bytes of a line in an excerpt. The metadata of a failure is truncated at slightly more.
const EXCERPT: usize = 200;

/// Returns the line at `place`, or the part of a very long line around it, and the column in that
/// text. A line of a statement that holds a password is replaced by [`NOT_SHOWN`].
pub fn excerpt(sql: &str, place: TextPosition) -> (String, usize) {
    in_place(sql.len(), || cut_out(sql, place))
}

fn cut_out(sql: &str, place: TextPosition) -> (String, usize) {
    let start: usize = sql
        .split_inclusive('\n')
        .take(place.line - 1)
        .map(str::len)
        .sum();
    let end = sql[start..].find('\n').map_or(sql.len(), |at| start + at);
    if secret::is_on_line(sql, start, end) {
        return (NOT_SHOWN.to_owned(), 1);
    }
    let line = sql
        .split('\n')
        .nth(place.line - 1)
        .unwrap_or_default()
        .trim_end_matches('\r');
    // A carriage return ends a line in old Macintosh files.
    let line: Vec<char> = line.replace('\r', " ").chars().collect();
    let part = around(&line, place.column - 1, EXCERPT, char::len_utf8);
    (
        line[part.clone()].iter().collect(),
        place.column - part.start,
    )
}

/// Returns the part of a line around its character `at` that takes up at most `room`. `takes`
/// returns the size of a character.
pub(crate) fn around(
    line: &[char],
    at: usize,
    room: usize,
    takes: impl Fn(char) -> usize,
) -> Range<usize> {
    let at = at.min(line.len());
    // Returns the number of characters that fit, and the room that is left.
    let fit = |characters: &mut dyn Iterator<Item = &char>, room: usize| {
        let mut left = room;
        let fitting = characters
            .map_while(|c| left.checked_sub(takes(*c)).inspect(|rest| left = *rest))
            .count();
        (fitting, left)
    };
    let (_, unused) = fit(&mut line[at..].iter(), room / 2);
    let (before, left) = fit(&mut line[..at].iter().rev(), room - room / 2 + unused);
    let (after, _) = fit(&mut line[at..].iter(), room / 2 - unused + left);
    at - before..at + after
}

/// Returns the number of statements in `sql`.
pub fn count(sql: &str) -> usize {
    in_place(sql.len(), || statements(sql).count())
}

/// Returns the index (from 0) of the statement at the `nth` character (from 1). Text between two
/// statements belongs to the first.
pub fn statement_of(sql: &str, nth: usize) -> usize {
    in_place(sql.len(), || {
        let byte = sql
            .char_indices()
            .nth(nth.saturating_sub(1))
            .map_or(sql.len(), |(byte, _)| byte);
        statement_before(sql, byte)
    })
}

/// Returns the index (from 0) of the statement at `place`. Text between two statements belongs to
/// the first.
pub(crate) fn statement_at(sql: &str, place: TextPosition) -> usize {
    in_place(sql.len(), || {
        let line: usize = sql
            .split_inclusive('\n')
            .take(place.line.saturating_sub(1))
            .map(str::len)
            .sum();
        let column = sql[line..]
            .char_indices()
            .nth(place.column.saturating_sub(1));
        statement_before(sql, column.map_or(sql.len(), |(at, _)| line + at))
    })
}

/// Returns the index (from 0) of the last statement that begins at or before byte `at`.
fn statement_before(sql: &str, at: usize) -> usize {
    statements(sql)
        .take_while(|statement| statement.start <= at)
        .count()
        .saturating_sub(1)
}

/// Returns the position where the `index`th statement (from 0) begins.
pub fn start_of(sql: &str, index: usize) -> Option<TextPosition> {
    in_place(sql.len(), || {
        let statement = statements(sql).nth(index)?;
        Some(place(sql, nth_character(sql, statement.start)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_is_the_line_or_the_part_that_matters() {
        let at = |sql: &str, line, column| excerpt(sql, TextPosition { line, column });
        assert_eq!(at("a\n bé c\r\nd", 2, 3), (" bé c".into(), 3));
        assert_eq!(at("", 1, 1), (String::new(), 1));
        assert_eq!(at("a\rb\rc", 1, 5), ("a b c".into(), 5));
        let long = format!("{}X{}", "a".repeat(1000), "b".repeat(1000));
        let (part, column) = at(&long, 1, 1001);
        assert_eq!(
            (part.chars().count(), part.chars().nth(column - 1)),
            (200, Some('X'))
        );
        let (part, column) = at(&long, 1, 2001);
        assert_eq!((part.chars().count(), column), (200, 200));
    }

    #[test]
    fn places_count_characters() {
        assert_eq!(place("a\né b", 5), TextPosition { line: 2, column: 3 });
        assert_eq!(place("a", 1), TextPosition { line: 1, column: 1 });
        assert_eq!(
            start_of("SELECT 1; -- x\n  SELECT 2", 1),
            Some(TextPosition { line: 2, column: 3 })
        );
        assert_eq!(count("SELECT 1;; SELECT 2;"), 2);
        let at = |line, column| {
            statement_at(
                "SELECT 1; SELECT é;\n SELECT 2",
                TextPosition { line, column },
            )
        };
        assert_eq!(
            [at(1, 1), at(1, 11), at(2, 1), at(2, 2), at(9, 9)],
            [0, 1, 1, 2, 2]
        );
        assert_eq!(
            [1, 9, 10, 11].map(|nth| statement_of("SELECT é; SELECT 2", nth)),
            [0, 0, 0, 1]
        );
    }
}
