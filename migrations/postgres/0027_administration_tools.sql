-- What administrators have said with their tools. Columns named `…_ts` are milliseconds since the Unix epoch.

-- What is handed to nobody. `subject` is the SHA-256 of a content in hexadecimal digits, so that it stays away
-- whoever uploads it again; or, of a content of another server that was not here, what stands for its address
-- (`media.media_id`).
CREATE TABLE quarantined_media (
    subject TEXT COLLATE "C" PRIMARY KEY,
    quarantined_by TEXT NOT NULL,
    quarantined_ts BIGINT NOT NULL
);

-- What no quarantine touches.
CREATE TABLE protected_media (
    media_id TEXT COLLATE "C" PRIMARY KEY,
    protected_by TEXT NOT NULL,
    protected_ts BIGINT NOT NULL
);

-- How often a user may send something, where that is not what the configuration says: so many a second, and so many
-- at once. 0 a second: as often as they like.
CREATE TABLE rate_limit_overrides (
    user_id TEXT COLLATE "C" PRIMARY KEY,
    per_second BIGINT NOT NULL,
    burst BIGINT NOT NULL
);
