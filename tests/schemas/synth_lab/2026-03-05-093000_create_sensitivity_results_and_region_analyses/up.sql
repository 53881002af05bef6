-- What is learnt from a simulation: which dimension matters most, and for whom the feature fails.
CREATE TABLE sensitivity_results (
    id text NOT NULL DEFAULT gen_random_uuid(),
    simulation_run_id text NOT NULL,
    dimension text NOT NULL,
    sensitivity double precision NOT NULL,
    details jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT sensitivity_results_pkey PRIMARY KEY (id),
    -- Its index serves the foreign key as well.
    CONSTRAINT sensitivity_results_simulation_run_id_dimension_key UNIQUE (simulation_run_id, dimension),
    CONSTRAINT sensitivity_results_simulation_run_id_fkey
        FOREIGN KEY (simulation_run_id) REFERENCES simulation_runs (id) ON DELETE CASCADE,
    CONSTRAINT sensitivity_results_id_form CHECK (id ~ '^[A-Za-z0-9_-]{1,64}$'),
    CONSTRAINT sensitivity_results_dimension_present CHECK (btrim(dimension) <> ''),
    CONSTRAINT sensitivity_results_sensitivity_number CHECK (sensitivity <> 'NaN'),
    CONSTRAINT sensitivity_results_details_object CHECK (jsonb_typeof(details) = 'object')
);

CREATE TRIGGER sensitivity_results_set_updated_at
    BEFORE UPDATE ON sensitivity_results
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();

CREATE TABLE region_analyses (
    id text NOT NULL DEFAULT gen_random_uuid(),
    simulation_run_id text NOT NULL,
    rule_text text NOT NULL,
    rules jsonb NOT NULL DEFAULT '[]',
    synth_count integer NOT NULL,
    failure_rate double precision NOT NULL,
    details jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT region_analyses_pkey PRIMARY KEY (id),
    CONSTRAINT region_analyses_simulation_run_id_fkey
        FOREIGN KEY (simulation_run_id) REFERENCES simulation_runs (id) ON DELETE CASCADE,
    CONSTRAINT region_analyses_id_form CHECK (id ~ '^[A-Za-z0-9_-]{1,64}$'),
    CONSTRAINT region_analyses_rule_text_present CHECK (btrim(rule_text) <> ''),
    CONSTRAINT region_analyses_rules_array CHECK (jsonb_typeof(rules) = 'array'),
    CONSTRAINT region_analyses_synth_count_not_negative CHECK (synth_count >= 0),
    CONSTRAINT region_analyses_failure_rate_range CHECK (failure_rate BETWEEN 0 AND 1),
    CONSTRAINT region_analyses_details_object CHECK (jsonb_typeof(details) = 'object')
);

CREATE INDEX region_analyses_simulation_run_id_failure_rate_idx
    ON region_analyses (simulation_run_id, failure_rate DESC);

CREATE TRIGGER region_analyses_set_updated_at
    BEFORE UPDATE ON region_analyses
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();

COMMENT ON TABLE sensitivity_results IS 'How far a simulation''s success moves with one dimension of its scorecard.';
COMMENT ON TABLE region_analyses IS 'Kinds of synths that fail more often than others.';
COMMENT ON COLUMN region_analyses.rule_text IS 'The rules as a person reads them.';
COMMENT ON COLUMN region_analyses.rules IS 'Attribute, operator and bound of each rule that together mark the region.';
