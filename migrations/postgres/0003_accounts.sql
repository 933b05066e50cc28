-- Users of this server, their logins and what they store for themselves. Tokens are kept as SHA-256
-- hashes only. Columns named `…_ts` are milliseconds since the Unix epoch.

CREATE TABLE accounts (
    user_id TEXT COLLATE "C" PRIMARY KEY,
    -- Argon2id in PHC format; NULL when no password leads in.
    password_hash TEXT,
    -- 1 administrator, 2 guest, 4 deactivated, 8 erased, 16 locked, 32 suspended.
    flags BIGINT NOT NULL,
    -- The application service that made it.
    appservice_id TEXT,
    created_ts BIGINT NOT NULL
);

CREATE TABLE devices (
    user_id TEXT COLLATE "C" NOT NULL,
    device_id TEXT COLLATE "C" NOT NULL,
    display_name TEXT,
    created_ts BIGINT NOT NULL,
    PRIMARY KEY (user_id, device_id)
);

-- When and from where a device was last used; written every few minutes, never created alone.
CREATE TABLE device_visits (
    user_id TEXT COLLATE "C" NOT NULL,
    device_id TEXT COLLATE "C" NOT NULL,
    seen_ts BIGINT NOT NULL,
    ip TEXT,
    PRIMARY KEY (user_id, device_id)
);

-- An access token with the refresh token that was issued beside it. A pair made by refreshing
-- names the pair it replaces (`parent_hash`), which goes when the new one is first used.
CREATE TABLE tokens (
    access_hash BYTEA PRIMARY KEY,
    refresh_hash BYTEA,
    parent_hash BYTEA,
    user_id TEXT COLLATE "C" NOT NULL,
    device_id TEXT COLLATE "C" NOT NULL,
    -- NULL: never.
    access_expires_ts BIGINT,
    refresh_expires_ts BIGINT
);
CREATE INDEX tokens_by_device ON tokens (user_id, device_id);
CREATE UNIQUE INDEX tokens_by_refresh ON tokens (refresh_hash) WHERE refresh_hash IS NOT NULL;
CREATE INDEX tokens_by_parent ON tokens (parent_hash) WHERE parent_hash IS NOT NULL;

-- Tokens for one use within minutes: `login` (POST /v1/login/get_token) and `openid`.
CREATE TABLE short_tokens (
    hash BYTEA PRIMARY KEY,
    kind TEXT NOT NULL,
    user_id TEXT COLLATE "C" NOT NULL,
    expires_ts BIGINT NOT NULL
);

CREATE TABLE registration_tokens (
    token TEXT COLLATE "C" PRIMARY KEY,
    -- NULL: any number.
    uses_allowed BIGINT,
    uses BIGINT NOT NULL,
    -- NULL: never.
    expires_ts BIGINT,
    -- 1: whoever registers with it becomes administrator.
    makes_admin BIGINT NOT NULL
);

-- `value` is JSON.
CREATE TABLE profiles (
    user_id TEXT COLLATE "C" NOT NULL,
    field TEXT COLLATE "C" NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (user_id, field)
);

-- Global when `room_id` is empty. Tags (m.tag) and push rules (m.push_rules) are kept here too.
CREATE TABLE account_data (
    user_id TEXT COLLATE "C" NOT NULL,
    room_id TEXT COLLATE "C" NOT NULL,
    kind TEXT COLLATE "C" NOT NULL,
    content TEXT NOT NULL,
    position BIGINT NOT NULL,
    PRIMARY KEY (user_id, room_id, kind)
);
CREATE INDEX account_data_by_position ON account_data (user_id, position);

-- `filter_id` is a hash of the filter, so that the same one is kept once.
CREATE TABLE filters (
    user_id TEXT COLLATE "C" NOT NULL,
    filter_id TEXT COLLATE "C" NOT NULL,
    filter TEXT NOT NULL,
    PRIMARY KEY (user_id, filter_id)
);

-- Work that must be done even if the server stops meanwhile. One row per kind and subject;
-- `version` is the stream position of the request, so that one made while the work is under way
-- is not lost.
CREATE TABLE jobs (
    kind TEXT COLLATE "C" NOT NULL,
    subject TEXT COLLATE "C" NOT NULL,
    payload TEXT NOT NULL,
    version BIGINT NOT NULL,
    attempts BIGINT NOT NULL,
    next_try_ts BIGINT NOT NULL,
    PRIMARY KEY (kind, subject)
);
CREATE INDEX jobs_by_next_try ON jobs (next_try_ts);
