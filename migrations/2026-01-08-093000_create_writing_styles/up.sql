-- Named voices that a text can be written in. Which kinds of style people need is not known yet, so style is free text.
CREATE TABLE writing_styles (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    name text NOT NULL,
    style text NOT NULL DEFAULT 'other',
    description text,
    guidance text NOT NULL,
    samples jsonb NOT NULL DEFAULT '[]',
    analysis jsonb NOT NULL DEFAULT '{}',
    is_active boolean NOT NULL DEFAULT true,
    created_by uuid,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT writing_styles_pkey PRIMARY KEY (id),
    CONSTRAINT writing_styles_created_by_fkey FOREIGN KEY (created_by) REFERENCES users (id) ON DELETE SET NULL,
    CONSTRAINT writing_styles_name_present CHECK (btrim(name) <> ''),
    CONSTRAINT writing_styles_style_present CHECK (btrim(style) <> ''),
    CONSTRAINT writing_styles_guidance_present CHECK (btrim(guidance) <> ''),
    CONSTRAINT writing_styles_samples_array CHECK (jsonb_typeof(samples) = 'array'),
    CONSTRAINT writing_styles_analysis_object CHECK (jsonb_typeof(analysis) = 'object')
);

CREATE UNIQUE INDEX writing_styles_lower_name_key ON writing_styles (lower(name));
CREATE INDEX writing_styles_style_idx ON writing_styles (style);
CREATE INDEX writing_styles_created_by_idx ON writing_styles (created_by);

CREATE TRIGGER writing_styles_set_updated_at
    BEFORE UPDATE ON writing_styles
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();

COMMENT ON TABLE writing_styles IS 'Named voices that a text can be written in.';
COMMENT ON COLUMN writing_styles.style IS 'The kind of style, in the words of its author.';
COMMENT ON COLUMN writing_styles.guidance IS 'What the language model is told about the style.';
COMMENT ON COLUMN writing_styles.samples IS 'The texts that the style was learnt from.';
COMMENT ON COLUMN writing_styles.analysis IS 'What was found in the samples: tone, sentence length and the like.';
