-- The ledger, version 6: guards that run with the rights of the ledger's owner, so that a role which runs migrations needs no right on
-- the ledger's tables or on Diesel's. Only additions; a daemon of version 5 goes on using the earlier guards.

-- diesel_table_problem_v1, and its owner has to be a superuser or the ledger's owner: anybody else could change the table in the
-- moment between this look and the write. A table that cannot be seen is one of which nothing is known.
CREATE FUNCTION schemad.diesel_table_problem_v2(diesel oid) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $problem$
    SELECT CASE WHEN NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = diesel) THEN 'it was made after the transaction took its snapshot'
    ELSE (SELECT CASE WHEN NOT o.rolsuper
            AND o.oid <> (SELECT g.relowner FROM pg_class g JOIN pg_namespace s ON s.oid = g.relnamespace
                WHERE s.nspname = 'schemad' AND g.relname = 'ledger')
        THEN 'it belongs to the role ' || quote_ident(o.rolname) || ', which is neither a superuser nor the owner of the ledger'
        ELSE schemad.diesel_table_problem_v1(c.oid) END
    FROM pg_class c JOIN pg_roles o ON o.oid = c.relowner WHERE c.oid = diesel) END
$problem$;

-- Whether the login of this session has no right to write the ledger: a login of its own for migrations.
CREATE FUNCTION schemad.is_kept_out_v1() RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $kept_out$
    SELECT NOT has_table_privilege(session_user, 'schemad.steps', 'UPDATE')
$kept_out$;

-- For the guards: locks Diesel's table, looks at it, and returns it. Whoever owns its schema can put something else under its name at any
-- moment, a view for example, whose functions would run with the rights of the guards' owner. So it is locked by its name first, and
-- what the name leads to afterwards has to be what is locked; until the transaction ends nobody drops, renames or changes that.
CREATE FUNCTION schemad.lock_diesel_table_v1() RETURNS oid
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $guard$
DECLARE
    diesel text;
    found oid;
    problem text;
    isolation text := current_setting('transaction_isolation');
BEGIN
    SELECT format('%I.%I', l.diesel_schema, l.diesel_table) INTO STRICT diesel FROM schemad.ledger l;
    IF diesel IS DISTINCT FROM current_setting('schemad.diesel_table', true) THEN
        RAISE EXCEPTION 'the ledger says that Diesel''s table is %, and the daemon found it at %', diesel,
            current_setting('schemad.diesel_table', true) USING ERRCODE = 'SCH07';
    END IF;
    -- In an isolation level of one snapshot the look would not see what was committed after the transaction began, unless the table was
    -- locked before. When that was, nobody can tell: what a login of its own says of it is not believed.
    IF isolation NOT IN ('read committed', 'read uncommitted') THEN
        IF schemad.is_kept_out_v1() THEN
            RAISE EXCEPTION 'Diesel''s table % is not used: the transaction is %, and with a login of its own for migrations every file runs in READ COMMITTED',
                diesel, isolation USING ERRCODE = 'SCH08';
        END IF;
        IF NOT EXISTS (SELECT FROM pg_locks k WHERE k.pid = pg_backend_pid() AND k.relation = to_regclass(diesel) AND k.granted
            AND k.mode = 'RowExclusiveLock')
        THEN
            RAISE EXCEPTION 'Diesel''s table % is not used: it was not locked before the transaction (%) took its snapshot', diesel,
                isolation USING ERRCODE = 'SCH08';
        END IF;
    END IF;
    EXECUTE 'LOCK TABLE ONLY ' || diesel || ' IN ROW EXCLUSIVE MODE';
    found := to_regclass(diesel)::oid;
    IF NOT EXISTS (SELECT FROM pg_locks k WHERE k.pid = pg_backend_pid() AND k.relation = found AND k.granted AND k.mode = 'RowExclusiveLock'
        AND k.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()))
    THEN
        RAISE EXCEPTION 'Diesel''s table % is not used: its name led to another table a moment before', diesel USING ERRCODE = 'SCH08';
    END IF;
    problem := schemad.diesel_table_problem_v2(found);
    IF problem IS NOT NULL THEN
        RAISE EXCEPTION 'Diesel''s table % is not used: %', diesel, problem USING ERRCODE = 'SCH08';
    END IF;
    RETURN found;
END
$guard$;

