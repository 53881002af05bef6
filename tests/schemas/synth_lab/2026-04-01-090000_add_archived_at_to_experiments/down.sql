-- Archived experiments show up in the lists again. The constraint and the index go with the column, which is the
-- table's last, so the order of the others is untouched.
CREATE INDEX experiments_created_at_idx ON experiments (created_at);
ALTER TABLE experiments DROP COLUMN archived_at;
