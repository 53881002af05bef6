//! Creates, checks and upgrades the ledger. The ledger has two numbers: its version, and the oldest
//! version that a daemon must support to use it. Every change is additive, so the previous release
//! of schemad keeps working beside the next one.

use std::collections::HashSet;

use tokio_postgres::{
    Client, Row,
    types::{ToSql, Type},
};

use super::claims;
use crate::{
    failure::{Failure, LEDGER_REPAIR, Reason},
    postgres::{
        self,
        error::ForeignObject,
        lock::{LockedSession, operation_lock},
        session::MigrationSession,
    },
    sql,
};

/// The ledger's migrations: the version, the oldest version that a daemon must support to use it,
/// and the SQL that upgrades from the version before.
const MIGRATIONS: [(i32, i32, &str); 6] = [
    (1, 1, include_str!("0001.sql")),
    (2, 1, include_str!("0002.sql")),
    (3, 1, include_str!("0003.sql")),
    (4, 1, include_str!("0004.sql")),
    (5, 1, include_str!("0005.sql")),
    (6, 1, include_str!("0006.sql")),
];

/// The ledger version that this daemon creates and upgrades to.
pub const VERSION: i32 = MIGRATIONS[MIGRATIONS.len() - 1].0;

/// The ledger's tables, each with the version that added it. If a table of the ledger's version is
/// missing, or a table of a later version is present, the ledger was changed by hand. The same
/// holds for [`FUNCTIONS`], which are listed with the types of their arguments.
const TABLES: [(i32, &str); 10] = [
    (1, "ledger"),
    (1, "scripts"),
    (1, "operations"),
    (1, "steps"),
    (1, "statements"),
    (1, "migrations"),
    (1, "events"),
    (2, "refusals"),
    (2, "watchers"),
    (4, "rehearsals"),
];
/// The columns of the ledger's tables. Each entry has the version that added the columns.
const COLUMNS: [(i32, &str, &str); 13] = [
    (
        1,
        "ledger",
        "only_row id version compatible_with diesel_schema diesel_table created_at",
    ),
    (1, "scripts", "checksum sql"),
    (
        1,
        "operations",
        "id kind principal request_id request_hash state daemon backend_pid backend_start \
         queue_until created_at started_at finished_at steps_total result",
    ),
    (
        1,
        "steps",
        "id operation ordinal version name direction script mode up_script down_script up_mode \
         down_mode lock_timeout_ms statement_timeout_ms role state xid planned_as \
         planned_in_session_of started_at finished_at",
    ),
    (
        1,
        "statements",
        "step ordinal checksum settles_by state indexes_before started_at finished_at",
    ),
    (
        1,
        "migrations",
        "version name position up_script down_script up_mode down_mode applied_at step adopted \
         mac",
    ),
    (1, "events", "operation sequence at kind data"),
    (
        2,
        "refusals",
        "id at daemon principal kind request_id reason message",
    ),
    (2, "watchers", "daemon version clients seen_at"),
    (2, "operations", "cancel_requested_by heartbeat_at reason"),
    (3, "steps", "down_mac"),
    (
        4,
        "rehearsals",
        "version up_script up_mode down_script down_mode verdict principal daemon rehearsed_at",
    ),
    (5, "ledger", "system_identifier database_oid"),
];
const FUNCTIONS: [(i32, &str); 16] = [
    (1, "begin_step_v1(bigint)"),
    (1, "finish_step_v1(bigint)"),
    (1, "note_statement_v1(bigint, integer, text)"),
    (3, "finish_step_v2(bigint)"),
    (5, "diesel_table_problem_v1(oid)"),
    (5, "begin_step_v2(bigint)"),
    (5, "finish_step_v3(bigint)"),
    (5, "note_statement_v2(bigint, integer, text)"),
    (6, "diesel_table_problem_v2(oid)"),
    (6, "is_kept_out_v1()"),
    (6, "lock_diesel_table_v1()"),
    (6, "is_its_turn_v1(bigint)"),
    (6, "begin_step_v3(bigint)"),
    (6, "finish_step_v4(bigint)"),
    (6, "can_be_finished_v1(bigint)"),
    (6, "note_statement_v3(bigint, integer, text)"),
];

/// The first ledger version whose function `diesel_table_problem_v2` checks Diesel's table.
const DIESEL_TABLE_IS_LOOKED_AT: i32 = 6;

/// The result of [`check`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LedgerState {
    /// This daemon can use the ledger.
    Usable,
    /// There is no ledger. This daemon may create it, holding the operation lock.
    ToBeCreated,
    /// The ledger has an older version. This daemon upgrades it, holding the operation lock.
    ToBeUpgraded,
}

/// The extent of a check of the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InspectionDepth {
    /// Everything, in two statements. This includes triggers, rules and the like on Diesel's table.
    Closely,
    /// Everything except what is on Diesel's table, in one statement.
    Shortly,
}

/// The result of one check of a ledger in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LedgerStanding {
    /// Whether this daemon can use the ledger.
    pub state: LedgerState,
    /// Whether operations are pending or running, or a session of schemad holds the operation lock.
    pub is_busy: bool,
}

/// Checks whether there is a ledger and whether this daemon can use it.
///
/// # Errors
/// READ_ONLY_SERVER, DATABASE_UNAVAILABLE, MISSING_RIGHT, LEDGER_FOREIGN, LEDGER_TOO_NEW,
/// LEDGER_DAMAGED, DIESEL_TABLE_UNSAFE, ROW_SECURITY, or a database error.
pub(crate) async fn check(session: &MigrationSession) -> Result<LedgerState, Failure> {
    let keeping = session.ledger_session();
    let place = LedgerPlace::of(&one(keeping.client(), PLACE).await?);
    place
        .server_may_be_used()
        .map_err(|failure| of_the_keeper(session, failure))?;
    place.is_trusted()?;
    if !place.has_ledger {
        AbsentLedger::find(keeping, &place)
            .await?
            .may_be_created(&place)?;
        return Ok(LedgerState::ToBeCreated);
    }
    may_be_read(keeping, &place).await?;
    Ok(standing(session, InspectionDepth::Closely).await?.state)
}

