//! Drops what was left behind.

use std::collections::HashSet;

use tokio_postgres::{Client, types::Type};

use super::{LOCK, Name, name::PREFIX};
use crate::db::Error;

/// Scratch databases that this role may drop and that no client is connected to.
const UNUSED: &str = "SELECT d.datname::text FROM pg_catalog.pg_database d WHERE starts_with(d.datname::text, $1) \
    AND pg_catalog.pg_has_role(d.datdba, 'USAGE') AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_activity a \
        WHERE a.datid = d.oid AND (a.backend_type IS NULL OR a.backend_type = 'client backend'))";

/// The makers that live, whichever database each is connected to.
const MAKERS: &str = "SELECT l.objid FROM pg_catalog.pg_locks l WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2 \
    AND l.classid = $1";

/// Drops the scratch databases whose maker is gone and that nobody uses; returns their names. A maker takes its lock before it
/// makes anything, so one that is just beginning is safe; so is whoever's maker died under them and who is still connected.
///
/// # Errors
/// The database's, or its loss. A database that cannot be dropped (somebody has connected meanwhile) is left for the next time.
pub async fn sweep(client: &Client) -> Result<Vec<Name>, Error> {
    let unused = client.query_typed(UNUSED, &[(&PREFIX, Type::TEXT)]).await?;
    let unused: Vec<Name> = unused.iter().filter_map(|row| row.get::<_, String>(0).parse().ok()).collect();
    if unused.is_empty() {
        return Ok(unused);
    }
    // Asked after the names: a database that was made since is not among them.
    let makers = client.query_typed(MAKERS, &[(&LOCK.cast_unsigned(), Type::OID)]).await?;
    let makers: HashSet<u32> = makers.iter().map(|row| row.get(0)).collect();
    let mut swept = Vec::new();
    for name in unused.into_iter().filter(|name| !makers.contains(&name.maker())) {
        // Without FORCE: somebody may have connected meanwhile, and then waited for its maker to be gone.
        match client.batch_execute(&format!("DROP DATABASE IF EXISTS {name}")).await.map_err(Error::from) {
            Ok(()) => {
                tracing::info!(event = "scratch.swept", database = %name, age_s = name.age(), "dropped a scratch database that was left behind");
                swept.push(name);
            }
            Err(error @ Error::Sql(_)) => tracing::debug!(database = %name, cause = %error, "not yet"),
            Err(lost) => return Err(lost),
        }
    }
    Ok(swept)
}
