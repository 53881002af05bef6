-- Rows made before the up get their own words back to the letter. Limits: where the row is newer, or its style has been
-- changed since, the label becomes the text; a style changed and changed back cannot be told from an untouched one.
ALTER TABLE writing_styles
    ALTER COLUMN style DROP DEFAULT,
    ALTER COLUMN style TYPE text USING
        CASE
            WHEN style_as_written IS NULL THEN style::text
            -- The same rule as in the up: the words still stand for this label.
            WHEN style::text = CASE
                WHEN lower(btrim(style_as_written)) IN ('narrative', 'technical', 'persuasive', 'academic')
                    THEN lower(btrim(style_as_written))
                ELSE 'other'
            END THEN style_as_written
            ELSE style::text
        END,
    ALTER COLUMN style SET DEFAULT 'other',
    ADD CONSTRAINT writing_styles_style_present CHECK (btrim(style) <> '');

-- A statement of its own: nothing promises that USING above could read a column dropped beside it.
ALTER TABLE writing_styles DROP COLUMN style_as_written;

COMMENT ON COLUMN writing_styles.style IS 'The kind of style, in the words of its author.';
