-- The ledger, version 2: operations that are watched, cancelled and taken over from any daemon. Only additions; a daemon of
-- version 1 goes on using the ledger and leaves these columns empty.

ALTER TABLE schemad.operations
    -- Somebody asked to cancel it: who.
    ADD COLUMN cancel_requested_by text,
    -- When its daemon last said that it lives. Empty: a daemon of version 1, which does not say.
    ADD COLUMN heartbeat_at timestamptz,
    -- What was said when it was asked for.
    ADD COLUMN reason text;
CREATE INDEX operations_by_time ON schemad.operations (created_at, id);
CREATE INDEX steps_by_version ON schemad.steps (version);

-- Requests that were refused before they became operations: best effort, a few a second, kept for a while.
CREATE TABLE schemad.refusals (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    daemon text NOT NULL,
    principal text NOT NULL,
    kind text NOT NULL,
    request_id uuid NOT NULL,
    reason text NOT NULL,
    message text NOT NULL
);
CREATE INDEX refusals_by_time ON schemad.refusals (at);
COMMENT ON TABLE schemad.refusals IS 'schemad: what was asked for and refused';

-- How many clients watch schemad.schema.applied.<version>, as each daemon last said.
CREATE TABLE schemad.watchers (
    daemon text NOT NULL,
    version text NOT NULL,
    clients integer NOT NULL,
    seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (daemon, version)
);
COMMENT ON TABLE schemad.watchers IS 'schemad: which versions are in use, by the health watches of every daemon';
