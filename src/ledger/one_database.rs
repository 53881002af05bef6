//! DATABASE_URL and MIGRATION_DATABASE_URL have to lead to one database: the ledger found by either has the same id. Else status,
//! lists and health would tell of one database while operations change another.

use std::time::Duration;

use tokio_postgres::Client;

use super::read;
use crate::{
    db::{Error, pool::Pool},
    failure::{Failure, Reason},
};

/// Reading is not what an operation waits for.
const WITHIN: Duration = Duration::from_secs(1);

/// Compares what is read with where migrations run.
#[derive(Clone)]
pub struct OneDatabase(Option<Pool>);

impl OneDatabase {
    /// `reading`: sessions of the other address. `None`: there is one address.
    pub fn new(reading: Option<Pool>) -> Self {
        Self(reading)
    }

    /// Whether it is proved that this session's database is the one that is read. It is not while neither has a ledger, or the one
    /// that is read is away, which others say.
    ///
    /// # Errors
    /// DATABASES_DIFFER, or the database's where migrations run.
    pub async fn prove(&self, migrating: &Client) -> Result<bool, Failure> {
        let Some(pool) = &self.0 else { return Ok(true) };
        let reading = async { read::id(&mut *pool.get().await?).await };
        match tokio::time::timeout(WITHIN, reading).await {
            Ok(Ok(reading)) => compare(reading.as_deref(), id(migrating).await?.as_deref()),
            Ok(Err(_)) | Err(_) => Ok(false),
        }
    }
}

/// The id of the ledger in the session's database. `None`: there is none.
///
/// # Errors
/// The database's, or its loss.
pub async fn id(client: &Client) -> Result<Option<String>, Error> {
    if client.query_typed(read::HAS_LEDGER, &[]).await?.is_empty() {
        return Ok(None);
    }
    Ok(client.query_typed(read::LEDGER_ID, &[]).await?.first().map(|row| row.get(0)))
}

/// Whether the two ids prove that it is one database.
///
/// # Errors
/// DATABASES_DIFFER: they prove that it is not, or not yet, where a standby is read.
pub fn compare(reading: Option<&str>, migrating: Option<&str>) -> Result<bool, Failure> {
    if reading == migrating {
        return Ok(reading.is_some());
    }
    let ledger = |id: Option<&str>| id.map_or("no ledger".to_owned(), |id| format!("the ledger {id}"));
    let message = format!(
        "DATABASE_URL leads to a database with {}, MIGRATION_DATABASE_URL to one with {}: point both at the same database (a \
         standby that is read may be behind)",
        ledger(reading),
        ledger(migrating)
    );
    let id = |id: Option<&str>| id.unwrap_or("none").to_owned();
    Err(Failure::new(Reason::DatabasesDiffer, message)
        .with("ledger", id(reading))
        .with("migration_ledger", id(migrating)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_id_proves_it_and_two_prove_the_contrary() {
        assert_eq!((compare(Some("a"), Some("a")), compare(None, None)), (Ok(true), Ok(false)));
        for (reading, migrating) in [(Some("a"), Some("b")), (None, Some("a")), (Some("a"), None)] {
            assert_eq!(compare(reading, migrating).unwrap_err().reason, Reason::DatabasesDiffer);
        }
    }
}
