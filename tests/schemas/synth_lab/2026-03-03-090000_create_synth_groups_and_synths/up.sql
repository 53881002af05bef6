-- Synths are the synthetic people that take part. They serve many experiments and outlive the group they were made in.
CREATE TABLE synth_groups (
    id text NOT NULL DEFAULT gen_random_uuid(),
    name text NOT NULL,
    description text,
    config jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT synth_groups_pkey PRIMARY KEY (id),
    CONSTRAINT synth_groups_id_form CHECK (id ~ '^[A-Za-z0-9_-]{1,64}$'),
    CONSTRAINT synth_groups_name_present CHECK (btrim(name) <> ''),
    CONSTRAINT synth_groups_config_object CHECK (jsonb_typeof(config) = 'object')
);

CREATE UNIQUE INDEX synth_groups_lower_name_key ON synth_groups (lower(name));

CREATE TRIGGER synth_groups_set_updated_at
    BEFORE UPDATE ON synth_groups
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();

CREATE TABLE synths (
    id text NOT NULL DEFAULT gen_random_uuid(),
    synth_group_id text,
    name text NOT NULL,
    description text,
    avatar_path text,
    data jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT synths_pkey PRIMARY KEY (id),
    CONSTRAINT synths_synth_group_id_fkey
        FOREIGN KEY (synth_group_id) REFERENCES synth_groups (id) ON DELETE SET NULL,
    CONSTRAINT synths_id_form CHECK (id ~ '^[A-Za-z0-9_-]{1,64}$'),
    CONSTRAINT synths_name_present CHECK (btrim(name) <> ''),
    CONSTRAINT synths_avatar_path_present CHECK (btrim(avatar_path) <> ''),
    CONSTRAINT synths_data_object CHECK (jsonb_typeof(data) = 'object')
);

CREATE INDEX synths_synth_group_id_idx ON synths (synth_group_id);
CREATE INDEX synths_lower_name_idx ON synths (lower(name));
-- Synths are picked by what their document contains; only the operator @> is asked for, which this class serves best.
CREATE INDEX synths_data_idx ON synths USING gin (data jsonb_path_ops);

CREATE TRIGGER synths_set_updated_at
    BEFORE UPDATE ON synths
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();

COMMENT ON TABLE synth_groups IS 'Synths that were made together.';
COMMENT ON COLUMN synth_groups.config IS 'The distributions that the synths of the group were drawn from.';
COMMENT ON TABLE synths IS 'Synthetic people.';
COMMENT ON COLUMN synths.data IS 'Demographics, psychographics and behaviour.';
