use super::*;

#[test]
fn what_reaches_outside_is_found_where_it_stands() {
    for sql in [
        "CREATE ROLE app",
        "create /* a */ user app password 'x'",
        "DROP GROUP g",
        "ALTER USER a SET search_path = b",
        "GRANT reader TO app",
        "REVOKE reader FROM app",
        "GRANT CONNECT ON DATABASE app TO x",
        "COMMENT ON DATABASE app IS 'x'",
        "ALTER DATABASE app SET timezone = 'UTC'",
        "CREATE DATABASE other",
        "ALTER SYSTEM SET work_mem = 1",
        "CREATE TABLESPACE t LOCATION '/x'",
        "CREATE SUBSCRIPTION s CONNECTION 'host=x' PUBLICATION p",
        "COPY t FROM PROGRAM 'curl x'",
        "COPY t (a) TO '/tmp/x' WITH CSV",
        "CREATE SERVER s FOREIGN DATA WRAPPER postgres_fdw",
        "CREATE USER MAPPING FOR a SERVER s",
        "SELECT * FROM public.dblink('host=x', 'SELECT 1') AS t(i int)",
        "SELECT dblink_connect('x')",
        "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_stat_activity",
        "INSERT INTO t SELECT pg_read_file('/etc/passwd')",
        "DROP OWNED BY app",
        "LOAD 'x'",
        "CREATE FUNCTION f() RETURNS int LANGUAGE plpython3u AS $$ import os $$",
        "CREATE FUNCTION f() RETURNS int AS 'lib', 'f' LANGUAGE C",
        "DO $$ BEGIN IF NOT EXISTS (SELECT 1) THEN CREATE ROLE app; END IF; END $$",
        "DO $x$ BEGIN EXECUTE 'CREATE ROLE app'; END $x$",
        "DO 'BEGIN PERFORM pg_reload_conf(); END'",
        "COPY t TO $$/tmp/x$$",
        "DO $$ BEGIN COPY t TO $f$/tmp/x$f$; END $$",
        "DO LANGUAGE plpython3u $$ import os $$",
        "DO $$ use x; $$ LANGUAGE plperlu",
        "DO 'BEGIN CREATE '\n ' ROLE r; END'",
        r"DO E'BEGIN CREATE \x52OLE r; END'",
        r"DO U&'BEGIN CREATE \0052OLE r; END'",
        r#"SELECT U&"pg_read\005ffile"('x')"#,
        "SELECT * FROM a JOIN b ON pg_terminate_backend(b.pid)",
        "SELECT query_to_xml('SELECT pg_read_file(''x'')', true, true, '')",
        "UPDATE pg_catalog.pg_database SET datconnlimit = 0",
        "DELETE FROM ONLY pg_db_role_setting",
        "WITH x AS (INSERT INTO pg_authid SELECT 1 RETURNING 1) SELECT 1",
        "DO $$ BEGIN UPDATE pg_authid SET rolname = 'x'; END $$",
        "SELECT pg_backup_start('x')",
        "SELECT pg_stat_reset_slru(NULL)",
        "SELECT pg_logical_emit_message(false, 'a', 'b')",
        "SELECT pg_log_backend_memory_contexts(1)",
        "CREATE OPERATOR # (LEFTARG = text, FUNCTION = pg_catalog.pg_read_file)",
        "CREATE AGGREGATE a (text) (SFUNC = textcat, STYPE = text, FINALFUNC = pg_read_file)",
        "CREATE CAST (text AS x) WITH FUNCTION pg_read_file(text)",
        "GRANT CREATE ON TABLESPACE role TO app",
        "CREATE OR REPLACE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM \
         dblink_exec('x', 'y'); END $$",
    ] {
        let found = first_reach(&format!("SELECT 1;\n  {sql};"));
        assert_eq!(
            found.map(|found| found.place),
            Some(TextPosition { line: 2, column: 3 }),
            "{sql}"
        );
    }
}

#[test]
fn what_stays_inside_is_left_alone() {
    for sql in [
        "CREATE TABLE role (user_role text)",
        "GRANT SELECT ON t TO app",
        "REVOKE ALL ON ALL TABLES IN SCHEMA public FROM app",
        "GRANT USAGE ON SCHEMA s TO app",
        "COMMENT ON TABLE t IS 'CREATE ROLE app'",
        "INSERT INTO t VALUES ('DROP DATABASE x')",
        "ALTER TABLE users ADD COLUMN role text",
        "CREATE EXTENSION dblink",
        "COPY t FROM STDIN",
        "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO app",
        "SET ROLE app",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "DO $$ BEGIN CREATE TABLE t (); EXCEPTION WHEN duplicate_table THEN NULL; END $$",
        "CREATE FUNCTION f(a int) RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'DELETE FROM t \
         WHERE a = $1' USING a; END $$",
        "CREATE TABLE lo_exports (id int)",
        "CREATE TABLE IF NOT EXISTS pg_copy_log (id int)",
        "CREATE TABLE public.dblink_cache (id int)",
        "INSERT INTO public.pg_copy_log (id) VALUES (1)",
        "CREATE VIEW pg_copy_v (a) AS SELECT 1",
        "CREATE FUNCTION dblink_safe() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE INDEX i ON public.dblink_cache (id)",
        "WITH pg_copy_x (a) AS (SELECT 1) SELECT a FROM pg_copy_x",
        "GRANT SELECT ON role TO mk",
        "GRANT SELECT ON database TO mk",
        "REVOKE SELECT, UPDATE ON parameter, role FROM mk",
        "DO $$ BEGIN PERFORM CASE WHEN true THEN load ELSE load END FROM t; END $$",
        "DO $$ DECLARE copy int; BEGIN copy := (SELECT count(program.id) FROM program); END $$",
        "DO $$ DECLARE copy text; BEGIN copy = substring('abc' from 'b'); END $$",
        "COPY (SELECT substring(a from 'b') FROM t) TO STDOUT",
        "SELECT * FROM pg_database FOR UPDATE",
        "SELECT name = dblink_cache FROM t",
        "INSERT INTO dblink_log (id) VALUES (1)",
    ] {
        assert_eq!(first_reach(sql), None, "{sql}");
    }
}

