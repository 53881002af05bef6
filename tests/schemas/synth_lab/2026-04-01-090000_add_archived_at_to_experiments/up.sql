-- Old experiments have to leave the lists without their runs being lost. The list of the others gets the index, and the
-- one that it replaces goes.
ALTER TABLE experiments
    ADD COLUMN archived_at timestamptz,
    ADD CONSTRAINT experiments_archived_after_created CHECK (archived_at >= created_at);

CREATE INDEX experiments_current_created_at_idx ON experiments (created_at) WHERE archived_at IS NULL;
DROP INDEX experiments_created_at_idx;

COMMENT ON COLUMN experiments.archived_at IS 'Set keeps the experiment out of the lists; null while it is current.';
