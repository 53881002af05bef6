-- The ledger, version 3: signed downs. Only additions; a daemon of version 2 goes on using the first finish_step, and what it
-- applies is unsigned.

-- What schemad.migrations.mac gets when an up step commits: it has to be in the row before the step runs, so that signing costs
-- the step no statement. Nobody reads it here, so a long value needs no care.
ALTER TABLE schemad.steps ADD COLUMN down_mac bytea;

-- finish_step_v1, and the signature.
CREATE FUNCTION schemad.finish_step_v2(step_id bigint) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $guard$
DECLARE
    step schemad.steps;
    diesel text;
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
        RAISE EXCEPTION 'the script changed the user to % (session %)', current_user, session_user USING ERRCODE = 'SCH05';
    END IF;

    IF step.mode <> 'transactional' THEN
        UPDATE schemad.steps s
           SET started_at = least(s.started_at, (SELECT min(p.started_at) FROM schemad.statements p WHERE p.step = step_id))
         WHERE s.id = step_id;
        DELETE FROM schemad.statements s WHERE s.step = step_id;
    END IF;
    SELECT format('%I.%I', l.diesel_schema, l.diesel_table) INTO STRICT diesel FROM schemad.ledger l;
    IF step.direction = 'up' THEN
        EXECUTE 'INSERT INTO ' || diesel || ' (version) VALUES ($1)' USING step.version;
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

-- Whoever may use the first one may use this one; else a role that was given the functions of version 2 would lack a right.
DO $grants$
DECLARE
    given record;
BEGIN
    FOR given IN
        SELECT DISTINCT a.grantee::regrole::text AS role FROM pg_catalog.pg_proc p, pg_catalog.aclexplode(p.proacl) a
         WHERE p.oid = 'schemad.finish_step_v1(bigint)'::regprocedure AND a.privilege_type = 'EXECUTE' AND a.grantee <> 0
    LOOP
        EXECUTE 'GRANT EXECUTE ON FUNCTION schemad.finish_step_v2(bigint) TO ' || given.role;
    END LOOP;
END
$grants$;

-- Whatever default privileges gave to everybody, in this version or one before.
REVOKE ALL ON ALL TABLES IN SCHEMA schemad FROM PUBLIC;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA schemad FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA schemad FROM PUBLIC;
REVOKE ALL ON SCHEMA schemad FROM PUBLIC;
