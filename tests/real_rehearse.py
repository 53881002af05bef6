#!/usr/bin/env python3
"""Real migration trees: what `schemad rehearse` says of each migration, against the loop that people write around diesel_cli.

  cargo build --bin schemad
  tests/real_rehearse.py FOLDER... [--brief] [--starts] [--pairs N] [--diesel PROGRAM] [--schemad PROGRAM]

The loop: each migration up, down and up with diesel_cli on a copy (CREATE DATABASE ... TEMPLATE) of the clean state before it, and
`pg_dump --schema-only` before and after each. The clean state is what the ups so far have made; one that fails is left out. Where only
the order of lines differs that say a table's columns, it is ORDER_ONLY. A file with its own BEGIN and COMMIT, which diesel_cli runs and then
reports as failed, gets the metadata.toml that it lacks. A row of the table is a migration; what differs is
`! DISAGREES`, with what each side saw, and the exit status is 1. The servers are private ones on unix sockets. The times of both are
told, each with its own server's start; with --pairs N both run N times in turn, and the ratios are told.
"""
import argparse, collections, contextlib, json, os, pathlib, re, shutil, signal, statistics, subprocess, sys, tempfile, time

from real import TARGET, TEXT, Migration, Server, cut, diesel_cli

TABLE = re.compile(r"CREATE (?:UNLOGGED )?TABLE ")
OF_COLUMN = re.compile(r"COMMENT ON COLUMN |ALTER TABLE (?:ONLY )?\S+ ALTER COLUMN ")

def order_free(dump):
    """The same for two dumps that differ in the order of columns only: the lines of a table, sorted, without their commas; and what
    pg_dump says of columns after the table, in their order (comments, defaults of sequences), sorted at the end."""
    found, inside, after = [], None, []
    for line in dump:
        if inside is not None and line.startswith(")"):
            found += [*sorted(inside), line]
            inside = None
        elif inside is not None:
            inside.append(line.rstrip(","))
        elif OF_COLUMN.match(line):
            after.append(line)
        else:
            found.append(line)
            inside = [] if TABLE.match(line) else None
    return found + sorted(after)

class Loop:
    """diesel_cli and pg_dump."""
    def __init__(self, server, diesel, work):
        self.server, self.diesel, self.work, self.made = server, diesel, work, 0
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(("DIESEL_", "DATABASE_URL"))}
        (work / "diesel.toml").touch()
    def sql(self, statement):
        done, said = self.server.psql(None, "-c", statement)
        done or sys.exit(said)
    def create(self, template):
        self.made += 1
        self.sql(f"CREATE DATABASE loop_{self.made} TEMPLATE {template}")
        return f"loop_{self.made}"
    def drop(self, database):
        database == "template0" or self.sql(f"DROP DATABASE {database} WITH (FORCE)")
    def dump(self, database):
        done = subprocess.run([self.server.programs / "pg_dump", "--schema-only", "--exclude-table=*.__diesel_schema_migrations",
                               "-d", self.server.url(database)], **TEXT)
        done.returncode and sys.exit(done.stderr)
        return [line for line in done.stdout.splitlines() if line.strip() and not line.startswith(("--", "\\restrict", "\\unrestrict"))]
    def migrate(self, database, migration, *what):
        """The error; empty when there is none. Only this migration is in the folder."""
        folder = self.work / "one"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(migration.folder, folder / migration.name)
        if migration.ends_transaction("up") or migration.ends_transaction("down"):
            (folder / migration.name / "metadata.toml").write_text("run_in_transaction = false\n")
        done = subprocess.run(["timeout", "900", self.diesel, "migration", "--config-file", self.work / "diesel.toml", "--database-url",
                               self.server.url(database), "--migration-dir", folder, *what], cwd=self.work, env=self.environment, **TEXT)
        return (done.stderr.strip() or f"exit {done.returncode}") if done.returncode else ""
    def one(self, migration, clean, before):
        """The verdict, what was seen, and the next clean state with its dump."""
        work = self.create(clean)
        error = self.migrate(work, migration, "run")
        if error:
            self.drop(work)
            return "UP_FAILS", error, clean, before
        up, following = self.dump(work), None
        # A role belongs to all databases, so what is granted to it in a copy keeps it. Then the copy is made afterwards.
        waits = migration.has("up", r"create\s+(role|user|group)\b") and migration.has("down", r"drop\s+(role|user|group|owned)\b|do\b")
        if not waits:
            following = self.create(work)
        verdict, seen = self.back(work, migration, before, up)
        if waits and verdict == "UP_FAILS_AFTER_DOWN":
            sys.exit(f"{migration.name}: {verdict}, of a migration that makes and drops roles, so this loop has no state to go on from: {seen}")
        following = following or self.create(work)
        self.drop(work)
        self.drop(clean)
        return verdict, seen, following, up
    def back(self, work, migration, before, up):
        if not migration.statements("down"):
            return "IRREVERSIBLE", ""
        error = self.migrate(work, migration, "revert")
        if error:
            return "DOWN_FAILS", error
        down = self.dump(work)
        error = self.migrate(work, migration, "run")
        if error:
            return "UP_FAILS_AFTER_DOWN", error
        again = self.dump(work)
        if order_free(down) != order_free(before):
            return "DOES_NOT_RESTORE", first_difference(before, down)
        if order_free(again) != order_free(up):
            return "UP_DIFFERS_AFTER_DOWN", first_difference(up, again)
        return ("RESTORES", "") if (down, again) == (before, up) else ("ORDER_ONLY", first_difference(before, down) or first_difference(up, again))
    def run(self, migrations):
        clean, found = "template0", {}
        empty = self.create(clean)
        before = self.dump(empty)
        self.drop(empty)
        for migration in migrations:
            verdict, seen, clean, before = self.one(migration, clean, before)
            found[migration.version] = verdict, seen
        self.drop(clean)
        return found

