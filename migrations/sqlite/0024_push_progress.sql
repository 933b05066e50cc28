-- What a pusher has not been told of lies behind this place of the stream (NULL: nothing), and since when
-- its gateway takes nothing.
ALTER TABLE pushers ADD COLUMN waiting_from BIGINT;
ALTER TABLE pushers ADD COLUMN failing_since_ts BIGINT;
ALTER TABLE pushers ADD COLUMN retry_at_ts BIGINT NOT NULL DEFAULT 0;

-- Up to where all other pushers have been told: one row.
CREATE TABLE push_progress (position BIGINT NOT NULL);
INSERT INTO push_progress SELECT position FROM writer;
