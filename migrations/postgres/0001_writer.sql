-- SQLite's functions that the common SQL text uses: the elements of a JSON array, and bytes
-- from hexadecimal digits.
CREATE FUNCTION json_each(list text, OUT value json) RETURNS SETOF json
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE ROWS 50
    AS $$ SELECT json_array_elements(list::json) $$;
CREATE FUNCTION unhex(digits text) RETURNS bytea
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    AS $$ SELECT decode(digits, 'hex') $$;

-- The one writer: the number of its last batch, its epoch (rises with every take-over) and the
-- last position of the stream.
CREATE TABLE writer (batch BIGINT NOT NULL, epoch BIGINT NOT NULL, position BIGINT NOT NULL);
INSERT INTO writer VALUES (0, 0, 0);
