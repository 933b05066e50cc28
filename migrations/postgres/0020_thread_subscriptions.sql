-- Threads that users follow or have ceased to follow (MSC4306), by the event ID of their root.
-- `level`: 0 not any more, 1 since their client thought so, 2 since they wanted to. `position` is that
-- of the latest change.
CREATE TABLE thread_subscriptions (
    user_id TEXT COLLATE "C" NOT NULL,
    room_nid BIGINT NOT NULL,
    root TEXT COLLATE "C" NOT NULL,
    level BIGINT NOT NULL,
    position BIGINT NOT NULL,
    PRIMARY KEY (user_id, room_nid, root)
);
CREATE INDEX thread_subscriptions_by_position ON thread_subscriptions (user_id, position);
CREATE INDEX thread_subscriptions_by_thread ON thread_subscriptions (room_nid, root);

-- Users who ignore others.
CREATE INDEX account_data_ignored_users ON account_data (user_id)
    WHERE kind = 'm.ignored_user_list';
