//! Checks that DATABASE_URL and MIGRATION_DATABASE_URL lead to the same database. If they did not,
//! status, lists and health would report one database while operations change another. The check
//! compares identifiers of the server and the database. The ledger would not do, because a restored
//! dump or a clone carries the same one.

use std::time::Duration;

use tokio_postgres::Client;

use super::read;
use crate::{
    failure::{Failure, Reason},
    postgres::{DatabaseError, pool::ReadPool},
};

/// The longest that the check may wait for the reading address. It must not delay an operation.
const WITHIN: Duration = Duration::from_secs(1);

/// The identity of the database that a session is connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DatabaseIdentity {
    /// The system identifier that initdb gave the server, and the database's oid. A physical
    /// standby has the same values as its primary.
    pub database: String,
    /// The time at which the server started, in microseconds since 1970. `None` for a standby. Two
    /// servers that both accept writes are different databases, even if one was copied from the
    /// other.
    pub primary_since: Option<i64>,
}

/// The query for a [`DatabaseIdentity`]. It returns one row.
pub(super) const IDENTITY: &str = "SELECT c.system_identifier::text || '/' || d.oid::text AS \
    database, CASE WHEN NOT pg_is_in_recovery() THEN (extract(epoch FROM \
    pg_postmaster_start_time()) * 1000000)::bigint END AS primary_since FROM pg_control_system() \
    c, pg_database d WHERE d.datname = current_database()";

/// Compares the database that is read with the database where migrations run.
#[derive(Clone)]
pub(crate) struct SameDatabaseCheck(Option<ReadPool>);

impl SameDatabaseCheck {
    /// Creates the check. `reading` is the pool of the reading address, or `None` if there is only
    /// one address.
    pub(crate) fn new(reading: Option<ReadPool>) -> Self {
        Self(reading)
    }

    /// Returns whether this session's database was proved to be the one that is read. It is not
    /// proved while the reading address cannot be reached. Other code reports that.
    ///
    /// # Errors
    /// DATABASES_DIFFER, or an error of the session where migrations run.
    pub(crate) async fn prove(&self, migrating: &Client) -> Result<bool, Failure> {
        let Some(pool) = &self.0 else { return Ok(true) };
        let reading = async { read::identity(&mut *pool.get().await?).await };
        match tokio::time::timeout(WITHIN, reading).await {
            Ok(Ok(reading)) => compare(&reading, &identity(migrating).await?).map(|()| true),
            Ok(Err(_)) | Err(_) => Ok(false),
        }
    }
}

/// Returns the identity of the database that the session is connected to.
///
/// # Errors
/// Returns an error if the query fails or the connection is lost.
pub(crate) async fn identity(client: &Client) -> Result<DatabaseIdentity, DatabaseError> {
    let rows = client.query_typed(IDENTITY, &[]).await?;
    let row = rows
        .first()
        .ok_or_else(|| DatabaseError::Lost("the server returned no row".into()))?;
    Ok(DatabaseIdentity {
        database: row.get(0),
        primary_since: row.get(1),
    })
}

/// Returns an error if the two identities are of different databases.
///
/// # Errors
/// DATABASES_DIFFER.
pub(crate) fn compare(
    reading: &DatabaseIdentity,
    migrating: &DatabaseIdentity,
) -> Result<(), Failure> {
    let both_take_writes = reading.primary_since.is_some() && migrating.primary_since.is_some();
    if reading.database == migrating.database
        && !(both_take_writes && reading.primary_since != migrating.primary_since)
    {
        return Ok(());
    }
    let how = if reading.database == migrating.database {
        "two servers that both take writes, one copied from the other".to_owned()
    } else {
        format!(
            "{} and {} (system identifier/oid)",
            reading.database, migrating.database
        )
    };
    Err(Failure::new(
        Reason::DatabasesDiffer,
        format!(
            "DATABASE_URL and MIGRATION_DATABASE_URL lead to two databases: {how}. Point both at \
             the same database; DATABASE_URL may lead to a standby of it"
        ),
    )
    .with("database", &reading.database)
    .with("migration_database", &migrating.database))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_told_apart_and_a_standby_is_the_same_database() {
        let of = |database: &str, primary_since| DatabaseIdentity {
            database: database.into(),
            primary_since,
        };
        let primary = of("7/1", Some(5));
        assert_eq!(compare(&primary, &primary), Ok(()));
        assert_eq!(compare(&of("7/1", None), &primary), Ok(()));
        for other in [
            of("7/2", Some(5)),
            of("8/1", Some(5)),
            of("7/1", Some(6)),
            of("7/2", None),
        ] {
            assert_eq!(
                compare(&other, &primary).unwrap_err().reason,
                Reason::DatabasesDiffer,
                "{other:?}"
            );
        }
    }
}
