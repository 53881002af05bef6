//! What a migration lacks when the server says 42501. Only its English words tell; another language
//! gets the general sentence.

use crate::{
    postgres::SqlError,
    sql::{CreateExtension, Statement, ident},
};

/// What stands between "permission denied for" and the name, and the GRANT for it. As aclchk.c has
/// them.
const RIGHTS: [(&str, &str, &str); 16] = [
    ("schema", "USAGE, CREATE", "SCHEMA"),
    ("table", TABLE, "TABLE"),
    ("relation", TABLE, "TABLE"),
    ("view", TABLE, "TABLE"),
    ("materialized view", TABLE, "TABLE"),
    ("foreign table", TABLE, "TABLE"),
    ("sequence", "USAGE, SELECT, UPDATE", "SEQUENCE"),
    ("database", "CREATE", "DATABASE"),
    ("function", "EXECUTE", "ROUTINE"),
    ("procedure", "EXECUTE", "ROUTINE"),
    ("aggregate", "EXECUTE", "ROUTINE"),
    ("type", "USAGE", "TYPE"),
    ("domain", "USAGE", "DOMAIN"),
    ("language", "USAGE", "LANGUAGE"),
    ("foreign server", "USAGE", "FOREIGN SERVER"),
    ("tablespace", "CREATE", "TABLESPACE"),
];
const TABLE: &str = "SELECT, INSERT, UPDATE, DELETE";

/// What stands between "must be owner of" and the name, and what ALTER calls it.
const OWNED: [(&str, &str); 14] = [
    ("table", "TABLE"),
    ("relation", "TABLE"),
    ("view", "VIEW"),
    ("materialized view", "MATERIALIZED VIEW"),
    ("foreign table", "FOREIGN TABLE"),
    ("sequence", "SEQUENCE"),
    ("schema", "SCHEMA"),
    ("database", "DATABASE"),
    ("function", "ROUTINE"),
    ("procedure", "ROUTINE"),
    ("aggregate", "ROUTINE"),
    ("type", "TYPE"),
    ("domain", "DOMAIN"),
    ("publication", "PUBLICATION"),
];

/// The statement inside of a function that was refused, as the context has it.
pub(super) fn inner(error: &SqlError) -> Option<&str> {
    let statement = error.context.as_deref()?.strip_prefix("SQL statement \"")?;
    statement.split("\"\nPL/pgSQL function").next()
}

/// What helps against `message`, which `statement` was refused with, in a sentence without its full
/// stop.
pub(super) fn helps(message: &str, role: &str, statement: Option<&Statement<'_>>) -> String {
    specific(message, role, statement).unwrap_or_else(|| {
        format!(
            "The role {role} lacks a right on what the file touches: GRANT it, or make it a member \
             of the owner's role"
        )
    })
}

fn specific(message: &str, role: &str, statement: Option<&Statement<'_>>) -> Option<String> {
    if let Some(what) = message.strip_prefix("permission denied for ") {
        let (right, on, name) = RIGHTS
            .iter()
            .find_map(|(kind, right, on)| Some((*right, *on, named(what, kind)?)))?;
        let (right, all) = match right {
            TABLE => on_table(statement),
            _ => (right, ""),
        };
        return Some(format!(
            "GRANT {right} ON {on} {} TO {role}{all}",
            qualified(name, statement)
        ));
    }
    if let Some(what) = message.strip_prefix("must be owner of ") {
        let member = "make it a member of the owner's role";
        let owned = OWNED
            .iter()
            .find_map(|(kind, alter)| Some((*alter, named(what, kind)?)));
        return Some(match owned {
            Some((alter, name)) => {
                format!(
                    "ALTER {alter} {} OWNER TO {role}, or {member}",
                    qualified(name, statement)
                )
            }
            None => format!("The role {role} does not own {what}: {member}"),
        });
    }
    let quoted = message.split('"').nth(1).map(ident);
    match (message, quoted) {
        (m, Some(name)) if m.starts_with("permission denied to create extension") => {
            let (schema, file) = statement.and_then(CreateExtension::of).map_or_else(
                || (String::new(), "write IF NOT EXISTS into the file"),
                |extension| extension.advice(),
            );
            Some(format!(
                "A superuser has to create the extension, or where it is trusted, a role with \
                 CREATE on the database: run CREATE EXTENSION {name}{schema} once as one of them, \
                 and {file}"
            ))
        }
        (m, Some(name)) if m.starts_with("permission denied to create temporary tables") => {
            Some(format!("GRANT TEMPORARY ON DATABASE {name} TO {role}"))
        }
        (m, Some(name))
            if ["set role", "member of role", "SET ROLE"]
                .iter()
                .any(|words| m.contains(words)) =>
        {
            Some(if statement.is_some_and(gives_away) {
                format!(
                    "The statement gives what there is to another role. Leave OWNER TO out, so \
                 that it stays with {role} (a dump: write it with pg_dump --no-owner \
                 --no-privileges); or, where {name} is no superuser, GRANT {name} TO {role}"
                )
            } else {
                format!("GRANT {name} TO {role}")
            })
        }
        ("permission denied to create role", _) => Some(format!(
            "The role may not create roles: ALTER ROLE {role} CREATEROLE"
        )),
        ("permission denied to create database", _) => Some(format!(
            "The role may not create databases: ALTER ROLE {role} CREATEDB"
        )),
        (m, _) if m.starts_with("must be superuser") => Some(
            "Only a superuser may do that: do it once as one, outside of the migrations".to_owned(),
        ),
        _ => None,
    }
}

