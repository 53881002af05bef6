//! What the role may do: too little, which stops operations, and more than it needs.

use tokio_postgres::types::Type;

use super::{CheckResult, CheckStatus, ReadOnlySession};
use crate::{
    failure::Failure,
    ledger::install,
    postgres::{DatabaseError, session::MigrationSession},
};

/// Attributes that schemad never needs.
pub(super) async fn attributes(asking: &ReadOnlySession<'_>) -> Result<CheckResult, DatabaseError> {
    let row = asking
        .one(
            "SELECT quote_ident(rolname), rolsuper, rolcreatedb, rolcreaterole, rolreplication, \
             rolbypassrls FROM pg_roles WHERE rolname = current_user",
        )
        .await?;
    let role: String = row.get(0);
    let words = [
        "SUPERUSER",
        "CREATEDB",
        "CREATEROLE",
        "REPLICATION",
        "BYPASSRLS",
    ];
    let has: Vec<&str> = words
        .into_iter()
        .enumerate()
        .filter(|(n, _)| row.get(n + 1))
        .map(|(_, word)| word)
        .collect();
    Ok(if has.is_empty() {
        CheckResult::ok(
            "role",
            format!("{role}, without attributes it does not need"),
        )
    } else {
        CheckResult::warn(
            "role",
            format!(
                "{role} is {}, which is more than schemad needs",
                has.join(", ")
            ),
        )
        .todo("log in as a role made for it: docs/least-privilege.md")
    })
}

/// Whether the role that runs the migrations can be taken.
pub(super) async fn migrating(
    session: &MigrationSession,
    role: Option<&str>,
) -> Result<CheckResult, DatabaseError> {
    const NAME: &str = "migrating role";
    if let Some(role) = role
        && let Err(error) = session.may_become(role).await
    {
        return Ok(CheckResult::fail(NAME, error));
    }
    let found = match role {
        None => "migrations run as the role that logs in (no --role)".to_owned(),
        Some(role) => format!("migrations run as {}", crate::sql::ident(role)),
    };
    let Some((schema, todo)) = cannot_create(session, role).await? else {
        return Ok(CheckResult::ok(NAME, found));
    };
    let found =
        format!("{found}, which may not create anything in {schema}, where unqualified names go");
    Ok(CheckResult::warn(NAME, found).todo(todo))
}

/// The schema for unqualified names, when the role may not create anything there, and the GRANT.
async fn cannot_create(
    session: &MigrationSession,
    role: Option<&str>,
) -> Result<Option<(String, String)>, DatabaseError> {
    let client = session.client();
    if let Some(role) = role {
        client
            .query_typed(
                "SELECT pg_catalog.set_config('role', $1, false)",
                &[(&role, Type::TEXT)],
            )
            .await?;
    }
    let rows = async {
        // As the role: "$user" is its name, and a schema without USAGE is passed over.
        let found = session
            .in_configured_path("SELECT pg_catalog.current_schema()")
            .await?;
        let asked = "SELECT quote_ident(coalesce($1, 'public')), quote_ident(current_user), \
            $1 IS NOT NULL AND has_schema_privilege($1, 'CREATE')";
        Ok::<_, DatabaseError>(
            client
                .query_typed(asked, &[(&found.get(0), Type::TEXT)])
                .await?,
        )
    };
    let rows = rows.await;
    client.batch_execute("RESET ROLE").await?;
    Ok(rows?
        .first()
        .filter(|row| !row.get::<_, bool>(2))
        .map(|row| {
            let (schema, role): (String, String) = (row.get(0), row.get(1));
            let grant = format!("GRANT USAGE, CREATE ON SCHEMA {schema} TO {role}");
            (schema, grant)
        }))
}

/// What operations need on the database, the ledger and Diesel's table.
pub(super) async fn rights(asking: &ReadOnlySession<'_>) -> Result<CheckResult, DatabaseError> {
    let found: Result<install::LedgerState, Failure> = asking
        .only_reading(async || install::check(asking.0).await)
        .await;
    Ok(match found {
        Ok(install::LedgerState::Usable) => {
            CheckResult::ok("rights", "enough on the ledger and on Diesel's table")
        }
        Ok(install::LedgerState::ToBeCreated | install::LedgerState::ToBeUpgraded) => {
            CheckResult::ok("rights", "enough to make or upgrade the ledger")
        }
        Err(failure) => CheckResult::fail("rights", failure),
    })
}

