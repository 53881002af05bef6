-- By now no table is left whose trigger calls it.
DROP FUNCTION set_updated_at();
