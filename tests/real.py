#!/usr/bin/env python3
"""Real migration trees: what schemad leaves behind against what diesel_cli leaves behind, after every step.

  cargo build --example from_folder
  tests/real.py FOLDER... [--brief] [--starts] [--diesel PROGRAM] [--schemad PROGRAM]

Each folder of Diesel migrations goes into two fresh databases: one by one up, down as far as the downs allow, up again; then down
and up all at once; and what lies below a migration without a way back is rolled back in databases that never had it. After each
step both are compared by `pg_dump --schema-only`: a row of the table. Where both stop, they must stop for the same reason (`=`).
Where one stops, a rule has to know why (`= explained`). What no rule knows is `! UNEXPLAINED`, and the exit status is 1. Whoever
was left behind is carried on: psql runs the same file for it and records it in Diesel's table, so psql is then who is compared.
The servers are private ones on unix sockets, or TEST_DATABASE_URL.
"""
import argparse, collections, concurrent.futures, contextlib, datetime, functools, json, os, pathlib, re, shutil, signal, socket, subprocess, sys, tempfile, urllib.parse

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
IN_BLOCK = "cannot run inside a transaction block"
TEXT = dict(stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
BOTH = concurrent.futures.ThreadPoolExecutor(2)
# How a command ended; `error` is empty when well. The others are schemad's: reason and SQLSTATE, and the version it names.
Result = collections.namedtuple("Result", "error reason version", defaults=["", ""])

def cut(text, width):
    return text if len(text := " ".join(text.split())) <= width else text[: width - 1] + "…"

def statements(sql):
    """The statements without comments, with strings and bodies as `x`: enough to recognise a statement by its first words."""
    noise = r"--[^\n]*|/\*.*?\*/|\b[eE]'(?:\\.|''|[^'\\])*'|'(?:''|[^'])*'|\"[^\"]*\"|\$(\w*)\$.*?\$\1\$"
    plain = re.sub(noise, lambda m: " " if m[0].startswith(("--", "/*")) else " x ", sql, flags=re.S)
    found, atomic = [], False
    for piece in filter(None, map(str.strip, plain.split(";"))):
        found += [found.pop() + "; " + piece] if atomic else [piece]  # atomic: inside a function's BEGIN ATOMIC … END
        atomic = (atomic or re.search(r"\bbegin\s+atomic\b", piece, re.I)) and not re.search(r"\bend$", piece, re.I)
    return found

class Migration:
    def __init__(self, folder):
        self.folder, self.name, self.version = folder, folder.name, folder.name.split("_")[0].replace("-", "")
        metadata = folder / "metadata.toml"
        said = re.search(r"^\s*run_in_transaction\s*=\s*(\w+)", metadata.read_text(errors="replace"), re.M) if metadata.exists() else None
        self.transactional = said[1] == "true" if said else not metadata.exists()
    def sql(self, direction):
        file = self.folder / f"{direction}.sql"
        return file.read_text(errors="replace") if file.exists() else ""
    @functools.lru_cache
    def statements(self, direction):
        return statements(self.sql(direction))
    def has(self, direction, pattern):
        return any(re.match(pattern, s, re.I | re.S) for s in self.statements(direction))
    def ends_transaction(self, direction):
        return self.has(direction, r"(commit|end|abort|prepare\s+transaction)\b|rollback\b(?!.*\bto\b)")
    def changes_session(self, direction):
        return self.has(direction, r"(set|reset)\s+(?!local\b|constraints\b|transaction\b)") or "set_config" in self.sql(direction).lower()
    def draws(self):
        """It puts statements together from what is another value each time."""
        both = self.sql("up") + self.sql("down")
        return bool(re.search(r"\b(random|gen_random_uuid|uuid_generate_\w+|clock_timestamp|txid_current)\s*\(", both, re.I) and re.search(r"\bexecute\b", both, re.I))
    def split(self, direction):
        return not self.transactional and len(self.statements(direction)) > 1

def explain(name, migration, direction, result):
    """The rules: why this side stopped at this migration, so that the other need not. None: nobody knows."""
    own_end, session, empty = migration.ends_transaction(direction), migration.changes_session(direction), not migration.statements(direction)
    rules = {"schemad": [
        ("ENDS_TRANSACTION", own_end, "the file ends its own transaction, so it and its row would not commit together: refused before it runs"),
        ("NEEDS_CLIENT", migration.has(direction, r"copy\b.*\b(stdin|stdout)\b"), "the file copies from or to a client: refused before it runs"),
        ("NEEDS_CLIENT", re.search(r"^\s*\\\w", migration.sql(direction), re.M), "a command of psql's, which neither understands: refused before it runs"),
        ("IRREVERSIBLE", empty, "there is no down: refused before anything runs"),
        ("MIGRATION_FAILED SCH05", session, "the file changes the session's user for good: undone"),
    ], "diesel": [
        ("outside of a transaction", own_end, "the file ends its own transaction: a failure is reported, although file and row are committed, apart"),
        (IN_BLOCK, migration.split(direction), "several statements, not transactional: sent as one message, an implicit transaction; schemad splits it"),
        ("__diesel_schema_migrations", session, "the file changes the session (search_path, role), so the row cannot be written; schemad resets it"),
        ("", empty, "the file holds no statement, which diesel_cli calls an error"),
    ]}[name]
    return next((why for word, holds, why in rules if word in (result.reason if name == "schemad" else result.error) and holds), None)

def agree(migration, direction, ours, theirs):
    # schemad names Diesel's table with its schema.
    bare = lambda error: re.sub(r"\b\w+\.__diesel_schema_migrations", "__diesel_schema_migrations", error)
    if ours.error and bare(ours.error) in bare(theirs.error):
        return "both stop: " + cut(ours.error, 100)
    if IN_BLOCK in theirs.error and migration.transactional and re.match(r"(?!MIGRATION_|INTER|LOCK_|DATABASE_|BUSY)\w", ours.reason):
        return "both stop, schemad before anything runs: a statement " + IN_BLOCK
    why = explain("schemad", migration, direction, ours)
    return why and theirs.error and f"both stop: {why}; diesel_cli when it comes to it: {cut(theirs.error, 60)}"

class Server:
    def __init__(self, dir, at_end):
        self.dir, self.given = dir, os.environ.get("TEST_DATABASE_URL")
        newest = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: float(p.parent.name))[-1:]
        self.programs = pathlib.Path(os.environ.get("PG_BIN") or (newest or [os.path.dirname(shutil.which("pg_dump") or sys.exit("pg_dump is missing"))])[0])
        if not self.given:
            dir.mkdir()
            if os.geteuid() == 0:
                shutil.chown(dir, "postgres", "postgres")
            self.control("initdb", "-U", "postgres", "-A", "trust", "--locale=C", "-E", "UTF8")
            self.control("pg_ctl", "-w", "-l", dir / "log", "start", "-o",
                         f"-c listen_addresses= -c unix_socket_directories={dir} -c max_connections=50 -c fsync=off -c full_page_writes=off")
            at_end.callback(self.control, "pg_ctl", "-m", "immediate", "stop")
    def control(self, program, *arguments):
        user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
        subprocess.run([*user, self.programs / program, "-D", self.dir / "data", *arguments], cwd=self.dir, check=True, stdout=subprocess.DEVNULL)
    def url(self, database=None):
        url = self.given or f"postgres://postgres@{urllib.parse.quote(str(self.dir), safe='')}/postgres"
        return urllib.parse.urlunsplit(urllib.parse.urlsplit(url)._replace(path="/" + database)) if database else url
    def psql(self, database, *arguments):
        done = subprocess.run([self.programs / "psql", "-qXAt", "-v", "ON_ERROR_STOP=1", "-d", self.url(database), *arguments], **TEXT)
        return not done.returncode, done.stderr if done.returncode else done.stdout

