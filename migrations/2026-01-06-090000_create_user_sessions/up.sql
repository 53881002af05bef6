-- Sessions live in the database so that signing out, or shutting a person out, works on every server at once.
CREATE TABLE user_sessions (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    user_id uuid NOT NULL,
    token_sha256 bytea NOT NULL,
    ip_address inet,
    user_agent text,
    expires_at timestamptz NOT NULL,
    revoked_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT user_sessions_pkey PRIMARY KEY (id),
    CONSTRAINT user_sessions_token_sha256_key UNIQUE (token_sha256),
    CONSTRAINT user_sessions_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE,
    CONSTRAINT user_sessions_token_sha256_length CHECK (octet_length(token_sha256) = 32),
    CONSTRAINT user_sessions_expires_after_created CHECK (expires_at > created_at),
    CONSTRAINT user_sessions_revoked_after_created CHECK (revoked_at >= created_at)
);

CREATE INDEX user_sessions_user_id_idx ON user_sessions (user_id);
CREATE INDEX user_sessions_expires_at_idx ON user_sessions (expires_at);

CREATE TRIGGER user_sessions_set_updated_at
    BEFORE UPDATE ON user_sessions
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();

COMMENT ON TABLE user_sessions IS 'Signed-in browsers and clients.';
COMMENT ON COLUMN user_sessions.token_sha256 IS 'SHA-256 of the token; a leaked table opens no session.';
COMMENT ON COLUMN user_sessions.revoked_at IS 'Set when the session is ended before it expires.';
