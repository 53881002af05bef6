-- People who own collections and tokens.
CREATE TABLE users (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    email text NOT NULL,
    display_name text NOT NULL,
    is_active boolean NOT NULL DEFAULT true,
    settings jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT users_pkey PRIMARY KEY (id),
    CONSTRAINT users_email_form CHECK (email ~ '^[^@[:space:]]+@[^@[:space:]]+$' AND length(email) <= 254),
    CONSTRAINT users_display_name_present CHECK (btrim(display_name) <> ''),
    CONSTRAINT users_settings_object CHECK (jsonb_typeof(settings) = 'object')
);

CREATE UNIQUE INDEX users_lower_email_key ON users (lower(email));

CREATE TRIGGER users_set_updated_at
    BEFORE UPDATE ON users
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();

COMMENT ON TABLE users IS 'People who own collections and tokens.';
COMMENT ON COLUMN users.email IS 'As typed; unique whatever its case.';
COMMENT ON COLUMN users.is_active IS 'False shuts a person and their tokens out and keeps what they collected.';
