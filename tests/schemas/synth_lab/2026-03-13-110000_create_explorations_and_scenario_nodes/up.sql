-- An exploration searches for changes to a feature that make more synths succeed. Its scenarios form a tree: each node
-- applies one more change to its parent.
CREATE TABLE explorations (
    id text NOT NULL DEFAULT gen_random_uuid(),
    experiment_id text NOT NULL,
    baseline_analysis_run_id text,
    status exploration_status NOT NULL DEFAULT 'running',
    goal jsonb NOT NULL,
    config jsonb NOT NULL DEFAULT '{}',
    current_depth integer NOT NULL DEFAULT 0,
    node_count integer NOT NULL DEFAULT 0,
    llm_call_count integer NOT NULL DEFAULT 0,
    best_success_rate double precision,
    started_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT explorations_pkey PRIMARY KEY (id),
    CONSTRAINT explorations_experiment_id_fkey
        FOREIGN KEY (experiment_id) REFERENCES experiments (id) ON DELETE CASCADE,
    CONSTRAINT explorations_baseline_analysis_run_id_fkey
        FOREIGN KEY (baseline_analysis_run_id) REFERENCES analysis_runs (id) ON DELETE SET NULL,
    CONSTRAINT explorations_id_form CHECK (id ~ '^[A-Za-z0-9_-]{1,64}$'),
    CONSTRAINT explorations_goal_object CHECK (jsonb_typeof(goal) = 'object'),
    CONSTRAINT explorations_config_object CHECK (jsonb_typeof(config) = 'object'),
    CONSTRAINT explorations_counts_not_negative CHECK (
        current_depth >= 0 AND node_count >= 0 AND llm_call_count >= 0
    ),
    CONSTRAINT explorations_best_success_rate_range CHECK (best_success_rate BETWEEN 0 AND 1),
    CONSTRAINT explorations_finished_unless_running CHECK ((status <> 'running') = (finished_at IS NOT NULL)),
    CONSTRAINT explorations_finished_after_started CHECK (finished_at >= started_at)
);

CREATE INDEX explorations_experiment_id_created_at_idx ON explorations (experiment_id, created_at);
CREATE INDEX explorations_baseline_analysis_run_id_idx ON explorations (baseline_analysis_run_id);
CREATE INDEX explorations_running_idx ON explorations (created_at) WHERE status = 'running';

CREATE TRIGGER explorations_set_updated_at
    BEFORE UPDATE ON explorations
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();

CREATE TABLE scenario_nodes (
    id text NOT NULL DEFAULT gen_random_uuid(),
    exploration_id text NOT NULL,
    parent_id text,
    depth integer NOT NULL,
    status node_status NOT NULL DEFAULT 'active',
    action text,
    rationale text,
    scorecard jsonb NOT NULL DEFAULT '{}',
    results jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT scenario_nodes_pkey PRIMARY KEY (id),
    -- For the foreign key below alone: it makes sure that a parent belongs to the same exploration.
    CONSTRAINT scenario_nodes_exploration_id_id_key UNIQUE (exploration_id, id),
    CONSTRAINT scenario_nodes_exploration_id_fkey
        FOREIGN KEY (exploration_id) REFERENCES explorations (id) ON DELETE CASCADE,
    CONSTRAINT scenario_nodes_parent_id_fkey
        FOREIGN KEY (exploration_id, parent_id) REFERENCES scenario_nodes (exploration_id, id) ON DELETE CASCADE,
    CONSTRAINT scenario_nodes_id_form CHECK (id ~ '^[A-Za-z0-9_-]{1,64}$'),
    CONSTRAINT scenario_nodes_parent_not_itself CHECK (parent_id <> id),
    CONSTRAINT scenario_nodes_depth_not_negative CHECK (depth >= 0),
    CONSTRAINT scenario_nodes_root_at_depth_zero CHECK ((parent_id IS NULL) = (depth = 0)),
    CONSTRAINT scenario_nodes_action_unless_root CHECK ((parent_id IS NULL) = (action IS NULL)),
    CONSTRAINT scenario_nodes_action_present CHECK (btrim(action) <> ''),
    CONSTRAINT scenario_nodes_scorecard_object CHECK (jsonb_typeof(scorecard) = 'object'),
    CONSTRAINT scenario_nodes_results_object CHECK (jsonb_typeof(results) = 'object')
);

CREATE INDEX scenario_nodes_exploration_id_parent_id_idx ON scenario_nodes (exploration_id, parent_id);
CREATE INDEX scenario_nodes_exploration_id_status_depth_idx ON scenario_nodes (exploration_id, status, depth);
CREATE UNIQUE INDEX scenario_nodes_exploration_id_root_key ON scenario_nodes (exploration_id) WHERE parent_id IS NULL;

CREATE TRIGGER scenario_nodes_set_updated_at
    BEFORE UPDATE ON scenario_nodes
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();

COMMENT ON TABLE explorations IS 'Searches for a better version of a feature.';
COMMENT ON COLUMN explorations.baseline_analysis_run_id IS 'The analysis it set out from; null once that is deleted.';
COMMENT ON COLUMN explorations.goal IS 'The metric, the operator and the value that end the search.';
COMMENT ON TABLE scenario_nodes IS 'Versions of a feature; each one changes its parent.';
COMMENT ON COLUMN scenario_nodes.action IS 'The change to the parent; null for the root, the feature as it is.';
COMMENT ON COLUMN scenario_nodes.results IS 'Rates of the simulation; empty until it has run.';
