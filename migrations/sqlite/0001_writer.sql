-- The one writer: the number of its last batch, its epoch (rises with every take-over) and the
-- last position of the stream.
CREATE TABLE writer (batch BIGINT NOT NULL, epoch BIGINT NOT NULL, position BIGINT NOT NULL);
INSERT INTO writer VALUES (0, 0, 0);
