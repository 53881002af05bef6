-- The ledger, version 5: which database it is of, guards that trust no value of the ledger about where Diesel's table is or as whom
-- a step runs, and that run nobody else's code. Only additions; a daemon of version 4 goes on using the earlier guards.

ALTER TABLE schemad.ledger
    -- Which database this ledger is of: a restored dump or a clone is another one. Empty until a daemon of version 5 has looked.
    ADD COLUMN system_identifier bigint,
    ADD COLUMN database_oid oid;

-- Returns what is wrong with Diesel's table: anything that would run code of others when a row is inserted or deleted, which would
-- run with the daemon's rights. NULL: it is a plain table.
CREATE FUNCTION schemad.diesel_table_problem_v1(diesel oid) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $problem$
    SELECT CASE
        WHEN c.relkind <> 'r' THEN 'it is not an ordinary table'
        WHEN c.relispartition THEN 'it is a partition of another table'
        WHEN row_security_active(c.oid) THEN 'row security hides its rows from the role ' || quote_ident(current_user)
        ELSE coalesce(
            (SELECT 'it has the rule ' || quote_ident(r.rulename) FROM pg_rewrite r WHERE r.ev_class = c.oid LIMIT 1),
            (SELECT 'it has the trigger ' || quote_ident(t.tgname) FROM pg_trigger t WHERE t.tgrelid = c.oid LIMIT 1),
            (SELECT 'it has the constraint ' || quote_ident(k.conname) FROM pg_constraint k
                WHERE k.conrelid = c.oid AND k.contype NOT IN ('p', 'u', 'n') LIMIT 1),
            (SELECT 'the table ' || i.inhrelid::regclass || ' inherits from it' FROM pg_inherits i WHERE i.inhparent = c.oid LIMIT 1),
            (SELECT 'its column ' || quote_ident(a.attname) || ' has a default or a type of its own' FROM pg_attribute a
                WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                AND (a.atthasdef AND a.attname <> 'run_on' OR a.attgenerated <> '' OR a.atttypid >= 16384) LIMIT 1),
            (SELECT 'it has the statistics ' || quote_ident(e.stxname) FROM pg_statistic_ext e WHERE e.stxrelid = c.oid LIMIT 1),
            (SELECT 'its index ' || i.indexrelid::regclass || ' has an expression' FROM pg_index i
                WHERE i.indrelid = c.oid AND (i.indexprs IS NOT NULL OR i.indpred IS NOT NULL) LIMIT 1))
        END
    FROM pg_class c WHERE c.oid = diesel
$problem$;

-- begin_step_v1, and the role comes from the daemon as well: schemad.role is what the daemon's session says. A row that somebody
-- changed in between is refused.
CREATE FUNCTION schemad.begin_step_v2(step_id bigint) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $guard$
DECLARE
    step record;
BEGIN
    IF NOT pg_try_advisory_xact_lock(32478922351141220) OR NOT pg_advisory_unlock(32478922351141220) THEN
        RAISE EXCEPTION 'this session does not hold the operation lock' USING ERRCODE = 'SCH02';
    END IF;
    PERFORM pg_advisory_lock(32478922351141220);

    SELECT s.role, set_config('lock_timeout', s.lock_timeout_ms::text, true),
           set_config('statement_timeout', s.statement_timeout_ms::text, true)
      INTO step
      FROM schemad.steps s
     WHERE s.id = step_id AND s.state = 'pending'
       AND EXISTS (SELECT FROM schemad.operations o WHERE o.id = s.operation AND o.state = 'running')
       AND (s.ordinal = 1 OR EXISTS (SELECT FROM schemad.steps q
             WHERE q.operation = s.operation AND q.ordinal = s.ordinal - 1 AND q.state = 'applied'));
    IF NOT FOUND THEN
        RAISE EXCEPTION 'step % is not the next one', step_id USING ERRCODE = 'SCH01';
    END IF;
    IF step.role IS DISTINCT FROM nullif(current_setting('schemad.role', true), '') THEN
        RAISE EXCEPTION 'the ledger says that step % runs as %, and the daemon says %', step_id, step.role,
            current_setting('schemad.role', true) USING ERRCODE = 'SCH07';
    END IF;

    -- INFO reaches the client whatever client_min_messages says: what follows belongs to this step.
    RAISE INFO '%', step_id USING ERRCODE = 'SCH00';
    PERFORM pg_advisory_lock(1935894628, (txid_current() & 2147483647)::integer);
    IF step.role IS NOT NULL THEN
        PERFORM set_config('role', step.role, true);
    END IF;
