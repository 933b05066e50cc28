-- Application services. `…_ts` are milliseconds since the Unix epoch, `position` a place in the stream.

-- Registrations that were added by command, as YAML. Those in files are not here.
CREATE TABLE appservices (
    id TEXT PRIMARY KEY,
    registration TEXT NOT NULL,
    added_ts BIGINT NOT NULL
) WITHOUT ROWID;

-- How far each service has got: what lies at or before `position` was acknowledged or does not concern
-- it. `failing_since_ts` is NULL while requests succeed.
CREATE TABLE appservice_streams (
    id TEXT PRIMARY KEY,
    position BIGINT NOT NULL,
    transaction_number BIGINT NOT NULL,
    failing_since_ts BIGINT
) WITHOUT ROWID;

-- The transaction that a service is being sent, exactly as it is sent, until it is acknowledged;
-- `position` is where the service stands after it.
CREATE TABLE appservice_transactions (
    id TEXT PRIMARY KEY,
    number BIGINT NOT NULL,
    position BIGINT NOT NULL,
    content TEXT NOT NULL
) WITHOUT ROWID;

-- The rooms that a service lists in the directory of a third-party network.
CREATE TABLE network_rooms (
    appservice_id TEXT NOT NULL,
    network_id TEXT NOT NULL,
    room_nid BIGINT NOT NULL,
    PRIMARY KEY (appservice_id, network_id, room_nid)
) WITHOUT ROWID;
CREATE INDEX network_rooms_by_room ON network_rooms (room_nid);

-- The stream in its order, for those who follow it from afar.
CREATE INDEX events_by_position ON events (position) WHERE position IS NOT NULL;