/// Checks a ledger that was usable a moment ago, with fewer statements than [`check`]. If the
/// ledger is gone or has become unreadable, the server's own error is returned. [`check`] reports
/// the cause.
///
/// # Errors
/// As [`check`].
pub(crate) async fn standing(
    session: &MigrationSession,
    look: InspectionDepth,
) -> Result<LedgerStanding, Failure> {
    let keeping = session.ledger_session();
    let (place, contents) = whole(keeping.client()).await?;
    place
        .server_may_be_used()
        .map_err(|failure| of_the_keeper(session, failure))?;
    place.is_trusted()?;
    may_be_read(keeping, &place).await?;
    let state = judge(keeping, &place, &contents, look).await?;
    if state == LedgerState::Usable && session.keeper().is_some() {
        guards_may_be_used(session.client()).await?;
    }
    Ok(LedgerStanding {
        state,
        is_busy: contents.is_busy,
    })
}

/// Rewrites READ_ONLY_SERVER if another login writes the ledger. In that case it is the address of
/// that login that has to lead to the primary.
fn of_the_keeper(session: &MigrationSession, failure: Failure) -> Failure {
    if session.keeper().is_none() || failure.reason != Reason::ReadOnlyServer {
        return failure;
    }
    let message = "DATABASE_URL leads to a standby or a read-only server, and its login keeps the \
        ledger, because that of MIGRATION_DATABASE_URL may not write it: point both at the \
        primary";
    Failure {
        message: message.into(),
        ..failure
    }
}

/// Checks that the login that runs migrations may call this release's guards. This is all it needs
/// if another login writes the ledger.
async fn guards_may_be_used(client: &Client) -> Result<(), Failure> {
    let query = "SELECT quote_ident(current_user), has_schema_privilege(s.oid, 'USAGE'), \
        coalesce(bool_and(has_function_privilege(p.oid, 'EXECUTE')), true) FROM pg_namespace s \
        LEFT JOIN pg_proc p ON p.pronamespace = s.oid AND p.proname IN ('begin_step_v3', \
        'finish_step_v4', 'can_be_finished_v1', 'note_statement_v3') WHERE s.nspname = 'schemad' \
        GROUP BY s.oid";
    let row = one(client, query).await?;
    let (may_use, may_execute): (bool, bool) = (row.get(1), row.get(2));
    let needs = [
        (may_use, "USAGE ON SCHEMA schemad"),
        (may_execute, "EXECUTE ON ALL FUNCTIONS IN SCHEMA schemad"),
    ];
    let lacks: Vec<String> = needs
        .iter()
        .filter(|(has, _)| !has)
        .map(|(_, right)| (*right).into())
        .collect();
    must_have(row.get(0), &lacks)
}

/// Checks that the ledger's tables can be read and that row security hides no rows. All missing
/// rights are reported at once. As long as the ledger cannot be read, Diesel's table is the one
/// that the search_path finds.
async fn may_be_read(session: &MigrationSession, place: &LedgerPlace) -> Result<(), Failure> {
    if !place.may_use_schema || place.lacks_tables {
        let mut lacks = place.lacks();
        let absent = AbsentLedger::find(session, place).await?;
        lacks.extend(absent.diesel.as_ref().and_then(|_| absent.lacks_diesel()));
        return place.has(&lacks);
    }
    match &place.hidden_table {
        Some(table) => Err(hidden(&format!("schemad.{table}"), &place.role)),
        None => Ok(()),
    }
}

/// Checks the version and the completeness of the ledger, the rights on it, and Diesel's table.
async fn judge(
    session: &MigrationSession,
    place: &LedgerPlace,
    contents: &LedgerContents,
    look: InspectionDepth,
) -> Result<LedgerState, Failure> {
    let Some(version) = contents.version else {
        return Err(damaged("the only row of schemad.ledger is missing"));
    };
    place.is_whole(version)?;
    place.may_be_used(contents)?;
    if contents.compatible_with > VERSION {
        let compatible_with = contents.compatible_with;
        return Err(Failure::new(
            Reason::LedgerTooNew,
            format!(
                "the ledger has version {version} and needs a schemad that knows version \
                 {compatible_with}; this one knows {VERSION}. Use a newer release"
            ),
        )
        .with("ledger_version", version)
        .with("compatible_with", compatible_with));
    }
    contents.diesel_may_be_used(session).await?;
    contents.guards_may_use_diesel()?;
    if version >= DIESEL_TABLE_IS_LOOKED_AT && look == InspectionDepth::Closely {
        contents.diesel_is_plain(session.client()).await?;
    }
    Ok(if version < VERSION {
        LedgerState::ToBeUpgraded
    } else {
        LedgerState::Usable
    })
}

/// Reads the place and the contents of the ledger in one statement, and so in one snapshot. Another
/// daemon may be upgrading the ledger at this moment.
async fn whole(client: &Client) -> Result<(LedgerPlace, LedgerContents), Failure> {
    let row = one(
        client,
        &format!("SELECT * FROM ({PLACE_AND_TABLES}) place CROSS JOIN ({CONTENTS}) contents"),
    )
    .await?;
    Ok((LedgerPlace::of(&row), LedgerContents::of(&row)))
}

/// Creates or upgrades the ledger, and creates Diesel's table with Diesel's own DDL. Does nothing
/// if both exist and are up to date. If the ledger was copied from another database, closes the
/// operations that ran there.
///
/// # Errors
/// As [`check`], or a database error. The failing transaction changes nothing.
pub(crate) async fn ensure(locked: &LockedSession) -> Result<(), Failure> {
    let session = locked.ledger_session();
    let client = session.client();
    let place = LedgerPlace::of(&one(client, PLACE).await?);
    place.server_may_be_used()?;
    place.is_trusted()?;
    let installed = if place.has_ledger {
        may_be_read(session, &place).await?;
        let (place, contents) = whole(client).await?;
        judge(session, &place, &contents, InspectionDepth::Closely).await?;
        contents.version.unwrap_or_default()
    } else {
        0
    };
    if installed == 0 {
        create(session, &place).await?;
    }
    for (version, compatible_with, sql) in MIGRATIONS
        .iter()
        .filter(|(v, ..)| *v > installed.max(MIGRATIONS[0].0))
    {
        let update = format!(
            "UPDATE schemad.ledger SET version = {version}, compatible_with = {compatible_with}"
        );
        // If a long reader (a dump of the whole database) holds the tables, the upgrade fails and
        // is tried again later. Waiting longer would block the statements queued behind it.
        execute(
            client,
            &format!("BEGIN;SET LOCAL lock_timeout='3s';{sql};{update};COMMIT"),
        )
        .await?;
        tracing::info!(event = "ledger.upgraded", database = %place.database, version, "upgraded \
            the ledger");
    }
    recognise_copy(client).await?;
    restore_diesel_table(client).await
}