END
$guard$;

-- finish_step_v2; and Diesel's table is where the daemon's session says as well (schemad.diesel_table), locked before it is looked at
-- so that nobody adds a trigger in between. Its default for run_on is not evaluated. An insert that inserted nothing is refused.
CREATE FUNCTION schemad.finish_step_v3(step_id bigint) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $guard$
DECLARE
    step schemad.steps;
    diesel text;
    problem text;
    moved bigint;
BEGIN
    IF NOT pg_advisory_unlock(32478922351141220) THEN
        RAISE EXCEPTION 'the script released the operation lock' USING ERRCODE = 'SCH04';
    END IF;
    IF NOT pg_advisory_unlock(1935894628, (txid_current() & 2147483647)::integer) THEN
        RAISE EXCEPTION 'the script ended the transaction that schemad had opened' USING ERRCODE = 'SCH03';
    END IF;
    PERFORM pg_advisory_unlock_all(); -- whatever else the script locked; the transaction still holds ours
    PERFORM pg_advisory_lock(32478922351141220);

    UPDATE schemad.steps s
       SET state = 'applied', xid = pg_current_xact_id(), started_at = transaction_timestamp(), finished_at = clock_timestamp()
     WHERE s.id = step_id AND s.planned_as = current_user AND s.planned_in_session_of = session_user
    RETURNING * INTO step;
    IF NOT FOUND THEN
        IF NOT EXISTS (SELECT FROM schemad.steps s WHERE s.id = step_id) THEN
            RAISE EXCEPTION 'the row of step % is gone', step_id USING ERRCODE = 'SCH01';
        END IF;
        RAISE EXCEPTION 'the script changed the user to % (session %)', current_user, session_user USING ERRCODE = 'SCH05';
    END IF;

    IF step.mode <> 'transactional' THEN
        UPDATE schemad.steps s
           SET started_at = least(s.started_at, (SELECT min(p.started_at) FROM schemad.statements p WHERE p.step = step_id))
         WHERE s.id = step_id;
        DELETE FROM schemad.statements s WHERE s.step = step_id;
    END IF;
    SELECT format('%I.%I', l.diesel_schema, l.diesel_table) INTO STRICT diesel FROM schemad.ledger l;
    IF diesel IS DISTINCT FROM current_setting('schemad.diesel_table', true) THEN
        RAISE EXCEPTION 'the ledger says that Diesel''s table is %, and the daemon found it at %', diesel,
            current_setting('schemad.diesel_table', true) USING ERRCODE = 'SCH07';
    END IF;
    EXECUTE 'LOCK TABLE ONLY ' || diesel || ' IN ROW EXCLUSIVE MODE';
    problem := schemad.diesel_table_problem_v1(diesel::regclass::oid);
    IF problem IS NOT NULL THEN
        RAISE EXCEPTION 'Diesel''s table % is not used: %', diesel, problem USING ERRCODE = 'SCH08';
    END IF;
    IF step.direction = 'up' THEN
        EXECUTE 'INSERT INTO ' || diesel || ' (version, run_on) VALUES ($1, CURRENT_TIMESTAMP)' USING step.version;
        GET DIAGNOSTICS moved = ROW_COUNT;
        IF moved <> 1 THEN
            RAISE EXCEPTION 'the Diesel table did not take version %', step.version USING ERRCODE = 'SCH06';
        END IF;
        INSERT INTO schemad.migrations (version, name, up_script, down_script, up_mode, down_mode, step, mac)
        VALUES (step.version, step.name, step.up_script, step.down_script, step.up_mode, step.down_mode, step.id, step.down_mac);
    ELSE
        EXECUTE 'DELETE FROM ' || diesel || ' WHERE version = $1' USING step.version;
        GET DIAGNOSTICS moved = ROW_COUNT;
        IF moved <> 1 THEN
            RAISE EXCEPTION 'the Diesel table does not list version %', step.version USING ERRCODE = 'SCH06';
        END IF;
        DELETE FROM schemad.migrations m WHERE m.version = step.version;
    END IF;
