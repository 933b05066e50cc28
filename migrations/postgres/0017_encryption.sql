-- What end-to-end encryption needs: identity keys, one-time keys, cross-signing, changes of device
-- lists, messages to devices, backups of room keys. Keys are JSON as their owners uploaded it.
-- `position` is a place in the stream; `…_ts` are milliseconds since the Unix epoch.

-- Identity keys of devices of this server.
CREATE TABLE device_keys (
    user_id TEXT COLLATE "C" NOT NULL,
    device_id TEXT COLLATE "C" NOT NULL,
    keys TEXT NOT NULL,
    PRIMARY KEY (user_id, device_id)
);

-- One-time keys as they were uploaded together: a JSON array of pairs of key ID and key, to be
-- claimed from the front. Batches of a device and algorithm are numbered from 1.
CREATE TABLE one_time_keys (
    user_id TEXT COLLATE "C" NOT NULL,
    device_id TEXT COLLATE "C" NOT NULL,
    algorithm TEXT COLLATE "C" NOT NULL,
    batch BIGINT NOT NULL,
    keys TEXT NOT NULL
);
CREATE UNIQUE INDEX one_time_keys_by_batch ON one_time_keys (user_id, device_id, algorithm, batch);

-- How many keys of a batch have been claimed. Only rises.
CREATE TABLE one_time_key_claims (
    user_id TEXT COLLATE "C" NOT NULL,
    device_id TEXT COLLATE "C" NOT NULL,
    algorithm TEXT COLLATE "C" NOT NULL,
    batch BIGINT NOT NULL,
    taken BIGINT NOT NULL,
    PRIMARY KEY (user_id, device_id, algorithm, batch)
);

-- One per algorithm, handed out when no one-time key is left; `used` says that it was.
CREATE TABLE fallback_keys (
    user_id TEXT COLLATE "C" NOT NULL,
    device_id TEXT COLLATE "C" NOT NULL,
    algorithm TEXT COLLATE "C" NOT NULL,
    key_id TEXT NOT NULL,
    key TEXT NOT NULL,
    used BIGINT NOT NULL,
    PRIMARY KEY (user_id, device_id, algorithm)
);

-- `usage`: master, self_signing, user_signing. Of users elsewhere too.
CREATE TABLE cross_signing_keys (
    user_id TEXT COLLATE "C" NOT NULL,
    usage TEXT COLLATE "C" NOT NULL,
    key TEXT NOT NULL,
    PRIMARY KEY (user_id, usage)
);

-- Signatures uploaded after the key itself. `target_key` is a device ID or a public key.
CREATE TABLE key_signatures (
    target_user TEXT COLLATE "C" NOT NULL,
    target_key TEXT COLLATE "C" NOT NULL,
    signer_user TEXT COLLATE "C" NOT NULL,
    signer_key TEXT COLLATE "C" NOT NULL,
    signature TEXT NOT NULL,
    position BIGINT NOT NULL,
    PRIMARY KEY (target_user, target_key, signer_user, signer_key)
);
CREATE INDEX key_signatures_by_signer ON key_signatures (signer_user, position);

-- When anything of a user's device list or cross-signing keys last changed.
CREATE TABLE device_list_changes (
    user_id TEXT COLLATE "C" PRIMARY KEY,
    position BIGINT NOT NULL
);
CREATE INDEX device_list_changes_by_position ON device_list_changes (position);

-- The latest change of each device of this server's users, for other servers; an empty device ID
-- stands for the cross-signing keys. `previous` is the user's change before it.
CREATE TABLE device_changes (
    user_id TEXT COLLATE "C" NOT NULL,
    device_id TEXT COLLATE "C" NOT NULL,
    position BIGINT NOT NULL,
    previous BIGINT,
    PRIMARY KEY (user_id, device_id)
);
CREATE INDEX device_changes_by_position ON device_changes (position);

-- Messages that wait for a device, as a sync carries them.
CREATE TABLE to_device_messages (
    user_id TEXT COLLATE "C" NOT NULL,
    device_id TEXT COLLATE "C" NOT NULL,
    position BIGINT NOT NULL,
    message TEXT NOT NULL
);
CREATE INDEX to_device_messages_by_device ON to_device_messages (user_id, device_id, position);

-- Requests to send messages to devices that were carried out, by a hash of transaction and type.
CREATE TABLE to_device_requests (
    user_id TEXT COLLATE "C" NOT NULL,
    device_id TEXT COLLATE "C" NOT NULL,
    hash BIGINT NOT NULL,
    position BIGINT NOT NULL,
    PRIMARY KEY (user_id, device_id, hash)
);

-- Messages for devices of other servers: contents of m.direct_to_device.
CREATE TABLE to_device_outbox (
    destination TEXT COLLATE "C" NOT NULL,
    position BIGINT NOT NULL,
    content TEXT NOT NULL,
    PRIMARY KEY (destination, position)
);

-- Which m.direct_to_device of other servers have arrived.
CREATE TABLE to_device_received (
    origin TEXT COLLATE "C" NOT NULL,
    message_id TEXT COLLATE "C" NOT NULL,
    received_ts BIGINT NOT NULL,
    PRIMARY KEY (origin, message_id)
);
CREATE INDEX to_device_received_by_age ON to_device_received (received_ts);

-- Device lists of users elsewhere with whom somebody here shares a room. A stale one has to be
-- fetched again.
CREATE TABLE remote_device_lists (
    user_id TEXT COLLATE "C" PRIMARY KEY,
    stream_id BIGINT NOT NULL,
    is_stale BIGINT NOT NULL
);

CREATE TABLE remote_devices (
    user_id TEXT COLLATE "C" NOT NULL,
    device_id TEXT COLLATE "C" NOT NULL,
    keys TEXT,
    display_name TEXT,
    PRIMARY KEY (user_id, device_id)
);

-- Backups of room keys. A deleted one keeps its row, so that its version is not given out again.
CREATE TABLE key_backups (
    user_id TEXT COLLATE "C" NOT NULL,
    version BIGINT NOT NULL,
    algorithm TEXT COLLATE "C" NOT NULL,
    auth_data TEXT NOT NULL,
    -- Rises with every change of its keys.
    etag BIGINT NOT NULL,
    key_count BIGINT NOT NULL,
    is_deleted BIGINT NOT NULL,
    PRIMARY KEY (user_id, version)
);

CREATE TABLE backed_up_keys (
    user_id TEXT COLLATE "C" NOT NULL,
    version BIGINT NOT NULL,
    room_id TEXT COLLATE "C" NOT NULL,
    session_id TEXT COLLATE "C" NOT NULL,
    first_message_index BIGINT NOT NULL,
    forwarded_count BIGINT NOT NULL,
    is_verified BIGINT NOT NULL,
    session_data TEXT NOT NULL
);
CREATE UNIQUE INDEX backed_up_keys_by_session
    ON backed_up_keys (user_id, version, room_id, session_id);

-- The device that receives room keys while its user has no other (MSC3814).
CREATE TABLE dehydrated_devices (
    user_id TEXT COLLATE "C" PRIMARY KEY,
    device_id TEXT COLLATE "C" NOT NULL,
    device_data TEXT NOT NULL
);