/// Detects a ledger that was copied from another database with a dump or a clone. The operations
/// that it lists as running ran in that database. They are closed, so that nothing acts on them.
async fn recognise_copy(client: &Client) -> Result<(), Failure> {
    let query = "WITH now AS (SELECT c.system_identifier, d.oid FROM pg_control_system() c, \
            pg_database d WHERE d.datname = current_database()), before AS (SELECT \
            l.system_identifier::text || '/' || l.database_oid::text AS database FROM \
            schemad.ledger l), changed AS (UPDATE schemad.ledger l SET system_identifier = \
            now.system_identifier, database_oid = now.oid FROM now WHERE (l.system_identifier, \
            l.database_oid) IS DISTINCT FROM (now.system_identifier, now.oid) RETURNING true) \
            SELECT before.database FROM before, changed";
    let rows = client
        .query_typed(query, &[])
        .await
        .map_err(postgres::DatabaseError::from)?;
    let Some(other) = rows.first().and_then(|row| row.get::<_, Option<String>>(0)) else {
        return Ok(());
    };
    let closed = claims::close_copied(client).await?;
    tracing::warn!(
        event = "ledger.copied",
        other,
        closed,
        "this database is a copy: its ledger was made in another one. Operations that ran there \
         are closed here"
    );
    Ok(())
}

async fn create(session: &MigrationSession, place: &LedgerPlace) -> Result<(), Failure> {
    let absent = AbsentLedger::find(session, place).await?;
    absent.may_be_created(place)?;
    let mut message = String::from("BEGIN;");
    if !place.has_schema {
        message += "CREATE SCHEMA schemad;COMMENT ON SCHEMA schemad IS 'schemad''s ledger: which \
            migrations ran, when and by whom';";
    }
    // The server quoted both names. If there is no schema, the server reports that the table cannot
    // be created.
    let schema = absent
        .current_schema
        .as_deref()
        .map(|schema| format!("{schema}."))
        .unwrap_or_default();
    let table = absent
        .diesel
        .clone()
        .unwrap_or_else(|| format!("{schema}__diesel_schema_migrations"));
    if absent.diesel.is_none() {
        message += &diesel_table(&table);
    }
    let (version, compatible_with, sql) = MIGRATIONS[0];
    message += &format!(
        "{sql};INSERT INTO schemad.ledger (version, compatible_with, diesel_schema, diesel_table) \
         SELECT {version}, {compatible_with}, n.nspname, c.relname FROM pg_class c JOIN \
         pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = {}::regclass;COMMIT",
        sql::literal(&table)
    );
    execute(session.client(), &message).await?;
    tracing::info!(event = "ledger.created", database = %place.database, version, "created the \
        ledger");
    Ok(())
}

/// Creates Diesel's table where the ledger expects it, if it is gone and the ledger lists no
/// applied migration. If the ledger lists one, the table is gone by mistake, and the planner
/// refuses.
async fn restore_diesel_table(client: &Client) -> Result<(), Failure> {
    let query = "SELECT format('%I.%I', l.diesel_schema, l.diesel_table) FROM schemad.ledger l \
        WHERE NOT EXISTS (SELECT FROM schemad.migrations) \
            AND NOT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                WHERE n.nspname = l.diesel_schema AND c.relname = l.diesel_table)";
    let rows = client
        .query_typed(query, &[])
        .await
        .map_err(postgres::DatabaseError::from)?;
    if let Some(row) = rows.first() {
        execute(client, &diesel_table(row.get(0))).await?;
    }
    Ok(())
}

/// Creates Diesel's table under the quoted name `name` if there is none. Then locks it and checks
/// that writing to it runs no foreign code. Must be called in a transaction.
pub(super) async fn prepare_diesel_table(
    client: &Client,
    name: &str,
) -> Result<(), postgres::DatabaseError> {
    let there = "SELECT to_regclass($1)::oid";
    let look = async || {
        let rows = client.query_typed(there, &[(&name, Type::TEXT)]).await?;
        Ok::<_, postgres::DatabaseError>(rows.first().and_then(|row| row.get::<_, Option<u32>>(0)))
    };
    if look().await?.is_none() {
        client.batch_execute(&diesel_table(name)).await?;
    }
    client
        .batch_execute(&format!("LOCK TABLE ONLY {name} IN ROW EXCLUSIVE MODE"))
        .await?;
    // The name is resolved again, now that the table is locked.
    let Some(oid) = look().await? else {
        return Err(postgres::DatabaseError::unsafe_table(
            name,
            "it is gone again",
        ));
    };
    match diesel_problem(client, oid).await? {
        Some(problem) => Err(postgres::DatabaseError::unsafe_table(name, &problem)),
        None => Ok(()),
    }
}

/// Diesel's own DDL (diesel 2.3, `migrations/mod.rs`). `name` was quoted by the server.
fn diesel_table(name: &str) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {name} (version VARCHAR(50) PRIMARY KEY NOT NULL, \
         run_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP);"
    )
}

/// SQL that is true if the owner of an object of the ledger is trusted: a superuser, the daemon's
/// own role, or a role that the daemon's role is a member of. The last does not count for the role
/// that migrations run as, nor if the daemon's role is a superuser, which is a member of every
/// role. An untrusted owner's code would run with the daemon's rights: its functions, triggers and
/// column defaults.
macro_rules! ledger_owner {
    // Also true for a role that the login `$1` trusts. This is the login that runs migrations, if
    // another login reads.
    ($owner:literal, $login:literal) => {
        concat!(
            "(",
            ledger_owner!($owner),
            " OR EXISTS (SELECT FROM pg_roles g WHERE g.rolname = ",
            $login,
            " AND (g.oid = ",
            $owner,
            " OR NOT g.rolsuper AND pg_has_role(g.oid, ",
            $owner,
            ", 'MEMBER'))))"
        )
    };
    ($owner:literal) => {
        concat!(
            "EXISTS (SELECT FROM pg_roles o WHERE o.oid = ",
            $owner,
            " AND (o.rolsuper OR o.rolname = current_user OR pg_has_role(o.oid, 'MEMBER') \
                AND NOT (SELECT m.rolsuper FROM pg_roles m WHERE m.rolname = current_user) \
                AND o.rolname IS DISTINCT FROM current_setting('schemad.role', true)))"
        )
    };
}

pub(super) use ledger_owner;

