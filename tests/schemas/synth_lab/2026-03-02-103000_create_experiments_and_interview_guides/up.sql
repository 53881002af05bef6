-- Everything belongs to an experiment: the feature under test and what is expected of it. Keys are text throughout, so
-- that rows from the old database keep the ids that their documents mention.
CREATE TABLE experiments (
    id text NOT NULL DEFAULT gen_random_uuid(),
    name text NOT NULL,
    hypothesis text NOT NULL,
    description text,
    settings jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT experiments_pkey PRIMARY KEY (id),
    CONSTRAINT experiments_id_form CHECK (id ~ '^[A-Za-z0-9_-]{1,64}$'),
    CONSTRAINT experiments_name_present CHECK (btrim(name) <> ''),
    CONSTRAINT experiments_hypothesis_present CHECK (btrim(hypothesis) <> ''),
    CONSTRAINT experiments_settings_object CHECK (jsonb_typeof(settings) = 'object')
);

CREATE INDEX experiments_lower_name_idx ON experiments (lower(name));
CREATE INDEX experiments_created_at_idx ON experiments (created_at);

CREATE TRIGGER experiments_set_updated_at
    BEFORE UPDATE ON experiments
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();

-- The experiment's own key is the guide's key too: there is one guide at most.
CREATE TABLE interview_guides (
    experiment_id text NOT NULL,
    context text,
    questions jsonb NOT NULL DEFAULT '[]',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT interview_guides_pkey PRIMARY KEY (experiment_id),
    CONSTRAINT interview_guides_experiment_id_fkey
        FOREIGN KEY (experiment_id) REFERENCES experiments (id) ON DELETE CASCADE,
    CONSTRAINT interview_guides_questions_array CHECK (jsonb_typeof(questions) = 'array')
);

CREATE TRIGGER interview_guides_set_updated_at
    BEFORE UPDATE ON interview_guides
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();

COMMENT ON TABLE experiments IS 'Features under test, each with what is expected of it.';
COMMENT ON TABLE interview_guides IS 'What the interviewer of an experiment asks.';
COMMENT ON COLUMN interview_guides.context IS 'What a synth is told before the first question.';
