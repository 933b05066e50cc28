-- Receipts, and what unread counts are computed from. `ordering` is an event's place in its room.

-- How far users have read, as everybody sees it (1, m.read) or only they themselves (2,
-- m.read.private). `thread` is empty for unthreaded receipts, `main`, or a thread's root.
CREATE TABLE receipts (
    room_nid BIGINT NOT NULL,
    user_id TEXT COLLATE "C" NOT NULL,
    kind BIGINT NOT NULL,
    thread TEXT COLLATE "C" NOT NULL,
    event_id TEXT COLLATE "C" NOT NULL,
    ordering BIGINT NOT NULL,
    ts BIGINT NOT NULL,
    position BIGINT NOT NULL,
    PRIMARY KEY (room_nid, user_id, kind, thread)
);

-- Up to where local users have read, by whichever receipt or own event is furthest, with
-- `events.notify_ordinal` there. `thread` as above.
CREATE TABLE read_marks (
    user_id TEXT COLLATE "C" NOT NULL,
    room_nid BIGINT NOT NULL,
    thread TEXT COLLATE "C" NOT NULL,
    ordering BIGINT NOT NULL,
    notify_ordinal BIGINT NOT NULL,
    PRIMARY KEY (user_id, room_nid, thread)
);

-- Events for which `events.notify_ordinal` does not say all: those in threads (`thread` is the
-- root), those that highlight for everybody, those redacted. `counted`: the ordinal counts it;
-- `notifies`, `highlights`: what it does by default.
CREATE TABLE notify_exceptions (
    room_nid BIGINT NOT NULL,
    ordering BIGINT NOT NULL,
    thread TEXT COLLATE "C" NOT NULL,
    counted BIGINT NOT NULL,
    notifies BIGINT NOT NULL,
    highlights BIGINT NOT NULL,
    PRIMARY KEY (room_nid, ordering)
);

-- Events that do something else for one user than by default: `notifies` and `highlights` are what
-- they do, the deltas what that adds to the default. `actions` is JSON.
CREATE TABLE notify_deviations (
    user_id TEXT COLLATE "C" NOT NULL,
    room_nid BIGINT NOT NULL,
    ordering BIGINT NOT NULL,
    event_nid BIGINT NOT NULL,
    thread TEXT COLLATE "C" NOT NULL,
    notifies BIGINT NOT NULL,
    highlights BIGINT NOT NULL,
    notify_delta BIGINT NOT NULL,
    highlight_delta BIGINT NOT NULL,
    actions TEXT NOT NULL,
    PRIMARY KEY (user_id, room_nid, ordering)
);
CREATE INDEX notify_deviations_by_ordering ON notify_deviations (user_id, ordering);
CREATE INDEX notify_deviations_by_event ON notify_deviations (room_nid, ordering);

-- From which event (inclusive) to which (exclusive) nothing notifies a user by default, since
-- their rules say so, with `events.notify_ordinal` before both; `to_ordering` is NULL while it
-- lasts.
CREATE TABLE quiet_ranges (
    user_id TEXT COLLATE "C" NOT NULL,
    room_nid BIGINT NOT NULL,
    from_ordering BIGINT NOT NULL,
    from_ordinal BIGINT NOT NULL,
    to_ordering BIGINT,
    to_ordinal BIGINT,
    PRIMARY KEY (user_id, room_nid, from_ordering)
);

-- Users who have push rules of their own.
CREATE INDEX account_data_push_rules ON account_data (user_id) WHERE kind = 'm.push_rules';

-- As SQLite has it.
CREATE FUNCTION hex(value text) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    AS $$ SELECT encode(convert_to(value, 'UTF8'), 'hex') $$;
