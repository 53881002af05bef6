#!/usr/bin/env python3
"""1,000 small migrations: schemad against `psql -f`, one durable commit a migration each, paired on fresh databases.

  cargo build --release --example from_folder
  benches/apply.py [--migrations 1000] [--pairs 5] [--tcp] [--schemad PROGRAM]

Prints the ratio schemad / psql of each pair and its median; 1.0 or less is the aim. The server is a private one with fsync
on. psql runs one file of BEGIN; migration; INSERT into a table of versions; COMMIT, which is what a careful script does.
"""
import argparse, os, pathlib, shutil, socket, statistics, subprocess, sys, tempfile, time

ROOT = pathlib.Path(__file__).resolve().parent.parent
DAEMON = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/examples/from_folder"


def programs():
    found = os.environ.get("PG_BIN")
    if not found:
        newest = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parent.name))
        found = newest[-1] if newest else pathlib.Path(shutil.which("postgres")).parent
    return pathlib.Path(found)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def migration(n):
    return f"CREATE TABLE t{n} (id int PRIMARY KEY, name text NOT NULL);\nCREATE INDEX t{n}_name ON t{n} (name);\n"


class Server:
    def __init__(self, dir, tcp):
        self.host, self.port = ("127.0.0.1", free_port()) if tcp else (dir, 5432)
        self.dir, self.user = dir, ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
        if self.user:
            shutil.chown(dir, "postgres", "postgres")
        run = dict(cwd=dir, check=True, stdout=subprocess.DEVNULL)
        subprocess.run([*self.user, programs() / "initdb", "-U", "postgres", "-A", "trust", "--locale=C", "-D", dir / "data"], **run)
        options = f"-c listen_addresses={'127.0.0.1' if tcp else ''} -c port={self.port} -c unix_socket_directories={dir} -c max_connections=50"
        subprocess.run([*self.user, programs() / "pg_ctl", "-w", "-D", dir / "data", "-l", dir / "log", "-o", options, "start"], **run)

    def psql(self, database, *arguments):
        subprocess.run([programs() / "psql", "-qX", "-h", self.host, "-p", str(self.port), "-U", "postgres", "-d", database, "-v", "ON_ERROR_STOP=1", *arguments],
                       check=True, stdout=subprocess.DEVNULL)

    def stop(self):
        subprocess.run([*self.user, programs() / "pg_ctl", "-m", "fast", "-D", self.dir / "data", "stop"], cwd=self.dir, stdout=subprocess.DEVNULL)


def time_schemad(program, server, database, folder):
    url = f"postgres://postgres@{str(server.host).replace('/', '%2F')}:{server.port}/{database}"
    environment = {**os.environ, "DATABASE_URL": url, "MIGRATIONS_DIR": str(folder)}
    address = f"127.0.0.1:{free_port()}"
    environment["SCHEMAD_ADDRESS"] = address
    serve = ["serve", "--log-level", "error", "--listen", address, "--admin-listen", "127.0.0.1:0"]
    daemon = subprocess.Popen([program, *serve], env=environment)
    try:
        subprocess.run([program, "wait", "ready"], env=environment, check=True, stderr=subprocess.DEVNULL)
        server.psql("postgres", "-c", "CHECKPOINT")
        begun = time.monotonic()
        subprocess.run([program, "apply"], env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return time.monotonic() - begun
    finally:
        daemon.terminate()
        daemon.wait()


def time_psql(server, database, file):
    server.psql(database, "-c", "CREATE TABLE versions (version varchar(50) PRIMARY KEY, run_on timestamp NOT NULL DEFAULT now())")
    server.psql("postgres", "-c", "CHECKPOINT")
    begun = time.monotonic()
    server.psql(database, "-f", file)
    return time.monotonic() - begun


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--migrations", type=int, default=1000)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--tcp", action="store_true", help="connect over loopback TCP instead of the unix socket")
    parser.add_argument("--schemad", type=pathlib.Path, default=DAEMON, help="the example from_folder")
    arguments = parser.parse_args()
    program = arguments.schemad.resolve()
    if not program.exists():
        sys.exit(f"{program} is missing: cargo build --release --example from_folder")
    with tempfile.TemporaryDirectory() as root:
        root = pathlib.Path(root)
        os.chmod(root, 0o755)
        folder, data = root / "migrations", root / "server"
        data.mkdir()
        script = []
        for n in range(1, arguments.migrations + 1):
            (folder / f"{n:06}_t{n}").mkdir(parents=True)
            (folder / f"{n:06}_t{n}" / "up.sql").write_text(migration(n))
            script.append(f"BEGIN;\n{migration(n)}INSERT INTO versions (version) VALUES ('{n:06}');\nCOMMIT;\n")
        file = root / "all.sql"
        file.write_text("".join(script))
        server = Server(data, arguments.tcp)
        try:
            ratios = []
            for pair in range(arguments.pairs):
                times = {}
                # Fresh databases, made before either is timed; the order alternates.
                for name in ("schemad", "psql"):
                    server.psql("postgres", "-c", f"CREATE DATABASE {name}_{pair}")
                for name in ("schemad", "psql") if pair % 2 else ("psql", "schemad"):
                    database = f"{name}_{pair}"
                    times[name] = time_schemad(program, server, database, folder) if name == "schemad" else time_psql(server, database, file)
                ratios.append(times["schemad"] / times["psql"])
                print(f"pair {pair + 1}: schemad {times['schemad']:.2f} s, psql {times['psql']:.2f} s, ratio {ratios[-1]:.2f}", flush=True)
            print(f"median ratio {statistics.median(ratios):.2f}")
        finally:
            server.stop()


main()
