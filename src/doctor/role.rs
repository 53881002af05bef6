//! What the role may do: too little, which stops operations, and more than it needs.

use super::{Asking, Check, Status};
use crate::{
    db::{Error, session::Session},
    failure::Failure,
    ledger::install,
};

/// Attributes that schemad never needs.
pub(super) async fn attributes(asking: &Asking<'_>) -> Result<Check, Error> {
    let row = asking
        .one(
            "SELECT quote_ident(rolname), rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls \
             FROM pg_roles WHERE rolname = current_user",
        )
        .await?;
    let role: String = row.get(0);
    let words = ["SUPERUSER", "CREATEDB", "CREATEROLE", "REPLICATION", "BYPASSRLS"];
    let has: Vec<&str> = words.into_iter().enumerate().filter(|(n, _)| row.get(n + 1)).map(|(_, word)| word).collect();
    Ok(match has.is_empty() {
        true => Check::ok("role", format!("{role}, without attributes it does not need")),
        false => Check::warn("role", format!("{role} is {}, which is more than schemad needs", has.join(", ")))
            .todo("log in as a role made for it: docs/least-privilege.md"),
    })
}

/// Whether the role that runs the migrations can be taken.
pub(super) async fn migrating(session: &Session, role: Option<&str>) -> Result<Check, Error> {
    const NAME: &str = "migrating role";
    let Some(role) = role else { return Ok(Check::ok(NAME, "migrations run as the role that logs in (no --role)")) };
    match session.may_become(role).await {
        Ok(()) => Ok(Check::ok(NAME, format!("migrations run as {}", crate::sql::ident(role)))),
        Err(error) => Ok(Check::fail(NAME, error)),
    }
}

/// What operations need on the database, the ledger and Diesel's table.
pub(super) async fn rights(asking: &Asking<'_>) -> Result<Check, Error> {
    let found: Result<install::State, Failure> =
        asking.only_reading(async || install::check(asking.0.client()).await).await;
    Ok(match found {
        Ok(install::State::Usable) => Check::ok("rights", "enough on the ledger and on Diesel's table"),
        Ok(install::State::ToBeMade) => Check::ok("rights", "enough to make or upgrade the ledger"),
        Err(failure) => Check::fail("rights", failure),
    })
}

/// Whether the role sees what others do, and may end what a silent daemon left.
pub(super) async fn visibility(asking: &Asking<'_>) -> Result<Check, Error> {
    let row = asking
        .one(
            "SELECT quote_ident(current_user), pg_has_role('pg_read_all_stats', 'USAGE'), \
             pg_has_role('pg_signal_backend', 'USAGE')",
        )
        .await?;
    let (role, sees, ends): (String, bool, bool) = (row.get(0), row.get(1), row.get(2));
    let ending = match ends {
        true => "may end the session of a silent daemon, whichever role it has",
        false => "may end the session of a silent daemon of the same role only",
    };
    Ok(match sees {
        true => Check::ok("visibility", format!("sees what other sessions do; {ending}")),
        false => {
            let found = format!(
                "does not see the state of other roles' sessions, so who is in the way of a lock is told without it; {ending}"
            );
            Check::warn("visibility", found).todo(format!("GRANT pg_read_all_stats TO {role}"))
        }
    })
}

/// Settings of the role, the database or the server, as far as they reach the daemon. Its migration session sets its own.
pub(super) async fn settings(asking: &Asking<'_>) -> Result<Check, Error> {
    let rows = asking
        .all(
            "SELECT name, reset_val FROM pg_settings WHERE reset_val IS DISTINCT FROM boot_val AND name IN \
             ('lock_timeout', 'statement_timeout', 'idle_session_timeout', 'idle_in_transaction_session_timeout', \
              'transaction_timeout', 'role', 'search_path') ORDER BY name",
            &[],
        )
        .await?;
    let ledger_first = asking.one("SELECT current_schema() = 'schemad'").await?.get::<_, Option<bool>>(0) == Some(true);
    let set: Vec<(String, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let shown: Vec<String> = set.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let mut check = Check::ok(
        "settings",
        match set.is_empty() {
            true => "no timeouts of the role, the database or the server".into(),
            false => format!("{}; migrations set their own timeouts", shown.join(", ")),
        },
    );
    if ledger_first {
        let todo = "search_path: it begins with the ledger's schema, where migrations would create what they do not qualify; \
            name another, or log in as a role that is not called schemad";
        check = Check { status: Status::Warn, ..check }.todo(todo);
    }
    for (name, todo) in [
        (
            "idle_session_timeout",
            "it closes the connections that the daemon keeps for reading: set it to 0 for the role",
        ),
        ("role", "ALTER ROLE ... RESET role, and use --role: what the role may do is then plain to see"),
    ] {
        if set.iter().any(|(found, value)| found == name && value != "0" && value != "none") {
            check = Check { status: Status::Warn, ..check }.todo(format!("{name}: {todo}"));
        }
    }
    Ok(check)
}