class Side:
    def __init__(self, tree, server):
        self.tree, self.server, self.work = tree, server, pathlib.Path(tempfile.mkdtemp(dir=tree.work))
        self.database = f"real_{self.name}_{os.getpid()}" if server.given else "real"
        # None of the caller's settings, and an empty folder has no .env.
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(("SCHEMAD_", "DIESEL_", "DATABASE_URL", "MIGRATION"))}
        made, error = server.psql(None, "-c", f"CREATE DATABASE {self.database} TEMPLATE template0")
        made or sys.exit(error)
    def close(self):
        self.server.psql(None, "-c", f"DROP DATABASE {self.database} WITH (FORCE)")
    def run(self, *arguments):
        return subprocess.run(["timeout", "900", self.program, *map(str, arguments)], cwd=self.work, env=self.environment, **TEXT)
    def applied(self):
        found, out = self.server.psql(self.database, "-c", "SELECT version FROM __diesel_schema_migrations")
        return set(out.split("\n")) - {""} if found else set()
    def dump(self):
        done = subprocess.run([self.server.programs / "pg_dump", "--schema-only", "--no-owner", "--exclude-schema=schemad",
                               "-d", self.server.url(self.database)], **TEXT)
        done.returncode and sys.exit(done.stderr)
        # A view or a default can hold the time at which it was made ('now'), which is another for each side.
        today = "|".join(str(datetime.date.today() + datetime.timedelta(days)) for days in (-1, 0, 1))
        text = re.sub(rf"'({today})[ T][\d:.]+", "'(now)", done.stdout)
        return [line for line in text.splitlines() if line.strip() and not line.startswith(("\\restrict", "\\unrestrict"))]
    def carry(self, migration, direction):
        """psql does what this side did not. Its error, if any."""
        row = "INSERT INTO {} (version) VALUES ('{}')" if direction == "up" else "DELETE FROM {} WHERE version = '{}'"
        # As one message in a transaction, like diesel_cli, if the file is one that ends it; else statement by statement.
        whole = ["-c", "BEGIN", "-c", migration.sql(direction), "-c", "COMMIT"] if migration.transactional and migration.ends_transaction(direction) else []
        commands = [whole or ["-f", migration.folder / f"{direction}.sql"]] * bool(migration.statements(direction)) + [["-c", row.format("__diesel_schema_migrations", migration.version)]]
        return next((error for done, error in (self.server.psql(self.database, *command) for command in commands) if not done), None)
    def whole(self, direction, goal):
        """All at once to `goal` applied migrations; only what stopped this side one by one may stop it again."""
        note, known = "", self.tree.known
        while True:
            before, result = len(self.applied()), self.move(direction, goal, False)
            now, named = len(self.applied()), next((i for i, m in enumerate(self.tree.migrations) if m.version == result.version), None)
            if now == before and named is not None:  # schemad refuses all because of one: first those before it
                self.move(direction, named + (direction == "down"), False)
                now = len(self.applied())
            if now == goal:
                return now, "ok" + note
            following, last = (now, now - 1) if direction == "up" else (now - 1, now)
            if known.get((self.name, direction, following)) == "carried" and not self.carry(self.tree.migrations[following], direction):
                note = ", with psql as above"
            elif now != before and known.get((self.name, direction, last)) == "stopped":
                note = ", started again as above"
            else:
                return now, result.error or "stops without an error"

