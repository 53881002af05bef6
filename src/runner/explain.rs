//! A refused statement in an operator's words: which file, which statement, which line, and what it
//! means.

mod grant;
mod meaning;
mod place;

use super::{ScriptError, UndoneExtent};
use crate::{
    failure::{Failure, Reason},
    postgres::SqlError,
    sql::{self, TextPosition},
};

/// The failure that tells where `sql`, the script of `file`, was refused. `in_doubt`: the statement
/// may have committed a part of its work before it failed.
pub(crate) fn explain(
    failed: &ScriptError,
    sql: &str,
    file: &str,
    role: &str,
    in_doubt: bool,
) -> Failure {
    let found = place::find(failed, sql).without_secrets(sql);
    let (error, place) = (&found.failed.error, found.place);
    let total = sql::count(sql);
    let in_script = found.failed.statements_done < total;
    let meaning = meaning::of(&found.failed, sql, role, found.is_through);
    let consequence = consequence(&found.failed, in_doubt);

    let mut message = file.to_owned();
    if let Some(TextPosition { line, column }) = place {
        message += &format!(", line {line}, column {column}");
    }
    if in_script {
        message += &format!(
            ", statement {} of {total}",
            found.failed.statements_done + 1
        );
    }
    message += &format!(": {}", error.to_string().trim_end_matches('.'));
    for sentence in meaning.as_deref().into_iter().chain([consequence.as_str()]) {
        message += &format!(". {sentence}");
    }

    let mut failure = Failure::new(Reason::MigrationFailed, cut(&message))
        .with("sqlstate", &error.sqlstate)
        .with("database_message", cut(&error.message))
        .with("consequence", consequence);
    if in_script {
        failure = failure
            .with("statement", found.failed.statements_done + 1)
            .with("statements", total);
    }
    if let Some(place) = place {
        let (source, source_column) = if error.ran_secret {
            (sql::NOT_SHOWN.to_owned(), 1)
        } else {
            sql::excerpt(sql, place)
        };
        failure = failure
            .with("line", place.line)
            .with("column", place.column);
        failure = failure
            .with("source", source)
            .with("source_column", source_column);
    }
    // A statement that the server ran itself, inside a function.
    if let (Some(query), Some(at)) = (&error.internal_query, error.internal_position) {
        let place = sql::place(query, at);
        let (source, source_column) = sql::excerpt(query, place);
        failure = failure
            .with("inner_line", place.line)
            .with("inner_column", place.column);
        failure = failure
            .with("inner_source", source)
            .with("inner_source_column", source_column);
    }
    let texts = [
        ("detail", error.detail.as_deref()),
        ("hint", error.hint.as_deref()),
        // Of schemad's own functions nobody has to know.
        (
            "context",
            error
                .context
                .as_deref()
                .filter(|context| !context.contains("function schemad.")),
        ),
        ("meaning", meaning.as_deref()),
    ];
    for (key, text) in texts {
        if let Some(text) = text {
            failure = failure.with(key, cut(text));
        }
    }
    failure
}

/// The right that schemad itself lacks on its ledger or Diesel's table, if that is why it was
/// refused. `login`: whose session it is.
pub(crate) fn grant_on_the_ledger(error: &SqlError, login: &str) -> Option<String> {
    const TABLES: &str = "UPDATE schemad.steps, schemad.statements, schemad.operations, \
        schemad.migrations, schemad.ledger";
    const LOCK: &str = "LOCK TABLE __diesel_schema_migrations";
    let own = if error.message.ends_with("__diesel_schema_migrations") {
        LOCK
    } else {
        TABLES
    };
    let statement = grant::inner(error).unwrap_or(own);
    let is_right = error.sqlstate == "42501";
    // It creates nothing in a schema that is there.
    let helps = || {
        grant::helps(&error.message, login, sql::split(statement).first())
            .replace("USAGE, CREATE ON", "USAGE ON")
    };
    is_right.then(helps)
}

/// What became of the step, and what follows.
fn consequence(failed: &ScriptError, in_doubt: bool) -> String {
    const GOES_ON: &str = "the next Apply goes on from there (a down: the next Rollback); what did \
        not run yet may be changed";
    match (in_doubt, failed.undone) {
        // The guard found another transaction than the one that schemad began, so that was ended,
        // one way or the other.
        _ if failed.error.sqlstate == "SCH03" => "What the file did before it ended its \
             transaction may be committed and stay; what came behind that was undone. Look what of \
             it is there, and put it right by hand before the file is run again"
            .into(),
        (true, _) => "It may have committed a part of its work before it failed. Look \
             what of it is there; nothing is applied or rolled back until you say so (Resolve): \
             that it was applied, that it was not, or that doing it again does no harm"
            .into(),
        (false, None) => "The step was undone completely; the steps before it stay".into(),
        (false, Some(UndoneExtent { stays: true, .. })) => {
            "What ran stays, and could not be recorded; the status says how it goes on".into()
        }
        (false, Some(undone)) if undone.first == 0 => {
            "Nothing of the file stays, and the next Apply begins it again (a down: the next \
             Rollback); it may be changed"
                .into()
        }
        (false, Some(undone)) if undone.first < failed.statements_done => format!(
            "The transaction that begins at statement {} was undone. The statements before it \
             stay, and {GOES_ON}",
            undone.first + 1
        ),
        (false, Some(_)) => format!("The statements before it stay, and {GOES_ON}"),
    }
}

