-- Drafting is a dialogue that people come back to: a conversation belongs to one person, and its messages keep their
-- order.
CREATE TABLE conversations (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    user_id uuid NOT NULL,
    writing_style_id uuid,
    title text,
    context jsonb NOT NULL DEFAULT '{}',
    archived_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT conversations_pkey PRIMARY KEY (id),
    CONSTRAINT conversations_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE,
    CONSTRAINT conversations_writing_style_id_fkey
        FOREIGN KEY (writing_style_id) REFERENCES writing_styles (id) ON DELETE SET NULL,
    CONSTRAINT conversations_title_present CHECK (btrim(title) <> ''),
    CONSTRAINT conversations_context_object CHECK (jsonb_typeof(context) = 'object'),
    CONSTRAINT conversations_archived_after_created CHECK (archived_at >= created_at)
);

CREATE INDEX conversations_user_id_updated_at_idx ON conversations (user_id, updated_at DESC);
CREATE INDEX conversations_writing_style_id_idx ON conversations (writing_style_id);

CREATE TRIGGER conversations_set_updated_at
    BEFORE UPDATE ON conversations
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();

CREATE TABLE messages (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    conversation_id uuid NOT NULL,
    place integer NOT NULL,
    role text NOT NULL,
    content text NOT NULL,
    sources jsonb NOT NULL DEFAULT '[]',
    metadata jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT messages_pkey PRIMARY KEY (id),
    CONSTRAINT messages_conversation_id_place_key UNIQUE (conversation_id, place),
    CONSTRAINT messages_conversation_id_fkey
        FOREIGN KEY (conversation_id) REFERENCES conversations (id) ON DELETE CASCADE,
    CONSTRAINT messages_place_positive CHECK (place > 0),
    CONSTRAINT messages_role_known CHECK (role IN ('system', 'user', 'assistant')),
    CONSTRAINT messages_sources_array CHECK (jsonb_typeof(sources) = 'array'),
    CONSTRAINT messages_metadata_object CHECK (jsonb_typeof(metadata) = 'object')
);

COMMENT ON TABLE conversations IS 'Dialogues in which a person drafts a text.';
COMMENT ON COLUMN conversations.title IS 'Null until the person, or the first answer, gives it one.';
COMMENT ON COLUMN conversations.context IS 'Filters and choices to go on with when the conversation is opened again.';
COMMENT ON TABLE messages IS 'What was said in a conversation; written once, never edited.';
COMMENT ON COLUMN messages.place IS 'Position in the conversation, from 1; two messages may share a created_at.';
COMMENT ON COLUMN messages.sources IS 'The documents and passages that an answer draws on.';
