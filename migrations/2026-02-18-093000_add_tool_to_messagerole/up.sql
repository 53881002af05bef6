-- Assistants call tools by now, and what those answer is a message of its own. PostgreSQL lets nothing use a new label
-- until this is committed, so whatever needs it is a later migration.
ALTER TYPE messagerole ADD VALUE 'tool';