/// Metadata travels in a trailer, which proxies limit; the first 2,000 characters say what there is
/// to say.
fn cut(text: &str) -> String {
    const LONGEST: usize = 2_000;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runner::message;

    fn failed(
        sqlstate: &str,
        position: Option<usize>,
        statements_done: usize,
        context: Option<&str>,
    ) -> ScriptError {
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
            undone: None,
        }
    }

    fn told(failed: &ScriptError, sql: &str) -> Failure {
        explain(failed, sql, "1_x/up.sql", "deploy", false)
    }

    #[test]
    fn the_place_is_counted_in_characters_of_the_file() {
        let failure = told(&failed("42601", Some(14), 1, None), "SELECT 'é';\n SELCT 1");
        assert_eq!(
            (
                failure.metadata["line"].as_str(),
                failure.metadata["column"].as_str()
            ),
            ("2", "2")
        );
        assert_eq!(
            (failure.metadata["statement"].as_str(), failure.reason),
            ("2", Reason::MigrationFailed)
        );
    }

    #[test]
    fn an_error_without_a_position_is_placed_at_its_statement() {
        let failure = told(
            &failed("22012", None, 1, None),
            "SELECT 1;\n-- why\nSELECT 1/0;",
        );
        insta::assert_snapshot!(failure.message, @"1_x/up.sql, line 3, column 1, statement 2 of 2: \
            no (SQLSTATE 22012). The step was undone completely; the steps before it stay");
    }

    #[test]
    fn a_line_of_a_do_block_is_a_line_of_the_file() {
        let sql = "SELECT 1;\nDO LANGUAGE plpgsql $x$\nBEGIN\n    RAISE 'no';\nEND\n$x$;";
        let context = "SQL statement \"x\"\nPL/pgSQL function inline_code_block line 3 at RAISE";
        let failure = told(&failed("P0001", None, 1, Some(context)), sql);
        assert_eq!(
            ["line", "column", "source"].map(|k| failure.metadata[k].as_str()),
            ["4", "5", "    RAISE 'no';"]
        );
    }

    #[test]
    fn an_error_after_the_script_is_not_blamed_on_a_line() {
        let failure = told(&failed("23503", None, 1, None), "INSERT INTO t VALUES (1)");
        assert!(failure.message.contains("deferred constraint"), "{failure}");
        assert!(
            !failure.metadata.contains_key("line") && !failure.metadata.contains_key("statement")
        );
        let failure = told(
            &failed("42P01", None, 1, Some(message::FINISH_STEP)),
            "DROP TABLE d",
        );
        assert!(
            failure.message.contains("drops or moves Diesel's table"),
            "{failure}"
        );
    }

    #[test]
    fn a_file_that_ends_too_early_is_blamed_at_its_end() {
        for sql in [
            "CREATE TABLE a (i int);\nCREATE TABLE b (i int);\nALTER TABLE b ADD COLUMN",
            "SELECT 1;\nSELECT 2;\nSELECT 2 + -- more\n\n",
            "SELECT 1;\nSELECT 2;\nCREATE TABLE c (i int /* last */",
        ] {
            for undone in [
                None,
                Some(UndoneExtent {
                    first: 2,
                    through: false,
                    stays: false,
                }),
            ] {
                let position = Some(sql.chars().count() + 2);
                let failed = ScriptError {
                    undone,
                    ..failed("42601", position, 0, None)
                };
                let failure = told(&failed, sql);
                assert_eq!(
                    failure.metadata["database_message"],
                    "syntax error at end of input"
                );
                let told =
                    ["line", "statement", "statements"].map(|key| failure.metadata[key].as_str());
                assert_eq!(told, ["3", "3", "3"], "{sql}");
            }
        }
        let failure = told(&failed("42601", Some(10), 0, None), "SELECT 1 +;");
        assert_eq!(
            (
                failure.metadata["column"].as_str(),
                failure.metadata["database_message"].as_str()
            ),
            ("10", "no")
        );
    }

    #[test]
    fn an_open_quote_is_not_blamed_for_an_error_before_it() {
        let sql = "begin\n  raise 'no way back';\nend\n$$;";
        let failure = told(&failed("42601", Some(9), 0, None), sql);
        let place =
            ["line", "column", "database_message"].map(|key| failure.metadata[key].as_str());
        assert_eq!(place, ["2", "3", "no"]);
        for position in [None, Some(sql.chars().count() + 5)] {
            let failure = told(&failed("42601", position, 0, None), sql);
            assert_eq!(
                failure.metadata["database_message"],
                "unterminated dollar-quoted string"
            );
        }
    }

    #[test]
    fn a_right_that_schemad_itself_lacks_is_named_with_its_schema() {
        let mut error = SqlError {
            sqlstate: "42501".into(),
            ..SqlError::default()
        };
        error.message = "permission denied for table statements".into();
        let grant = grant_on_the_ledger(&error, "deploy").unwrap();
        assert!(
            grant.contains("ON TABLE schemad.statements TO deploy"),
            "{grant}"
        );
        error.sqlstate = "42P01".into();
        assert_eq!(grant_on_the_ledger(&error, "deploy"), None);
    }

    #[test]
    fn what_stays_is_told_as_it_is() {
        let sql = "SELECT 1;\nBEGIN;\nSELECT 2;\nSELECT 1/0;\nCOMMIT";
        let consequence = |first, done, doubt| {
            let undone = Some(UndoneExtent {
                first,
                through: false,
                stays: false,
            });
            let failed = ScriptError {
                undone,
                ..failed("22012", None, done, None)
            };
            explain(&failed, sql, "1_x/up.sql", "deploy", doubt)
                .metadata
                .remove("consequence")
                .unwrap()
        };
        assert!(
            consequence(1, 3, false)
                .starts_with("The transaction that begins at statement 2 was undone.")
        );
        assert!(
            consequence(1, 1, false)
                .starts_with("The statements before it stay, and the next Apply")
        );
        assert!(
            consequence(0, 0, false).starts_with("Nothing of the file stays, and the next Apply")
        );
        let doubt = consequence(0, 0, true);
        assert!(
            doubt.contains("until you say so (Resolve)") && !doubt.contains("next Apply"),
            "{doubt}"
        );
    }

    #[test]
    fn what_the_guards_refuse_is_blamed_on_the_statement_that_names_it() {
        let sql = "SELECT 1;\n SELECT pg_advisory_unlock_all();";
        let failure = told(&failed("SCH04", None, 2, Some(message::FINISH_STEP)), sql);
        let told = ["line", "column", "statement"].map(|key| failure.metadata[key].as_str());
        assert_eq!(told, ["2", "2", "2"], "{failure}");
    }

    #[test]
    fn a_block_in_single_quotes_has_lines_too() {
        for sql in [
            "SELECT 1;\nDO '\nBEGIN\n  RAISE ''no'';\nEND';",
            "SELECT 1;\nDO LANGUAGE 'plpgsql' E'\nBEGIN\n  RAISE ''no'';\nEND';",
        ] {
            let context = "PL/pgSQL function inline_code_block line 3 at RAISE";
            let failure = told(&failed("P0001", None, 1, Some(context)), sql);
            assert_eq!(
                ["line", "column"].map(|k| failure.metadata[k].as_str()),
                ["4", "3"],
                "{sql}"
            );
        }
    }

    #[test]
    fn what_helps_is_said() {
        let block = Some(UndoneExtent {
            first: 0,
            through: false,
            stays: false,
        });
        for (sqlstate, message, undone, done, context, word) in [
            (
                "2D000",
                "invalid transaction termination",
                None,
                0,
                None,
                "run_in_transaction = false",
            ),
            (
                "2D000",
                "invalid transaction termination",
                block,
                1,
                None,
                "out of the file's BEGIN",
            ),
            (
                "25001",
                "no",
                block,
                0,
                Some("PL/pgSQL function inline_code_block line 1"),
                "inside of a function",
            ),
            (
                "P0001",
                "not so",
                None,
                2,
                Some("PL/pgSQL function t()"),
                "deferred constraint",
            ),
            (
                "3F000",
                "schema \"schemad\" does not exist",
                None,
                2,
                None,
                "drops the schema schemad",
            ),
            (
                "55000",
                "x must be loaded via shared_preload_libraries",
                None,
                0,
                None,
                "start the server anew",
            ),
            (
                "XX000",
                "extension \"timescaledb\" must be preloaded",
                None,
                0,
                None,
                "start the server anew",
            ),
            (
                "55000",
                "x can only be loaded at server start",
                block,
                1,
                None,
                "shared_preload_libraries",
            ),
        ] {
            let mut failed = ScriptError {
                undone,
                ..failed(sqlstate, None, done, context)
            };
            failed.error.message = message.into();
            let failure = told(&failed, "SELECT 1;\nSELECT 2");
            assert!(
                failure.metadata["meaning"].contains(word),
                "{sqlstate}: {failure}"
            );
        }
    }
}