/// SQL that finds something on a table `c` of the ledger that is not part of the ledger and could
/// run code. It returns an array of the problem and the statement that removes it, or NULL. A role
/// with the TRIGGER or REFERENCES right on the table can add a trigger or a foreign key. The rest
/// only the owner can add, perhaps before the owner was trusted. pg_depend has no rows for
/// PostgreSQL's own objects, so anything that depends on more than relations calls foreign code.
macro_rules! table_problem {
    () => {
        "coalesce(CASE WHEN c.relkind <> 'r' THEN ARRAY[format('schemad.%I is not an ordinary \
            table', c.relname), ''] END, (SELECT ARRAY[format('the table schemad.%I has the \
            trigger %I', c.relname, t.tgname), format('DROP TRIGGER %I ON schemad.%I', t.tgname, \
            c.relname)] FROM pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal LIMIT 1), \
            (SELECT ARRAY[format('the table %s refers to schemad.%I', t.tgconstrrelid::regclass, \
            c.relname), format('ALTER TABLE %s DROP CONSTRAINT %I', t.tgconstrrelid::regclass, \
            (SELECT k.conname FROM pg_constraint k WHERE k.oid = t.tgconstraint))] FROM pg_trigger \
            t WHERE t.tgrelid = c.oid AND t.tgisinternal AND (SELECT r.relnamespace <> \
            c.relnamespace OR r.relowner <> c.relowner FROM pg_class r WHERE r.oid = \
            t.tgconstrrelid) LIMIT 1), (SELECT ARRAY[format('the table schemad.%I has the rule \
            %I', c.relname, r.rulename), format('DROP RULE %I ON schemad.%I', r.rulename, \
            c.relname)] FROM pg_rewrite r WHERE r.ev_class = c.oid LIMIT 1), (SELECT \
            ARRAY[format('the table %s inherits from schemad.%I', i.inhrelid::regclass, \
            c.relname), format('ALTER TABLE %s NO INHERIT schemad.%I', i.inhrelid::regclass, \
            c.relname)] FROM pg_inherits i WHERE i.inhparent = c.oid LIMIT 1), (SELECT \
            ARRAY[format('the table schemad.%I has the statistics %I.%I', c.relname, n.nspname, \
            e.stxname), format('DROP STATISTICS %I.%I', n.nspname, e.stxname)] FROM \
            pg_statistic_ext e JOIN pg_namespace n ON n.oid = e.stxnamespace WHERE e.stxrelid = \
            c.oid LIMIT 1), (SELECT ARRAY[format('the index %s of schemad.%I calls what is not \
            PostgreSQL''s own', i.indexrelid::regclass, c.relname), format('DROP INDEX %s', \
            i.indexrelid::regclass)] FROM pg_index i WHERE i.indrelid = c.oid AND (i.indexprs IS \
            NOT NULL OR i.indpred IS NOT NULL) AND EXISTS (SELECT FROM pg_depend d WHERE d.classid \
            = 'pg_class'::regclass AND d.objid = i.indexrelid AND d.refclassid NOT IN \
            ('pg_class'::regclass, 'pg_constraint'::regclass)) LIMIT 1), (SELECT ARRAY[format('the \
            table schemad.%I has the constraint %I, which calls what is not PostgreSQL''s own', \
            c.relname, k.conname), format('ALTER TABLE schemad.%I DROP CONSTRAINT %I', c.relname, \
            k.conname)] FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'c' AND \
            EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_constraint'::regclass AND \
            d.objid = k.oid AND d.refclassid <> 'pg_class'::regclass) LIMIT 1), (SELECT \
            ARRAY[format('the table schemad.%I has a default or a type at its column %I that is \
            not PostgreSQL''s own', c.relname, a.attname), format('ALTER TABLE schemad.%1$I ALTER \
            COLUMN %2$I DROP DEFAULT, or ALTER TABLE schemad.%1$I DROP COLUMN %2$I', c.relname, \
            a.attname)] FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT \
            a.attisdropped AND (a.attgenerated <> '' OR a.atttypid >= 16384 OR a.atthasdef AND \
            EXISTS (SELECT FROM pg_attrdef f JOIN pg_depend d ON d.classid = \
            'pg_attrdef'::regclass AND d.objid = f.oid AND d.refclassid <> 'pg_class'::regclass \
            WHERE f.adrelid = c.oid AND f.adnum = a.attnum)) LIMIT 1))"
    };
}

/// SQL that reads the server, the role, and which parts of the ledger exist. It returns one row,
/// with or without a ledger. Everything is looked up by name, so that the cost does not depend on
/// the size of the database. Names are looked up in pg_class and not by to_regclass, which does not
/// see objects in a schema that the role may not use.
macro_rules! place {
    ($problem:expr) => {
        concat!(
            "SELECT quote_ident(current_user) AS role, (SELECT m.rolsuper FROM pg_roles m WHERE \
            m.rolname = current_user) AS is_superuser, quote_ident(current_setting('schemad.role', \
            true)) AS migrating_role, quote_ident(b.datname) AS database, pg_is_in_recovery() OR \
            current_setting('default_transaction_read_only')::boolean AS is_read_only, \
            b.datallowconn AS accepts_sessions, s.oid IS NOT NULL AS has_schema, s.oid IS NOT NULL \
            AND has_schema_privilege(s.oid, 'USAGE') AS may_use_schema, s.oid IS NOT NULL AND \
            has_schema_privilege(s.oid, 'CREATE') AS may_create_in_schema, \
            has_database_privilege(b.oid, 'CREATE') AS may_create_schema, t.found AS tables, \
            k.found AS columns, t.lacking AS lacks_tables, t.hidden AS hidden_table, f.found AS \
            functions, f.lacking AS lacks_functions, CASE WHEN s.oid IS NOT NULL AND NOT ",
            ledger_owner!("s.nspowner"),
            " THEN ARRAY['schema', 'schemad', quote_ident(pg_get_userbyid(s.nspowner))] ELSE \
            coalesce(t.foreign_table, f.foreign_function) END AS foreign_object, t.problem AS \
            problem FROM pg_database b LEFT JOIN pg_namespace s ON s.nspname = 'schemad' CROSS \
            JOIN LATERAL (SELECT coalesce(array_agg(c.relname::text), '{}') AS found, \
            coalesce(bool_or(NOT (has_table_privilege(c.oid, 'SELECT') AND \
            has_table_privilege(c.oid, 'INSERT') AND has_table_privilege(c.oid, 'UPDATE') AND \
            has_table_privilege(c.oid, 'DELETE'))), false) AS lacking, min(c.relname::text) FILTER \
            (WHERE row_security_active(c.oid)) AS hidden, min(ARRAY['table', format('schemad.%I', \
            c.relname), quote_ident(pg_get_userbyid(c.relowner))]) FILTER (WHERE NOT ",
            ledger_owner!("c.relowner"),
            ") AS foreign_table, min(",
            $problem,
            ") AS problem FROM pg_class c WHERE c.relnamespace = s.oid AND c.relname IN ('ledger', \
                'scripts', 'operations', 'steps', 'statements', 'migrations', 'events', \
                'refusals', 'watchers', 'rehearsals')) t CROSS JOIN LATERAL (SELECT \
                coalesce(array_agg(format('%s.%s', c.relname, a.attname)), '{}') AS found FROM \
                pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT \
                a.attisdropped WHERE c.relnamespace = s.oid AND c.relname IN ('ledger', 'scripts', \
                'operations', 'steps', 'statements', 'migrations', 'events', 'refusals', \
                'watchers', 'rehearsals')) k CROSS JOIN LATERAL (SELECT \
                coalesce(array_agg(format('%s(%s)', p.proname, oidvectortypes(p.proargtypes))), \
                '{}') AS found, coalesce(bool_or(NOT has_function_privilege(p.oid, 'EXECUTE')), \
                false) AS lacking, min(ARRAY['function', p.oid::regprocedure::text, \
                quote_ident(pg_get_userbyid(p.proowner))]) FILTER (WHERE NOT ",
            ledger_owner!("p.proowner"),
            ") AS foreign_function FROM pg_proc p WHERE p.pronamespace = s.oid AND p.proname IN \
                ('begin_step_v1', 'finish_step_v1', 'note_statement_v1', 'finish_step_v2', \
                'diesel_table_problem_v1', 'begin_step_v2', 'finish_step_v3', 'note_statement_v2', \
                'diesel_table_problem_v2', 'is_kept_out_v1', 'lock_diesel_table_v1', \
                'is_its_turn_v1', 'begin_step_v3', 'finish_step_v4', 'can_be_finished_v1', \
                'note_statement_v3')) f WHERE b.datname = current_database()"
        )
    };
}

