ALTER TABLE tokens ADD COLUMN note text;
