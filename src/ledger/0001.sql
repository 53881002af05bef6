-- The ledger, version 1. Later versions only add: a daemon of this version goes on using what it finds here, and these
-- functions are never replaced (a changed guard gets a new name). Sent as one message, so it is created wholly or not.
-- Checksums are no foreign keys: a step would pay for each with a lock on a row of schemad.scripts, and nothing ever deletes
-- a script that schemad.migrations names.
--
-- 32478922351141220 is "schemad" in ASCII, the key of the operation lock (db/lock.rs).

CREATE TABLE schemad.ledger (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    version integer NOT NULL,
    -- The oldest version a daemon must know to use this ledger.
    compatible_with integer NOT NULL,
    -- Where diesel_cli keeps its table, as its search_path said when the ledger was made.
    diesel_schema name NOT NULL,
    diesel_table name NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE schemad.ledger IS 'schemad: which ledger this is';

CREATE TABLE schemad.scripts (
    checksum text PRIMARY KEY,
    sql text NOT NULL
);
COMMENT ON TABLE schemad.scripts IS 'schemad: the SQL of every migration that was planned or adopted, each text once';

CREATE TABLE schemad.operations (
    id uuid PRIMARY KEY,
    kind text NOT NULL,
    principal text NOT NULL,
    request_id uuid NOT NULL,
    request_hash text NOT NULL,
    -- pending, running; then succeeded, failed or interrupted
    state text NOT NULL,
    daemon text NOT NULL,
    -- The session that claimed it, which lives as long as the operation is pending or running.
    backend_pid integer NOT NULL,
    backend_start timestamptz,
    -- A pending operation gives up by then, whatever a pooler does with its session.
    queue_until timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    started_at timestamptz,
    finished_at timestamptz,
    steps_total integer NOT NULL DEFAULT 0,
    -- How it ended: {"ok": {...}} or {"failure": {...}}
    result jsonb,
    UNIQUE (principal, request_id)
);
CREATE INDEX operations_open ON schemad.operations (created_at) WHERE state IN ('pending', 'running');
COMMENT ON TABLE schemad.operations IS 'schemad: every accepted operation';

CREATE TABLE schemad.steps (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    operation uuid NOT NULL REFERENCES schemad.operations ON DELETE CASCADE,
    ordinal integer NOT NULL,
    version text NOT NULL,
    name text NOT NULL,
    -- up, down (no CHECK: it would be parsed again at each step's update)
    direction text NOT NULL,
    script text NOT NULL,
    mode text NOT NULL,
    -- What schemad.migrations gets when an up step commits.
    up_script text,
    down_script text,
    up_mode text,
    down_mode text,
    lock_timeout_ms integer NOT NULL,
    statement_timeout_ms integer NOT NULL,
    role name,
    -- pending, applied (the step, whichever its direction)
    state text NOT NULL DEFAULT 'pending',
    xid xid8,
    -- Who the session is when it plans the step, and has to be again when the script is through.
    planned_as name NOT NULL DEFAULT current_user,
    planned_in_session_of name NOT NULL DEFAULT session_user,
    started_at timestamptz,
    finished_at timestamptz,
    UNIQUE (operation, ordinal)
) WITH (fillfactor = 50); -- the update of a step stays on its page and touches no index
COMMENT ON TABLE schemad.steps IS 'schemad: one migration, run once, up or down';

-- The journal of a script that is not one transaction. These rows say where to go on; they go when the step is applied.
CREATE TABLE schemad.statements (
    step bigint NOT NULL REFERENCES schemad.steps ON DELETE CASCADE,
    ordinal integer NOT NULL,
    checksum text NOT NULL,
    -- How it can be told whether it took effect: transaction (this row says it), create_index, drop_index, repeat (doing
    -- it again does no harm), nothing (only a person can tell).
    settles_by text NOT NULL,
    -- pending, done; running: sent outside a transaction, and its end is not recorded
    state text NOT NULL DEFAULT 'pending',
    -- create_index: the table's indexes before.
    indexes_before oid[],
    started_at timestamptz,
    finished_at timestamptz,
    PRIMARY KEY (step, ordinal)
);
COMMENT ON TABLE schemad.statements IS 'schemad: how far a migration came that is not one transaction';

CREATE TABLE schemad.migrations (
    version text PRIMARY KEY,
    name text NOT NULL,
    -- The order of application, which is what a rollback reverses.
    position bigint GENERATED ALWAYS AS IDENTITY,
    up_script text,
    down_script text,
    up_mode text,
    down_mode text,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    step bigint,
    -- Found in the Diesel table, applied by something else.
    adopted boolean NOT NULL DEFAULT false,
    mac bytea
);
COMMENT ON TABLE schemad.migrations IS 'schemad: how the applied migrations came to be; the Diesel table says which they are';

CREATE TABLE schemad.events (
    operation uuid NOT NULL REFERENCES schemad.operations ON DELETE CASCADE,
    sequence integer NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    kind text NOT NULL,
    data jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (operation, sequence)
);
COMMENT ON TABLE schemad.events IS 'schemad: changes of state of an operation, and what it found changed by others';

-- The first guard. It proves that this session still holds the operation lock (the transaction takes it too, so that the
-- session's hold can be counted down and up again without a gap), that the operation is the running one, that the step
-- is pending and the one before it applied. Under the lock nobody else changes these rows, so reading them is enough.
-- Its last act is the mark by which the second guard knows the transaction: a lock of the session on (1935894628, "schd"
-- in ASCII; the transaction's id). A row would do as well and cost a write; a setting would not survive RESET ALL.
CREATE FUNCTION schemad.begin_step_v1(step_id bigint) RETURNS void
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

    -- INFO reaches the client whatever client_min_messages says: what follows belongs to this step.
    RAISE INFO '%', step_id USING ERRCODE = 'SCH00';
    PERFORM pg_advisory_lock(1935894628, (txid_current() & 2147483647)::integer);
    IF step.role IS NOT NULL THEN
        PERFORM set_config('role', step.role, true);
    END IF;
END
$guard$;

-- The second guard, after the script and the resets. It raises unless the lock, the transaction and the users are still
-- those of the first guard; then it moves the rows, so that they commit with the change or not at all.
CREATE FUNCTION schemad.finish_step_v1(step_id bigint) RETURNS void
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
        INSERT INTO schemad.migrations (version, name, up_script, down_script, up_mode, down_mode, step)
        VALUES (step.version, step.name, step.up_script, step.down_script, step.up_mode, step.down_mode, step.id);
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

-- The second guard of a part of a script that is not one transaction: the same proofs, and the part's row instead of the
-- step's. new_state is 'done', 'running' before a statement that runs outside a transaction, or 'pending' after it failed.
CREATE FUNCTION schemad.note_statement_v1(step_id bigint, statement integer, new_state text) RETURNS void
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

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA schemad FROM PUBLIC;
