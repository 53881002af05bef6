-- Personal access tokens, with which clients act for a user. The token itself is shown once, when it is made, and is
-- never stored. It is long and random, so a plain SHA-256 is enough and finds the row by one look-up.
CREATE TABLE pat_tokens (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    user_id uuid NOT NULL,
    name text NOT NULL,
    token_prefix text NOT NULL,
    token_sha256 bytea NOT NULL,
    scopes text[] NOT NULL DEFAULT '{read}',
    expires_at timestamptz NOT NULL,
    last_used_at timestamptz,
    revoked_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pat_tokens_pkey PRIMARY KEY (id),
    CONSTRAINT pat_tokens_token_sha256_key UNIQUE (token_sha256),
    CONSTRAINT pat_tokens_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE,
    CONSTRAINT pat_tokens_name_present CHECK (btrim(name) <> ''),
    -- Short enough that the rest of the token stays beyond guessing.
    CONSTRAINT pat_tokens_token_prefix_form CHECK (token_prefix ~ '^[A-Za-z0-9_-]{4,12}$'),
    CONSTRAINT pat_tokens_token_sha256_length CHECK (octet_length(token_sha256) = 32),
    CONSTRAINT pat_tokens_scopes_known CHECK (cardinality(scopes) > 0 AND scopes <@ '{read,write,admin}'),
    CONSTRAINT pat_tokens_expires_after_created CHECK (expires_at > created_at),
    CONSTRAINT pat_tokens_last_used_after_created CHECK (last_used_at >= created_at),
    CONSTRAINT pat_tokens_revoked_after_created CHECK (revoked_at >= created_at)
);

-- A name is free again once its token is revoked.
CREATE UNIQUE INDEX pat_tokens_user_id_lower_name_key ON pat_tokens (user_id, lower(name)) WHERE revoked_at IS NULL;
-- The index above leaves out revoked tokens, so it cannot serve the foreign key.
CREATE INDEX pat_tokens_user_id_idx ON pat_tokens (user_id);
CREATE INDEX pat_tokens_expires_at_idx ON pat_tokens (expires_at);

CREATE TRIGGER pat_tokens_set_updated_at
    BEFORE UPDATE ON pat_tokens
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();

COMMENT ON TABLE pat_tokens IS 'Personal access tokens, stored hashed.';
COMMENT ON COLUMN pat_tokens.token_prefix IS 'The first characters of the token, by which its owner knows it again.';
COMMENT ON COLUMN pat_tokens.token_sha256 IS 'SHA-256 of the whole token; a leaked table opens nothing.';
COMMENT ON COLUMN pat_tokens.revoked_at IS 'Set when the token is ended before it expires.';
