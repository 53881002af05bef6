-- By now the kinds of style are known. Words that name one become its label whatever their case, the rest becomes
-- other, and the words of the author are kept beside it, for readers and for the down.
ALTER TABLE writing_styles ADD COLUMN style_as_written text;

-- Two USING clauses instead of an UPDATE: one rewrite, both see the old row, and no trigger moves updated_at.
ALTER TABLE writing_styles
    DROP CONSTRAINT writing_styles_style_present,
    ALTER COLUMN style_as_written TYPE text USING style,
    ALTER COLUMN style DROP DEFAULT,
    ALTER COLUMN style TYPE styletype USING
        CASE
            WHEN lower(btrim(style)) IN ('narrative', 'technical', 'persuasive', 'academic')
                THEN lower(btrim(style))::styletype
            ELSE 'other'
        END,
    ALTER COLUMN style SET DEFAULT 'other';

COMMENT ON COLUMN writing_styles.style IS 'The kind of style.';
COMMENT ON COLUMN writing_styles.style_as_written IS 'Style as the author put it, while it was free text.';
