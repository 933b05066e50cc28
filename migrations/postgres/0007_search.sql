-- Which events contain which words: `term` is a 64-bit hash of a word, or of one or two letters of
-- a script that does not part its words. Derived, and filled behind the stream.
CREATE TABLE search_terms (
    room_nid BIGINT NOT NULL,
    term BIGINT NOT NULL,
    event_nid BIGINT NOT NULL,
    PRIMARY KEY (room_nid, term, event_nid)
);

-- How far each room is indexed: events with `lowest` <= ordering <= `upto`.
CREATE TABLE search_cursors (
    room_nid BIGINT PRIMARY KEY,
    lowest BIGINT NOT NULL,
    upto BIGINT NOT NULL
);
