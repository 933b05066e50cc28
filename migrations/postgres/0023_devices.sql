-- How far each service has got with messages to its users' devices and with changes of device lists.
ALTER TABLE appservice_streams ADD COLUMN devices_position BIGINT NOT NULL DEFAULT 0;
UPDATE appservice_streams SET devices_position = position;

-- Where the stream stood when a list of a user elsewhere was asked for: changes since then were told only
-- if somebody here has shared a room with the user all the time.
ALTER TABLE remote_device_lists ADD COLUMN kept_since BIGINT NOT NULL DEFAULT 0;
