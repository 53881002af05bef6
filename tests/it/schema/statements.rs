//! Statements that change a schema, and what undoes each.

/// What the statements are run on.
pub const BASE: &str = "
    CREATE SCHEMA app;
    CREATE TYPE app.mood AS ENUM ('sad', 'ok', 'happy');
    CREATE TYPE app.pair AS (a int, b text);
    CREATE DOMAIN app.positive AS int CHECK (VALUE > 0);
    CREATE SEQUENCE app.free;
    CREATE TABLE app.users (id serial PRIMARY KEY, name text NOT NULL, mood app.mood DEFAULT 'ok', age app.positive,
        big int GENERATED ALWAYS AS IDENTITY, CONSTRAINT short CHECK (length(name) < 100));
    CREATE TABLE app.notes (id int PRIMARY KEY, user_id int REFERENCES app.users (id), body varchar(20) DEFAULT '', at timestamptz);
    CREATE TABLE app.parent (a int, b text);
    CREATE TABLE app.child (c int) INHERITS (app.parent);
    CREATE TABLE app.events (at date NOT NULL, what text) PARTITION BY RANGE (at);
    CREATE TABLE app.events_1 PARTITION OF app.events FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
    CREATE TABLE app.events_2 (at date NOT NULL, what text);
    CREATE INDEX notes_body ON app.notes (body);
    CREATE INDEX notes_long ON app.notes (length(body));
    CREATE VIEW app.happy AS SELECT id, name FROM app.users WHERE mood = 'happy';
    CREATE MATERIALIZED VIEW app.counts AS SELECT user_id, count(*) AS n FROM app.notes GROUP BY user_id;
    CREATE FUNCTION app.twice(x int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 2 * x';
    CREATE FUNCTION app.touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
    CREATE TRIGGER touched BEFORE UPDATE ON app.notes FOR EACH ROW EXECUTE FUNCTION app.touch();
    CREATE FUNCTION app.listen() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
";

/// Since which version, the change, what undoes it: what a snapshot sees and pg_dump does not.
pub const UNSEEN: &[(u32, &str, &str)] = &[
    (
        13,
        "CREATE LANGUAGE l HANDLER plpgsql_call_handler",
        "DROP LANGUAGE l",
    ),
    (
        13,
        "REFRESH MATERIALIZED VIEW app.counts WITH NO DATA",
        "REFRESH MATERIALIZED VIEW app.counts",
    ),
    (
        13,
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'app.notes_body'::regclass",
        "UPDATE pg_index SET indisvalid = true WHERE indexrelid = 'app.notes_body'::regclass",
    ),
];

/// Since which version, the change, what undoes it.
pub const STATEMENTS: &[(u32, &str, &str)] = &[
    (13, "CREATE SCHEMA other", "DROP SCHEMA other"),
    (13, "COMMENT ON SCHEMA app IS 'x'", "COMMENT ON SCHEMA app IS NULL"),
    (13, "GRANT USAGE ON SCHEMA app TO PUBLIC", "REVOKE USAGE ON SCHEMA app FROM PUBLIC"),
    (13, "CREATE TABLE app.new (id int)", "DROP TABLE app.new"),
    (13, "ALTER TABLE app.notes RENAME TO memos", "ALTER TABLE app.memos RENAME TO notes"),
    (13, "ALTER TABLE app.notes SET SCHEMA public", "ALTER TABLE public.notes SET SCHEMA app"),
    (13, "ALTER TABLE app.notes SET UNLOGGED", "ALTER TABLE app.notes SET LOGGED"),
    (13, "ALTER TABLE app.notes SET (fillfactor = 70)", "ALTER TABLE app.notes RESET (fillfactor)"),
    (
        13,
        "ALTER TABLE app.users SET (toast.autovacuum_enabled = off)",
        "ALTER TABLE app.users RESET (toast.autovacuum_enabled)",
    ),
    (13, "ALTER TABLE app.notes ENABLE ROW LEVEL SECURITY", "ALTER TABLE app.notes DISABLE ROW \
        LEVEL SECURITY"),
    (13, "ALTER TABLE app.notes FORCE ROW LEVEL SECURITY", "ALTER TABLE app.notes NO FORCE ROW \
        LEVEL SECURITY"),
    (13, "ALTER TABLE app.notes REPLICA IDENTITY FULL", "ALTER TABLE app.notes REPLICA IDENTITY \
        DEFAULT"),
    (
        13,
        "ALTER TABLE app.notes REPLICA IDENTITY USING INDEX notes_pkey",
        "ALTER TABLE app.notes REPLICA IDENTITY DEFAULT",
    ),
    (13, "ALTER TABLE app.notes CLUSTER ON notes_pkey", "ALTER TABLE app.notes SET WITHOUT \
        CLUSTER"),
    (13, "COMMENT ON TABLE app.notes IS 'x'", "COMMENT ON TABLE app.notes IS NULL"),
    (13, "GRANT SELECT ON app.notes TO PUBLIC", "REVOKE SELECT ON app.notes FROM PUBLIC"),
    (13, "GRANT SELECT (body) ON app.notes TO PUBLIC", "REVOKE SELECT (body) ON app.notes FROM \
        PUBLIC"),
    (13, "ALTER TABLE app.notes ADD x int", "ALTER TABLE app.notes DROP x"),
    (13, "ALTER TABLE app.notes RENAME body TO text", "ALTER TABLE app.notes RENAME text TO body"),
    (13, "ALTER TABLE app.notes ALTER body TYPE varchar(30)", "ALTER TABLE app.notes ALTER body \
        TYPE varchar(20)"),
    (
        13,
        "ALTER TABLE app.notes ALTER body TYPE varchar(20) COLLATE \"C\"",
        "ALTER TABLE app.notes ALTER body TYPE varchar(20) COLLATE \"default\"",
    ),
    (13, "ALTER TABLE app.notes ALTER body SET DEFAULT 'x'", "ALTER TABLE app.notes ALTER body SET \
        DEFAULT ''"),
    (13, "ALTER TABLE app.notes ALTER body SET NOT NULL", "ALTER TABLE app.notes ALTER body DROP \
        NOT NULL"),
    (
        13,
        "ALTER TABLE app.notes ALTER body SET STORAGE EXTERNAL",
        "ALTER TABLE app.notes ALTER body SET STORAGE EXTENDED",
    ),
    (
        14,
        "ALTER TABLE app.notes ALTER body SET COMPRESSION pglz",
        "ALTER TABLE app.notes ALTER body SET COMPRESSION default",
    ),
    (13, "ALTER TABLE app.notes ALTER body SET STATISTICS 10", "ALTER TABLE app.notes ALTER body \
        SET STATISTICS -1"),
    (
        13,
        "ALTER TABLE app.notes ALTER body SET (n_distinct = 5)",
        "ALTER TABLE app.notes ALTER body RESET (n_distinct)",
    ),
    (13, "COMMENT ON COLUMN app.notes.body IS 'x'", "COMMENT ON COLUMN app.notes.body IS NULL"),
    (
        13,
        "ALTER TABLE app.users ALTER big SET GENERATED BY DEFAULT",
        "ALTER TABLE app.users ALTER big SET GENERATED ALWAYS",
    ),
    (13, "ALTER TABLE app.users ALTER big SET INCREMENT 2", "ALTER TABLE app.users ALTER big SET \
        INCREMENT 1"),
    (13, "ALTER TABLE app.notes ADD g int GENERATED ALWAYS AS (id * 2) STORED", "ALTER TABLE \
        app.notes DROP g"),
    (18, "ALTER TABLE app.notes ADD g int GENERATED ALWAYS AS (id * 2) VIRTUAL", "ALTER TABLE \
        app.notes DROP g"),
    (
        18,
        "ALTER TABLE app.users RENAME CONSTRAINT users_name_not_null TO named",
        "ALTER TABLE app.users RENAME CONSTRAINT named TO users_name_not_null",
    ),
    (
        18,
        "COMMENT ON CONSTRAINT users_name_not_null ON app.users IS 'x'",
        "COMMENT ON CONSTRAINT users_name_not_null ON app.users IS NULL",
    ),
    (13, "ALTER TABLE app.notes ADD CONSTRAINT c CHECK (id > 0)", "ALTER TABLE app.notes DROP \
        CONSTRAINT c"),
    (13, "ALTER TABLE app.notes ADD CONSTRAINT c CHECK (id > 0) NOT VALID", "ALTER TABLE app.notes \
        DROP CONSTRAINT c"),
    (
        13,
        "ALTER TABLE app.parent ADD CONSTRAINT c CHECK (a > 0) NO INHERIT",
        "ALTER TABLE app.parent DROP CONSTRAINT c",
    ),
    (
        13,
        "ALTER TABLE app.users RENAME CONSTRAINT short TO long",
        "ALTER TABLE app.users RENAME CONSTRAINT long TO short",
    ),
    (
        13,
        "ALTER TABLE app.notes ALTER CONSTRAINT notes_user_id_fkey DEFERRABLE INITIALLY DEFERRED",
        "ALTER TABLE app.notes ALTER CONSTRAINT notes_user_id_fkey NOT DEFERRABLE",
    ),
    (13, "COMMENT ON CONSTRAINT short ON app.users IS 'x'", "COMMENT ON CONSTRAINT short ON \
        app.users IS NULL"),
    (13, "ALTER TABLE app.notes ADD CONSTRAINT u UNIQUE (body)", "ALTER TABLE app.notes DROP \
        CONSTRAINT u"),
    (
        13,
        "ALTER TABLE app.notes ADD CONSTRAINT e EXCLUDE USING btree (id WITH =)",
        "ALTER TABLE app.notes DROP CONSTRAINT e",
    ),
    (13, "CREATE INDEX i ON app.notes (user_id)", "DROP INDEX app.i"),
    (13, "CREATE UNIQUE INDEX i ON app.notes (lower(body) text_pattern_ops DESC) WHERE id > 5", "DROP \
        INDEX app.i"),
    (13, "ALTER INDEX app.notes_body SET (fillfactor = 50)", "ALTER INDEX app.notes_body RESET \
        (fillfactor)"),
    (13, "COMMENT ON INDEX app.notes_body IS 'x'", "COMMENT ON INDEX app.notes_body IS NULL"),
    (13, "CREATE INDEX i ON app.notes ((id + 1)); ALTER INDEX app.i ALTER 1 SET STATISTICS 7", "DROP \
        INDEX app.i"),
    (13, "ALTER INDEX app.notes_long ALTER 1 SET STATISTICS 7", "ALTER INDEX app.notes_long ALTER \
        1 SET STATISTICS -1"),
    (13, "ALTER SEQUENCE app.free AS smallint", "ALTER SEQUENCE app.free AS bigint"),
    (
        13,
        "ALTER SEQUENCE app.free START 5 RESTART 5 MINVALUE 5",
        "ALTER SEQUENCE app.free START 1 RESTART 1 MINVALUE 1",
    ),
    (13, "ALTER SEQUENCE app.free CACHE 5 CYCLE", "ALTER SEQUENCE app.free CACHE 1 NO CYCLE"),
    (13, "ALTER SEQUENCE app.free OWNED BY app.notes.id", "ALTER SEQUENCE app.free OWNED BY NONE"),
    (15, "ALTER SEQUENCE app.free SET UNLOGGED", "ALTER SEQUENCE app.free SET LOGGED"),
    (13, "GRANT USAGE ON SEQUENCE app.free TO PUBLIC", "REVOKE USAGE ON SEQUENCE app.free FROM \
        PUBLIC"),
    (
        13,
        "CREATE OR REPLACE VIEW app.happy AS SELECT id, name FROM app.users WHERE mood = 'sad'",
        "CREATE OR REPLACE VIEW app.happy AS SELECT id, name FROM app.users WHERE mood = 'happy'",
    ),
    (13, "ALTER VIEW app.happy SET (security_barrier)", "ALTER VIEW app.happy RESET \
        (security_barrier)"),
    (13, "ALTER VIEW app.happy ALTER name SET DEFAULT 'x'", "ALTER VIEW app.happy ALTER name DROP \
        DEFAULT"),
    (13, "COMMENT ON VIEW app.happy IS 'x'", "COMMENT ON VIEW app.happy IS NULL"),
    (13, "CREATE UNIQUE INDEX counts_i ON app.counts (user_id)", "DROP INDEX app.counts_i"),
    (
        13,
        "CREATE OR REPLACE FUNCTION app.twice(x int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT \
         x + x'",
        "CREATE OR REPLACE FUNCTION app.twice(x int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT \
         2 * x'",
    ),
    (13, "ALTER FUNCTION app.twice(int) STABLE", "ALTER FUNCTION app.twice(int) IMMUTABLE"),
    (13, "ALTER FUNCTION app.twice(int) SET work_mem = '1MB'", "ALTER FUNCTION app.twice(int) \
        RESET work_mem"),
    (
        13,
        "ALTER FUNCTION app.twice(int) PARALLEL SAFE LEAKPROOF COST 7",
        "ALTER FUNCTION app.twice(int) PARALLEL UNSAFE NOT LEAKPROOF COST 100",
    ),
    (13, "REVOKE ALL ON FUNCTION app.twice(int) FROM PUBLIC", "GRANT EXECUTE ON FUNCTION \
        app.twice(int) TO PUBLIC"),
    (13, "CREATE FUNCTION app.twice(x text) RETURNS text LANGUAGE sql AS 'SELECT x'", "DROP \
        FUNCTION app.twice(text)"),
    (13, "CREATE PROCEDURE app.p() LANGUAGE sql AS ''", "DROP PROCEDURE app.p()"),
    (
        13,
        "CREATE AGGREGATE app.total(int) (SFUNC = int4pl, STYPE = int, INITCOND = '0')",
        "DROP AGGREGATE app.total(int)",
    ),
    (
        13,
        "CREATE TRIGGER t AFTER INSERT OR UPDATE OF body ON app.notes FOR EACH STATEMENT EXECUTE \
         FUNCTION app.touch()",
        "DROP TRIGGER t ON app.notes",
    ),
    (13, "ALTER TABLE app.notes DISABLE TRIGGER touched", "ALTER TABLE app.notes ENABLE TRIGGER \
        touched"),
    (13, "ALTER TABLE app.notes ENABLE ALWAYS TRIGGER touched", "ALTER TABLE app.notes ENABLE \
        TRIGGER touched"),
    (
        13,
        "CREATE TRIGGER t AFTER INSERT ON app.events FOR EACH ROW EXECUTE FUNCTION app.touch();
         ALTER TABLE app.events_1 DISABLE TRIGGER t",
        "DROP TRIGGER t ON app.events",
    ),
    (
        13,
        "CREATE EVENT TRIGGER e ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION \
         app.listen()",
        "DROP EVENT TRIGGER e",
    ),
    (13, "CREATE RULE r AS ON INSERT TO app.parent DO INSTEAD NOTHING", "DROP RULE r ON \
        app.parent"),
    (13, "CREATE POLICY p ON app.notes AS RESTRICTIVE FOR SELECT USING (id > 1)", "DROP POLICY p \
        ON app.notes"),
    (13, "CREATE TYPE app.e AS ENUM ('a')", "DROP TYPE app.e"),
    (13, "ALTER TYPE app.mood RENAME VALUE 'ok' TO 'fine'", "ALTER TYPE app.mood RENAME VALUE \
        'fine' TO 'ok'"),
    (13, "COMMENT ON TYPE app.mood IS 'x'", "COMMENT ON TYPE app.mood IS NULL"),
    (13, "REVOKE USAGE ON TYPE app.mood FROM PUBLIC", "GRANT USAGE ON TYPE app.mood TO PUBLIC"),
    (13, "ALTER DOMAIN app.positive SET DEFAULT 5", "ALTER DOMAIN app.positive DROP DEFAULT"),
    (13, "ALTER DOMAIN app.positive SET NOT NULL", "ALTER DOMAIN app.positive DROP NOT NULL"),
    (
        13,
        "ALTER DOMAIN app.positive ADD CONSTRAINT few CHECK (VALUE < 9) NOT VALID",
        "ALTER DOMAIN app.positive DROP CONSTRAINT few",
    ),
    (13, "ALTER TYPE app.pair ADD ATTRIBUTE c int", "ALTER TYPE app.pair DROP ATTRIBUTE c"),
    (13, "ALTER TYPE app.pair ALTER ATTRIBUTE a TYPE bigint", "ALTER TYPE app.pair ALTER ATTRIBUTE \
        a TYPE int"),
    (13, "CREATE TYPE app.span AS RANGE (SUBTYPE = float8, SUBTYPE_DIFF = float8mi)", "DROP TYPE \
        app.span"),
    (13, "CREATE TYPE app.shell", "DROP TYPE app.shell"),
    (13, "CREATE TABLE app.child_2 () INHERITS (app.parent)", "DROP TABLE app.child_2"),
    (
        13,
        "ALTER TABLE app.events ATTACH PARTITION app.events_2 FOR VALUES FROM ('2026-02-01') TO \
         ('2026-03-01')",
        "ALTER TABLE app.events DETACH PARTITION app.events_2",
    ),
    (13, "CREATE STATISTICS app.s (dependencies) ON id, body FROM app.notes", "DROP STATISTICS \
        app.s"),
    (
        13,
        "ALTER DEFAULT PRIVILEGES IN SCHEMA app GRANT SELECT ON TABLES TO PUBLIC",
        "ALTER DEFAULT PRIVILEGES IN SCHEMA app REVOKE SELECT ON TABLES FROM PUBLIC",
    ),
    (13, "CREATE CAST (app.mood AS int) WITH INOUT AS ASSIGNMENT", "DROP CAST (app.mood AS int)"),
    (13, "CREATE CAST (app.pair AS text) WITH INOUT", "DROP CAST (app.pair AS text)"),
    (
        13,
        "CREATE OPERATOR app.=== (FUNCTION = int4eq, LEFTARG = int, RIGHTARG = int, COMMUTATOR = \
         OPERATOR(app.===), HASHES)",
        "DROP OPERATOR app.=== (int, int)",
    ),
    (13, "CREATE OPERATOR FAMILY app.f USING btree", "DROP OPERATOR FAMILY app.f USING btree"),
    (
        13,
        "CREATE OPERATOR CLASS app.c FOR TYPE int USING btree AS OPERATOR 1 <, OPERATOR 3 =, \
         FUNCTION 1 btint4cmp(int, int)",
        "DROP OPERATOR FAMILY app.c USING btree",
    ),
    (13, "CREATE COLLATION app.c (LOCALE = 'C')", "DROP COLLATION app.c"),
    (13, "CREATE CONVERSION app.c FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8", "DROP CONVERSION \
        app.c"),
    (
        13,
        "CREATE TRANSFORM FOR int LANGUAGE sql (FROM SQL WITH FUNCTION prsd_lextype(internal))",
        "DROP TRANSFORM FOR int LANGUAGE sql",
    ),
    (13, "CREATE ACCESS METHOD m TYPE INDEX HANDLER bthandler", "DROP ACCESS METHOD m"),
    (13, "CREATE TEXT SEARCH CONFIGURATION app.c (COPY = english)", "DROP TEXT SEARCH \
        CONFIGURATION app.c"),
    (
        13,
        "CREATE TEXT SEARCH DICTIONARY app.d (TEMPLATE = simple, ACCEPT = false)",
        "DROP TEXT SEARCH DICTIONARY app.d",
    ),
    (13, "CREATE FOREIGN DATA WRAPPER w OPTIONS (a 'b')", "DROP FOREIGN DATA WRAPPER w"),
    (
        13,
        "CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s VERSION '1' FOREIGN DATA WRAPPER w OPTIONS (host 'x');
         CREATE FOREIGN TABLE app.remote (id int OPTIONS (a 'b')) SERVER s OPTIONS (t 'x')",
        "DROP FOREIGN DATA WRAPPER w CASCADE",
    ),
    (13, "CREATE PUBLICATION p FOR TABLE app.notes, app.users WITH (publish = 'insert')", "DROP \
        PUBLICATION p"),
    (15, "CREATE PUBLICATION p FOR TABLE app.notes WHERE (id > 4), TABLES IN SCHEMA public", "DROP \
        PUBLICATION p"),
    (15, "CREATE PUBLICATION p FOR TABLE app.notes (id, body)", "DROP PUBLICATION p"),
    (13, "CREATE PUBLICATION p FOR ALL TABLES", "DROP PUBLICATION p"),
    (13, "REVOKE ALL ON FUNCTION pg_sleep(float8) FROM PUBLIC", "GRANT EXECUTE ON FUNCTION \
        pg_sleep(float8) TO PUBLIC"),
    (13, "GRANT SELECT ON pg_authid TO PUBLIC", "REVOKE SELECT ON pg_authid FROM PUBLIC"),
];

/// Statements with choices, since which version; most of them are refused now and then.
pub const TEMPLATES: &[(u32, &str)] = &[
    (
        13,
        "CREATE TABLE {{app|public}}.{{t1|t2|t3}} ({{a|b}} \
         {{int|text|numeric(6,2)|app.mood|int[]|timestamptz(3)}}, c {{serial|int|bigserial}} \
         {{PRIMARY KEY|NOT NULL|UNIQUE}})",
    ),
    (
        13,
        "CREATE {{UNLOGGED|}} TABLE app.{{t1|t2|t3}} (a int {{DEFAULT 1|DEFAULT 2|}}, b text \
         {{COLLATE \"C\"|}}, {{PRIMARY KEY (a)|UNIQUE (a, b)|CHECK (a > 1)}})",
    ),
    (
        13,
        "CREATE TABLE app.{{t1|t2|t3}} (LIKE app.{{notes|users|t1}} INCLUDING \
         {{ALL|DEFAULTS|CONSTRAINTS|INDEXES}})",
    ),
    (
        13,
        "CREATE TABLE app.{{t1|t2}} (x int) INHERITS (app.{{parent|child|t3}})",
    ),
    (
        13,
        "CREATE TABLE app.{{t1|t2|t3}} (a int, b int, c text) PARTITION BY {{LIST (a)|RANGE \
         (a)|HASH (a)|RANGE (a, b)|LIST ((a + 1))}}",
    ),
    (
        13,
        "CREATE TABLE app.{{p1|p2}} PARTITION OF app.{{t1|t2|t3|events}} {{DEFAULT|FOR VALUES IN \
         (1, 2)|FOR VALUES FROM (1) TO (5)|FOR VALUES WITH (MODULUS 2, REMAINDER 0)|FOR VALUES \
         FROM ('2027-01-01') TO ('2028-01-01')}}",
    ),
    (
        13,
        "ALTER TABLE app.{{t1|t2|t3|events}} DETACH PARTITION app.{{p1|p2|events_1}}",
    ),
    (
        13,
        "ALTER TABLE app.{{t1|t2|t3}} ATTACH PARTITION app.{{p1|p2}} DEFAULT",
    ),
    (13, "CREATE TABLE app.{{t1|t2}} OF app.pair"),
    (
        13,
        "DROP TABLE {{app|public}}.{{t1|t2|t3|p1|p2}} {{CASCADE|}}",
    ),
    (
        13,
        "ALTER TABLE app.{{t1|t2|t3|notes|parent|events}} ADD {{x|y}} \
         {{int|text|varchar(9)|app.positive|app.pair|app.mood|xml|jsonb}} {{NOT NULL|DEFAULT \
         NULL|}}",
    ),
    (
        13,
        "ALTER TABLE app.{{t1|t2|t3|notes|parent|events}} DROP {{x|y|b|c|body}} {{CASCADE|}}",
    ),
    (
        13,
        "ALTER TABLE app.{{t1|t2|t3|notes|parent|events|child}} RENAME {{x|y|b|c}} TO {{x|y|z|b}}",
    ),
    (
        13,
        "ALTER TABLE app.{{t1|t2|t3|notes|parent|child}} ALTER {{x|y|b|c|a}} {{SET NOT NULL|DROP \
         NOT NULL|SET DEFAULT NULL|DROP DEFAULT}}",
    ),
    (
        13,
        "ALTER TABLE app.{{t1|t2|t3|notes|parent|child}} ALTER {{x|y|b|c|a}} TYPE {{text USING \
         NULL|int USING NULL|varchar(5) USING NULL|char(3) USING NULL}}",
    ),
    (
        13,
        "ALTER TABLE app.{{t1|t2|t3|notes|parent|child}} ALTER {{x|y|b|c|body}} SET {{STATISTICS \
         5|STATISTICS 0|STATISTICS -1|STORAGE MAIN|STORAGE EXTENDED|STORAGE PLAIN|(n_distinct = \
         3)}}",
    ),
    (
        13,
        "ALTER TABLE app.{{t1|t2|t3|notes|parent|child}} ALTER {{x|a|c}} ADD GENERATED {{ALWAYS|BY \
         DEFAULT}} AS IDENTITY {{(START 5 INCREMENT 2)|}}",
    ),
    (
        13,
        "ALTER TABLE app.{{t1|t2|t3|notes|parent|child}} ALTER {{x|a|c}} DROP IDENTITY",
    ),
    (
        13,
        "ALTER TABLE app.{{t1|t2|t3|notes|parent|events}} ADD CONSTRAINT {{k1|k2}} {{CHECK (a > \
         1)|CHECK (true) NO INHERIT|UNIQUE (a)|UNIQUE (a) DEFERRABLE|UNIQUE (a) INCLUDE \
         (b)|PRIMARY KEY (a)|CHECK (a > 2) NOT VALID}}",
    ),
    (
        13,
        "ALTER TABLE app.{{t1|t2|t3|notes}} ADD CONSTRAINT {{k1|k2}} FOREIGN KEY (a) REFERENCES \
         app.{{users|notes|t1}} {{ON DELETE CASCADE|ON UPDATE SET NULL|MATCH FULL|NOT \
         VALID|DEFERRABLE|}}",
    ),
    (
        15,
        "ALTER TABLE app.{{t1|t2|t3|notes}} ADD CONSTRAINT {{k1|k2}} UNIQUE NULLS NOT DISTINCT \
         (a)",
    ),
    (
        18,
        "ALTER TABLE app.{{t1|t2|t3|notes}} ADD CONSTRAINT {{k1|k2}} CHECK (a > 3) NOT ENFORCED",
    ),
    (
        18,
        "ALTER TABLE app.{{t1|t2|t3|notes|parent}} ADD CONSTRAINT {{k1|k2}} NOT NULL {{a|b|x}} \
         {{NO INHERIT|NOT VALID|}}",
    ),
    (
        18,
        "ALTER TABLE app.{{t1|t2|t3|notes|parent|events}} ADD {{x|y}} int GENERATED ALWAYS AS (a + \
         1) {{VIRTUAL|STORED}}",
    ),
    (
        13,
        "ALTER TABLE app.{{t1|t2|t3|notes|child}} DROP CONSTRAINT {{k1|k2|notes_pkey|t1_pkey}} \
         {{CASCADE|}}",
    ),
    (
        13,
        "ALTER TABLE app.{{t1|t2|t3|notes}} VALIDATE CONSTRAINT {{k1|k2}}",
    ),
    (
        13,
        "ALTER TABLE app.{{t1|t2|t3|notes}} RENAME CONSTRAINT {{k1|k2}} TO {{k1|k2|k3}}",
    ),
    (
        13,
        "ALTER TABLE app.{{t1|t2|t3|notes|parent|child|users}} OWNER TO \
         {{OWNER_ROLE|CURRENT_USER}}",
    ),
    (
        13,
        "ALTER {{TABLE app.notes|VIEW app.happy|SEQUENCE app.free|FUNCTION app.twice(int)|TYPE \
         app.mood|DOMAIN app.positive|SCHEMA app|MATERIALIZED VIEW app.counts|TYPE app.pair}} \
         OWNER TO {{OWNER_ROLE|CURRENT_USER}}",
    ),
    (
        13,
        "GRANT {{SELECT|INSERT, UPDATE|ALL|TRUNCATE}} ON \
         app.{{t1|notes|users|happy|counts|events}} TO {{READER|PUBLIC|OWNER_ROLE}} {{WITH GRANT \
         OPTION|}}",
    ),
    (
        13,
        "REVOKE {{SELECT|INSERT|ALL|GRANT OPTION FOR SELECT}} ON \
         app.{{t1|notes|users|happy|counts|events}} FROM {{READER|PUBLIC|OWNER_ROLE|CURRENT_USER}} \
         {{CASCADE|}}",
    ),
    (
        13,
        "{{GRANT SELECT (id) ON app.notes TO|REVOKE SELECT (id) ON app.notes FROM|GRANT UPDATE \
         (id, user_id) ON app.notes TO}} READER",
    ),
    (
        13,
        "{{GRANT|REVOKE}} {{USAGE ON SCHEMA app|CREATE ON SCHEMA app|EXECUTE ON FUNCTION \
         app.twice(int)|USAGE ON SEQUENCE app.free|USAGE ON TYPE app.mood|USAGE ON DOMAIN \
         app.positive|USAGE ON SCHEMA public}} {{TO|FROM}} {{READER|PUBLIC|OWNER_ROLE}}",
    ),
    (
        13,
        "ALTER DEFAULT PRIVILEGES {{FOR ROLE OWNER_ROLE|}} {{IN SCHEMA app|}} {{GRANT|REVOKE}} \
         {{SELECT ON TABLES|EXECUTE ON FUNCTIONS|USAGE ON TYPES|USAGE ON SEQUENCES}} {{TO|FROM}} \
         {{READER|PUBLIC}}",
    ),
    (
        13,
        "CREATE {{UNIQUE|}} INDEX {{i1|i2|i3}} ON app.{{t1|t2|t3|notes|events|parent}} {{(a)|(a \
         DESC NULLS LAST)|USING hash (a)|((a + 1))|(a) WHERE a > 1|(a) INCLUDE (b)|(at)}} {{WITH \
         (fillfactor = 60)|}}",
    ),
    (13, "CREATE INDEX {{i1|i2}} ON ONLY app.events (at)"),
    (
        13,
        "ALTER INDEX app.{{i1|i2}} ATTACH PARTITION app.{{i1|i2|i3}}",
    ),
    (13, "DROP INDEX app.{{i1|i2|i3|notes_body}}"),
    (
        13,
        "ALTER INDEX app.{{i1|i2|i3|notes_body|notes_pkey}} RENAME TO {{i1|i2|i3}}",
    ),
    (
        13,
        "ALTER TABLE app.{{t1|t2|notes|users}} {{CLUSTER ON i1|SET WITHOUT CLUSTER|REPLICA \
         IDENTITY NOTHING|REPLICA IDENTITY DEFAULT|REPLICA IDENTITY USING INDEX i1|ENABLE ROW \
         LEVEL SECURITY|SET UNLOGGED|SET LOGGED|NOT OF}}",
    ),
    (
        13,
        "CREATE {{SEQUENCE|SEQUENCE IF NOT EXISTS}} app.{{q1|q2}} {{AS int|INCREMENT -1|MINVALUE 3 \
         START 4|CYCLE|}}",
    ),
    (
        13,
        "ALTER SEQUENCE app.{{q1|q2|free|users_id_seq}} {{OWNED BY NONE|OWNED BY \
         app.notes.id|INCREMENT 3|MAXVALUE 99|NO MAXVALUE|CACHE 9}}",
    ),
    (13, "SELECT nextval('app.{{q1|q2|free|users_id_seq}}')"),
    (13, "DROP SEQUENCE app.{{q1|q2|users_id_seq}} {{CASCADE|}}"),
    (
        13,
        "CREATE OR REPLACE VIEW app.{{v1|v2}} {{WITH (security_barrier)|}} AS SELECT {{*|id|id, \
         count(*) OVER () AS n}} FROM app.{{notes|users|happy}} {{WHERE id > 1|}}",
    ),
    (
        13,
        "CREATE VIEW app.{{v1|v2}} AS SELECT id FROM app.users WHERE id > 1 WITH \
         {{CASCADED|LOCAL}} CHECK OPTION",
    ),
    (
        13,
        "CREATE RECURSIVE VIEW app.{{v1|v2}} (n) AS VALUES (1) UNION ALL SELECT n + 1 FROM \
         {{v1|v2}} WHERE n < 5",
    ),
    (
        13,
        "DROP {{VIEW app.v1|VIEW app.v2|VIEW app.happy|MATERIALIZED VIEW app.m1}} {{CASCADE|}}",
    ),
    (
        13,
        "CREATE MATERIALIZED VIEW app.m1 AS SELECT {{id|id, name}} FROM app.users WITH \
         {{DATA|DATA}}",
    ),
    (
        13,
        "COMMENT ON {{TABLE app.t1|TABLE app.notes|COLUMN app.notes.id|VIEW app.v1|COLUMN \
         app.happy.id|INDEX app.i1|SEQUENCE app.free|FUNCTION app.twice(int)|TYPE app.mood|TYPE \
         app.pair|COLUMN app.pair.a|DOMAIN app.positive|CONSTRAINT k1 ON app.t1|CONSTRAINT \
         notes_pkey ON app.notes|CONSTRAINT positive_check ON DOMAIN app.positive|TRIGGER touched \
         ON app.notes|SCHEMA app|MATERIALIZED VIEW app.counts|STATISTICS app.s1|POLICY p1 ON \
         app.notes|RULE r1 ON app.notes|SCHEMA public|EXTENSION plpgsql}} IS {{'one'|'two'|NULL}}",
    ),
    (
        13,
        "CREATE {{OR REPLACE|}} FUNCTION app.{{f1|f2}}({{|a int|a text DEFAULT 'x'|a \
         anyelement|VARIADIC a int[]|a int, OUT b int, OUT c text}}) {{|RETURNS void|RETURNS \
         text|RETURNS SETOF int|RETURNS TABLE (x int)}} LANGUAGE {{sql|plpgsql}} \
         {{STABLE|STRICT|SECURITY DEFINER|SET search_path = app|COST 5|}} AS {{'SELECT 1'|'BEGIN \
         END'|'SELECT 2'}}",
    ),
    (
        14,
        "CREATE OR REPLACE FUNCTION app.{{f1|f2}}(a int) RETURNS int LANGUAGE sql {{RETURN a + \
         1|RETURN a|BEGIN ATOMIC SELECT a; SELECT 2; END}}",
    ),
    (
        13,
        "DROP {{FUNCTION|ROUTINE}} app.{{f1|f2|f1(int)|f2(text)|f1()}} {{CASCADE|}}",
    ),
    (
        13,
        "CREATE {{OR REPLACE|}} PROCEDURE app.{{f1|p1}}({{|a int|INOUT a int}}) LANGUAGE plpgsql \
         AS 'BEGIN END'",
    ),
    (
        13,
        "ALTER ROUTINE app.{{f1|f2|twice}} {{SECURITY DEFINER|STABLE|COST 3|RESET ALL|SET work_mem \
         = '2MB'}}",
    ),
    (
        13,
        "CREATE AGGREGATE app.{{g1|g2}}(int) (SFUNC = {{int4pl|int4larger}}, STYPE = int {{, \
         INITCOND = '0'|, COMBINEFUNC = int4pl|, PARALLEL = SAFE|, SORTOP = >|, MSFUNC = int4pl, \
         MINVFUNC = int4mi, MSTYPE = int|}})",
    ),
    (13, "DROP AGGREGATE app.{{g1|g2}}(int)"),
    (
        13,
        "CREATE {{CONSTRAINT|}} TRIGGER {{g1|g2}} AFTER {{INSERT|UPDATE OF id|DELETE}} ON \
         app.{{notes|users|events|t1}} {{DEFERRABLE|}} FOR EACH ROW {{WHEN (1 = 1)|}} EXECUTE \
         FUNCTION app.touch({{|'x'}})",
    ),
    (
        13,
        "CREATE TRIGGER {{g1|g2}} AFTER INSERT ON app.{{notes|users|events}} REFERENCING NEW TABLE \
         AS n FOR EACH STATEMENT EXECUTE FUNCTION app.touch()",
    ),
    (
        13,
        "DROP TRIGGER {{g1|g2}} ON app.{{notes|users|events|t1}}",
    ),
    (
        13,
        "ALTER TABLE app.{{notes|events|events_1|users}} {{ENABLE|DISABLE|ENABLE ALWAYS|ENABLE \
         REPLICA}} TRIGGER {{g1|g2|touched}}",
    ),
    (
        13,
        "ALTER TRIGGER {{g1|g2}} ON app.{{notes|events}} RENAME TO {{g1|g2|g3}}",
    ),
    (
        13,
        "CREATE {{OR REPLACE|}} RULE {{r1|r2}} AS ON {{INSERT|DELETE}} TO \
         app.{{notes|parent|happy}} {{WHERE 1 = 1|}} DO {{INSTEAD NOTHING|ALSO SELECT 1|NOTIFY \
         x}}",
    ),
    (13, "DROP RULE {{r1|r2}} ON app.{{notes|parent|happy}}"),
    (
        13,
        "ALTER TABLE app.{{notes|parent}} {{DISABLE|ENABLE|ENABLE ALWAYS}} RULE {{r1|r2}}",
    ),
    (
        13,
        "CREATE POLICY {{p1|p2}} ON app.{{notes|users|t1}} {{AS RESTRICTIVE|}} FOR \
         {{ALL|SELECT|UPDATE}} TO {{PUBLIC|READER|READER, OWNER_ROLE|OWNER_ROLE, READER}} USING \
         ({{true|id > 3}})",
    ),
    (
        13,
        "ALTER POLICY {{p1|p2}} ON app.{{notes|users}} {{USING (id > 4)|TO READER|WITH CHECK (id > \
         5)|RENAME TO p2}}",
    ),
    (13, "DROP POLICY {{p1|p2}} ON app.{{notes|users|t1}}"),
    (
        13,
        "CREATE TYPE app.{{e1|e2}} AS {{ENUM ('a', 'b')|ENUM ()|(x int, y text)|RANGE (SUBTYPE = \
         int)|RANGE (SUBTYPE = text, COLLATION = \"C\")}}",
    ),
    (
        13,
        "ALTER TYPE app.{{e1|mood}} ADD VALUE IF NOT EXISTS {{'b'|'c'|'z'}} {{BEFORE 'a'|AFTER \
         'a'|AFTER 'ok'|}}",
    ),
    (13, "DROP TYPE app.{{e1|e2}} {{CASCADE|}}"),
    (
        13,
        "CREATE DOMAIN app.{{d1|d2}} AS {{int|text|varchar(4)|app.positive|int[]}} {{NOT \
         NULL|DEFAULT NULL|COLLATE \"C\"|CHECK (VALUE IS NOT NULL)|}}",
    ),
    (
        13,
        "ALTER DOMAIN app.{{d1|d2|positive}} {{SET NOT NULL|DROP NOT NULL|SET DEFAULT '3'|DROP \
         DEFAULT|ADD CONSTRAINT k1 CHECK (VALUE IS NOT NULL)|DROP CONSTRAINT k1|RENAME CONSTRAINT \
         k1 TO k2|ADD CONSTRAINT k1 CHECK (true) NOT VALID|VALIDATE CONSTRAINT k1}}",
    ),
    (13, "DROP DOMAIN app.{{d1|d2}} {{CASCADE|}}"),
    (
        13,
        "ALTER TYPE app.{{pair|e1|e2}} {{ADD ATTRIBUTE z int|DROP ATTRIBUTE z|ALTER ATTRIBUTE b \
         TYPE varchar(3)|RENAME ATTRIBUTE b TO bb|RENAME TO e2|SET SCHEMA public}} {{CASCADE|}}",
    ),
    (
        13,
        "ALTER TABLE app.{{child|t1|t2}} {{INHERIT|NO INHERIT}} app.{{parent|t3}}",
    ),
    (
        13,
        "ALTER TABLE app.{{t1|t2|t3|notes|p1}} RENAME TO {{t1|t2|t3|p2|notes}}",
    ),
    (
        13,
        "ALTER {{TABLE app.t1|VIEW app.v1|SEQUENCE app.q1|FUNCTION app.f1|TYPE app.e1|DOMAIN \
         app.d1}} SET SCHEMA {{public|app}}",
    ),
    (
        13,
        "CREATE STATISTICS app.{{s1|s2}} {{(ndistinct)|(mcv, dependencies)|}} ON {{id, \
         user_id|user_id, id}} FROM app.notes",
    ),
    (
        14,
        "CREATE STATISTICS app.{{s1|s2}} ON (id + 1), user_id FROM app.notes",
    ),
    (
        13,
        "{{DROP STATISTICS app.s1|ALTER STATISTICS app.s1 SET STATISTICS 4|ALTER STATISTICS app.s1 \
         SET STATISTICS -1|ALTER STATISTICS app.s1 RENAME TO s2}}",
    ),
    (
        13,
        "{{CREATE SCHEMA s1|DROP SCHEMA s1 CASCADE|CREATE SCHEMA s1 AUTHORIZATION OWNER_ROLE|ALTER \
         SCHEMA s1 RENAME TO s2|CREATE TABLE s1.t (id int)|CREATE VIEW s1.v AS SELECT * FROM \
         app.notes}}",
    ),
    (
        13,
        "{{CREATE EVENT TRIGGER e1 ON sql_drop EXECUTE FUNCTION app.listen()|DROP EVENT TRIGGER \
         e1|ALTER EVENT TRIGGER e1 DISABLE|ALTER EVENT TRIGGER e1 ENABLE ALWAYS|DROP FUNCTION \
         app.listen()}}",
    ),
    (
        13,
        "ALTER TABLE app.{{notes|users|t1}} {{SET (autovacuum_enabled = off)|RESET \
         (autovacuum_enabled)|SET (toast.autovacuum_enabled = off)|SET (fillfactor = 30, \
         parallel_workers = 3)|RESET (fillfactor)}}",
    ),
    (
        13,
        "ALTER TABLE app.{{t1|t2|notes|child|p1}} ALTER CONSTRAINT {{k1|k2|notes_user_id_fkey}} \
         {{DEFERRABLE|NOT DEFERRABLE|DEFERRABLE INITIALLY DEFERRED}}",
    ),
];
