-- The ledger, version 4: what rehearsals found. Only an addition; a daemon of version 3 neither reads nor writes it.

CREATE TABLE schemad.rehearsals (
    version text NOT NULL,
    -- Exactly these scripts, run like this; '' for a down that there is not.
    up_script text NOT NULL,
    up_mode text NOT NULL,
    down_script text NOT NULL,
    down_mode text NOT NULL,
    verdict text NOT NULL,
    principal text NOT NULL,
    daemon text NOT NULL,
    rehearsed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (version, up_script, up_mode, down_script, down_mode)
);
COMMENT ON TABLE schemad.rehearsals IS 'schemad: the last verdict of each migration that was rehearsed, for exactly these scripts';

-- Whoever may use the other tables may use this one; else a role that was given those of version 3 would lack a right.
DO $grants$
DECLARE
    given record;
BEGIN
    FOR given IN
        SELECT a.grantee::regrole::text AS role, string_agg(DISTINCT a.privilege_type, ', ') AS rights
          FROM pg_catalog.pg_class c, pg_catalog.aclexplode(c.relacl) a
         WHERE c.oid = 'schemad.operations'::regclass AND a.grantee NOT IN (0, c.relowner)
           AND a.privilege_type IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE') GROUP BY 1
    LOOP
        EXECUTE 'GRANT ' || given.rights || ' ON schemad.rehearsals TO ' || given.role;
    END LOOP;
END
$grants$;

REVOKE ALL ON schemad.rehearsals FROM PUBLIC;
