-- What was recorded about success is lost. The constraints and indexes go with their columns, and those are the table's
-- last, so the order of the others is untouched.
ALTER TABLE outputs
    DROP COLUMN success_notes,
    DROP COLUMN decided_on,
    DROP COLUMN submitted_on,
    DROP COLUMN awarded_amount,
    DROP COLUMN requested_amount,
    DROP COLUMN funder_name,
    DROP COLUMN status;
