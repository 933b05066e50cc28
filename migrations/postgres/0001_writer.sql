-- SQLite's functions that the common SQL text uses: the elements of a JSON array (as jsonb, whose
-- columns are read without parsing the row once for each), and bytes
-- from hexadecimal digits.
CREATE FUNCTION json_each(list text, OUT value jsonb) RETURNS SETOF jsonb
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE ROWS 50
    AS $$ SELECT jsonb_array_elements(list::jsonb) $$;
CREATE FUNCTION unhex(digits text) RETURNS bytea
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    AS $$ SELECT decode(digits, 'hex') $$;

-- The one writer: the number of its last batch, its epoch (rises with every take-over) and the
-- last position of the stream.
CREATE TABLE writer (batch BIGINT NOT NULL, epoch BIGINT NOT NULL, position BIGINT NOT NULL);
INSERT INTO writer VALUES (0, 0, 0);
