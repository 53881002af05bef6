-- Charts are slow to compute and their insights cost money, so both are kept as long as their analysis. One document
-- for each key, written over when it is computed again: hence room on every page for the new version of a row.
CREATE TABLE analysis_cache (
    analysis_run_id text NOT NULL,
    cache_key text NOT NULL,
    params jsonb NOT NULL DEFAULT '{}',
    data jsonb NOT NULL,
    computed_at timestamptz NOT NULL DEFAULT now(),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT analysis_cache_pkey PRIMARY KEY (analysis_run_id, cache_key),
    CONSTRAINT analysis_cache_analysis_run_id_fkey
        FOREIGN KEY (analysis_run_id) REFERENCES analysis_runs (id) ON DELETE CASCADE,
    CONSTRAINT analysis_cache_cache_key_present CHECK (btrim(cache_key) <> ''),
    CONSTRAINT analysis_cache_params_object CHECK (jsonb_typeof(params) = 'object')
) WITH (fillfactor = 80);

CREATE TRIGGER analysis_cache_set_updated_at
    BEFORE UPDATE ON analysis_cache
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();

CREATE TABLE chart_insights (
    id text NOT NULL DEFAULT gen_random_uuid(),
    analysis_run_id text NOT NULL,
    chart_type text NOT NULL,
    status run_status NOT NULL DEFAULT 'pending',
    summary text,
    insight jsonb NOT NULL DEFAULT '{}',
    model text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT chart_insights_pkey PRIMARY KEY (id),
    CONSTRAINT chart_insights_analysis_run_id_chart_type_key UNIQUE (analysis_run_id, chart_type),
    CONSTRAINT chart_insights_analysis_run_id_fkey
        FOREIGN KEY (analysis_run_id) REFERENCES analysis_runs (id) ON DELETE CASCADE,
    CONSTRAINT chart_insights_id_form CHECK (id ~ '^[A-Za-z0-9_-]{1,64}$'),
    CONSTRAINT chart_insights_chart_type_form CHECK (chart_type ~ '^[a-z][a-z0-9_]*$'),
    CONSTRAINT chart_insights_summary_when_completed CHECK (status <> 'completed' OR summary IS NOT NULL),
    CONSTRAINT chart_insights_insight_object CHECK (jsonb_typeof(insight) = 'object')
) WITH (fillfactor = 80);

CREATE TRIGGER chart_insights_set_updated_at
    BEFORE UPDATE ON chart_insights
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();

COMMENT ON TABLE analysis_cache IS 'Chart data that is computed once for each analysis.';
COMMENT ON COLUMN analysis_cache.params IS 'What the data was computed with; other parameters make it stale.';
COMMENT ON TABLE chart_insights IS 'What a language model reads out of a chart.';
COMMENT ON COLUMN chart_insights.model IS 'The language model that wrote it.';
