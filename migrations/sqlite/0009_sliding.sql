-- Connections of sliding sync (MSC4186): what each one was told, so that they outlive a restart.

-- `generation` counts the answers that told something; `configs` is a JSON array of what was asked
-- of rooms, to which sliding_rooms.sent refers by index. `used_ms` is right to within a day.
CREATE TABLE sliding_connections (
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    conn_id TEXT NOT NULL,
    connection_nid BIGINT NOT NULL,
    generation BIGINT NOT NULL,
    configs TEXT NOT NULL,
    told TEXT NOT NULL,
    used_ms BIGINT NOT NULL,
    PRIMARY KEY (user_id, device_id, conn_id)
) WITHOUT ROWID;
CREATE INDEX sliding_connections_by_nid ON sliding_connections (connection_nid);

-- How much of a room was told: numbers with spaces between them (src/sync/sliding/sent_room.rs).
CREATE TABLE sliding_rooms (
    connection_nid BIGINT NOT NULL,
    room_nid BIGINT NOT NULL,
    sent TEXT NOT NULL,
    PRIMARY KEY (connection_nid, room_nid)
) WITHOUT ROWID;