/// The query for a [`LedgerPlace`] without the objects on its tables. It runs before any table of
/// the ledger is read, to check the owners.
const PLACE: &str = place!("NULL::text[]");

/// As [`PLACE`], and also finds foreign objects on the tables. Reading the tables does not run
/// them.
const PLACE_AND_TABLES: &str = place!(table_problem!());

/// SQL that is true if the owner `o` of a relation is trusted: a superuser, the owner of the ledger
/// or, before there is a ledger, the daemon's own role. A table of any other owner runs that
/// owner's code when it is read or planned for: views, policies, casts, statistics.
macro_rules! trusted_owner {
    () => {
        "(o.rolsuper OR o.oid = coalesce((SELECT g.relowner FROM pg_class g JOIN pg_namespace s ON \
              s.oid = g.relnamespace WHERE s.nspname = 'schemad' AND g.relname = 'ledger'), \
              (SELECT r.oid FROM pg_roles r WHERE r.rolname = current_user)))"
    };
}
pub(super) use trusted_owner;

/// The query for [`LedgerContents`]: the ledger's own row, and Diesel's table where the ledger
/// expects it. It returns one row, even if the ledger's own row is missing. LIMIT 1 tells the
/// planner that there is one row, so that it looks names up instead of reading all of pg_class.
const CONTENTS: &str = concat!(
    "SELECT l.version, l.compatible_with, quote_ident(n.nspname) AS diesel_schema, \
     has_schema_privilege(n.oid, 'USAGE') AS may_use_diesel_schema, quote_ident(n.nspname) || '.' \
     || quote_ident(d.relname) AS diesel, d.oid AS diesel_oid, coalesce(has_table_privilege(d.oid, \
     'SELECT') AND has_table_privilege(d.oid, 'INSERT') AND has_table_privilege(d.oid, 'DELETE'), \
     false) AS may_use_diesel, d.relkind = 'r' AS is_table, row_security_active(d.oid) AS \
     diesel_is_hidden, quote_ident(o.rolname) AS diesel_owner, ",
    trusted_owner!(),
    " AS owner_is_trusted, quote_ident(pg_get_userbyid(g.relowner)) AS ledger_owner, \
     coalesce(has_schema_privilege(g.relowner, n.oid, 'USAGE'), true) AS \
     owner_may_use_diesel_schema, coalesce(has_table_privilege(g.relowner, d.oid, 'SELECT') AND \
     has_table_privilege(g.relowner, d.oid, 'INSERT') AND has_table_privilege(g.relowner, d.oid, \
     'DELETE'), true) AS owner_may_use_diesel, EXISTS (SELECT FROM schemad.operations p WHERE \
     p.state IN ('pending', 'running')) OR EXISTS (SELECT FROM pg_locks k WHERE ",
    operation_lock!(),
    ") AS is_busy FROM (SELECT 1) one LEFT JOIN (SELECT * FROM schemad.ledger LIMIT 1) l ON true \
     JOIN pg_class g ON g.oid = 'schemad.ledger'::regclass LEFT JOIN pg_namespace n ON n.nspname = \
     l.diesel_schema LEFT JOIN pg_class d ON d.relnamespace = n.oid AND d.relname = l.diesel_table \
     LEFT JOIN pg_roles o ON o.oid = d.relowner"
);

/// The values that depend on the configured search_path: Diesel's table, the schema where it would
/// be created, and the path itself.
const LOOK_UP: &str = "SELECT \
    pg_catalog.to_regclass('__diesel_schema_migrations')::pg_catalog.oid, \
    pg_catalog.current_schema(), pg_catalog.current_setting('search_path')";

/// The server, the role, and which parts of the ledger exist.
struct LedgerPlace {
    /// The current role, quoted.
    role: String,
    is_superuser: bool,
    /// The role that runs migrations, quoted, if it is not the role that logs in.
    migrating_role: Option<String>,
    database: String,
    is_read_only: bool,
    accepts_sessions: bool,
    has_schema: bool,
    may_use_schema: bool,
    may_create_in_schema: bool,
    may_create_schema: bool,
    has_ledger: bool,
    tables: Vec<String>,
    /// The columns, each as TABLE.COLUMN.
    columns: HashSet<String>,
    functions: Vec<String>,
    /// Whether the role lacks a right on one of the ledger's tables, or on one of its functions.
    lacks_tables: bool,
    lacks_functions: bool,
    /// A table of the ledger with rows hidden by row security.
    hidden_table: Option<String>,
    /// An object with an untrusted owner: its kind, its name and its owner.
    foreign: Option<Vec<String>>,
    /// Something on a table that is not part of the ledger, and the statement that removes it.
    problem: Option<Vec<String>>,
}

