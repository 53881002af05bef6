-- The states that runs, explorations and scenarios pass through. A type already made by hand with the same labels, in
-- the same order, is taken over as it is; anything else under its name stops the migration before a table relies on it.
CREATE FUNCTION ensure_enum(wanted_name text, VARIADIC wanted text[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    kind "char";
    present text[];
BEGIN
    SELECT t.typtype, ARRAY(SELECT e.enumlabel::text FROM pg_enum e WHERE e.enumtypid = t.oid ORDER BY e.enumsortorder)
    INTO kind, present
    FROM pg_type t
    JOIN pg_namespace n ON n.oid = t.typnamespace
    WHERE n.nspname = current_schema() AND t.typname = wanted_name;

    IF NOT FOUND THEN
        EXECUTE format(
            'CREATE TYPE %I AS ENUM (%s)', wanted_name,
            (SELECT string_agg(quote_literal(w.label), ', ' ORDER BY w.place)
             FROM unnest(wanted) WITH ORDINALITY AS w (label, place))
        );
    ELSIF kind <> 'e' THEN
        RAISE EXCEPTION 'type %.% is no enum; it must be an enum with the labels (%)',
            current_schema(), wanted_name, array_to_string(wanted, ', ')
            USING ERRCODE = 'duplicate_object', HINT = 'Rename or drop the type, then apply again.';
    ELSIF present <> wanted THEN
        RAISE EXCEPTION 'enum type %.% has the labels (%); it must have the labels (%), in this order',
            current_schema(), wanted_name, array_to_string(present, ', '), array_to_string(wanted, ', ')
            USING ERRCODE = 'duplicate_object', HINT = 'Correct, rename or drop the type, then apply again.';
    END IF;
END
$$;

SELECT ensure_enum('run_status', 'pending', 'running', 'completed', 'failed', 'cancelled');
SELECT ensure_enum(
    'exploration_status', 'running', 'goal_achieved', 'depth_limit_reached', 'cost_limit_reached', 'no_viable_paths',
    'failed'
);
SELECT ensure_enum('node_status', 'active', 'dominated', 'winner', 'expansion_failed');

DROP FUNCTION ensure_enum(text, text[]);
