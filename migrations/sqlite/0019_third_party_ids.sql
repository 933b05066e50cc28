-- Mail addresses that users of this server have added to their accounts. `address` is canonical
-- (Appendices, "3PID Types").
CREATE TABLE third_party_ids (
    medium TEXT NOT NULL,
    address TEXT NOT NULL,
    user_id TEXT NOT NULL,
    validated_ts BIGINT NOT NULL,
    added_ts BIGINT NOT NULL,
    PRIMARY KEY (medium, address)
) WITHOUT ROWID;
CREATE INDEX third_party_ids_by_user ON third_party_ids (user_id);

-- What users have published at identity servers by way of this server.
CREATE TABLE third_party_bindings (
    user_id TEXT NOT NULL,
    medium TEXT NOT NULL,
    address TEXT NOT NULL,
    id_server TEXT NOT NULL,
    PRIMARY KEY (user_id, medium, address, id_server)
) WITHOUT ROWID;

-- Proofs under way that a mail address is somebody's; a day old at most.
CREATE TABLE validations (
    sid TEXT PRIMARY KEY,
    -- What it is for: register, add or password.
    purpose TEXT NOT NULL,
    address TEXT NOT NULL,
    client_secret TEXT NOT NULL,
    -- What the mail says.
    token TEXT NOT NULL,
    -- Of the last mail.
    send_attempt BIGINT NOT NULL,
    next_link TEXT,
    -- NULL: not yet.
    validated_ts BIGINT,
    changed_ts BIGINT NOT NULL
) WITHOUT ROWID;
CREATE UNIQUE INDEX validations_by_secret ON validations (purpose, address, client_secret);

-- Which documents a user has accepted when registering.
CREATE TABLE accepted_terms (
    user_id TEXT NOT NULL,
    policy TEXT NOT NULL,
    version TEXT NOT NULL,
    accepted_ts BIGINT NOT NULL,
    PRIMARY KEY (user_id, policy)
) WITHOUT ROWID;

-- What web pages say about themselves (OpenGraph as JSON), and until when that is believed. Pages that
-- say nothing have an empty object.
CREATE TABLE url_previews (
    url TEXT PRIMARY KEY,
    preview TEXT NOT NULL,
    expires_ts BIGINT NOT NULL
) WITHOUT ROWID;
CREATE INDEX url_previews_by_expiry ON url_previews (expires_ts);
