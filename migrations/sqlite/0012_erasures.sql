-- Users who were deactivated with the wish that their messages disappear for whoever comes later, and
-- the position of the stream from which on somebody comes later.
CREATE TABLE erasures (
    user_id TEXT PRIMARY KEY,
    position BIGINT NOT NULL
) WITHOUT ROWID;
