-- Settings that an admin changes while the system runs, without a deployment.
CREATE TABLE system_config (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    key text NOT NULL,
    value jsonb NOT NULL,
    description text,
    updated_by uuid,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT system_config_pkey PRIMARY KEY (id),
    CONSTRAINT system_config_key_key UNIQUE (key),
    CONSTRAINT system_config_updated_by_fkey FOREIGN KEY (updated_by) REFERENCES users (id) ON DELETE SET NULL,
    CONSTRAINT system_config_key_form CHECK (key ~ '^[a-z][a-z0-9_]*([.][a-z][a-z0-9_]*)*$')
);

CREATE INDEX system_config_updated_by_idx ON system_config (updated_by);

CREATE TRIGGER system_config_set_updated_at
    BEFORE UPDATE ON system_config
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();

COMMENT ON TABLE system_config IS 'Settings that are changed while the system runs; never secrets.';
COMMENT ON COLUMN system_config.key IS 'Lower case with dots, such as generation.max_words.';
