//! The splitter and what is decided by it: hazards, units, places.

use schemad::internals::{
    folder::is_blank,
    sql::{self, Statement, StatementKind, UnitWork},
};

/// The statements of a script are pieces of it, in order, with nothing between them that the server
/// would run.
pub fn split(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let statements = sql::split(text);
    assert_eq!(statements.len(), sql::count(text));
    assert_eq!(statements.is_empty(), is_blank(text), "blank, or not?");
    let mut end = 0;
    for (index, statement) in statements.iter().enumerate() {
        assert!(statement.start >= end && !statement.sql.is_empty());
        assert_eq!(&text[statement.start..statement.end()], statement.sql);
        assert!(
            is_blank(&text[end..statement.start]),
            "skipped: {:?}",
            &text[end..statement.start]
        );
        end = statement.end();
        alone(statement);
        let nth = sql::nth_character(text, statement.start);
        assert_eq!(sql::statement_of(text, nth), index);
        let place = sql::place(text, nth);
        assert_eq!(sql::start_of(text, index), Some(place));
        let (line, column) = sql::excerpt(text, place);
        assert!(line.chars().count() <= 200 && column >= 1);
        let shows_place = line.chars().nth(column - 1) == statement.sql.chars().next();
        let is_hidden = line == sql::NOT_SHOWN;
        assert!(is_hidden || shows_place, "an excerpt shows its place");
        assert!(
            is_hidden || !statement.holds_secret(),
            "no excerpt is of a statement that holds a password"
        );
    }
    assert!(is_blank(&text[end..]), "skipped: {:?}", &text[end..]);
    // A script is judged by its statements, each by itself.
    let of_one = |look: fn(&str) -> Option<sql::ExternalEffect>| {
        statements.iter().find(|one| look(one.sql).is_some())
    };
    for look in [sql::first_reach, sql::first_role_change] {
        let place = of_one(look).map(|one| sql::place(text, sql::nth_character(text, one.start)));
        assert_eq!(
            look(text).map(|found| found.place),
            place,
            "another statement is found"
        );
    }
    assert_eq!(
        sql::is_dynamic(text),
        statements.iter().any(|one| sql::is_dynamic(one.sql))
    );
    assert_eq!(
        sql::drops_roles(text),
        statements.iter().any(|one| sql::drops_roles(one.sql))
    );
    if let Some((_, at)) = sql::unterminated(text) {
        assert!(!text[at..].is_empty());
    }
}

/// A statement is itself when it stands alone, and can be told in one line.
fn alone(statement: &Statement<'_>) {
    let again = sql::split(statement.sql);
    assert_eq!(
        again.iter().map(|again| again.sql).collect::<Vec<_>>(),
        [statement.sql],
        "split again"
    );
    assert_eq!(again[0].kind(), statement.kind());
    let summary = statement.summary();
    assert!(
        summary.chars().count() <= 160 && !summary.contains(['\n', '\r']),
        "{summary:?}"
    );
}

/// The quick looks see all that the slow one sees, and units are pieces of the script in order.
pub fn units(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let statements = sql::split(text);
    let kinds: Vec<StatementKind<'_>> = statements.iter().map(Statement::kind).collect();
    let hazardous = |kind: &StatementKind<'_>| {
        matches!(
            kind,
            StatementKind::Commit
                | StatementKind::Ends
                | StatementKind::Streams
                | StatementKind::Meta
                | StatementKind::Outside(_)
        )
    };
    let in_one = |kind: &StatementKind<'_>| hazardous(kind) || *kind == StatementKind::Discard;
    assert_eq!(
        sql::lone_begin(text).is_some(),
        kinds.contains(&StatementKind::Begin),
        "a BEGIN is overlooked"
    );
    assert_eq!(
        sql::hazard(text).is_some(),
        kinds.iter().any(in_one),
        "a hazard is overlooked"
    );
    let begun = kinds.iter().position(|kind| *kind == StatementKind::Begin);
    let own = begun.is_some_and(|at| kinds[at..].contains(&StatementKind::Commit));
    assert_eq!(
        sql::has_own_transactions(text),
        own,
        "BEGIN and COMMIT are overlooked"
    );
    assert_eq!(
        sql::transaction_modes(text),
        statements.first().and_then(Statement::transaction_modes)
    );
    match sql::units(text) {
        Err((_, place)) => assert!(place.line >= 1 && place.line <= text.split('\n').count()),
        Ok(units) => {
            let mut end = 0;
            for unit in &units {
                assert!(unit.body.start >= end);
                end = unit.body.end();
                assert_eq!(&text[unit.body.start..end], unit.body.sql);
                assert!(unit.statements_before < statements.len());
                assert!(
                    unit.settings
                        .iter()
                        .all(|setting| setting.end() <= unit.body.start)
                );
                if let UnitWork::InTransaction { .. } = unit.work {
                    let inside = sql::split(unit.body.sql);
                    assert!(
                        !inside.is_empty() && !inside.iter().any(|part| hazardous(&part.kind()))
                    );
                }
            }
        }
    }
}
