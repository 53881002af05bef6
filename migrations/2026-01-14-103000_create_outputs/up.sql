-- Finished texts outlive the conversation, the style and even the person they came from: those links become null. Only
-- the prompt version has to stay, so that a text can be traced to it.
CREATE TABLE outputs (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    output_type outputtype NOT NULL,
    title text NOT NULL,
    content text NOT NULL,
    word_count integer,
    conversation_id uuid,
    writing_style_id uuid,
    prompt_template_id uuid,
    metadata jsonb NOT NULL DEFAULT '{}',
    created_by uuid,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT outputs_pkey PRIMARY KEY (id),
    CONSTRAINT outputs_conversation_id_fkey
        FOREIGN KEY (conversation_id) REFERENCES conversations (id) ON DELETE SET NULL,
    CONSTRAINT outputs_writing_style_id_fkey
        FOREIGN KEY (writing_style_id) REFERENCES writing_styles (id) ON DELETE SET NULL,
    CONSTRAINT outputs_prompt_template_id_fkey
        FOREIGN KEY (prompt_template_id) REFERENCES prompt_templates (id) ON DELETE RESTRICT,
    CONSTRAINT outputs_created_by_fkey FOREIGN KEY (created_by) REFERENCES users (id) ON DELETE SET NULL,
    CONSTRAINT outputs_title_present CHECK (btrim(title) <> ''),
    CONSTRAINT outputs_word_count_not_negative CHECK (word_count >= 0),
    CONSTRAINT outputs_metadata_object CHECK (jsonb_typeof(metadata) = 'object')
);

CREATE INDEX outputs_conversation_id_idx ON outputs (conversation_id);
CREATE INDEX outputs_writing_style_id_idx ON outputs (writing_style_id);
CREATE INDEX outputs_prompt_template_id_idx ON outputs (prompt_template_id);
CREATE INDEX outputs_created_by_idx ON outputs (created_by);
CREATE INDEX outputs_output_type_created_at_idx ON outputs (output_type, created_at);
CREATE INDEX outputs_lower_title_idx ON outputs (lower(title));

CREATE TRIGGER outputs_set_updated_at
    BEFORE UPDATE ON outputs
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();

COMMENT ON TABLE outputs IS 'Texts that were generated and kept.';
COMMENT ON COLUMN outputs.prompt_template_id IS 'The version it was generated with; null for a text written by hand.';
