-- Reports are written by a language model and read by people: one of each type for an experiment, for a source where it
-- has one, and written over when it is made again.
CREATE TABLE experiment_documents (
    id text NOT NULL DEFAULT gen_random_uuid(),
    experiment_id text NOT NULL,
    document_type text NOT NULL,
    source_id text,
    status run_status NOT NULL DEFAULT 'pending',
    title text,
    markdown text NOT NULL DEFAULT '',
    metadata jsonb NOT NULL DEFAULT '{}',
    model text,
    error text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT experiment_documents_pkey PRIMARY KEY (id),
    CONSTRAINT experiment_documents_experiment_id_fkey
        FOREIGN KEY (experiment_id) REFERENCES experiments (id) ON DELETE CASCADE,
    CONSTRAINT experiment_documents_id_form CHECK (id ~ '^[A-Za-z0-9_-]{1,64}$'),
    CONSTRAINT experiment_documents_document_type_form CHECK (document_type ~ '^[a-z][a-z0-9_]*$'),
    CONSTRAINT experiment_documents_title_present CHECK (btrim(title) <> ''),
    CONSTRAINT experiment_documents_markdown_when_completed CHECK (status <> 'completed' OR btrim(markdown) <> ''),
    CONSTRAINT experiment_documents_error_only_when_failed CHECK (error IS NULL OR status = 'failed'),
    CONSTRAINT experiment_documents_metadata_object CHECK (jsonb_typeof(metadata) = 'object')
);

-- A null source equals no other null, so documents of the whole experiment need an index of their own.
CREATE UNIQUE INDEX experiment_documents_experiment_id_document_type_source_id_key
    ON experiment_documents (experiment_id, document_type, source_id) WHERE source_id IS NOT NULL;
CREATE UNIQUE INDEX experiment_documents_experiment_id_document_type_key
    ON experiment_documents (experiment_id, document_type) WHERE source_id IS NULL;
CREATE INDEX experiment_documents_experiment_id_created_at_idx ON experiment_documents (experiment_id, created_at);

CREATE TRIGGER experiment_documents_set_updated_at
    BEFORE UPDATE ON experiment_documents
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();

COMMENT ON TABLE experiment_documents IS 'Reports and summaries of an experiment.';
COMMENT ON COLUMN experiment_documents.document_type IS 'Lower case, such as executive_summary.';
COMMENT ON COLUMN experiment_documents.source_id IS 'The one run or exploration it is about; null for the experiment.';
