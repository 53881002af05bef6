//! The extensions that the embedded set creates, as far as its plain statements say so, and whether
//! the server has them.

use std::collections::BTreeMap;

use tokio_postgres::types::Type;

use super::{CheckResult, CheckStatus, ReadOnlySession};
use crate::{
    migration::{MigrationRow, Version, set::MigrationSet},
    postgres::DatabaseError,
    sql::{self, CreateExtension},
};

/// What there is of an extension that the set creates.
const WANTED: &str = "SELECT w.name, e.oid IS NOT NULL, a.name IS NOT NULL, NOT r.rolsuper AND \
        coalesce(v.superuser AND NOT v.trusted, false), r.rolsuper OR \
        has_database_privilege(r.oid, current_database(), 'CREATE'), format('CREATE ON DATABASE %I \
        TO %I', current_database(), r.rolname) FROM unnest($1::text[]) w (name) CROSS JOIN (SELECT \
        * FROM pg_roles WHERE rolname = coalesce($2, current_user)) r LEFT JOIN pg_extension e ON \
        e.extname = w.name LEFT JOIN pg_available_extensions a ON a.name = w.name LEFT JOIN \
        pg_available_extension_versions v ON v.name = a.name AND v.version = a.default_version \
        ORDER BY w.name";

pub(super) async fn extensions(
    check: &'static str,
    asking: &ReadOnlySession<'_>,
    catalog: &MigrationSet,
    rows: &[MigrationRow],
    role: Option<&str>,
) -> Result<CheckResult, DatabaseError> {
    let installed = asking
        .one(
            "SELECT coalesce(string_agg(extname || ' ' || extversion, ', ' ORDER BY extname), \
            'none') FROM pg_extension",
        )
        .await?;
    let mut check = CheckResult::ok(
        check,
        format!("installed: {}", installed.get::<_, String>(0)),
    );
    let wanted = created(catalog);
    let names: Vec<&str> = wanted.keys().map(String::as_str).collect();
    for row in asking
        .all(WANTED, &[(&names, Type::TEXT_ARRAY), (&role, Type::TEXT)])
        .await?
    {
        let (name, installed): (String, bool) = (row.get(0), row.get(1));
        let Some((version, extension)) = wanted.get(&name).filter(|_| !installed) else {
            continue;
        };
        let (available, superuser, may_create): (bool, bool, bool) =
            (row.get(2), row.get(3), row.get(4));
        let problem = match () {
            () if !available => {
                format!("{name} is not available: install its package on the server")
            }
            () if superuser => {
                let (schema, file) = extension.advice();
                format!(
                    "{name} takes a superuser: run CREATE EXTENSION {}{schema} as one, and {file}",
                    sql::ident(&name)
                )
            }
            () if !may_create => format!("{name} takes GRANT {}", row.get::<_, String>(5)),
            () => continue,
        };
        // What is applied was created once, and may have been dropped on purpose.
        let pending = !rows
            .iter()
            .any(|row| row.version == **version && row.is_applied());
        let status = check.status.max(if pending {
            CheckStatus::Fail
        } else {
            CheckStatus::Warn
        });
        check = CheckResult { status, ..check }.todo(format!("migration {version}: {problem}"));
    }
    Ok(check)
}

/// The extensions that the ups create, each with the first migration that does.
fn created(catalog: &MigrationSet) -> BTreeMap<String, (&Version, CreateExtension<'_>)> {
    let mut created = BTreeMap::new();
    for migration in catalog.iter() {
        for extension in sql::split(&migration.up.sql)
            .iter()
            .filter_map(CreateExtension::of)
        {
            created
                .entry(extension.name.clone())
                .or_insert((&migration.version, extension));
        }
    }
    created
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migration::set::tests::{Hand, Source};

    #[test]
    fn the_extensions_of_a_set_are_found_whatever_their_form() {
        let ups = vec![
            "CREATE EXTENSION a; create extension IF NOT EXISTS \"b-c\" SCHEMA x; -- CREATE \
             EXTENSION no\nSELECT 1",
        ];
        let again = vec![
            "CREATE /* a */ EXTENSION IF NOT EXISTS A CASCADE; ALTER EXTENSION d UPDATE; CREATE \
             TABLE extension ()",
        ];
        let catalog = MigrationSet::load(&Source(vec![
            Hand("1_a", ups, None),
            Hand("2_b", again, None),
        ]))
        .unwrap();
        let found = created(&catalog);
        let found: Vec<_> = found
            .iter()
            .map(|(name, (version, extension))| (name.as_str(), version.as_str(), extension.schema))
            .collect();
        assert_eq!(found, [("a", "1", None), ("b-c", "1", Some("x"))]);
    }
}
