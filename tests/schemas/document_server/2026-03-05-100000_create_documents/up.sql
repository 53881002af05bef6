-- The texts that clients search and read. A document lies in exactly one collection and is deleted with it.
CREATE TABLE documents (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    collection_id uuid NOT NULL,
    cat_id uuid,
    title text NOT NULL,
    source_uri text,
    media_type text NOT NULL DEFAULT 'text/plain',
    content text NOT NULL,
    content_sha256 bytea NOT NULL,
    metadata jsonb NOT NULL DEFAULT '{}',
    -- A tsvector holds 1 MB at most, and a longer text would be refused: only its beginning can be searched for. The
    -- configuration stems nothing, since the language of a document is not known.
    search tsvector NOT NULL
        GENERATED ALWAYS AS (to_tsvector('simple', left(title, 1000) || ' ' || left(content, 100000))) STORED,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT documents_pkey PRIMARY KEY (id),
    -- The first column also serves the foreign key.
    CONSTRAINT documents_collection_id_content_sha256_key UNIQUE (collection_id, content_sha256),
    CONSTRAINT documents_collection_id_fkey
        FOREIGN KEY (collection_id) REFERENCES collections (id) ON DELETE CASCADE,
    CONSTRAINT documents_cat_id_fkey FOREIGN KEY (cat_id) REFERENCES cat (id) ON DELETE SET NULL,
    CONSTRAINT documents_title_present CHECK (btrim(title) <> ''),
    CONSTRAINT documents_source_uri_present CHECK (btrim(source_uri) <> ''),
    CONSTRAINT documents_media_type_form CHECK (media_type ~ '^[^/[:space:]]+/[^/[:space:]]+$'),
    CONSTRAINT documents_content_sha256_length CHECK (octet_length(content_sha256) = 32),
    CONSTRAINT documents_metadata_object CHECK (jsonb_typeof(metadata) = 'object')
);

CREATE INDEX documents_cat_id_idx ON documents (cat_id);
CREATE INDEX documents_collection_id_updated_at_idx ON documents (collection_id, updated_at);
CREATE INDEX documents_search_idx ON documents USING gin (search);
CREATE INDEX documents_metadata_idx ON documents USING gin (metadata jsonb_path_ops);

CREATE TRIGGER documents_set_updated_at
    BEFORE UPDATE ON documents
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();

COMMENT ON TABLE documents IS 'Texts that clients search and read.';
COMMENT ON COLUMN documents.cat_id IS 'Null when it has no category, or that was deleted.';
COMMENT ON COLUMN documents.content_sha256 IS 'SHA-256 of the content; a collection holds the same text once.';
COMMENT ON COLUMN documents.search IS 'Words of the title and of the first 100000 characters of the content.';
