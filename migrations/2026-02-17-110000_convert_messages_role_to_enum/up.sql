-- The roles have settled, so a type replaces the CHECK: a misspelt one is refused wherever it is written, in queries too.
CREATE TYPE messagerole AS ENUM ('system', 'user', 'assistant');

ALTER TABLE messages
    DROP CONSTRAINT messages_role_known,
    ALTER COLUMN role TYPE messagerole USING role::messagerole;
