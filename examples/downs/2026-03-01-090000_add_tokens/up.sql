CREATE TABLE tokens (
    id bigint PRIMARY KEY,
    note text,
    name text NOT NULL
);