def first_difference(left, right):
    pairs = zip([*left, *["(end)"] * len(right)], [*right, *["(end)"] * len(left)])
    a, b = next(((a, b) for a, b in pairs if a != b), ("", ""))
    return a and f"{cut(a, 90)} | {cut(b, 90)}"

def rehearse(schemad, folder, root):
    """schemad's verdicts by version, or why there are none."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("SCHEMAD_", "SCRATCH_", "DATABASE_URL"))}
    done = subprocess.run([schemad, "rehearse", "--dir", folder, "--server-dir", root / "servers", "--output", "json"],
                          cwd=root, env=environment, **TEXT)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    if not rows or "verdicts" not in rows[-1]:
        return {}, done.stderr.strip()
    bad = [row for row in rows[:-1] if row["verdict"] not in ("RESTORES", "ORDER_ONLY")]
    if done.returncode != (3 if bad else 0):
        return {}, f"exit {done.returncode} with {len(bad)} bad"
    seen = lambda row: (row.get("failure") or {}).get("message") or "; ".join(d["summary"] for d in row["differences"] + row["upDifferences"])
    return {row["version"]: (row["verdict"], seen(row)) for row in rows[:-1]}, ""

def timed(work, *arguments):
    begun = time.monotonic()
    return work(*arguments), time.monotonic() - begun

def loop(migrations, diesel, root):
    with contextlib.ExitStack() as at_end:
        work = pathlib.Path(tempfile.mkdtemp(dir=root))
        os.chmod(work, 0o755)
        return Loop(Server(work / "server", at_end), diesel, work).run(migrations)

def compare(folder, migrations, ours, theirs, brief):
    print(f"\n{folder}: {len(migrations)} migrations\n{'migration':60}  {'schemad':21}  {'diesel_cli and pg_dump':21}")
    disagreements = 0
    for migration in migrations:
        (verdict, seen), (expected, saw) = ours.get(migration.version, ("(none)", "")), theirs[migration.version]
        if verdict != expected or not brief:
            print(f"{cut(migration.name, 60):60}  {verdict:21}  {expected:21}")
        if verdict != expected:
            disagreements += 1
            print(f"    ! DISAGREES\n      schemad: {cut(seen, 300)}\n      the loop: {cut(saw, 300)}")
    return disagreements

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help="a folder of Diesel migrations")
    parser.add_argument("--brief", action="store_true", help="only the rows in which both differ")
    parser.add_argument("--starts", action="store_true", help="compare nothing: only see that schemad rehearses each folder")
    parser.add_argument("--pairs", type=int, default=1, help="how often both run, in turn")
    parser.add_argument("--diesel", help="the diesel_cli program [default: on PATH, else installed into target/diesel_cli]")
    parser.add_argument("--schemad", help="the program [default: the newer one of target/debug and target/release]")
    arguments = parser.parse_args()
    built = [p for p in (TARGET / profile / "schemad" for profile in ("debug", "release")) if p.exists()]
    schemad = arguments.schemad or max(built, key=lambda p: p.stat().st_mtime, default=None) or sys.exit("first: cargo build --bin schemad")
    schemad, diesel = pathlib.Path(schemad).resolve(), None if arguments.starts else diesel_cli(arguments.diesel)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    disagreements = 0
    with tempfile.TemporaryDirectory(prefix="rehearse-") as root:
        root = pathlib.Path(root)
        os.chmod(root, 0o755)
        for folder in arguments.folders:
            folder = pathlib.Path(folder).resolve()
            if arguments.starts:
                verdicts, refused = rehearse(schemad, folder, root)
                refused and sys.exit(f"{folder}: {refused}")
                print(f"{folder}: starts, with {len(verdicts)} verdicts")
                continue
            migrations = sorted((Migration(p) for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")), key=lambda m: (m.version, m.name))
            ratios = []
            for _ in range(arguments.pairs):
                (ours, refused), our_time = timed(rehearse, schemad, folder, root)
                theirs, their_time = timed(loop, migrations, diesel, root)
                ratios.append(their_time / our_time)
                print(f"{folder}: schemad {our_time:.2f} s, the loop {their_time:.2f} s: {ratios[-1]:.1f} times", flush=True)
            disagreements += compare(folder, migrations, ours, theirs, arguments.brief)
            for name, found in ("schemad", ours), ("the loop", theirs):
                counts = collections.Counter(verdict for verdict, _ in found.values())
                print(f"{name}: " + ", ".join(f"{n} {verdict}" for verdict, n in counts.most_common()))
            if refused:
                print(f"! schemad: {refused}")
                disagreements += 1
            if arguments.pairs > 1:
                print(f"ratios: {' '.join(f'{r:.1f}' for r in ratios)}; median {statistics.median(ratios):.1f}")
    sys.exit(1 if disagreements else 0)

if __name__ == "__main__":
    main()