/// Whether what a migration's script can do with its session stops before the ledger: it runs on
/// another login's session then. `other`: the login of DATABASE_URL, where migrations run as
/// another; `role`: runs the migrations.
pub(super) async fn login(
    asking: &ReadOnlySession<'_>,
    other: Option<&str>,
    role: Option<&str>,
) -> Result<CheckResult, DatabaseError> {
    const NAME: &str = "migrating login";
    let Some(keeper) = asking.0.keeper() else {
        let found = "the login that runs migrations keeps the ledger, too: a script can do to it \
            what that login can";
        // Two logins that may both write it: somebody wanted them apart.
        let both = "SELECT 'REVOKE ALL ON ALL TABLES IN SCHEMA schemad FROM ' || \
            quote_ident(session_user) FROM pg_namespace s JOIN pg_class t ON t.relnamespace = \
            s.oid AND t.relname = 'operations' JOIN pg_roles o ON o.rolname = $1 AND o.rolname <> \
            session_user WHERE s.nspname = 'schemad' AND has_table_privilege(o.oid, t.oid, \
            'INSERT') AND t.relowner <> (SELECT m.oid FROM pg_roles m WHERE m.rolname = \
            session_user)";
        let both = asking.all(both, &[(&other, Type::TEXT)]).await?;
        return Ok(match both.first() {
            Some(row) => CheckResult::warn(
                NAME,
                format!("{found}, although DATABASE_URL's could keep it"),
            )
            .todo(row.get::<_, String>(0)),
            None => CheckResult::ok(NAME, found),
        });
    };
    let (keeps, runs) = (keeper.url.role(), crate::sql::ident(&keeper.of.login));
    // What either of the two, or a role that it can take, may do to a table or a column of the
    // ledger.
    let ways = "WITH reachable AS (SELECT DISTINCT r.oid, r.rolname FROM pg_roles m JOIN pg_roles \
            r ON pg_has_role(m.oid, r.oid, 'MEMBER') WHERE m.rolname IN (session_user, $1)), \
            tables AS (SELECT c.oid, c.relname, c.relowner FROM pg_namespace s JOIN pg_class c ON \
            c.relnamespace = s.oid AND c.relkind = 'r' WHERE s.nspname = 'schemad') SELECT \
            format('REVOKE ALL ON schemad.%I FROM %s', t.relname, CASE a.grantee WHEN 0 THEN \
            'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END) FROM tables t CROSS JOIN \
            LATERAL (SELECT x.grantee, x.privilege_type FROM pg_class c, aclexplode(c.relacl) x \
            WHERE c.oid = t.oid UNION ALL SELECT x.grantee, x.privilege_type FROM pg_attribute b, \
            aclexplode(b.attacl) x WHERE b.attrelid = t.oid) a WHERE a.privilege_type <> 'SELECT' \
            AND a.grantee <> t.relowner AND (a.grantee = 0 OR a.grantee IN (SELECT oid FROM \
            reachable)) UNION SELECT format('REVOKE %I FROM %I', w.rolname, m.rolname) FROM \
            reachable w JOIN pg_auth_members g ON g.roleid = w.oid JOIN reachable m ON m.oid = \
            g.member WHERE w.rolname = 'pg_write_all_data' OR w.oid IN (SELECT relowner FROM \
            tables) ORDER BY 1";
    let ways = asking.all(ways, &[(&role, Type::TEXT)]).await?;
    let found = format!("{keeps} keeps the ledger, and migrations run in sessions of {runs}");
    Ok(if ways.is_empty() {
        CheckResult::ok(NAME, format!("{found}, which cannot write it"))
    } else {
        let found = format!("{found}; a script can write it all the same");
        CheckResult {
            todo: ways.iter().map(|row| row.get(0)).collect(),
            ..CheckResult::warn(NAME, found)
        }
    })
}

/// Whether the role sees what others do, and may end what a silent daemon left.
pub(super) async fn visibility(asking: &ReadOnlySession<'_>) -> Result<CheckResult, DatabaseError> {
    let row = asking
        .one(
            "SELECT quote_ident(current_user), pg_has_role('pg_read_all_stats', 'USAGE'), \
             pg_has_role('pg_signal_backend', 'USAGE'), \
             (SELECT rolinherit FROM pg_roles WHERE rolname = current_user)",
        )
        .await?;
    let (role, sees, ends): (String, bool, bool) = (row.get(0), row.get(1), row.get(2));
    let todo = match (row.get(3), asking.0.server_major() >= 16) {
        (true, _) => format!("GRANT pg_read_all_stats TO {role}"),
        (false, true) => format!("GRANT pg_read_all_stats TO {role} WITH INHERIT TRUE"),
        (false, false) => format!(
            "GRANT pg_read_all_stats TO {role}, and ALTER ROLE {role} INHERIT, which gives it the \
             rights of all its roles all the time"
        ),
    };
    let ending = if ends {
        "may end the session of a silent daemon, whichever role it has"
    } else {
        "may end the session of a silent daemon of the same role only"
    };
    Ok(if sees {
        CheckResult::ok(
            "visibility",
            format!("sees what other sessions do; {ending}"),
        )
    } else {
        let found = format!(
            "does not see the state of other roles' sessions, so who is in the way of a lock \
             is told without it; {ending}"
        );
        CheckResult::warn("visibility", found).todo(todo)
    })
}

