CREATE TYPE token_state AS ENUM ('active', 'revoked');
ALTER TABLE tokens ADD COLUMN state token_state NOT NULL DEFAULT 'active';