class Ours(Side):
    name, title = "schemad", "ours"
    def __init__(self, *arguments):
        super().__init__(*arguments)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{probe.getsockname()[1]}"
        self.program, self.log, listen = self.tree.arguments.schemad, self.work / "log", ["--listen", address, "--admin-listen", "127.0.0.1:0"]
        self.environment |= {"SCHEMAD_ADDRESS": address, "MIGRATIONS_DIR": str(self.tree.folder), "DATABASE_URL": self.server.url(self.database)}
        with open(self.log, "w") as log:
            self.daemon = subprocess.Popen([self.program, "serve", "--log-level", "warn", *listen], cwd=self.work, env=self.environment,
                                           stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    def refuses(self):
        """Why it does not serve; empty when it does."""
        for _ in range(10):
            if self.daemon.poll() is None and not self.run("wait", "ready", "--timeout", "3s").returncode:
                return ""
        return self.log.read_text() or "not ready within 30 s"
    def close(self):
        self.daemon.terminate()
        self.daemon.wait()
        super().close()
    def move(self, direction, goal, one):
        to = ["--steps", "1"] if one else ["--to", self.tree.migrations[goal - 1].version] if goal else ["--all"]
        everything = direction == "up" and goal == len(self.tree.migrations) and not one
        done = self.run("apply" if direction == "up" else "rollback", *([] if everything else to), "--output", "json")
        answer = next((line for line in reversed(done.stderr.splitlines()) if line.startswith('{"')), None) if done.returncode else ""
        if not answer:
            return Result("" if answer == "" else f"exit {done.returncode}: {done.stderr}")
        error = json.loads(answer)
        data = error["metadata"]
        return Result(data.get("database_message") or error["message"], f"{error['reason']} {data.get('sqlstate', '')}".strip(), data.get("version", ""))

class Theirs(Side):
    name, title = "diesel", "diesel_cli's"
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.program, self.config, self.some = self.tree.arguments.diesel, self.work / "diesel.toml", self.work / "some"
        self.config.touch()
        self.some.mkdir()
    def first(self, count):
        """The first `count` migrations, in a folder of their own unless they are all."""
        wanted, there = {m.name: m for m in self.tree.migrations[:count]}, {p.name for p in self.some.iterdir()}
        for name in there - wanted.keys():
            shutil.rmtree(self.some / name)
        for name in wanted.keys() - there:
            shutil.copytree(wanted[name].folder, self.some / name)
        return self.tree.folder if count == len(self.tree.migrations) else self.some
    def move(self, direction, goal, one):
        back = [] if one else ["-n", max(1, len(self.applied()) - goal)] if goal else ["--all"]
        command = [self.first(goal), "run"] if direction == "up" else [self.tree.folder, "revert", *back]
        done = self.run("migration", "--config-file", self.config, "--database-url", self.server.url(self.database), "--migration-dir", *command)
        error = re.sub(r"^Failed to run migrations: (Failed to run .*? with: )?", "", done.stderr.strip()) or f"exit {done.returncode}"
        return Result(error if done.returncode else "")

class Tree:
    def __init__(self, folder, servers, arguments, work):
        self.folder, self.servers, self.arguments, self.work = pathlib.Path(folder).resolve(), servers, arguments, work
        self.migrations = sorted((Migration(p) for p in self.folder.iterdir() if p.is_dir() and not p.name.startswith(".")), key=lambda m: (m.version, m.name))
        self.counts, self.dumps, self.known, self.sides = collections.Counter(), {}, {}, []
    def close(self):
        while self.sides:
            self.sides.pop().close()
    def open(self):
        """Fresh databases. Why schemad does not serve this set, if so."""
        self.close()
        for who, server in (Ours, self.servers[0]), (Theirs, self.servers[-1]):
            self.sides.append(who(self, server))
        return self.sides[0].refuses()
    def starts(self):
        """Whether schemad serves this set and moves one migration up and down, without diesel_cli. Why not, if so."""
        self.sides.append(Ours(self, self.servers[0]))
        return self.sides[0].refuses() or self.sides[0].move("up", 1, True).error or self.sides[0].move("down", 0, True).error
    def row(self, what, direction, said, catalog, agreed=(), explained=(), bad=()):
        self.counts["UNEXPLAINED" if bad else "explained" if explained else "same"] += 1
        if agreed or explained or bad or not self.arguments.brief or what.startswith("("):
            print(f"{cut(what, 50):50}  {direction:9}  {cut(said[0], 26):26}  {cut(said[1], 26):26}  {catalog}")
        for mark, notes in ("=", agreed), ("= explained:", explained), ("! UNEXPLAINED:", bad):
            print(*(f"    {mark} {cut(note, 300)}\n" for note in notes), sep="", end="", flush=True)
    def compare(self, key):
        ours, theirs = self.dumps[key] = list(BOTH.map(lambda side: side.dump(), self.sides))
        if ours == theirs:
            return "same"
        left, right = next((a, b) for a, b in zip([*ours, *["(end)"] * len(theirs)], [*theirs, *["(end)"] * len(ours)]) if a != b)
        return f"ours: {cut(left, 90)} | diesel_cli's: {cut(right, 90)}"
    def step(self, direction, at):
        """Both sides one step. False: this direction ends here; None: the comparison of the tree does."""
        migration, count, agreed, explained, bad, going, carried = self.migrations[at], at + (direction == "up"), [], [], [], True, []
        results = list(BOTH.map(lambda side: side.move(direction, count, True), self.sides))
        missing = {role for result in results for role in re.findall(r'role "(.+?)" does not exist', result.error)} if not self.servers[0].given else ()
        if missing and all(server.psql(None, "-c", f'CREATE ROLE "{role}"')[0] for role in missing for server in self.servers):
            return self.step(direction, at)
        moved = [side.applied() == {m.version for m in self.migrations[:count]} for side in self.sides]
        if any(moved):
            for side, result, there in zip(self.sides, results, moved):
                if result.error or not there:
                    why = explain(side.name, migration, direction, result)
                    (explained if why else bad).append(f"{side.title}: {why or result.error or 'nothing happened'}")
                    self.known[side.name, direction, at] = "stopped" if there else "carried"
                    carried += [] if there else [side]
        else:
            why = agree(migration, direction, *results)
            (agreed if why else bad).append(why or f"both stop; ours: {results[0].error or 'no error'}; diesel_cli's: {results[1].error or 'no error'}")
            # psql can run what only must not be in a transaction. What fails anyway, or has no down, ends this direction.
            going = any(IN_BLOCK in result.error for result in results)
            carried = self.sides if going else []
        for side in carried:
            self.known[side.name, direction, at] = "carried"
            error = side.carry(migration, direction)
            if error:
                bad.append(f"{side.title}: psql cannot run it either, so the comparison ends here: {error}")
                going = None
        catalog = self.compare((direction, at))
        if catalog != "same" and going is not None:
            if any(m.draws() for m in self.migrations[:at + 1]):
                explained.append("EXECUTE with random() or the like: another text on each side")
            elif going or not migration.split(direction):
                bad.append("the catalogs differ")
            else:
                explained, going = ["schemad keeps what ran before the statement that failed"], None
        by = f" (psql for {' and '.join(side.title for side in carried)})" if carried else ""
        said = [f"{result.reason or 'stops'}: {result.error or 'no error'}" if result.error or not there else "ok" for result, there in zip(results, moved)]
        self.row(migration.name, direction, said, catalog + by, agreed, explained, bad)
        return going
    def one_by_one(self, direction, bottom, top):
        """How many are applied afterwards; None when the comparison has ended."""
        for at in range(bottom, top) if direction == "up" else reversed(range(bottom, top)):
            going = self.step(direction, at)
            if not going:
                return None if going is None else at + (direction == "down")
        return top if direction == "up" else bottom
    def all_at_once(self, direction, goal):
        key = direction, goal - (direction == "up")
        before = self.dumps.get(key)
        ended = list(BOTH.map(lambda side: side.whole(direction, goal), self.sides))
        bad = [f"{side.title}: stops with {at} applied: {said}" for side, (at, said) in zip(self.sides, ended) if at != goal]
        catalog, explained = self.compare(key), []
        if catalog != "same" and not bad:
            ours, theirs = self.dumps[key]
            leaks = before and ours == before[0] and theirs != before[1] and any(m.changes_session(direction) for m in self.migrations)
            draws = any(m.draws() for m in self.migrations[:max(key[1] + 1, goal)])
            bad = [] if leaks or draws else ["the catalogs differ"]
            explained = [why for holds, why in [
                (leaks, "a SET reaches the later migrations of the same diesel_cli run; schemad resets it"),
                (draws, "EXECUTE with random() or the like: another text on each side"),
            ] if holds]
        self.row(f"(all at once, to {goal} applied)", direction, [said for _, said in ended], catalog, [], explained, bad)
        return not bad
    def without_bad(self, refusal):
        """schemad does not serve this set. Do the rules know why? Then the other migrations go on."""
        reasons = {}
        for last, migration in zip([None, *self.migrations], self.migrations):
            for holds, why in [(not (migration.folder / "up.sql").exists(), "no up.sql: diesel_cli refuses the whole folder as well"),
                               (last and migration.version == last.version, "the version of the one before: diesel_cli silently drops one of them"),
                               (len(migration.version) > 50, "a version of more than the 50 characters of Diesel's column"),
                               (not migration.statements("up"), "an up without a statement: diesel_cli stops there")]:
                if holds:
                    reasons.setdefault(migration, f"{migration.name} has {why}; going on without it")
        self.row("(set)", "", ["refused", "not asked"], "", [], reasons.values(), [] if reasons else [refusal])
        self.migrations, self.folder = [m for m in self.migrations if m not in reasons], self.work / "set"
        for migration in self.migrations:
            shutil.copytree(migration.folder, self.folder / migration.name)
        return reasons
    def play(self):
        print(f"\n{self.folder}: {len(self.migrations)} migrations\n{'migration':50}  direction  {'ours':26}  {'diesel_cli':26}  catalog", flush=True)
        refusal = self.open()
        if refusal and (not self.without_bad(refusal) or self.open()) or not self.migrations:
            return self.row("(set)", "", ["", ""], "", bad=["nothing to compare"])
        top = self.one_by_one("up", 0, len(self.migrations))
        bottom = top and self.one_by_one("down", 0, top)
        if top and bottom is not None:
            again = self.one_by_one("up", bottom, top) or bottom
            if again > bottom and self.all_at_once("down", bottom):
                self.all_at_once("up", again)
        # One that does not go back stands before all below it: those in databases that never had it.
        while bottom and bottom > 1:
            self.open()
            bottom = self.all_at_once("up", bottom - 1) and self.one_by_one("down", 0, bottom - 1)

def diesel_cli(given):
    diesel = given or shutil.which("diesel") or TARGET / "diesel_cli/bin/diesel"
    if not pathlib.Path(diesel).exists():
        print("installing diesel_cli; it needs libpq's headers (Debian: libpq-dev)", file=sys.stderr)
        subprocess.run(["cargo", "install", "diesel_cli", "--no-default-features", "--features", "postgres", "--root", TARGET / "diesel_cli"], check=True)
    return pathlib.Path(diesel).resolve()

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help="a folder of Diesel migrations")
    parser.add_argument("--brief", action="store_true", help="leave out the rows in which all is as it should be")
    parser.add_argument("--starts", action="store_true", help="compare nothing: only see that schemad serves each folder and moves one migration up and down")
    parser.add_argument("--diesel", help="the diesel_cli program [default: on PATH, else installed into target/diesel_cli]")
    parser.add_argument("--schemad", help="the example from_folder [default: the newer one of target/debug and target/release]")
    arguments = parser.parse_args()
    built = [p for p in (TARGET / profile / "examples/from_folder" for profile in ("debug", "release")) if p.exists()]
    schemad = arguments.schemad or max(built, key=lambda p: p.stat().st_mtime, default=None) or sys.exit("first: cargo build --example from_folder")
    arguments.schemad = pathlib.Path(schemad).resolve()
    arguments.diesel = None if arguments.starts else diesel_cli(arguments.diesel)
    total = collections.Counter()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and stop what was started
    with tempfile.TemporaryDirectory(prefix="real-") as root, contextlib.ExitStack() as at_end:
        os.chmod(root, 0o755)
        # Roles belong to a server, so it is two.
        servers = [Server(pathlib.Path(root) / name, at_end) for name in (["given"] if os.environ.get("TEST_DATABASE_URL") or arguments.starts else ["ours", "theirs"])]
        for folder in arguments.folders:
            with contextlib.closing(Tree(folder, servers, arguments, pathlib.Path(tempfile.mkdtemp(dir=root)))) as tree:
                if arguments.starts:
                    error = tree.starts()
                    error and sys.exit(f"{folder}: {error}")
                    print(f"{folder}: starts")
                    continue
                tree.play()
            print(f"{folder}: " + ", ".join(f"{count} {what}" for what, count in tree.counts.items()), flush=True)
            total += tree.counts
    sys.exit(1 if total["UNEXPLAINED"] else 0)

if __name__ == "__main__":
    main()
