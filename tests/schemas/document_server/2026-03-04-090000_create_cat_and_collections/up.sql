-- Two ways to order documents: a collection is one person's and holds its documents, a category is everybody's and only
-- labels them.
CREATE TABLE cat (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    name text NOT NULL,
    description text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT cat_pkey PRIMARY KEY (id),
    CONSTRAINT cat_name_trimmed CHECK (name = btrim(name) AND name <> '')
);

CREATE UNIQUE INDEX cat_lower_name_key ON cat (lower(name));

CREATE TRIGGER cat_set_updated_at
    BEFORE UPDATE ON cat
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();

CREATE TABLE collections (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    owner_id uuid NOT NULL,
    name text NOT NULL,
    description text,
    is_public boolean NOT NULL DEFAULT false,
    metadata jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT collections_pkey PRIMARY KEY (id),
    -- Deleting a person must not take documents along: the collections are given away or deleted first.
    CONSTRAINT collections_owner_id_fkey FOREIGN KEY (owner_id) REFERENCES users (id) ON DELETE RESTRICT,
    CONSTRAINT collections_name_trimmed CHECK (name = btrim(name) AND name <> ''),
    CONSTRAINT collections_metadata_object CHECK (jsonb_typeof(metadata) = 'object')
);

-- The first column also serves the foreign key.
CREATE UNIQUE INDEX collections_owner_id_lower_name_key ON collections (owner_id, lower(name));
CREATE INDEX collections_public_lower_name_idx ON collections (lower(name)) WHERE is_public;

CREATE TRIGGER collections_set_updated_at
    BEFORE UPDATE ON collections
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();

COMMENT ON TABLE cat IS 'Categories that documents are labelled with.';
COMMENT ON TABLE collections IS 'Documents that a person keeps together.';
COMMENT ON COLUMN collections.is_public IS 'True lets every user read it; only the owner changes it.';
