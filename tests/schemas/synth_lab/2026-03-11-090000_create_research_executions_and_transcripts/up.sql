-- Interviews by the guide of an experiment, and what was said in them. A transcript grows with every turn, hence the
-- room on its pages; it is evidence, so it stays when the synth is deleted.
CREATE TABLE research_executions (
    id text NOT NULL DEFAULT gen_random_uuid(),
    experiment_id text NOT NULL,
    topic text NOT NULL,
    status run_status NOT NULL DEFAULT 'pending',
    model text NOT NULL,
    max_turns integer NOT NULL DEFAULT 6,
    synth_count integer NOT NULL DEFAULT 0,
    successful_count integer NOT NULL DEFAULT 0,
    failed_count integer NOT NULL DEFAULT 0,
    config jsonb NOT NULL DEFAULT '{}',
    summary text,
    error text,
    started_at timestamptz,
    finished_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT research_executions_pkey PRIMARY KEY (id),
    CONSTRAINT research_executions_experiment_id_fkey
        FOREIGN KEY (experiment_id) REFERENCES experiments (id) ON DELETE CASCADE,
    CONSTRAINT research_executions_id_form CHECK (id ~ '^[A-Za-z0-9_-]{1,64}$'),
    CONSTRAINT research_executions_topic_present CHECK (btrim(topic) <> ''),
    CONSTRAINT research_executions_model_present CHECK (btrim(model) <> ''),
    CONSTRAINT research_executions_max_turns_positive CHECK (max_turns > 0),
    CONSTRAINT research_executions_counts_consistent CHECK (
        successful_count >= 0 AND failed_count >= 0 AND successful_count + failed_count <= synth_count
    ),
    CONSTRAINT research_executions_config_object CHECK (jsonb_typeof(config) = 'object'),
    CONSTRAINT research_executions_error_only_when_failed CHECK (error IS NULL OR status = 'failed'),
    CONSTRAINT research_executions_finished_when_closed CHECK (
        (status IN ('completed', 'failed', 'cancelled')) = (finished_at IS NOT NULL)
    ),
    CONSTRAINT research_executions_finished_after_started CHECK (finished_at >= started_at)
);

CREATE INDEX research_executions_experiment_id_created_at_idx ON research_executions (experiment_id, created_at);
CREATE INDEX research_executions_open_idx ON research_executions (created_at) WHERE status IN ('pending', 'running');

CREATE TRIGGER research_executions_set_updated_at
    BEFORE UPDATE ON research_executions
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();

CREATE TABLE transcripts (
    id text NOT NULL DEFAULT gen_random_uuid(),
    research_execution_id text NOT NULL,
    synth_id text,
    synth_name text NOT NULL,
    status run_status NOT NULL DEFAULT 'pending',
    turn_count integer NOT NULL DEFAULT 0,
    messages jsonb NOT NULL DEFAULT '[]',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT transcripts_pkey PRIMARY KEY (id),
    CONSTRAINT transcripts_research_execution_id_synth_id_key UNIQUE (research_execution_id, synth_id),
    CONSTRAINT transcripts_research_execution_id_fkey
        FOREIGN KEY (research_execution_id) REFERENCES research_executions (id) ON DELETE CASCADE,
    CONSTRAINT transcripts_synth_id_fkey FOREIGN KEY (synth_id) REFERENCES synths (id) ON DELETE SET NULL,
    CONSTRAINT transcripts_id_form CHECK (id ~ '^[A-Za-z0-9_-]{1,64}$'),
    CONSTRAINT transcripts_synth_name_present CHECK (btrim(synth_name) <> ''),
    CONSTRAINT transcripts_turn_count_not_negative CHECK (turn_count >= 0),
    CONSTRAINT transcripts_messages_array CHECK (jsonb_typeof(messages) = 'array')
) WITH (fillfactor = 80);

CREATE INDEX transcripts_synth_id_idx ON transcripts (synth_id);

CREATE TRIGGER transcripts_set_updated_at
    BEFORE UPDATE ON transcripts
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();

COMMENT ON TABLE research_executions IS 'Rounds of interviews with synths.';
COMMENT ON COLUMN research_executions.model IS 'The language model that both sides speak with.';
COMMENT ON TABLE transcripts IS 'Interviews, word for word.';
COMMENT ON COLUMN transcripts.synth_id IS 'Null once the synth is deleted; its name stays.';
COMMENT ON COLUMN transcripts.messages IS 'Speaker, text and time of every message so far, in order.';
