-- Events that are sent later (MSC4140), and for a while what became of them.

-- `state_key` is NULL for messages. `scheduled_ms` is when the delay began or began again,
-- `send_ms` when it is over. `finalised_ms` is NULL while the event waits; then it was sent
-- (`event_id`), could not be sent (`error`, JSON) or was cancelled (neither). `request` names the
-- client's transaction.
CREATE TABLE delayed_events (
    delay_id TEXT COLLATE "C" PRIMARY KEY,
    user_id TEXT COLLATE "C" NOT NULL,
    room_id TEXT COLLATE "C" NOT NULL,
    kind TEXT COLLATE "C" NOT NULL,
    state_key TEXT COLLATE "C",
    content TEXT COLLATE "C" NOT NULL,
    delay_ms BIGINT NOT NULL,
    scheduled_ms BIGINT NOT NULL,
    send_ms BIGINT NOT NULL,
    request TEXT COLLATE "C",
    finalised_ms BIGINT,
    event_id TEXT COLLATE "C",
    error TEXT COLLATE "C"
);
CREATE INDEX delayed_events_waiting ON delayed_events (send_ms) WHERE finalised_ms IS NULL;
CREATE INDEX delayed_events_by_user ON delayed_events (user_id, send_ms);
CREATE UNIQUE INDEX delayed_events_by_request ON delayed_events (request) WHERE request IS NOT NULL;
CREATE INDEX delayed_events_finalised ON delayed_events (finalised_ms) WHERE finalised_ms IS NOT NULL;