impl LedgerPlace {
    fn of(row: &Row) -> Self {
        let tables: Vec<String> = row.get("tables");
        Self {
            role: row.get("role"),
            is_superuser: row.get("is_superuser"),
            migrating_role: row.get("migrating_role"),
            database: row.get("database"),
            is_read_only: row.get("is_read_only"),
            accepts_sessions: row.get("accepts_sessions"),
            has_schema: row.get("has_schema"),
            may_use_schema: row.get("may_use_schema"),
            may_create_in_schema: row.get("may_create_in_schema"),
            may_create_schema: row.get("may_create_schema"),
            has_ledger: tables.iter().any(|table| table == "ledger"),
            tables,
            columns: row.get::<_, Vec<String>>("columns").into_iter().collect(),
            functions: row.get("functions"),
            lacks_tables: row.get("lacks_tables"),
            lacks_functions: row.get("lacks_functions"),
            hidden_table: row.get("hidden_table"),
            foreign: row.get("foreign_object"),
            problem: row.get("problem"),
        }
    }

    /// Checks that using the ledger runs no code of a role that does not have the daemon's rights.
    fn is_trusted(&self) -> Result<(), Failure> {
        if let Some(foreign) = self.foreign.as_deref().and_then(ForeignObject::of) {
            let migrating_role = self.migrating_role.as_deref();
            return Err(postgres::DatabaseError::foreign_ledger(
                &foreign,
                &self.role,
                self.is_superuser,
                migrating_role,
            )
            .into());
        }
        match self.problem.as_deref() {
            Some([problem, cure]) if !cure.is_empty() => {
                let message = format!(
                    "{problem}, which could run code of others with the daemon's rights: {cure}"
                );
                Err(Failure::new(Reason::LedgerDamaged, message).with("problem", problem))
            }
            Some([problem, ..]) => Err(damaged(problem)),
            _ => Ok(()),
        }
    }

    fn server_may_be_used(&self) -> Result<(), Failure> {
        if self.is_read_only {
            return Err(Failure::new(
                Reason::ReadOnlyServer,
                "the server is a standby or read-only; it reports, and cannot run operations",
            ));
        }
        if !self.accepts_sessions {
            return Err(Failure::new(
                Reason::DatabaseUnavailable,
                format!(
                    "the database {0} accepts no new sessions, so no operation can begin: ALTER \
                     DATABASE {0} ALLOW_CONNECTIONS true",
                    self.database
                ),
            ));
        }
        Ok(())
    }

    /// Checks that the ledger has everything that belongs to its version, and no table or function
    /// of a later version that this daemon supports.
    fn is_whole(&self, version: i32) -> Result<(), Failure> {
        let kinds = [
            ("table", &TABLES[..], &self.tables),
            ("function", &FUNCTIONS[..], &self.functions),
        ];
        for (kind, known, found) in kinds {
            for (since, name) in known {
                let is_there = found.iter().any(|found| found == name);
                if *since <= version && !is_there {
                    return Err(damaged(&format!("the {kind} schemad.{name} is missing")));
                }
                if *since > version && is_there {
                    let problem = format!(
                        "it says version {version}, and the {kind} schemad.{name} of version \
                         {since} is there"
                    );
                    return Err(damaged(&problem));
                }
            }
        }
        // Additional columns are accepted. They may belong to a later version.
        for (_, table, columns) in COLUMNS.iter().filter(|(since, ..)| *since <= version) {
            if let Some(column) = columns
                .split(' ')
                .find(|column| !self.columns.contains(&format!("{table}.{column}")))
            {
                return Err(damaged(&format!(
                    "the column {column} of schemad.{table} is missing"
                )));
            }
        }
        Ok(())
    }

    /// Returns the rights that the guards and the statements of an operation need and the role
    /// lacks. The ledger may have been created by another role.
    fn lacks(&self) -> Vec<String> {
        let needs = [
            (!self.may_use_schema, "USAGE ON SCHEMA schemad"),
            (
                self.lacks_tables,
                "SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA schemad",
            ),
            (
                self.lacks_functions,
                "EXECUTE ON ALL FUNCTIONS IN SCHEMA schemad",
            ),
        ];
        needs
            .iter()
            .filter(|(lacks, _)| *lacks)
            .map(|(_, right)| (*right).into())
            .collect()
    }

    fn may_be_used(&self, contents: &LedgerContents) -> Result<(), Failure> {
        let mut lacks = self.lacks();
        match (
            &contents.diesel_schema,
            contents.may_use_diesel_schema,
            &contents.diesel,
        ) {
            (Some(schema), false, _) => lacks.push(format!("USAGE ON SCHEMA {schema}")),
            (_, _, Some(table)) if !contents.may_use_diesel => {
                lacks.push(format!("SELECT, INSERT, DELETE ON {table}"))
            }
            _ => {}
        }
        self.has(&lacks)
    }

    fn has(&self, lacks: &[String]) -> Result<(), Failure> {
        must_have(&self.role, lacks)
    }
}

/// Returns an error that lists all missing rights at once, so that one round of GRANTs is enough.
fn must_have(role: &str, lacks: &[String]) -> Result<(), Failure> {
    match lacks {
        [] => Ok(()),
        [right] => Err(postgres::DatabaseError::MissingRight {
            role: role.into(),
            right: right.clone(),
        }
        .into()),
        _ => {
            let grants: Vec<_> = lacks
                .iter()
                .map(|right| format!("GRANT {right} TO {role}"))
                .collect();
            let message = format!("the role {role} lacks rights: {};", grants.join("; "));
            // One key for each GRANT. A value that is too long for a trailer is cut, and a GRANT
            // that is cut is useless.
            let keys = ["grant", "grant_2", "grant_3", "grant_4"];
            let failure = Failure::new(Reason::MissingRight, message);
            Err(keys
                .iter()
                .zip(grants)
                .fold(failure, |failure, (key, grant)| failure.with(key, grant)))
        }
    }
}

/// The ledger's own row, and the state of Diesel's table.
#[derive(Default)]
struct LedgerContents {
    /// `None` if the ledger's row is missing.
    version: Option<i32>,
    compatible_with: i32,
    diesel_schema: Option<String>,
    may_use_diesel_schema: bool,
    /// Diesel's table with its schema, quoted. `None` if there is no table of that name.
    diesel: Option<String>,
    diesel_oid: Option<u32>,
    may_use_diesel: bool,
    is_table: bool,
    diesel_is_hidden: bool,
    diesel_owner: Option<String>,
    owner_is_trusted: bool,
    /// The role that the guards write Diesel's table as, quoted. The next two fields are its
    /// rights.
    ledger_owner: String,
    owner_may_use_diesel_schema: bool,
    owner_may_use_diesel: bool,
    is_busy: bool,
}