/// ALTER … OWNER TO.
fn gives_away(statement: &Statement<'_>) -> bool {
    let tokens: Vec<&str> = statement.tokens().collect();
    tokens
        .windows(2)
        .any(|two| two[0].eq_ignore_ascii_case("owner") && two[1].eq_ignore_ascii_case("to"))
}

/// The right on a table that the statement needs, and what there is to say about it. Of a view or a
/// function the server checks what stands inside, which is not to be seen here.
fn on_table(statement: Option<&Statement<'_>>) -> (&'static str, &'static str) {
    let mut words = statement.into_iter().flat_map(Statement::tokens);
    let first = words.next().unwrap_or_default().to_ascii_lowercase();
    let mut has = |word: &str| words.any(|token| token.eq_ignore_ascii_case(word));
    match first.as_str() {
        "truncate" => ("TRUNCATE", ""),
        "lock" => ("DELETE", ""), // enough for every mode
        "create" if statement.is_some_and(is_trigger) => ("TRIGGER", ""),
        "create" | "alter" if has("references") => ("REFERENCES", ""),
        _ => (TABLE, ", or as much as the statement needs"),
    }
}

/// `CREATE [OR REPLACE] [CONSTRAINT] TRIGGER`
fn is_trigger(statement: &Statement<'_>) -> bool {
    let mut words = statement.tokens().skip(1).skip_while(|t| {
        ["or", "replace", "constraint"]
            .iter()
            .any(|w| t.eq_ignore_ascii_case(w))
    });
    words
        .next()
        .is_some_and(|word| word.eq_ignore_ascii_case("trigger"))
}

/// The server names an object without its schema; the statement may say which.
fn qualified(name: &str, statement: Option<&Statement<'_>>) -> String {
    let plain = |token: &str| match token
        .strip_prefix('"')
        .and_then(|token| token.strip_suffix('"'))
    {
        Some(quoted) => quoted.replace("\"\"", "\""),
        None => token.to_lowercase(),
    };
    let tokens: Vec<&str> = statement.into_iter().flat_map(Statement::tokens).collect();
    let schema = tokens
        .windows(3)
        .find(|three| three[1] == "." && plain(three[2]) == name)
        .map(|three| three[0]);
    match schema {
        Some(schema) => format!("{schema}.{}", ident(name)),
        None => ident(name),
    }
}

