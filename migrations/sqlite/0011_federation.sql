-- The conversation with other servers. `…_ts` are milliseconds since the Unix epoch, `position` a
-- place in the stream.

-- Keys with which other servers sign. `valid_until_ts` bounds what a key in use may sign; one that
-- is no longer in use signed nothing from `expired_ts` on.
CREATE TABLE server_keys (
    server_name TEXT NOT NULL,
    key_id TEXT NOT NULL,
    public_key TEXT NOT NULL,
    valid_until_ts BIGINT NOT NULL,
    expired_ts BIGINT,
    PRIMARY KEY (server_name, key_id)
) WITHOUT ROWID;

-- The last answer with its keys that a server has signed, for those who ask us as a notary.
CREATE TABLE server_key_answers (
    server_name TEXT PRIMARY KEY,
    answer TEXT NOT NULL,
    fetched_ts BIGINT NOT NULL,
    valid_until_ts BIGINT NOT NULL
) WITHOUT ROWID;

-- Servers that something could not be sent to, or not yet. `failing_since_ts` is NULL while requests
-- succeed; before `retry_ts` none is tried.
CREATE TABLE destinations (
    server_name TEXT PRIMARY KEY,
    failing_since_ts BIGINT,
    retry_ts BIGINT NOT NULL,
    failures BIGINT NOT NULL,
    last_error TEXT NOT NULL
) WITHOUT ROWID;

-- The latest event of a room that such a server has not got. It asks for those before it.
CREATE TABLE destination_rooms (
    server_name TEXT NOT NULL,
    room_nid BIGINT NOT NULL,
    event_nid BIGINT NOT NULL,
    position BIGINT NOT NULL,
    PRIMARY KEY (server_name, room_nid)
) WITHOUT ROWID;

-- How far the stream has been looked through for what other servers should have. No event with a
-- lower number than `event_nid` lies behind `position`.
CREATE TABLE outbox_cursor (
    id INTEGER PRIMARY KEY,
    position BIGINT NOT NULL,
    event_nid BIGINT NOT NULL
);

-- The transaction that a server is being sent, exactly as it is sent: it must be answered before
-- another one is sent. `edu_position` is how far the messages to devices in it go.
CREATE TABLE outgoing_transactions (
    server_name TEXT PRIMARY KEY,
    transaction_id TEXT NOT NULL,
    edu_position BIGINT NOT NULL,
    content TEXT NOT NULL
) WITHOUT ROWID;

-- Answers to transactions of other servers, so that a repeated one gets the same.
CREATE TABLE incoming_transactions (
    origin TEXT NOT NULL,
    transaction_id TEXT NOT NULL,
    answer TEXT NOT NULL,
    received_ts BIGINT NOT NULL,
    PRIMARY KEY (origin, transaction_id)
) WITHOUT ROWID;
CREATE INDEX incoming_transactions_by_age ON incoming_transactions (received_ts);
