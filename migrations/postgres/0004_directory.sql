-- The rooms in the public directory. A table of its own, so that a new room can be published with
-- the rows that make it.
CREATE TABLE published_rooms (room_nid BIGINT PRIMARY KEY);
INSERT INTO published_rooms SELECT room_nid FROM room_summaries WHERE published = 1;
DROP INDEX room_summaries_published;
ALTER TABLE room_summaries DROP COLUMN published;

-- What users told the administrators about rooms, events and users.
CREATE TABLE reports (
    nid BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    reporter TEXT NOT NULL,
    room_id TEXT,
    event_id TEXT,
    user_id TEXT,
    reason TEXT,
    received_ts BIGINT NOT NULL
);
