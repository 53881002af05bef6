-- IF EXISTS, because this also clears up after an up that failed, whether or not it left an invalid index.
DROP INDEX CONCURRENTLY IF EXISTS audit_log_action_created_at_idx;
