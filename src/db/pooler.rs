//! Is there a transaction pooler between schemad and the server? Behind one a session lock belongs to whoever gets the
//! server connection next, so this is proved before any session lock is taken.
//!
//! One connection alone cannot tell: an idle PgBouncer gives it the same server connection every time. Two can: while the
//! second has a transaction open, the first either keeps its own backend or it does not.

use std::time::Duration;

use super::{DatabaseUrl, Error, session::Session};

/// With a pool of one server connection the first connection would wait for the second's transaction for ever. A server
/// that needs longer for `SELECT pg_backend_pid()` is in no state to be migrated either.
const PATIENCE: Duration = Duration::from_secs(3);

/// In an idle pool the first round tells. In a busy one others take and return server connections meanwhile, and a round
/// can pass by chance; eight in a row do not.
const ROUNDS: usize = 8;

const WHO_AM_I: &str = "SELECT pg_catalog.pg_backend_pid(), pg_catalog.current_setting('schemad.probe', true) = 'mark'";

/// Proves that `session` keeps its server connection to itself.
///
/// # Errors
/// [`Error::Pooler`] when it does not; otherwise the database's or its loss.
pub async fn prove_direct(session: &Session, url: &DatabaseUrl) -> Result<(), Error> {
    match tokio::time::timeout(PATIENCE, is_shared(session, url)).await {
        Ok(Ok(false)) => Ok(()),
        Ok(Ok(true)) => Err(pooled(url, "two connections share a server connection")),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(pooled(url, "one connection waited for another's transaction to end")),
    }
}

async fn is_shared(session: &Session, url: &DatabaseUrl) -> Result<bool, Error> {
    session.client().batch_execute("SET schemad.probe='mark'").await?;
    let (own_pid, _) = who_am_i(session).await?;
    let other = Session::open(url).await?;
    for _ in 0..ROUNDS {
        // While the other's transaction holds a server connection, the next transaction of a pool gets another one.
        other.client().batch_execute("BEGIN").await?;
        let (other_pid, other_sees_mark) = who_am_i(&other).await?;
        let (own_pid_now, own_mark) = who_am_i(session).await?;
        other.client().batch_execute("ROLLBACK").await?;
        if own_pid == other_pid || other_sees_mark || own_pid_now != own_pid || !own_mark {
            return Ok(true);
        }
    }
    session.client().batch_execute("RESET schemad.probe").await?;
    Ok(false)
}

async fn who_am_i(session: &Session) -> Result<(i32, bool), Error> {
    let rows = session.client().query_typed(WHO_AM_I, &[]).await?;
    let row = rows.first().ok_or_else(|| Error::Lost("the server returned no row".into()))?;
    Ok((row.get(0), row.get::<_, Option<bool>>(1).unwrap_or(false)))
}

fn pooled(url: &DatabaseUrl, seen: &str) -> Error {
    Error::Pooler(
        format!(
            "{} goes through a transaction pooler ({seen}): set MIGRATION_DATABASE_URL to a direct or session-pooled address",
            url.target()
        )
        .into(),
    )
}
