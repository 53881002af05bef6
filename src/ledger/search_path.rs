//! Keeps the objects of migrations out of the ledger's schema.

use crate::{
    failure::{Failure, Reason},
    postgres::session::MigrationSession,
};

/// Checks that unqualified names of a migration, run as `role`, are not created in the ledger's
/// schema, which is dropped when a project stops using schemad.
///
/// # Errors
/// SEARCH_PATH_UNSAFE with what to change, or the failure of the database.
pub(crate) async fn check(session: &MigrationSession, role: Option<&str>) -> Result<(), Failure> {
    match session.first_schema(role).await?.as_deref() {
        Some("schemad") => Err(Failure::new(
            Reason::SearchPathUnsafe,
            "the search_path of migrations begins with the schema schemad, which is the ledger's, \
             so what they do not qualify would be created there: log in as (or run migrations as) \
             a role that is not called schemad, or name a search_path in the URL \
             (options=-csearch_path%3Dpublic)",
        )),
        _ => Ok(()),
    }
}