/// Schemas of the search_path in which others may create objects. A function there can run in place
/// of the one that a migration means.
pub(super) async fn search_path(
    asking: &ReadOnlySession<'_>,
    migrating: Option<&str>,
) -> Result<CheckResult, DatabaseError> {
    const NAME: &str = "search_path";
    let found = asking
        .0
        .in_configured_path("SELECT pg_catalog.to_json(pg_catalog.current_schemas(false))")
        .await?;
    let schemas: Vec<String> =
        serde_json::from_str(found.get(0).unwrap_or("[]")).unwrap_or_default();
    let creators = "SELECT quote_ident(n.nspname), CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE \
        quote_ident(r.rolname) END FROM unnest($1::text[]) WITH ORDINALITY p (name, place) JOIN \
        pg_namespace n ON n.nspname = p.name CROSS JOIN LATERAL aclexplode(coalesce(n.nspacl, \
        acldefault('n', n.nspowner))) a LEFT JOIN pg_roles r ON r.oid = a.grantee WHERE \
        a.privilege_type = 'CREATE' AND a.grantee <> n.nspowner AND NOT coalesce(r.rolsuper, \
        false) AND (a.grantee = 0 OR r.rolname <> current_user AND r.rolname IS DISTINCT FROM $2) \
        ORDER BY p.place, 2";
    let rows = asking
        .all(
            creators,
            &[(&schemas, Type::TEXT_ARRAY), (&migrating, Type::TEXT)],
        )
        .await?;
    let creators: Vec<(String, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    if creators.is_empty() {
        return Ok(CheckResult::ok(
            NAME,
            format!(
                "{}: nobody else may create objects there",
                schemas.join(", ")
            ),
        ));
    }
    let listed: Vec<String> = creators
        .iter()
        .map(|(schema, role)| format!("{role} in {schema}"))
        .collect();
    let found = format!(
        "others may create objects in schemas of the search_path ({}), which a migration's \
         unqualified names can find",
        listed.join(", ")
    );
    let revokes = creators
        .iter()
        .map(|(schema, role)| format!("REVOKE CREATE ON SCHEMA {schema} FROM {role}"));
    Ok(CheckResult {
        todo: revokes.collect(),
        ..CheckResult::warn(NAME, found)
    })
}

/// Settings of the role, the database or the server, as far as they reach the daemon. Its migration
/// session sets its own.
pub(super) async fn settings(
    asking: &ReadOnlySession<'_>,
    role: Option<&str>,
) -> Result<CheckResult, DatabaseError> {
    let rows = asking
        .all(
            "SELECT name, reset_val FROM pg_settings WHERE reset_val IS DISTINCT FROM boot_val AND \
             name IN ('lock_timeout', 'statement_timeout', 'idle_session_timeout', \
             'idle_in_transaction_session_timeout', 'transaction_timeout', 'role', 'search_path') \
             ORDER BY name",
            &[],
        )
        .await?;
    // That the role cannot be taken is another check's to say.
    let first = asking.0.first_schema(role).await.unwrap_or_default();
    let ledger_first = first.as_deref() == Some("schemad");
    let set: Vec<(String, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let shown: Vec<String> = set
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let mut check = CheckResult::ok(
        "settings",
        if set.is_empty() {
            "no timeouts of the role, the database or the server".into()
        } else {
            format!("{}; migrations set their own timeouts", shown.join(", "))
        },
    );
    if ledger_first {
        let todo = "search_path: it begins with the ledger's schema, where migrations would create \
            what they do not qualify; name another, or log in as a role that is not called \
            schemad";
        check = CheckResult {
            status: CheckStatus::Fail,
            ..check
        }
        .todo(todo);
    }
    for (name, todo) in [
        (
            "idle_session_timeout",
            "it closes the connections that the daemon keeps for reading: set it to 0 for the \
             role",
        ),
        (
            "role",
            "ALTER ROLE ... RESET role, and use --role: what the role may do is then plain to see",
        ),
    ] {
        if set
            .iter()
            .any(|(found, value)| found == name && value != "0" && value != "none")
        {
            check = CheckResult {
                status: CheckStatus::Warn,
                ..check
            }
            .todo(format!("{name}: {todo}"));
        }
    }
    Ok(check)
}
