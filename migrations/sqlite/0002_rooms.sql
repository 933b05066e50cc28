-- Numbers (nid) stand for identifiers inside. `event_key` is the 32-byte hash that an event ID
-- of room version 3 and later encodes, or the bytes of an older event ID. Types and state keys
-- are bytes, since they may contain U+0000.

CREATE TABLE rooms (
    nid INTEGER PRIMARY KEY,
    room_id TEXT NOT NULL UNIQUE,
    version TEXT NOT NULL,
    -- JSON array of event nids: the forward extremities.
    extremities TEXT NOT NULL,
    -- The snapshot of the current state.
    state_nid BIGINT NOT NULL,
    depth BIGINT NOT NULL,
    -- How many events so far notify by default, and the room's latest event in the stream.
    notify_ordinal BIGINT NOT NULL,
    latest_position BIGINT NOT NULL,
    -- Joined and invited members.
    joined_count BIGINT NOT NULL,
    invited_count BIGINT NOT NULL
);

-- An event of the graph. `ordering` is its place in the room (live events ascending from 0,
-- backfilled ones below), `position` its place in the stream (NULL when no sync carries it).
CREATE TABLE events (
    nid INTEGER PRIMARY KEY,
    room_nid BIGINT NOT NULL,
    ordering BIGINT NOT NULL,
    position BIGINT,
    -- The snapshot of the state before it.
    state_nid BIGINT NOT NULL,
    -- NULL when it is no state event.
    state_key_nid BIGINT,
    -- The state event that it replaced.
    replaces_nid BIGINT,
    -- 1 soft-failed, 2 rejected, 4 outlier, 8 redacted, 16 notifies by default.
    flags BIGINT NOT NULL,
    -- rooms.notify_ordinal including this event.
    notify_ordinal BIGINT NOT NULL,
    origin_server_ts BIGINT NOT NULL,
    event_key BLOB NOT NULL,
    -- The device and transaction that sent it, as `device NUL transaction`.
    sent_by BLOB,
    json TEXT NOT NULL
);
-- The last two columns let a search by time read the index alone.
CREATE INDEX events_by_ordering ON events (room_nid, ordering, origin_server_ts, flags);

CREATE TABLE event_keys (event_key BLOB PRIMARY KEY, event_nid BIGINT NOT NULL) WITHOUT ROWID;

-- Transactions of clients by a 64-bit hash of user, device, transaction and path; the event's
-- `sent_by` tells whether it really is the same.
CREATE TABLE transactions (
    hash BIGINT NOT NULL, event_nid BIGINT NOT NULL, PRIMARY KEY (hash, event_nid)
) WITHOUT ROWID;

CREATE TABLE state_keys (
    nid INTEGER PRIMARY KEY,
    kind BLOB NOT NULL,
    state_key BLOB NOT NULL,
    UNIQUE (kind, state_key)
);

-- A state is its parent with a delta: pairs of variable-length numbers, state key nid and event
-- nid. `height` counts the state changes of its line; a snapshot holds the changes since
-- `height` less its lowest set bit, so that a state of n changes is read in log n rows.
CREATE TABLE state_snapshots (
    nid INTEGER PRIMARY KEY,
    parent_nid BIGINT,
    height BIGINT NOT NULL,
    delta BLOB NOT NULL
);

-- The current membership of every user; `user_nid` is the nid of the state key
-- (m.room.member, user). 1 join, 2 invite, 3 knock, 4 leave, 5 ban.
CREATE TABLE memberships (
    user_nid BIGINT NOT NULL,
    room_nid BIGINT NOT NULL,
    membership BIGINT NOT NULL,
    event_nid BIGINT NOT NULL,
    position BIGINT NOT NULL,
    forgotten BIGINT NOT NULL,
    PRIMARY KEY (user_nid, room_nid)
) WITHOUT ROWID;

-- What relates to an event (m.relates_to), accepted and not redacted.
CREATE TABLE relations (
    target_key BLOB NOT NULL,
    event_nid BIGINT NOT NULL,
    room_nid BIGINT NOT NULL,
    rel_type TEXT NOT NULL,
    kind TEXT NOT NULL,
    sender TEXT NOT NULL,
    PRIMARY KEY (target_key, event_nid)
) WITHOUT ROWID;
CREATE INDEX relations_by_room ON relations (room_nid, rel_type, event_nid);

-- Which event redacted which, and the original until its retention ends.
CREATE TABLE redactions (
    event_nid INTEGER PRIMARY KEY,
    redacted_by_nid BIGINT NOT NULL,
    original TEXT,
    expires_ts BIGINT NOT NULL
);
CREATE INDEX redactions_by_expiry ON redactions (expires_ts) WHERE original IS NOT NULL;

CREATE TABLE aliases (
    alias TEXT PRIMARY KEY,
    room_nid BIGINT NOT NULL,
    creator TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX aliases_by_room ON aliases (room_nid);

-- What the public room directory shows and searches, kept for every room.
CREATE TABLE room_summaries (
    room_nid INTEGER PRIMARY KEY,
    published BIGINT NOT NULL,
    name TEXT,
    topic TEXT,
    canonical_alias TEXT,
    avatar_url TEXT,
    join_rule TEXT NOT NULL,
    world_readable BIGINT NOT NULL,
    guest_can_join BIGINT NOT NULL,
    room_type TEXT,
    encryption TEXT
);
CREATE INDEX room_summaries_published ON room_summaries (room_nid) WHERE published = 1;