impl LedgerContents {
    fn of(row: &Row) -> Self {
        let flag = |name: &str| row.get::<_, Option<bool>>(name).unwrap_or_default();
        Self {
            version: row.get("version"),
            compatible_with: row
                .get::<_, Option<i32>>("compatible_with")
                .unwrap_or_default(),
            diesel_schema: row.get("diesel_schema"),
            may_use_diesel_schema: flag("may_use_diesel_schema"),
            diesel: row.get("diesel"),
            diesel_oid: row.get("diesel_oid"),
            may_use_diesel: flag("may_use_diesel"),
            is_table: flag("is_table"),
            diesel_is_hidden: flag("diesel_is_hidden"),
            diesel_owner: row.get("diesel_owner"),
            owner_is_trusted: flag("owner_is_trusted"),
            ledger_owner: row.get("ledger_owner"),
            owner_may_use_diesel_schema: flag("owner_may_use_diesel_schema"),
            owner_may_use_diesel: flag("owner_may_use_diesel"),
            is_busy: flag("is_busy"),
        }
    }

    /// Checks that Diesel's table, if it exists, has a trusted owner, is an ordinary table, and
    /// hides no rows. The ledger names the table, and a role that is not trusted may be able to
    /// write the ledger.
    async fn diesel_may_be_used(&self, session: &MigrationSession) -> Result<(), Failure> {
        let Some(table) = &self.diesel else {
            return Ok(());
        };
        if !self.owner_is_trusted {
            return Err(postgres::DatabaseError::untrusted_owner(
                table,
                self.diesel_owner.as_deref().unwrap_or_default(),
            )
            .into());
        }
        if !self.is_table {
            return Err(postgres::DatabaseError::unsafe_table(
                table,
                "it is not an ordinary table",
            )
            .into());
        }
        if self.diesel_is_hidden {
            return Err(hidden(table, &session_role(session).await?));
        }
        Ok(())
    }
}

impl LedgerContents {
    /// Checks that the ledger's owner may write Diesel's table. The guards write it with the rights
    /// of that owner.
    fn guards_may_use_diesel(&self) -> Result<(), Failure> {
        match (
            &self.diesel_schema,
            self.owner_may_use_diesel_schema,
            &self.diesel,
        ) {
            (Some(schema), false, _) => {
                must_have(&self.ledger_owner, &[format!("USAGE ON SCHEMA {schema}")])
            }
            (_, _, Some(table)) if !self.owner_may_use_diesel => must_have(
                &self.ledger_owner,
                &[format!("SELECT, INSERT, DELETE ON {table}")],
            ),
            _ => Ok(()),
        }
    }

    /// Checks that writing to Diesel's table runs no foreign code. Without a lock on the table this
    /// can change at any time, so the guard of each step checks again with a lock.
    async fn diesel_is_plain(&self, client: &Client) -> Result<(), Failure> {
        let (Some(oid), Some(table)) = (self.diesel_oid, &self.diesel) else {
            return Ok(());
        };
        match diesel_problem(client, oid).await? {
            Some(problem) => Err(postgres::DatabaseError::unsafe_table(table, &problem).into()),
            None => Ok(()),
        }
    }
}

async fn diesel_problem(
    client: &Client,
    oid: u32,
) -> Result<Option<String>, postgres::DatabaseError> {
    let problem = "SELECT schemad.diesel_table_problem_v2($1::oid)";
    let rows = client.query_typed(problem, &[(&oid, Type::OID)]).await?;
    Ok(rows.first().and_then(|row| row.get(0)))
}

async fn session_role(session: &MigrationSession) -> Result<String, Failure> {
    Ok(one(session.client(), "SELECT quote_ident(current_user)")
        .await?
        .get(0))
}

/// The parts that exist when there is no ledger.
struct AbsentLedger {
    /// An object in the schema `schemad` that is not part of a ledger, of any kind. Every object in
    /// a schema depends on the schema, and pg_depend has an index for that.
    foreign: Option<String>,
    /// Diesel's table with its schema, quoted.
    diesel: Option<String>,
    may_use_diesel: bool,
    is_table: bool,
    diesel_is_hidden: bool,
    /// The owner of Diesel's table, if it is not trusted.
    untrusted_owner: Option<String>,
    /// The schema where Diesel's table would be created, quoted.
    current_schema: Option<String>,
    may_create_diesel: bool,
    /// The right that the role lacks on a schema of the search_path that it may not use.
    hidden: Option<String>,
}

const ABSENT: &str = concat!(
    "SELECT (SELECT min(CASE d.classid WHEN 'pg_class'::regclass THEN (SELECT format('%I', \
            c.relname) FROM pg_class c WHERE c.oid = d.objid) ELSE pg_describe_object(d.classid, \
            d.objid, 0) END) FROM pg_depend d WHERE d.refclassid = 'pg_namespace'::regclass AND \
            d.refobjid = (SELECT s.oid FROM pg_namespace s WHERE s.nspname = 'schemad') AND \
            d.classid <> 'pg_default_acl'::regclass), quote_ident(m.nspname) || '.' || \
            quote_ident(d.relname), coalesce(has_table_privilege(d.oid, 'SELECT') AND \
            has_table_privilege(d.oid, 'INSERT') AND has_table_privilege(d.oid, 'DELETE'), false), \
            coalesce(d.relkind = 'r', false), coalesce(row_security_active(d.oid), false), \
            quote_ident($2), coalesce(has_schema_privilege($2, 'CREATE'), false), (SELECT 'USAGE' \
            || CASE WHEN EXISTS (SELECT FROM pg_class t WHERE t.relnamespace = h.oid AND t.relname \
            = '__diesel_schema_migrations') THEN '' ELSE ', CREATE' END || ' ON SCHEMA ' || \
            quote_ident(h.nspname) FROM unnest(string_to_array($3, ',')) WITH ORDINALITY p (name, \
            n) JOIN pg_namespace h ON h.nspname = CASE btrim(p.name, ' \"') WHEN '$user' THEN \
            current_user ELSE btrim(p.name, ' \"') END WHERE NOT has_schema_privilege(h.oid, \
            'USAGE') ORDER BY p.n LIMIT 1), CASE WHEN NOT coalesce(",
    trusted_owner!(),
    ", false) THEN quote_ident(o.rolname) END FROM (SELECT 1) one LEFT JOIN (pg_class d JOIN \
    pg_namespace m ON m.oid = d.relnamespace JOIN pg_roles o ON o.oid = d.relowner) ON d.oid = \
    $1::oid"
);

