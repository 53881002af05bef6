//! What an error of the database means to whoever asked schemad for something.

use super::{Failure, Reason};
use crate::postgres::{DatabaseError, SqlError, error::POOL_TOO_SMALL};

/// What to do about a damaged ledger.
pub(crate) const LEDGER_REPAIR: &str = "the ledger (schema schemad) is damaged. Restore the schema \
    schemad from a backup; or rename it away (ALTER SCHEMA schemad RENAME TO schemad_damaged), and \
    the daemon makes a new ledger that adopts what Diesel's table lists";

/// Something of the ledger is missing or was changed that its own version has: a table, a column, a
/// function, or (SCH01 of the first guard) the rows of the step that runs; or a constraint of its
/// tables refuses what schemad writes, because somebody added it, or set a sequence back.
pub(crate) fn is_damage(error: &SqlError) -> bool {
    let texts = [Some(error.message.as_str()), error.context.as_deref()];
    let names_the_ledger = || texts.iter().flatten().any(|text| text.contains("schemad."));
    match error.sqlstate.as_str() {
        // A column: those of the catalogs are always there, so it is one of the ledger's.
        "42703" | "42701" | "SCH01" | "SCH07" => true,
        "42P01" | "42883" | "42P07" | "42723" => names_the_ledger(),
        state if state.starts_with("23") => error.schema.as_deref() == Some("schemad"),
        _ => false,
    }
}

impl From<DatabaseError> for Failure {
    fn from(error: DatabaseError) -> Self {
        let reason = match &error {
            DatabaseError::Connect { .. } | DatabaseError::Lost(_) | DatabaseError::Timeout(_) => {
                Reason::DatabaseUnavailable
            }
            DatabaseError::PoolExhausted { .. } => Reason::PoolExhausted,
            DatabaseError::Pooler(_) => Reason::TransactionPooler,
            DatabaseError::MissingRight { .. } | DatabaseError::Role { .. } => Reason::MissingRight,
            DatabaseError::Damaged(_) => Reason::LedgerDamaged,
            DatabaseError::ForeignLedger(_) => Reason::LedgerForeign,
            DatabaseError::RowSecurity { .. } => Reason::RowSecurity,
            DatabaseError::UnsafeTable { .. } => Reason::DieselTableUnsafe,
            DatabaseError::Sql(sql) if sql.sqlstate == "SCH08" => Reason::DieselTableUnsafe,
            DatabaseError::Sql(sql) if is_damage(sql) => Reason::LedgerDamaged,
            DatabaseError::ServerTooOld(_) => Reason::ServerTooOld,
            DatabaseError::Sql(sql)
                if sql.sqlstate == "42501" || sql.message.starts_with("permission denied") =>
            {
                Reason::MissingRight
            }
            DatabaseError::Sql(sql) if sql.sqlstate == "25006" => Reason::ReadOnlyServer,
            // Connection, rollback, resources, locks, operator, system: they pass. Empty: from
            // diesel, which drops it.
            DatabaseError::Sql(sql) => match sql.sqlstate.get(..2).unwrap_or_default() {
                "" | "08" | "40" | "53" | "55" | "57" | "58" => Reason::DatabaseUnavailable,
                _ => Reason::Internal,
            },
        };
        let mut message = error.to_string();
        // A pooler says so at the first statement, when the connection is long made.
        let is_pooler = error
            .sql()
            .is_some_and(|sql| sql.message.contains("query_wait_timeout"));
        let meaning = match reason {
            Reason::LedgerDamaged => LEDGER_REPAIR,
            Reason::ReadOnlyServer => {
                "the server is a standby or read-only; point MIGRATION_DATABASE_URL at the \
                 primary"
            }
            _ if is_pooler => POOL_TOO_SMALL,
            _ if error.is_lock_timeout() => {
                "another session has locked a table that this needs; pg_locks says who"
            }
            _ => "",
        };
        if !meaning.is_empty() {
            message += &format!(": {meaning}");
        }
        let failure = Self::new(reason, message);
        match &error {
            DatabaseError::Sql(sql) if !sql.sqlstate.is_empty() => {
                failure.with("sqlstate", &sql.sqlstate)
            }
            DatabaseError::Role {
                grant: Some(grant), ..
            } => failure.with("grant", grant),
            DatabaseError::MissingRight { role, right } => {
                failure.with("grant", format!("GRANT {right} TO {role}"))
            }
            _ => failure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::SqlError;

    #[test]
    fn what_the_server_says_shortly_is_told_with_what_to_do() {
        for (sqlstate, message, reason, word) in [
            (
                "25006",
                "cannot execute CREATE SCHEMA in a read-only transaction",
                Reason::ReadOnlyServer,
                "at the primary",
            ),
            (
                "08P01",
                "query_wait_timeout",
                Reason::DatabaseUnavailable,
                "SCHEMAD_POOL_SIZE",
            ),
            (
                "55P03",
                "canceling statement due to lock timeout",
                Reason::DatabaseUnavailable,
                "pg_locks says who",
            ),
        ] {
            let sql = SqlError {
                sqlstate: sqlstate.into(),
                message: message.into(),
                ..SqlError::default()
            };
            let failure = Failure::from(DatabaseError::from(sql));
            assert!(
                failure.reason == reason && failure.message.contains(word),
                "{failure}"
            );
        }
    }
}
