-- What the graph of a room needs beyond events that follow one another.

-- Which state events name a state event for their authorisation.
CREATE TABLE auth_edges (
    parent_nid BIGINT NOT NULL,
    child_nid BIGINT NOT NULL,
    -- The state key of the child.
    child_key_nid BIGINT NOT NULL,
    PRIMARY KEY (parent_nid, child_nid)
) WITHOUT ROWID;

-- Events that an event of the graph names as previous ones and that are not in the graph: where the
-- room's history ends here. `ordering` is the place of the child.
CREATE TABLE missing_events (
    room_nid BIGINT NOT NULL,
    event_key BLOB NOT NULL,
    child_nid BIGINT NOT NULL,
    ordering BIGINT NOT NULL,
    PRIMARY KEY (room_nid, event_key, child_nid)
) WITHOUT ROWID;

-- Events that cannot be judged before the event with this key is here.
CREATE TABLE awaited_events (
    event_key BLOB NOT NULL,
    waiting_nid BIGINT NOT NULL,
    room_nid BIGINT NOT NULL,
    PRIMARY KEY (event_key, waiting_nid)
) WITHOUT ROWID;
CREATE INDEX awaited_events_by_waiting ON awaited_events (room_nid, waiting_nid);

-- Why an event was rejected or soft-failed, or what it waits for.
CREATE TABLE verdicts (event_nid INTEGER PRIMARY KEY, room_nid BIGINT NOT NULL, reason TEXT NOT NULL);
CREATE INDEX verdicts_by_room ON verdicts (room_nid, event_nid);

-- Redactions that arrived before what they redact.
CREATE TABLE awaited_redactions (
    target_key BLOB NOT NULL,
    redaction_nid BIGINT NOT NULL,
    PRIMARY KEY (target_key, redaction_nid)
) WITHOUT ROWID;

-- The current state behind an event that did not simply follow the room's head (flag 32 of the event),
-- and what this changed, 0 where there is no event any more.
CREATE TABLE room_forks (
    room_nid BIGINT NOT NULL,
    ordering BIGINT NOT NULL,
    state_nid BIGINT NOT NULL,
    PRIMARY KEY (room_nid, ordering)
) WITHOUT ROWID;
CREATE TABLE state_changes (
    room_nid BIGINT NOT NULL,
    ordering BIGINT NOT NULL,
    state_key_nid BIGINT NOT NULL,
    event_nid BIGINT NOT NULL,
    PRIMARY KEY (room_nid, ordering, state_key_nid)
) WITHOUT ROWID;

-- What came with an invitation or knock of a room that this server is not in: a JSON array.
CREATE TABLE stripped_states (event_nid INTEGER PRIMARY KEY, state TEXT NOT NULL);

CREATE INDEX memberships_by_room ON memberships (room_nid, user_nid);