#[test]
fn what_is_put_together_at_run_time_is_flagged() {
    for sql in [
        "DO $$ BEGIN EXECUTE format('DROP TABLE %I', 'x'); END $$",
        "CREATE FUNCTION f(t text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'DROP TABLE ' \
         || t; END $$",
    ] {
        assert!(is_dynamic(sql), "{sql}");
    }
    for sql in [
        "DO $$ BEGIN CREATE TRIGGER t BEFORE INSERT ON x EXECUTE FUNCTION f(); END $$",
        "CREATE TRIGGER t BEFORE INSERT ON x FOR EACH ROW EXECUTE PROCEDURE f()",
        "GRANT EXECUTE ON FUNCTION f() TO app",
    ] {
        assert!(!is_dynamic(sql), "{sql}");
    }
}

#[test]
fn the_line_within_a_body_is_told() {
    let at = |sql: &str| first_reach(sql).map(|reach| (reach.place.line, reach.place.column));
    let body = "SELECT 1;\nDO $do$\nBEGIN\n  PERFORM 1;\n    IF true THEN\n\tCREATE ROLE app;\n  \
        END IF;\n  PERFORM 2;\nEND $do$;";
    assert_eq!(at(body), Some((6, 2)));
    assert_eq!(
        at("CREATE FUNCTION f() RETURNS int LANGUAGE plpython3u AS $$\n import os\n $$"),
        Some((1, 1))
    );
    assert_eq!(at("SELECT 1;\n CREATE ROLE app"), Some((2, 2)));
    assert_eq!(at("DO $$ BEGIN CREATE ROLE a; END $$"), Some((1, 1)));
    assert_eq!(at("DO 'BEGIN\n CREATE ROLE a; END'"), Some((1, 1)));
    // If the statement continues on the next line, the position is the line that decides.
    assert_eq!(
        at("DO $$ BEGIN\n COPY t\n  FROM PROGRAM 'x'; END $$"),
        Some((3, 3))
    );
    let role = "DO $$\nBEGIN\n  SET ROLE other;\nEND $$";
    assert_eq!(
        first_role_change(role).unwrap().place,
        TextPosition { line: 3, column: 3 }
    );
}

#[test]
fn a_body_in_too_many_bodies_is_taken_for_one_that_reaches_outside() {
    let nested = |depth: usize| {
        let open: String = (0..depth).map(|n| format!("EXECUTE $a{n}$ ")).collect();
        let close: String = (0..depth).rev().map(|n| format!(" $a{n}$")).collect();
        format!("DO $do$ BEGIN {open} SELECT 1 {close}; END $do$")
    };
    assert_eq!(first_reach(&nested(3)), None);
    for depth in [DEEPEST + 1, 100_000] {
        assert!(first_reach(&nested(depth)).is_some(), "{depth}");
    }
}

#[test]
fn every_statement_of_a_body_is_judged_by_its_own_words() {
    for (sql, expected) in [
        (
            "DO $$ BEGIN GRANT SELECT ON t TO a; GRANT b TO c; END $$",
            true,
        ),
        (
            "DO $$ BEGIN GRANT SELECT ON t TO a; GRANT SELECT ON t TO c; END $$",
            false,
        ),
        (
            "DO $$ BEGIN GRANT SELECT ON t TO a; IF b THEN GRANT ALL ON DATABASE d TO c; END IF; \
             END $$",
            true,
        ),
        (
            "DO $$ BEGIN COPY (SELECT (a) FROM t) TO STDOUT; COPY t TO PROGRAM 'x'; END $$",
            true,
        ),
        ("DO $$ BEGIN PERFORM (1; COPY t FROM '/x'; END $$", true),
        (
            "DO $$ BEGIN CREATE FUNCTION f() RETURNS int LANGUAGE sql AS $f$$f$; PERFORM language \
             c; END $$",
            false,
        ),
        (
            "DO $$ BEGIN CREATE FUNCTION f() RETURNS int AS 'x' LANGUAGE c; END $$",
            true,
        ),
    ] {
        assert_eq!(first_reach(sql).is_some(), expected, "{sql}");
    }
}
