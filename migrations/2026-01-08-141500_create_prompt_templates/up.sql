-- Prompts are edited by people and have to be traced, so a change makes a new version, of which one at most is active.
CREATE TABLE prompt_templates (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    name text NOT NULL,
    version integer NOT NULL DEFAULT 1,
    output_type outputtype,
    body text NOT NULL,
    variables jsonb NOT NULL DEFAULT '[]',
    is_active boolean NOT NULL DEFAULT false,
    created_by uuid,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT prompt_templates_pkey PRIMARY KEY (id),
    CONSTRAINT prompt_templates_created_by_fkey FOREIGN KEY (created_by) REFERENCES users (id) ON DELETE SET NULL,
    CONSTRAINT prompt_templates_name_present CHECK (btrim(name) <> ''),
    CONSTRAINT prompt_templates_version_positive CHECK (version > 0),
    CONSTRAINT prompt_templates_body_present CHECK (btrim(body) <> ''),
    CONSTRAINT prompt_templates_variables_array CHECK (jsonb_typeof(variables) = 'array')
);

CREATE UNIQUE INDEX prompt_templates_lower_name_version_key ON prompt_templates (lower(name), version);
CREATE UNIQUE INDEX prompt_templates_lower_name_active_key ON prompt_templates (lower(name)) WHERE is_active;
CREATE INDEX prompt_templates_output_type_idx ON prompt_templates (output_type);
CREATE INDEX prompt_templates_created_by_idx ON prompt_templates (created_by);

CREATE TRIGGER prompt_templates_set_updated_at
    BEFORE UPDATE ON prompt_templates
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();

COMMENT ON TABLE prompt_templates IS 'Versions of the prompts that texts are generated with.';
COMMENT ON COLUMN prompt_templates.output_type IS 'The only type of output it is meant for; null for any.';
COMMENT ON COLUMN prompt_templates.variables IS 'The names that the body expects to be filled in.';
