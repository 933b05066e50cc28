-- What users say of themselves in their presence (`status_msg`, as a JSON text), and how much they
-- have uploaded.

CREATE TABLE status_messages (
    user_id TEXT PRIMARY KEY,
    -- NULL: nothing.
    message TEXT
) WITHOUT ROWID;

-- Quotas count what a user has uploaded.
CREATE INDEX media_by_user ON media (user_id, size_bytes);
