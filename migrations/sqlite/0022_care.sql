-- Keys with which this server has signed and signs no more ("Publishing Keys", `old_verify_keys`).
CREATE TABLE own_old_keys (
    key_id TEXT PRIMARY KEY,
    public_key TEXT NOT NULL,
    -- Milliseconds since the Unix epoch: it has signed nothing from then on.
    expired_ts BIGINT NOT NULL
) WITHOUT ROWID;

-- How far other servers have been told of changed devices: those that have not heard of all of them.
CREATE TABLE destination_devices (
    server_name TEXT PRIMARY KEY,
    position BIGINT NOT NULL
) WITHOUT ROWID;

-- Contents of other servers, which nobody here has uploaded, by when they were last wanted.
CREATE INDEX media_of_others ON media (created_ts) WHERE user_id = '';
