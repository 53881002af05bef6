#!/usr/bin/env python3
"""100 small migrations: `schemad rehearse` against the loop of diesel_cli and pg_dump, paired on one server.

  cargo build --release --bin schemad
  benches/rehearse.py [--migrations 100] [--pairs 3] [--bad 0] [--rows] [--durable] [--starts]
                      [--diesel PROGRAM] [--schemad PROGRAM]

Prints the ratio loop / schemad of each pair and its median; 10 or more is the aim. Both use the same private server, so the start of
one is not counted. The loop is that of tests/real_rehearse.py: each migration up, down and up on a copy of the clean state, and
pg_dump before and after each. --bad N: every N-th down restores nothing. --rows: every third migration writes rows. --durable: fsync on.
"""
import argparse, contextlib, os, pathlib, statistics, subprocess, sys, tempfile, time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests"))
from real import TARGET, TEXT, Migration, Server, diesel_cli
from real_rehearse import Loop


def migration(n, bad, rows):
    """(up, down): tables with keys and indexes, then columns, types, views, functions; what a project's history looks like."""
    table = f"t{n - n % 5}"
    up, down = [
        (f"CREATE TABLE {table} (id serial PRIMARY KEY, name text NOT NULL, at timestamptz NOT NULL DEFAULT now());\n"
         f"CREATE INDEX {table}_name ON {table} (name);", f"DROP TABLE {table};"),
        (f"ALTER TABLE {table} ADD COLUMN state int NOT NULL DEFAULT 0;", f"ALTER TABLE {table} DROP COLUMN state;"),
        (f"CREATE TYPE kind{n} AS ENUM ('a', 'b');\nALTER TABLE {table} ADD COLUMN kind kind{n};",
         f"ALTER TABLE {table} DROP COLUMN kind;\nDROP TYPE kind{n};"),
        (f"CREATE VIEW v{n} AS SELECT id, name FROM {table} WHERE state > 0;", f"DROP VIEW v{n};"),
        (f"CREATE FUNCTION f{n}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.name := lower(NEW.name); RETURN NEW; END $$;\n"
         f"CREATE TRIGGER g{n} BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION f{n}();",
         f"DROP TRIGGER g{n} ON {table};\nDROP FUNCTION f{n};"),
    ][n % 5]
    if rows and n % 3 == 1:
        up += f"\nINSERT INTO {table} (name, at) SELECT 'x' || i, '2026-01-01' FROM generate_series(1, 10) i;"
        down = f"TRUNCATE {table} RESTART IDENTITY;\n" + down if n % 5 else down
    return up, "SELECT 1;" if bad and n % bad == bad - 1 else down


def write(folder, count, bad, rows):
    for n in range(count):
        (folder / f"{n:04}_m{n}").mkdir(parents=True)
        for name, sql in zip(("up", "down"), migration(n, bad, rows)):
            (folder / f"{n:04}_m{n}" / f"{name}.sql").write_text(sql + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--migrations", type=int, default=100)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--bad", type=int, default=0)
    parser.add_argument("--rows", action="store_true")
    parser.add_argument("--durable", action="store_true")
    parser.add_argument("--starts", action="store_true", help="measure nothing: only see that schemad rehearses")
    parser.add_argument("--diesel")
    parser.add_argument("--schemad", type=pathlib.Path, default=TARGET / "release/schemad")
    arguments = parser.parse_args()
    schemad, diesel = arguments.schemad.resolve(), None if arguments.starts else diesel_cli(arguments.diesel)
    schemad.exists() or sys.exit("first: cargo build --release --bin schemad")
    with tempfile.TemporaryDirectory(prefix="rehearse-") as root, contextlib.ExitStack() as at_end:
        root = pathlib.Path(root)
        os.chmod(root, 0o755)
        write(root / "set", arguments.migrations, arguments.bad, arguments.rows)
        migrations = [Migration(path) for path in sorted((root / "set").iterdir())]
        server = Server(root / "server", at_end)
        if arguments.durable:
            for sql in "ALTER SYSTEM SET fsync = on", "ALTER SYSTEM SET full_page_writes = on", "SELECT pg_reload_conf()":
                server.psql(None, "-c", sql)
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("SCHEMAD_", "SCRATCH_", "DATABASE_URL"))}
        environment["SCRATCH_DATABASE_URL"] = server.url("postgres")
        ratios = []
        for pair in range(arguments.pairs):
            begun = time.monotonic()
            done = subprocess.run([schemad, "rehearse", "--dir", root / "set", "--output", "json"], env=environment, cwd=root, **TEXT)
            ours = time.monotonic() - begun
            done.returncode in (0, 3) or sys.exit(done.stderr)
            if arguments.starts:
                return print(f"schemad starts, and takes {ours:.2f} s")
            work = root / f"loop{pair}"
            work.mkdir()
            loop, begun = Loop(server, diesel, work), time.monotonic()
            loop.run(migrations)
            theirs = time.monotonic() - begun
            ratios.append(theirs / ours)
            print(f"pair {pair + 1}: schemad {ours:.2f} s, diesel_cli and pg_dump {theirs:.2f} s: {theirs / ours:.1f} times", flush=True)
        print(f"median {statistics.median(ratios):.1f} times, least {min(ratios):.1f}")


main()