-- For the guards: the step is the one whose turn it is. Of a login of its own for migrations no word is taken but in the operation's own
-- session (another of that login could end it and take the lock), and none while a statement of that step runs outside a transaction: a
-- procedure or a block that commits could speak for what did not run. The daemon records that statement itself then.
CREATE FUNCTION schemad.is_its_turn_v1(step_id bigint) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $turn$
    SELECT EXISTS (SELECT FROM schemad.steps s JOIN schemad.operations o ON o.id = s.operation
        WHERE s.id = step_id AND s.state = 'pending' AND o.state = 'running'
          AND (s.ordinal = 1 OR EXISTS (SELECT FROM schemad.steps q
             WHERE q.operation = s.operation AND q.ordinal = s.ordinal - 1 AND q.state = 'applied'
               AND q.xid IS DISTINCT FROM pg_current_xact_id_if_assigned()))
          AND NOT (schemad.is_kept_out_v1() AND (o.backend_pid <> pg_backend_pid()
            OR EXISTS (SELECT FROM schemad.statements t WHERE t.step = s.id AND t.state = 'running'))))
$turn$;

-- begin_step_v2, and the role of the step is returned instead of taken (the session's own where the step has none): a function that
-- runs with its owner's rights may not take one. The caller takes it in the same statement.
CREATE FUNCTION schemad.begin_step_v3(step_id bigint) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $guard$
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
     WHERE s.id = step_id AND schemad.is_its_turn_v1(s.id);
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
    RETURN coalesce(step.role, current_setting('role'));
END
$guard$;

-- finish_step_v3, for whoever may execute it. So it trusts no more than it did the script that ran before it in the same session: it has to be
-- the step's turn. A script that calls the guards itself can only say of its own step that it is applied, which the daemon's own call
-- then refuses. current_user is the guards' owner here; the session's is what its role setting and its login say.
CREATE FUNCTION schemad.finish_step_v4(step_id bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $guard$
DECLARE
    step schemad.steps;
    now_as text := coalesce(nullif(current_setting('role'), 'none'), session_user::text);
    looked_at oid;
    written oid;
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
     WHERE s.id = step_id AND s.planned_as = now_as AND s.planned_in_session_of = session_user AND schemad.is_its_turn_v1(s.id)
    RETURNING * INTO step;
    IF NOT FOUND THEN
        SELECT * INTO step FROM schemad.steps s WHERE s.id = step_id;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'the row of step % is gone', step_id USING ERRCODE = 'SCH01';
        END IF;
        IF step.planned_as <> now_as OR step.planned_in_session_of <> session_user THEN
            RAISE EXCEPTION 'the script changed the user to % (session %)', now_as, session_user USING ERRCODE = 'SCH05';
        END IF;
        RAISE EXCEPTION 'step % is not the one that runs', step_id USING ERRCODE = 'SCH01';
    END IF;

    IF step.mode <> 'transactional' THEN
        UPDATE schemad.steps s
           SET started_at = least(s.started_at, (SELECT min(p.started_at) FROM schemad.statements p WHERE p.step = step_id))
         WHERE s.id = step_id;
        DELETE FROM schemad.statements s WHERE s.step = step_id;
    END IF;
    looked_at := schemad.lock_diesel_table_v1();
    IF step.direction = 'up' THEN
        EXECUTE 'INSERT INTO ' || looked_at::regclass || ' (version, run_on) VALUES ($1, CURRENT_TIMESTAMP) RETURNING tableoid'
            INTO written USING step.version;
        IF written IS NULL THEN
            RAISE EXCEPTION 'the Diesel table did not take version %', step.version USING ERRCODE = 'SCH06';
        END IF;
        INSERT INTO schemad.migrations (version, name, up_script, down_script, up_mode, down_mode, step, mac)
        VALUES (step.version, step.name, step.up_script, step.down_script, step.up_mode, step.down_mode, step.id, step.down_mac);
    ELSE
        EXECUTE 'DELETE FROM ' || looked_at::regclass || ' WHERE version = $1 RETURNING tableoid' INTO written USING step.version;
        IF written IS NULL THEN
            RAISE EXCEPTION 'the Diesel table does not list version %', step.version USING ERRCODE = 'SCH06';
        END IF;
        DELETE FROM schemad.migrations m WHERE m.version = step.version;
    END IF;
    IF written <> looked_at THEN
        RAISE EXCEPTION 'Diesel''s table is not used: its name led to another table a moment before' USING ERRCODE = 'SCH08';
    END IF;
END
$guard$;

-- Calls finish_step_v4 where it can only refuse: Diesel's table lists the migration already (a down: no longer), or cannot be used. A part
-- of a script that keeps its step from being finished then fails as the last part would.
CREATE FUNCTION schemad.can_be_finished_v1(step_id bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $guard$
DECLARE
    step schemad.steps;
    is_listed boolean;
BEGIN
    IF NOT pg_advisory_unlock(32478922351141220) THEN
        RAISE EXCEPTION 'the script released the operation lock' USING ERRCODE = 'SCH04';
    END IF;
    PERFORM pg_advisory_lock(32478922351141220);
    SELECT * INTO step FROM schemad.steps s WHERE s.id = step_id AND schemad.is_its_turn_v1(s.id);
    IF NOT FOUND THEN
        RAISE EXCEPTION 'step % is not the one that runs', step_id USING ERRCODE = 'SCH01';
    END IF;
    EXECUTE 'SELECT EXISTS (SELECT FROM ' || schemad.lock_diesel_table_v1()::regclass || ' d WHERE d.version::text = $1)'
        INTO is_listed USING step.version;
    IF is_listed = (step.direction = 'up') THEN
        PERFORM schemad.finish_step_v4(step_id);
    END IF;
END
$guard$;

-- note_statement_v2, for whoever may execute it.
CREATE FUNCTION schemad.note_statement_v3(step_id bigint, statement integer, new_state text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $guard$
DECLARE
    step schemad.steps;
    now_as text := coalesce(nullif(current_setting('role'), 'none'), session_user::text);
BEGIN
    IF NOT pg_advisory_unlock(32478922351141220) THEN
        RAISE EXCEPTION 'the script released the operation lock' USING ERRCODE = 'SCH04';
    END IF;
    IF NOT pg_advisory_unlock(1935894628, (txid_current() & 2147483647)::integer) THEN
        RAISE EXCEPTION 'the script ended the transaction that schemad had opened' USING ERRCODE = 'SCH03';
    END IF;
    PERFORM pg_advisory_unlock_all();
    PERFORM pg_advisory_lock(32478922351141220);
    SELECT * INTO step FROM schemad.steps s WHERE s.id = step_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the row of step % is gone', step_id USING ERRCODE = 'SCH01';
    END IF;
    IF step.planned_as <> now_as OR step.planned_in_session_of <> session_user THEN
        RAISE EXCEPTION 'the script changed the user to % (session %)', now_as, session_user USING ERRCODE = 'SCH05';
    END IF;
    UPDATE schemad.statements s
       SET state = new_state,
           started_at = CASE new_state WHEN 'pending' THEN NULL ELSE coalesce(s.started_at, transaction_timestamp()) END,
           finished_at = CASE new_state WHEN 'done' THEN clock_timestamp() END
     WHERE s.step = step_id AND s.ordinal = statement AND s.state <> 'done' AND new_state IN ('pending', 'running', 'done')
       AND schemad.is_its_turn_v1(step_id)
       AND (statement = 1 OR EXISTS (SELECT FROM schemad.statements q
             WHERE q.step = step_id AND q.ordinal = statement - 1 AND q.state = 'done'));
    IF NOT FOUND THEN
        RAISE EXCEPTION 'statement % of step % is not the next one', statement, step_id USING ERRCODE = 'SCH01';
    END IF;
END
$guard$;

-- Whoever may use the earlier guards may use these; else a role that was given the functions of version 5 would lack a right.
DO $grants$
DECLARE
    given record;
BEGIN
    FOR given IN
        SELECT DISTINCT a.grantee::regrole::text AS role FROM pg_catalog.pg_proc p, pg_catalog.aclexplode(p.proacl) a
         WHERE p.oid = 'schemad.finish_step_v3(bigint)'::regprocedure AND a.privilege_type = 'EXECUTE' AND a.grantee <> 0
    LOOP
        EXECUTE 'GRANT EXECUTE ON FUNCTION schemad.diesel_table_problem_v2(oid), schemad.is_kept_out_v1(), schemad.lock_diesel_table_v1(), '
            || 'schemad.is_its_turn_v1(bigint), schemad.begin_step_v3(bigint), schemad.finish_step_v4(bigint), '
            || 'schemad.can_be_finished_v1(bigint), schemad.note_statement_v3(bigint, integer, text) TO ' || given.role;
    END LOOP;
END
$grants$;

REVOKE ALL ON FUNCTION schemad.diesel_table_problem_v2(oid), schemad.is_kept_out_v1(), schemad.lock_diesel_table_v1(),
    schemad.is_its_turn_v1(bigint), schemad.begin_step_v3(bigint), schemad.finish_step_v4(bigint), schemad.can_be_finished_v1(bigint),
    schemad.note_statement_v3(bigint, integer, text) FROM PUBLIC;
