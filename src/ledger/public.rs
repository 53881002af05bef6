//! Checks the rights on the ledger: those of PUBLIC, which should have none, and those of roles
//! that could add code of their own to it.

use tokio_postgres::Client;

use super::install::ledger_owner;
use crate::postgres::DatabaseError;

/// Returns the REVOKE statements that remove the rights of PUBLIC in the schema `schemad`. Empty if
/// it has none.
///
/// # Errors
/// Returns an error if the query fails or the connection is lost.
pub(crate) async fn revokes(client: &Client) -> Result<Vec<String>, DatabaseError> {
    // Includes rights on columns. has_any_column_privilege does not accept a sequence.
    let query = "WITH s AS (SELECT n.oid FROM pg_namespace n WHERE n.nspname = 'schemad') SELECT \
        'REVOKE ALL ON SCHEMA schemad FROM PUBLIC' FROM s WHERE has_schema_privilege('public', \
        s.oid, 'USAGE, CREATE') UNION ALL SELECT format('REVOKE ALL ON TABLE schemad.%I FROM \
        PUBLIC', c.relname) FROM s JOIN pg_class c ON c.relnamespace = s.oid AND c.relkind IN \
        ('r', 'v', 'm', 'p', 'f') WHERE has_table_privilege('public', c.oid, 'SELECT, INSERT, \
        UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER') OR has_any_column_privilege('public', \
        c.oid, 'SELECT, INSERT, UPDATE, REFERENCES') UNION ALL SELECT format('REVOKE ALL ON \
        SEQUENCE schemad.%I FROM PUBLIC', c.relname) FROM s JOIN pg_class c ON c.relnamespace = \
        s.oid AND c.relkind = 'S' WHERE CASE c.relkind WHEN 'S' THEN \
        has_sequence_privilege('public', c.oid, 'USAGE, SELECT, UPDATE') END UNION ALL SELECT \
        format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', p.oid::regprocedure) FROM s JOIN pg_proc p \
        ON p.pronamespace = s.oid WHERE has_function_privilege('public', p.oid, 'EXECUTE')";
    let rows = client.query_typed(query, &[]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Returns the roles that may create objects in the ledger's schema, or triggers and references on
/// its tables, each with the REVOKE statement. A role with the rights of the ledger's owner is not
/// included.
///
/// # Errors
/// Returns an error if the query fails or the connection is lost.
pub(crate) async fn intruders(client: &Client) -> Result<Vec<(String, String)>, DatabaseError> {
    const QUERY: &str = concat!(
        "SELECT DISTINCT quote_ident(r.rolname), format(g.revoke, quote_ident(r.rolname)) FROM \
            (SELECT a.grantee, n.nspowner AS owner, 'REVOKE CREATE ON SCHEMA schemad FROM %s' AS \
            revoke FROM pg_namespace n, aclexplode(n.nspacl) a WHERE n.nspname = 'schemad' AND \
            a.privilege_type = 'CREATE' UNION ALL SELECT a.grantee, c.relowner, 'REVOKE TRIGGER, \
            REFERENCES ON ALL TABLES IN SCHEMA schemad FROM %s' FROM pg_namespace n JOIN pg_class \
            c ON c.relnamespace = n.oid, aclexplode(c.relacl) a WHERE n.nspname = 'schemad' AND \
            c.relkind = 'r' AND a.privilege_type IN ('TRIGGER', 'REFERENCES')) g JOIN pg_roles r \
            ON r.oid = g.grantee WHERE NOT pg_has_role(r.oid, g.owner, 'MEMBER') AND NOT ",
        ledger_owner!("r.oid"),
        " ORDER BY 1, 2"
    );
    let rows = client.query_typed(QUERY, &[]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Returns whether the role may upgrade the ledger. This takes the owner's rights on all its
/// tables.
///
/// # Errors
/// Returns an error if the query fails or the connection is lost.
pub(crate) async fn may_upgrade(client: &Client) -> Result<bool, DatabaseError> {
    let query = "SELECT coalesce(bool_and(pg_has_role(c.relowner, 'USAGE')), true) FROM pg_class c \
        JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'schemad' AND c.relkind = \
        'r'";
    Ok(client
        .query_typed(query, &[])
        .await?
        .first()
        .is_none_or(|row| row.get(0)))
}
