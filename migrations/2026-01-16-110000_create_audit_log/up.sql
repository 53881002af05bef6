-- Who did what, kept even when the person and the thing are deleted: hence no foreign keys, and a trigger that refuses
-- every change. It guards against mistakes; the owner of the table can still disable it.
CREATE TABLE audit_log (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    action text NOT NULL,
    actor_id uuid,
    entity_type text,
    entity_id uuid,
    details jsonb NOT NULL DEFAULT '{}',
    ip_address inet,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT audit_log_pkey PRIMARY KEY (id),
    CONSTRAINT audit_log_action_form CHECK (action ~ '^[a-z][a-z0-9_]*([.][a-z][a-z0-9_]*)*$'),
    CONSTRAINT audit_log_entity_named CHECK (entity_id IS NULL OR entity_type IS NOT NULL),
    CONSTRAINT audit_log_details_object CHECK (jsonb_typeof(details) = 'object')
);

CREATE INDEX audit_log_created_at_idx ON audit_log (created_at);
CREATE INDEX audit_log_actor_id_created_at_idx ON audit_log (actor_id, created_at);
CREATE INDEX audit_log_entity_type_entity_id_created_at_idx ON audit_log (entity_type, entity_id, created_at);

CREATE FUNCTION refuse_audit_log_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'audit_log is append-only, so % is refused', TG_OP USING ERRCODE = 'restrict_violation';
END
$$;

CREATE TRIGGER audit_log_append_only
    BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_audit_log_change();

COMMENT ON FUNCTION refuse_audit_log_change() IS 'For the trigger that keeps audit_log append-only.';
COMMENT ON TABLE audit_log IS 'Who did what and when; rows are only ever added.';
COMMENT ON COLUMN audit_log.action IS 'Lower case with dots, such as output.submitted.';
COMMENT ON COLUMN audit_log.actor_id IS 'The user who acted, who may be deleted by now; null for the system.';
COMMENT ON COLUMN audit_log.entity_type IS 'The table that entity_id belongs to.';
