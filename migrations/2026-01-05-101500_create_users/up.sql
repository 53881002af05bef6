-- People who sign in. Everything they make points here, so this table comes first.
CREATE TABLE users (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    email text NOT NULL,
    full_name text NOT NULL,
    password_hash text NOT NULL,
    role userrole NOT NULL DEFAULT 'writer',
    is_active boolean NOT NULL DEFAULT true,
    preferences jsonb NOT NULL DEFAULT '{}',
    last_login_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT users_pkey PRIMARY KEY (id),
    CONSTRAINT users_email_form CHECK (email ~ '^[^@[:space:]]+@[^@[:space:]]+$' AND length(email) <= 254),
    CONSTRAINT users_full_name_present CHECK (btrim(full_name) <> ''),
    CONSTRAINT users_preferences_object CHECK (jsonb_typeof(preferences) = 'object')
);

CREATE UNIQUE INDEX users_lower_email_key ON users (lower(email));
CREATE INDEX users_lower_full_name_idx ON users (lower(full_name));

CREATE TRIGGER users_set_updated_at
    BEFORE UPDATE ON users
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();

COMMENT ON TABLE users IS 'People who sign in.';
COMMENT ON COLUMN users.email IS 'As typed; unique whatever its case.';
COMMENT ON COLUMN users.password_hash IS 'A salted hash in PHC format, never the password.';
COMMENT ON COLUMN users.is_active IS 'False shuts a person out and keeps what they wrote.';
