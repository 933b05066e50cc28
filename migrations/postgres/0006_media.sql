-- What people upload. The content lies in files named by its hash; equal contents share one.
-- Columns named `…_ts` are milliseconds since the Unix epoch.

CREATE TABLE media (
    media_id TEXT COLLATE "C" PRIMARY KEY,
    -- SHA-256.
    content_hash BYTEA NOT NULL,
    size_bytes BIGINT NOT NULL,
    content_type TEXT NOT NULL,
    filename TEXT,
    user_id TEXT COLLATE "C" NOT NULL,
    created_ts BIGINT NOT NULL,
    -- 1: uploaded while the paths that ask for no login handed out new media.
    is_open BIGINT NOT NULL
);
CREATE INDEX media_by_hash ON media (content_hash);

-- Media IDs given out before the content (POST /_matrix/media/v1/create). The row goes when the
-- content has come.
CREATE TABLE media_reservations (
    media_id TEXT COLLATE "C" PRIMARY KEY,
    user_id TEXT COLLATE "C" NOT NULL,
    expires_ts BIGINT NOT NULL
);
CREATE INDEX media_reservations_by_user ON media_reservations (user_id);
CREATE INDEX media_reservations_by_expiry ON media_reservations (expires_ts);
