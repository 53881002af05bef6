//! Drops what was left behind.

use std::collections::HashSet;

use tokio_postgres::{Client, types::Type};

use super::{LOCK, ScratchName, name::PREFIX};
use crate::postgres::DatabaseError;

/// Scratch databases of this role, and whether a client is connected. Anybody can give a database
/// such a name, so one that this role could drop, as a superuser or a member of its owner, is not
/// its own for that.
const OURS: &str = "SELECT d.datname::text, EXISTS (SELECT FROM pg_catalog.pg_stat_activity a \
        WHERE a.datid = d.oid AND (a.backend_type IS NULL OR a.backend_type = 'client backend')) \
    FROM pg_catalog.pg_database d WHERE starts_with(d.datname::text, $1) \
        AND d.datdba = (SELECT r.oid FROM pg_catalog.pg_roles r WHERE r.rolname = current_user)";

/// The makers that live, whichever database each is connected to.
const MAKERS: &str = "SELECT l.objid FROM pg_catalog.pg_locks l WHERE l.locktype = 'advisory' AND \
    l.granted AND l.objsubid = 2 AND l.classid = $1";

/// Drops the scratch databases whose maker is gone and that nobody uses; returns their names. A
/// maker takes its lock before it makes anything, so one that is just beginning is safe; so is
/// whoever's maker died under them and who is still connected.
///
/// # Errors
/// The database's, or its loss. A database that cannot be dropped (somebody has connected
/// meanwhile) is left for the next time.
pub async fn sweep(client: &Client) -> Result<Vec<ScratchName>, DatabaseError> {
    let mut swept = Vec::new();
    for (name, _) in left_behind(client)
        .await?
        .into_iter()
        .filter(|(_, used)| !used)
    {
        // Without FORCE: somebody may have connected meanwhile, and then waited for its maker to be
        // gone.
        match client
            .batch_execute(&format!("DROP DATABASE IF EXISTS {name}"))
            .await
            .map_err(DatabaseError::from)
        {
            Ok(()) => {
                tracing::info!(event = "scratch.swept", database = %name, age_s = name.age(), "dropped \
                    a scratch database that was left behind");
                swept.push(name);
            }
            Err(error @ DatabaseError::Sql(_)) => {
                tracing::debug!(database = %name, cause = %error, "not yet")
            }
            Err(lost) => return Err(lost),
        }
    }
    Ok(swept)
}

/// What [`sweep`] spares because somebody is still connected, though its maker is gone.
///
/// # Errors
/// The database's, or its loss.
pub(crate) async fn orphans(client: &Client) -> Result<Vec<ScratchName>, DatabaseError> {
    Ok(left_behind(client)
        .await?
        .into_iter()
        .filter_map(|(name, used)| used.then_some(name))
        .collect())
}

/// The databases whose maker is gone, and whether somebody is connected.
async fn left_behind(client: &Client) -> Result<Vec<(ScratchName, bool)>, DatabaseError> {
    let ours = client.query_typed(OURS, &[(&PREFIX, Type::TEXT)]).await?;
    let mut ours: Vec<(ScratchName, bool)> = ours
        .iter()
        .filter_map(|row| Some((row.get::<_, String>(0).parse().ok()?, row.get(1))))
        .collect();
    if !ours.is_empty() {
        // Asked after the names: a database that was made since is not among them.
        let makers = client
            .query_typed(MAKERS, &[(&LOCK.cast_unsigned(), Type::OID)])
            .await?;
        let makers: HashSet<u32> = makers.iter().map(|row| row.get(0)).collect();
        ours.retain(|(name, _)| !makers.contains(&name.maker()));
    }
    Ok(ours)
}
