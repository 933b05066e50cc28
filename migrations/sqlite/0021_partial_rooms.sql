-- Rooms that were entered without most of their members (MSC3902): where from, and since which position
-- their state is whole.
CREATE TABLE partial_rooms (
    room_nid INTEGER PRIMARY KEY,
    -- The event by which this server came in.
    join_nid BIGINT NOT NULL,
    -- JSON array of the servers in the room, the one that let this server in first; empty when whole.
    servers TEXT NOT NULL,
    -- NULL while the state is not whole.
    completed_position BIGINT
);

-- Events that were judged while their room's state was not whole, in the order of their arrival.
CREATE TABLE partial_events (
    room_nid BIGINT NOT NULL,
    event_nid BIGINT NOT NULL,
    position BIGINT NOT NULL,
    PRIMARY KEY (room_nid, event_nid)
) WITHOUT ROWID;
