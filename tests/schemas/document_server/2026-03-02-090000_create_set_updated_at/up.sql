-- One trigger function keeps updated_at right in every table, whichever program writes the row.
CREATE FUNCTION set_updated_at() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated_at := now();
    RETURN NEW;
END
$$;

COMMENT ON FUNCTION set_updated_at() IS 'For BEFORE UPDATE triggers: stamps the row with the time of its transaction.';