END
$guard$;

-- note_statement_v1, and a row that is gone is not blamed on the script.
CREATE FUNCTION schemad.note_statement_v2(step_id bigint, statement integer, new_state text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $guard$
BEGIN
    IF NOT pg_advisory_unlock(32478922351141220) THEN
        RAISE EXCEPTION 'the script released the operation lock' USING ERRCODE = 'SCH04';
    END IF;
    IF NOT pg_advisory_unlock(1935894628, (txid_current() & 2147483647)::integer) THEN
        RAISE EXCEPTION 'the script ended the transaction that schemad had opened' USING ERRCODE = 'SCH03';
    END IF;
    PERFORM pg_advisory_unlock_all();
    PERFORM pg_advisory_lock(32478922351141220);
    IF NOT EXISTS (SELECT FROM schemad.steps s WHERE s.id = step_id
        AND s.planned_as = current_user AND s.planned_in_session_of = session_user)
    THEN
        IF NOT EXISTS (SELECT FROM schemad.steps s WHERE s.id = step_id) THEN
            RAISE EXCEPTION 'the row of step % is gone', step_id USING ERRCODE = 'SCH01';
        END IF;
        RAISE EXCEPTION 'the script changed the user to % (session %)', current_user, session_user USING ERRCODE = 'SCH05';
    END IF;
    UPDATE schemad.statements s
       SET state = new_state,
           started_at = CASE new_state WHEN 'pending' THEN NULL ELSE coalesce(s.started_at, transaction_timestamp()) END,
           finished_at = CASE new_state WHEN 'done' THEN clock_timestamp() END
     WHERE s.step = step_id AND s.ordinal = statement AND s.state <> 'done'
       AND (statement = 1 OR EXISTS (SELECT FROM schemad.statements q
             WHERE q.step = step_id AND q.ordinal = statement - 1 AND q.state = 'done'));
    IF NOT FOUND THEN
        RAISE EXCEPTION 'statement % of step % is not the next one', statement, step_id USING ERRCODE = 'SCH01';
    END IF;
END
$guard$;

-- Whoever may use the earlier guards may use these; else a role that was given the functions of version 4 would lack a right.
DO $grants$
DECLARE
    given record;
BEGIN
    FOR given IN
        SELECT DISTINCT a.grantee::regrole::text AS role FROM pg_catalog.pg_proc p, pg_catalog.aclexplode(p.proacl) a
         WHERE p.oid = 'schemad.finish_step_v2(bigint)'::regprocedure AND a.privilege_type = 'EXECUTE' AND a.grantee <> 0
    LOOP
        EXECUTE 'GRANT EXECUTE ON FUNCTION schemad.diesel_table_problem_v1(oid), schemad.begin_step_v2(bigint), '
            || 'schemad.finish_step_v3(bigint), schemad.note_statement_v2(bigint, integer, text) TO ' || given.role;
    END LOOP;
END
$grants$;

REVOKE ALL ON FUNCTION schemad.diesel_table_problem_v1(oid), schemad.begin_step_v2(bigint), schemad.finish_step_v3(bigint),
    schemad.note_statement_v2(bigint, integer, text) FROM PUBLIC;
