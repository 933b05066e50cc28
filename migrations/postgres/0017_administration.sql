-- Rooms that nobody of this server may enter, and who said so.
CREATE TABLE blocked_rooms (
    room_id TEXT COLLATE "C" PRIMARY KEY,
    blocked_by TEXT NOT NULL,
    blocked_ts BIGINT NOT NULL
);

-- The room in which the server speaks to a user ("Server Notices").
CREATE TABLE notice_rooms (
    user_id TEXT COLLATE "C" PRIMARY KEY,
    room_id TEXT COLLATE "C" NOT NULL
);
