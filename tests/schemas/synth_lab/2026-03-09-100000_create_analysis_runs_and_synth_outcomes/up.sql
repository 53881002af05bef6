-- An analysis puts numbers on an experiment, synth by synth.
CREATE TABLE analysis_runs (
    id text NOT NULL DEFAULT gen_random_uuid(),
    experiment_id text NOT NULL,
    status run_status NOT NULL DEFAULT 'pending',
    config jsonb NOT NULL DEFAULT '{}',
    aggregates jsonb NOT NULL DEFAULT '{}',
    synth_count integer NOT NULL DEFAULT 0,
    error text,
    started_at timestamptz,
    finished_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT analysis_runs_pkey PRIMARY KEY (id),
    CONSTRAINT analysis_runs_experiment_id_fkey
        FOREIGN KEY (experiment_id) REFERENCES experiments (id) ON DELETE CASCADE,
    CONSTRAINT analysis_runs_id_form CHECK (id ~ '^[A-Za-z0-9_-]{1,64}$'),
    CONSTRAINT analysis_runs_config_object CHECK (jsonb_typeof(config) = 'object'),
    CONSTRAINT analysis_runs_aggregates_object CHECK (jsonb_typeof(aggregates) = 'object'),
    CONSTRAINT analysis_runs_synth_count_not_negative CHECK (synth_count >= 0),
    CONSTRAINT analysis_runs_error_only_when_failed CHECK (error IS NULL OR status = 'failed'),
    CONSTRAINT analysis_runs_finished_when_closed CHECK (
        (status IN ('completed', 'failed', 'cancelled')) = (finished_at IS NOT NULL)
    ),
    CONSTRAINT analysis_runs_finished_after_started CHECK (finished_at >= started_at)
);

CREATE INDEX analysis_runs_experiment_id_created_at_idx ON analysis_runs (experiment_id, created_at);
CREATE INDEX analysis_runs_open_idx ON analysis_runs (created_at) WHERE status IN ('pending', 'running');

CREATE TRIGGER analysis_runs_set_updated_at
    BEFORE UPDATE ON analysis_runs
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();

-- The aggregates hold only with all of their synths, so a synth with outcomes cannot be deleted.
CREATE TABLE synth_outcomes (
    id text NOT NULL DEFAULT gen_random_uuid(),
    analysis_run_id text NOT NULL,
    synth_id text NOT NULL,
    did_not_try_rate double precision NOT NULL,
    failed_rate double precision NOT NULL,
    success_rate double precision NOT NULL,
    synth_attributes jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT synth_outcomes_pkey PRIMARY KEY (id),
    CONSTRAINT synth_outcomes_analysis_run_id_synth_id_key UNIQUE (analysis_run_id, synth_id),
    CONSTRAINT synth_outcomes_analysis_run_id_fkey
        FOREIGN KEY (analysis_run_id) REFERENCES analysis_runs (id) ON DELETE CASCADE,
    CONSTRAINT synth_outcomes_synth_id_fkey FOREIGN KEY (synth_id) REFERENCES synths (id) ON DELETE RESTRICT,
    CONSTRAINT synth_outcomes_id_form CHECK (id ~ '^[A-Za-z0-9_-]{1,64}$'),
    CONSTRAINT synth_outcomes_did_not_try_rate_range CHECK (did_not_try_rate BETWEEN 0 AND 1),
    CONSTRAINT synth_outcomes_failed_rate_range CHECK (failed_rate BETWEEN 0 AND 1),
    CONSTRAINT synth_outcomes_success_rate_range CHECK (success_rate BETWEEN 0 AND 1),
    -- Three rates that were rounded to three places miss 1 by less than 0.002.
    CONSTRAINT synth_outcomes_rates_complete CHECK (abs(did_not_try_rate + failed_rate + success_rate - 1) < 0.002),
    CONSTRAINT synth_outcomes_synth_attributes_object CHECK (jsonb_typeof(synth_attributes) = 'object')
);

CREATE INDEX synth_outcomes_synth_id_idx ON synth_outcomes (synth_id);

CREATE TRIGGER synth_outcomes_set_updated_at
    BEFORE UPDATE ON synth_outcomes
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();

COMMENT ON TABLE analysis_runs IS 'Analyses of an experiment over many synths.';
COMMENT ON COLUMN analysis_runs.aggregates IS 'Sums over the outcomes, filled in while the run goes on.';
COMMENT ON TABLE synth_outcomes IS 'How one synth fared in an analysis.';
COMMENT ON COLUMN synth_outcomes.synth_attributes IS 'The synth as it was at the time of the run.';
