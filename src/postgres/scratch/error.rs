//! Why a scratch database cannot be made.

use tokio_postgres::{Client, error::SqlState, types::Type};

use super::{ScratchName, ScratchTemplate};
use crate::{
    failure::{Failure, Reason},
    postgres::{self, DatabaseUrl},
    sql::ident,
};

/// Why a scratch database cannot be made or dropped.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ScratchError {
    /// The role may not make databases.
    #[error("the role {role} may not make scratch databases: ALTER ROLE {role} CREATEDB;")]
    MayNotCreate {
        /// The role, quoted.
        role: String,
    },
    /// The role may not copy the template.
    #[error(
        "the role {role} may not copy the database {template}: it neither owns it nor is it a \
         template"
    )]
    MayNotCopy {
        /// The role, quoted.
        role: String,
        /// The template.
        template: String,
    },
    /// The name belongs to a database already.
    #[error(
        "there is a database {0} already, and so there was for the names before it; drop what \
         begins with schemad_scratch_ and is no longer used"
    )]
    NameTaken(ScratchName),
    /// The template has users.
    #[error("the database {template} cannot be copied while others are connected to it{by}")]
    TemplateInUse {
        /// The template.
        template: String,
        /// Who they are, behind a colon, and what to do; empty where that is not known.
        by: String,
    },
    /// No room.
    #[error("the server's disk is full, so no scratch database can be made ({0})")]
    DiskFull(postgres::DatabaseError),
    /// Anything else.
    #[error(transparent)]
    Database(#[from] postgres::DatabaseError),
}

impl ScratchError {
    /// What the refusal of CREATE DATABASE means.
    pub(super) fn of(
        error: postgres::DatabaseError,
        name: &ScratchName,
        template: ScratchTemplate<'_>,
        url: &DatabaseUrl,
    ) -> Self {
        let Some(sql) = error.sql() else {
            return Self::Database(error);
        };
        let role = url.role();
        match template {
            _ if sql.is(&SqlState::DUPLICATE_DATABASE) => Self::NameTaken(*name),
            _ if sql.is(&SqlState::DISK_FULL) => Self::DiskFull(error),
            ScratchTemplate::Copy(template) if sql.is(&SqlState::OBJECT_IN_USE) => {
                Self::TemplateInUse {
                    template: ident(template),
                    by: String::new(),
                }
            }
            ScratchTemplate::Copy(template)
                if sql.is(&SqlState::INSUFFICIENT_PRIVILEGE) && sql.message.contains("copy") =>
            {
                Self::MayNotCopy {
                    role,
                    template: ident(template),
                }
            }
            _ if sql.is(&SqlState::INSUFFICIENT_PRIVILEGE) => Self::MayNotCreate { role },
            _ => Self::Database(error),
        }
    }
}

/// Sessions in the database $1, whose name may be quoted.
const WHO: &str = "SELECT pg_catalog.format('pid %s (%s)', a.pid, pg_catalog.concat_ws(', '::text, \
        a.usename, nullif(a.application_name, ''), nullif(a.backend_type, 'client backend'))) FROM \
        pg_catalog.pg_stat_activity a WHERE pg_catalog.quote_ident(a.datname::text) = $1 AND a.pid \
        <> pg_catalog.pg_backend_pid() ORDER BY a.pid LIMIT 5";

impl ScratchError {
    /// The same, and who is connected to the template that has users, as far as `client` may see.
    pub(super) async fn with_who(self, client: &Client) -> Self {
        let Self::TemplateInUse { template, .. } = self else {
            return self;
        };
        let rows = client
            .query_typed(WHO, &[(&template, Type::TEXT)])
            .await
            .unwrap_or_default();
        let who: Vec<String> = rows.iter().filter_map(|row| row.get(0)).collect();
        let by = if who.is_empty() {
            String::new()
        } else {
            format!(
                ": {}. End them; what comes into every database of a server (an extension's \
             workers) is ended by a superuser only, so use one in the URL, or another server",
                who.join("; ")
            )
        };
        Self::TemplateInUse { template, by }
    }
}

impl From<ScratchError> for Failure {
    fn from(error: ScratchError) -> Self {
        let message = error.to_string();
        match error {
            ScratchError::MayNotCreate { role } => Self::new(Reason::MissingRight, message)
                .with("grant", format!("ALTER ROLE {role} CREATEDB")),
            ScratchError::MayNotCopy { .. } => Self::new(Reason::MissingRight, message),
            ScratchError::NameTaken(name) => {
                Self::new(Reason::ScratchNameTaken, message).with("database", name)
            }
            ScratchError::TemplateInUse { template, .. } => {
                Self::new(Reason::ScratchInUse, message).with("database", template)
            }
            ScratchError::DiskFull(_) => {
                Self::new(Reason::DatabaseUnavailable, message).with("sqlstate", "53100")
            }
            ScratchError::Database(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::SqlError;

    #[test]
    fn every_refusal_is_a_situation() {
        let url: DatabaseUrl = "postgres://App:s3cret@h/d".parse().unwrap();
        let of = |sqlstate: &str, message: &str, template| {
            let sql = SqlError {
                sqlstate: sqlstate.into(),
                message: message.into(),
                ..SqlError::default()
            };
            Failure::from(ScratchError::of(
                sql.into(),
                &ScratchName::first_of(1),
                template,
                &url,
            ))
        };
        let copy = ScratchTemplate::Copy("Base");
        for (sqlstate, message, template, reason, word) in [
            (
                "42501",
                "permission denied to create database",
                ScratchTemplate::Empty,
                Reason::MissingRight,
                "ALTER ROLE \"App\" CREATEDB",
            ),
            (
                "42501",
                "permission denied to create database",
                copy,
                Reason::MissingRight,
                "ALTER ROLE \"App\" CREATEDB",
            ),
            (
                "42501",
                "permission denied to copy database \"Base\"",
                copy,
                Reason::MissingRight,
                "may not copy",
            ),
            (
                "42P04",
                "database already exists",
                copy,
                Reason::ScratchNameTaken,
                "already",
            ),
            (
                "55006",
                "source database is being accessed",
                copy,
                Reason::ScratchInUse,
                "\"Base\"",
            ),
            (
                "53100",
                "No space left on device",
                ScratchTemplate::Empty,
                Reason::DatabaseUnavailable,
                "disk is full",
            ),
            (
                "XX000",
                "anything",
                ScratchTemplate::Empty,
                Reason::Internal,
                "anything",
            ),
        ] {
            let failure = of(sqlstate, message, template);
            assert!(
                failure.reason == reason && failure.message.contains(word),
                "{failure}"
            );
        }
    }
}
