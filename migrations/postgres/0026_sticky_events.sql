-- Events that clients get whether or not a timeline holds them (MSC4354), until `expires_ts` (milliseconds
-- since the Unix epoch). `position` is where the stream carries the event, and NULL while the room's
-- current state forbids it.
CREATE TABLE sticky_events (
    event_nid BIGINT PRIMARY KEY,
    room_nid BIGINT NOT NULL,
    position BIGINT,
    expires_ts BIGINT NOT NULL
);
CREATE INDEX sticky_events_by_room ON sticky_events (room_nid);
CREATE INDEX sticky_events_by_expiry ON sticky_events (expires_ts);

-- For how long a delayed event is sticky when it is sent.
ALTER TABLE delayed_events ADD COLUMN sticky_ms BIGINT;

-- Pictures that previews of web pages show, by their media ID, and until when.
CREATE TABLE preview_pictures (
    media_id TEXT COLLATE "C" PRIMARY KEY,
    expires_ts BIGINT NOT NULL
);
CREATE INDEX preview_pictures_by_expiry ON preview_pictures (expires_ts);
