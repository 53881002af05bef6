-- Past proposals, reports and plans that new texts draw on. Only what describes a file is kept here, not its content.
CREATE TABLE documents (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    title text NOT NULL,
    document_type text NOT NULL DEFAULT 'other',
    published_year smallint,
    file_name text NOT NULL,
    media_type text NOT NULL,
    size_bytes bigint NOT NULL,
    content_sha256 bytea NOT NULL,
    is_sensitive boolean NOT NULL DEFAULT false,
    metadata jsonb NOT NULL DEFAULT '{}',
    uploaded_by uuid,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT documents_pkey PRIMARY KEY (id),
    CONSTRAINT documents_content_sha256_key UNIQUE (content_sha256),
    CONSTRAINT documents_uploaded_by_fkey FOREIGN KEY (uploaded_by) REFERENCES users (id) ON DELETE SET NULL,
    CONSTRAINT documents_title_present CHECK (btrim(title) <> ''),
    CONSTRAINT documents_document_type_known CHECK (document_type IN (
        'grant_proposal', 'annual_report', 'program_description', 'impact_report', 'strategic_plan', 'other'
    )),
    CONSTRAINT documents_published_year_plausible CHECK (published_year BETWEEN 1900 AND 2100),
    CONSTRAINT documents_file_name_present CHECK (btrim(file_name) <> ''),
    CONSTRAINT documents_media_type_form CHECK (media_type ~ '^[^/[:space:]]+/[^/[:space:]]+$'),
    CONSTRAINT documents_size_bytes_not_negative CHECK (size_bytes >= 0),
    CONSTRAINT documents_content_sha256_length CHECK (octet_length(content_sha256) = 32),
    CONSTRAINT documents_metadata_object CHECK (jsonb_typeof(metadata) = 'object')
);

CREATE INDEX documents_uploaded_by_idx ON documents (uploaded_by);
CREATE INDEX documents_lower_title_idx ON documents (lower(title));
CREATE INDEX documents_document_type_published_year_idx ON documents (document_type, published_year);
CREATE INDEX documents_created_at_idx ON documents (created_at);

CREATE TRIGGER documents_set_updated_at
    BEFORE UPDATE ON documents
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();

COMMENT ON TABLE documents IS 'Uploaded files that new texts draw on.';
COMMENT ON COLUMN documents.content_sha256 IS 'SHA-256 of the file; the same file is stored once.';
COMMENT ON COLUMN documents.is_sensitive IS 'True keeps the document out of generated texts.';
COMMENT ON COLUMN documents.uploaded_by IS 'Null once the person is deleted; the document stays.';
