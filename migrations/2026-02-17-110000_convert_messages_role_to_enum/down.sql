ALTER TABLE messages
    ALTER COLUMN role TYPE text USING role::text,
    ADD CONSTRAINT messages_role_known CHECK (role IN ('system', 'user', 'assistant'));

DROP TYPE messagerole;
