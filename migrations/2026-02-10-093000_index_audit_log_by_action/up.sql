-- Reviews ask for every row of one action in a span of time. The log is written to all day and an ordinary build would
-- hold up its writers, hence CONCURRENTLY, which PostgreSQL allows only outside a transaction. A build that fails may
-- leave an invalid index under this name; dropping it, as the down does, lets this run again. IF NOT EXISTS would keep
-- it and report success.
CREATE INDEX CONCURRENTLY audit_log_action_created_at_idx ON audit_log (action, created_at);