impl AbsentLedger {
    async fn find(session: &MigrationSession, place: &LedgerPlace) -> Result<Self, Failure> {
        let found = session.in_configured_path(LOOK_UP).await?;
        let parameters: [(&(dyn ToSql + Sync), Type); 3] = [
            (&found.get(0), Type::TEXT),
            (&found.get(1), Type::TEXT),
            (&found.get(2), Type::TEXT),
        ];
        let rows = session
            .client()
            .query_typed(ABSENT, &parameters)
            .await
            .map_err(postgres::DatabaseError::from)?;
        let row = rows
            .first()
            .ok_or_else(|| Failure::new(Reason::Internal, "the catalog returned no row"))?;
        Ok(Self {
            foreign: if place.has_schema { row.get(0) } else { None },
            diesel: row.get(1),
            may_use_diesel: row.get(2),
            is_table: row.get(3),
            diesel_is_hidden: row.get(4),
            current_schema: row.get(5),
            may_create_diesel: row.get(6),
            hidden: row.get(7),
            untrusted_owner: row.get(8),
        })
    }

    fn may_be_created(&self, place: &LedgerPlace) -> Result<(), Failure> {
        if let Some(foreign) = &self.foreign {
            return Err(Failure::new(
                Reason::LedgerForeign,
                format!(
                    "the schema schemad exists and holds {foreign}, but no ledger of schemad's: it \
                     belongs to something else, and schemad needs that name. Give the other \
                     another (ALTER SCHEMA schemad RENAME TO ...), or drop it"
                ),
            ));
        }
        if let (None, None, None) = (&self.diesel, &self.current_schema, &self.hidden) {
            return Err(Failure::new(
                Reason::MissingRight,
                "no schema of the search_path exists, so there is no place for Diesel's table; \
                 create the schema or name another in the URL (options=-csearch_path%3D...)",
            ));
        }
        if let Some(table) = &self.diesel {
            if let Some(owner) = &self.untrusted_owner {
                return Err(postgres::DatabaseError::untrusted_owner(table, owner).into());
            }
            if !self.is_table {
                return Err(postgres::DatabaseError::unsafe_table(
                    table,
                    "it is not an ordinary table",
                )
                .into());
            }
            if self.diesel_is_hidden {
                return Err(hidden(table, &place.role));
            }
        }
        let mut lacks = Vec::new();
        if !place.has_schema && !place.may_create_schema {
            lacks.push(format!("CREATE ON DATABASE {}", place.database));
        }
        if place.has_schema && !(place.may_use_schema && place.may_create_in_schema) {
            lacks.push("USAGE, CREATE ON SCHEMA schemad".into());
        }
        lacks.extend(self.lacks_diesel());
        let alternative = format!("CREATE SCHEMA schemad AUTHORIZATION {}", place.role);
        place.has(&lacks).map_err(|failure| {
            if place.has_schema || place.may_create_schema {
                failure
            } else {
                failure.with("alternative", alternative)
            }
        })
    }

    /// Returns the right that is missing to use or to create Diesel's table.
    fn lacks_diesel(&self) -> Option<String> {
        match (&self.diesel, &self.current_schema) {
            (Some(table), _) if !self.may_use_diesel => {
                Some(format!("SELECT, INSERT, DELETE ON {table}"))
            }
            (None, Some(schema)) if !self.may_create_diesel => {
                Some(format!("USAGE, CREATE ON SCHEMA {schema}"))
            }
            (None, None) => self.hidden.clone(),
            _ => None,
        }
    }
}

/// Returns the failure for a ledger that was changed by hand or restored in part.
fn damaged(problem: &str) -> Failure {
    Failure::new(Reason::LedgerDamaged, format!("{problem}: {LEDGER_REPAIR}"))
        .with("problem", problem)
}

fn hidden(table: &str, role: &str) -> Failure {
    postgres::DatabaseError::RowSecurity {
        table: table.into(),
        role: role.into(),
    }
    .into()
}

async fn one(client: &Client, query: &str) -> Result<Row, Failure> {
    let mut rows = client
        .query_typed(query, &[])
        .await
        .map_err(postgres::DatabaseError::from)?;
    rows.pop()
        .ok_or_else(|| Failure::new(Reason::Internal, "the catalog returned no row"))
}

/// Sends a message that is one transaction. Rolls the transaction back if the message fails.
async fn execute(client: &Client, sql: &str) -> Result<(), Failure> {
    if let Err(error) = client.batch_execute(sql).await {
        // If the connection is lost, so is the transaction.
        let _ = client.batch_execute("ROLLBACK").await;
        return Err(postgres::DatabaseError::from(error).into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compares [`COLUMNS`] with the ledger's SQL. A column that is added there must be listed.
    #[test]
    fn every_column_is_known_with_its_version() {
        let (mut found, mut table) = (Vec::new(), String::new());
        for (version, _, sql) in MIGRATIONS {
            let mut is_in_table = false;
            for line in sql.lines() {
                let line = line.trim();
                let mut words = line.split([' ', '(', ';']).filter(|word| !word.is_empty());
                let named = line
                    .split_once(" TABLE schemad.")
                    .and_then(|(_, rest)| rest.split([' ', '(']).next());
                if let Some(named) = named.filter(|_| !line.starts_with("COMMENT")) {
                    table = named.into();
                    is_in_table = line.starts_with("CREATE");
                } else if line.starts_with(')') {
                    is_in_table = false;
                } else if is_in_table && line.starts_with(|c: char| c.is_ascii_lowercase()) {
                    found.push((version, table.clone(), words.next().unwrap().to_owned()));
                }
                if let Some((_, rest)) = line.split_once("ADD COLUMN ") {
                    found.push((
                        version,
                        table.clone(),
                        rest.split(' ').next().unwrap().to_owned(),
                    ));
                }
            }
        }
        let mut known: Vec<_> = COLUMNS
            .iter()
            .flat_map(|(version, table, columns)| {
                columns
                    .split(' ')
                    .map(|column| (*version, (*table).to_owned(), column.to_owned()))
            })
            .collect();
        found.sort();
        known.sort();
        assert_eq!(known, found);
        assert!(known.len() > 90, "{}", known.len());
    }
}
