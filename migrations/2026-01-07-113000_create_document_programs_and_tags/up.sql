-- A document serves several programs and carries any number of tags. People type both by hand, so case makes no
-- difference.
CREATE TABLE document_programs (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    document_id uuid NOT NULL,
    program text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT document_programs_pkey PRIMARY KEY (id),
    CONSTRAINT document_programs_document_id_fkey FOREIGN KEY (document_id) REFERENCES documents (id) ON DELETE CASCADE,
    CONSTRAINT document_programs_program_trimmed CHECK (program = btrim(program) AND program <> '')
);

-- The first column also serves the foreign key.
CREATE UNIQUE INDEX document_programs_document_id_lower_program_key ON document_programs (document_id, lower(program));
CREATE INDEX document_programs_lower_program_idx ON document_programs (lower(program));

CREATE TABLE document_tags (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    document_id uuid NOT NULL,
    tag text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT document_tags_pkey PRIMARY KEY (id),
    CONSTRAINT document_tags_document_id_fkey FOREIGN KEY (document_id) REFERENCES documents (id) ON DELETE CASCADE,
    CONSTRAINT document_tags_tag_trimmed CHECK (tag = btrim(tag) AND tag <> '')
);

CREATE UNIQUE INDEX document_tags_document_id_lower_tag_key ON document_tags (document_id, lower(tag));
CREATE INDEX document_tags_lower_tag_idx ON document_tags (lower(tag));

COMMENT ON TABLE document_programs IS 'The programs of the organisation that a document belongs to.';
COMMENT ON TABLE document_tags IS 'Free words that people file a document under.';