/// The name behind a kind of object, which may have spaces and stands without quotes.
fn named<'a>(what: &'a str, kind: &str) -> Option<&'a str> {
    what.strip_prefix(kind)?
        .strip_prefix(' ')
        .filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_words_tell_the_right() {
        for (message, expected) in [
            (
                "permission denied for schema My s",
                "GRANT USAGE, CREATE ON SCHEMA \"My s\" TO deploy",
            ),
            (
                "permission denied for database d",
                "GRANT CREATE ON DATABASE d TO deploy",
            ),
            (
                "permission denied for materialized view m",
                "GRANT SELECT, INSERT, UPDATE, DELETE ON TABLE m TO",
            ),
            (
                "permission denied for foreign server f",
                "GRANT USAGE ON FOREIGN SERVER f TO",
            ),
            (
                "must be owner of table t",
                "ALTER TABLE t OWNER TO deploy, or make it a member",
            ),
            (
                "must be owner of extension x",
                "does not own extension x: make it a member",
            ),
            ("permission denied to create role", "CREATEROLE"),
            ("permission denied to create database", "CREATEDB"),
            (
                "permission denied to create extension \"x-y\"",
                "CREATE EXTENSION \"x-y\" once",
            ),
            (
                "permission denied to create temporary tables in database \"d\"",
                "GRANT TEMPORARY ON DATABASE d TO",
            ),
            ("permission denied to set role \"r\"", "GRANT r TO deploy"),
            ("must be member of role \"r\"", "GRANT r TO deploy"),
            ("must be able to SET ROLE \"r\"", "GRANT r TO deploy"),
            ("must be superuser to alter superusers", "Only a superuser"),
            (
                "permission denied: \"pg_class\" is a system catalog",
                "lacks a right",
            ),
            ("permission denied for wonder w", "lacks a right"),
            ("keine Berechtigung für Tabelle t", "lacks a right"),
        ] {
            let helps = helps(message, "deploy", None);
            assert!(helps.contains(expected), "{message}: {helps}");
        }
    }

    #[test]
    fn an_extension_is_created_where_the_file_wants_it() {
        let message = "permission denied to create extension \"ltree\"";
        for (sql, create, file) in [
            (
                "CREATE EXTENSION ltree",
                "run CREATE EXTENSION ltree once",
                "write IF NOT EXISTS",
            ),
            (
                "CREATE EXTENSION IF NOT EXISTS ltree",
                "run CREATE EXTENSION ltree once",
                "finds it then",
            ),
            (
                "create extension if not exists ltree with schema \"My s\"",
                "run CREATE EXTENSION ltree WITH SCHEMA \"My s\" once",
                "finds it then",
            ),
        ] {
            let statement = crate::sql::split(sql)[0];
            let helps = helps(message, "deploy", Some(&statement));
            assert!(
                helps.contains(create) && helps.contains(file),
                "{sql}: {helps}"
            );
        }
    }

    #[test]
    fn nobody_is_advised_to_make_a_member_of_a_superuser() {
        let statement = crate::sql::split("ALTER TABLE public.t OWNER TO postgres")[0];
        for message in [
            "must be member of role \"postgres\"",
            "must be able to SET ROLE \"postgres\"",
        ] {
            let helps = helps(message, "lease", Some(&statement));
            assert!(
                helps.contains("--no-owner") && helps.contains("no superuser"),
                "{helps}"
            );
        }
    }

    #[test]
    fn what_a_guard_was_refused_is_named_in_its_own_statement() {
        let context = "SQL statement \"UPDATE schemad.steps s\n SET state = 'applied'\"\nPL/pgSQL \
            function schemad.finish_step_v2(bigint) line 1";
        let error = SqlError {
            context: Some(context.into()),
            ..SqlError::default()
        };
        let statement = crate::sql::split(inner(&error).unwrap())[0];
        let helps = helps(
            "permission denied for table steps",
            "deploy",
            Some(&statement),
        );
        assert!(
            helps.contains("ON TABLE schemad.steps TO deploy"),
            "{helps}"
        );
    }

    #[test]
    fn the_statement_tells_what_it_needs_and_where() {
        for (sql, expected) in [
            ("TRUNCATE app.y", "GRANT TRUNCATE ON TABLE app.y TO deploy"),
            (
                "LOCK TABLE y IN SHARE MODE",
                "GRANT DELETE ON TABLE y TO deploy",
            ),
            (
                "CREATE OR REPLACE TRIGGER t AFTER INSERT ON y EXECUTE FUNCTION f()",
                "GRANT TRIGGER ON TABLE y TO deploy",
            ),
            (
                "create constraint trigger t after insert on \"App\".\"y\"",
                "GRANT TRIGGER ON TABLE \"App\".y TO deploy",
            ),
            (
                "CREATE TABLE z (n int REFERENCES app.Y)",
                "GRANT REFERENCES ON TABLE app.y TO deploy",
            ),
            (
                "SELECT y.n FROM app.y",
                "GRANT SELECT, INSERT, UPDATE, DELETE ON TABLE app.y TO deploy, or as much",
            ),
            (
                "SELECT f()",
                "GRANT SELECT, INSERT, UPDATE, DELETE ON TABLE y TO deploy, or as much",
            ),
        ] {
            let statement = crate::sql::split(sql)[0];
            let helps = helps("permission denied for table y", "deploy", Some(&statement));
            assert!(helps.starts_with(expected), "{sql}: {helps}");
        }
    }
}
