-- PostgreSQL cannot drop a label, so the type is built again without it. No other label says the same, so rows that use
-- it are not converted: they make this fail. The lock keeps new ones from coming in after they were counted.
LOCK TABLE messages IN ACCESS EXCLUSIVE MODE;

DO $$
DECLARE
    -- Compared as text: as a label, it could not be named in the transaction that added it.
    kept bigint := (SELECT count(*) FROM messages WHERE role::text = 'tool');
BEGIN
    IF kept > 0 THEN
        RAISE EXCEPTION 'the label tool of messagerole is in use: % row(s) of messages', kept
            USING ERRCODE = 'dependent_objects_still_exist',
                HINT = 'Delete these messages or give them another role, then roll back again.';
    END IF;
END
$$;

ALTER TYPE messagerole RENAME TO messagerole_with_tool;
CREATE TYPE messagerole AS ENUM ('system', 'user', 'assistant');
ALTER TABLE messages ALTER COLUMN role TYPE messagerole USING role::text::messagerole;

-- There is no CASCADE, so while a column outside this tree uses the type, this fails and nothing is changed.
DROP TYPE messagerole_with_tool;
