//! Is there a transaction pooler between schemad and the server? Behind one a session lock belongs
//! to whoever gets the server connection next, so this is proved before any session lock is taken.
//!
//! One connection alone cannot tell: an idle PgBouncer gives it the same server connection every
//! time. Two can: while the second has a transaction open, the first either keeps its own backend
//! or it does not.

use std::time::Duration;

use tokio_postgres::SimpleQueryMessage;

use super::{DatabaseError, DatabaseUrl, session::MigrationSession};

/// A server that needs longer for one `SELECT pg_backend_pid()` is in no state to be migrated, and
/// so is a pool whose server connections are all taken.
const PATIENCE: Duration = Duration::from_secs(3);

/// In an idle pool the first round tells. In a busy one others take and return server connections
/// meanwhile, and a round can pass by chance; so there are several, not in step with anybody.
const ROUNDS: usize = 8;

const WHO_AM_I: &str =
    "SELECT pg_catalog.pg_backend_pid()::text, pg_catalog.current_setting('schemad.probe', true)";

/// Proves that `session` keeps its server connection to itself.
///
/// # Errors
/// [`DatabaseError::Pooler`] when it does not; otherwise the database's or its loss.
pub(crate) async fn prove_direct(
    session: &MigrationSession,
    url: &DatabaseUrl,
) -> Result<(), DatabaseError> {
    match is_shared(session, url).await {
        Ok(false) => Ok(()),
        Ok(true) => Err(pooled(url)),
        Err(error) => Err(error),
    }
}

async fn is_shared(session: &MigrationSession, url: &DatabaseUrl) -> Result<bool, DatabaseError> {
    // Of this proof only: what an earlier one set may still be in the server connection of a pool.
    let mark = uuid::Uuid::new_v4().to_string();
    let own = who_am_i(session, &format!("SET schemad.probe='{mark}';{WHO_AM_I}"))
        .await?
        .0;
    let other = MigrationSession::open(url).await?;
    for round in 0..ROUNDS {
        // While the other's transaction holds a server connection, a pool gives the next
        // transaction another one ...
        let (other_pid, other_mark) = who_am_i(&other, &format!("BEGIN;{WHO_AM_I}")).await?;
        // Before anything waits: with a pool of one server connection the next question would, for
        // ever.
        if other_pid == own || other_mark == mark {
            return Ok(true);
        }
        let meanwhile = who_am_i(session, WHO_AM_I).await?;
        // ... and afterwards perhaps the very one that the other had.
        in_time(other.client().batch_execute("ROLLBACK")).await?;
        let afterwards = who_am_i(session, WHO_AM_I).await?;
        let kept = |(pid, seen): &(String, String)| *pid == own && *seen == mark;
        if !kept(&meanwhile) || !kept(&afterwards) {
            return Ok(true);
        }
        let digits = u64::from(mark.as_bytes().get(round).copied().unwrap_or_default());
        tokio::time::sleep(Duration::from_micros(digits % 16 * 100)).await;
    }
    session
        .client()
        .batch_execute("RESET schemad.probe")
        .await?;
    Ok(false)
}

/// The server connection and the mark in it, as the last row of `query` says.
async fn who_am_i(
    session: &MigrationSession,
    query: &str,
) -> Result<(String, String), DatabaseError> {
    let messages = in_time(session.client().simple_query(query)).await?;
    let row = messages
        .into_iter()
        .rev()
        .find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
    let row = row.ok_or_else(|| DatabaseError::Lost("the server returned no row".into()))?;
    let column = |n| row.get(n).unwrap_or_default().to_owned();
    Ok((column(0), column(1)))
}

async fn in_time<T>(
    answer: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, DatabaseError> {
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(DatabaseError::Timeout(PATIENCE)),
    }
}

fn pooled(url: &DatabaseUrl) -> DatabaseError {
    DatabaseError::Pooler(
        format!(
            "{} goes through a transaction pooler (two connections share a server connection): set \
             MIGRATION_DATABASE_URL to a direct or session-pooled address",
            url.target()
        )
        .into(),
    )
}
