-- A scorecard rates a feature; a simulation lets synths try the feature as it is rated.
CREATE TABLE feature_scorecards (
    id text NOT NULL DEFAULT gen_random_uuid(),
    experiment_id text NOT NULL,
    name text NOT NULL,
    scores jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT feature_scorecards_pkey PRIMARY KEY (id),
    CONSTRAINT feature_scorecards_experiment_id_fkey
        FOREIGN KEY (experiment_id) REFERENCES experiments (id) ON DELETE CASCADE,
    CONSTRAINT feature_scorecards_id_form CHECK (id ~ '^[A-Za-z0-9_-]{1,64}$'),
    CONSTRAINT feature_scorecards_name_present CHECK (btrim(name) <> ''),
    CONSTRAINT feature_scorecards_scores_object CHECK (jsonb_typeof(scores) = 'object')
);

CREATE INDEX feature_scorecards_experiment_id_idx ON feature_scorecards (experiment_id);

CREATE TRIGGER feature_scorecards_set_updated_at
    BEFORE UPDATE ON feature_scorecards
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();

CREATE TABLE simulation_runs (
    id text NOT NULL DEFAULT gen_random_uuid(),
    feature_scorecard_id text NOT NULL,
    status run_status NOT NULL DEFAULT 'pending',
    seed bigint,
    config jsonb NOT NULL DEFAULT '{}',
    results jsonb NOT NULL DEFAULT '{}',
    error text,
    started_at timestamptz,
    finished_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT simulation_runs_pkey PRIMARY KEY (id),
    CONSTRAINT simulation_runs_feature_scorecard_id_fkey
        FOREIGN KEY (feature_scorecard_id) REFERENCES feature_scorecards (id) ON DELETE CASCADE,
    CONSTRAINT simulation_runs_id_form CHECK (id ~ '^[A-Za-z0-9_-]{1,64}$'),
    CONSTRAINT simulation_runs_config_object CHECK (jsonb_typeof(config) = 'object'),
    CONSTRAINT simulation_runs_results_object CHECK (jsonb_typeof(results) = 'object'),
    CONSTRAINT simulation_runs_error_only_when_failed CHECK (error IS NULL OR status = 'failed'),
    CONSTRAINT simulation_runs_finished_when_closed CHECK (
        (status IN ('completed', 'failed', 'cancelled')) = (finished_at IS NOT NULL)
    ),
    CONSTRAINT simulation_runs_finished_after_started CHECK (finished_at >= started_at)
);

CREATE INDEX simulation_runs_feature_scorecard_id_created_at_idx ON simulation_runs (feature_scorecard_id, created_at);
-- Workers look for what is left to do, which is a small part of the table.
CREATE INDEX simulation_runs_open_idx ON simulation_runs (created_at) WHERE status IN ('pending', 'running');

CREATE TRIGGER simulation_runs_set_updated_at
    BEFORE UPDATE ON simulation_runs
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();

COMMENT ON TABLE feature_scorecards IS 'How hard, risky and useful a feature is, as a team rates it.';
COMMENT ON COLUMN feature_scorecards.scores IS 'A score from 0 to 1, its bounds and its reason for each dimension.';
COMMENT ON TABLE simulation_runs IS 'Synths trying a feature, again and again, by chance.';
COMMENT ON COLUMN simulation_runs.seed IS 'Of the random numbers; the same seed gives the same results.';
COMMENT ON COLUMN simulation_runs.finished_at IS 'Set when it is completed, failed or cancelled, and only then.';
