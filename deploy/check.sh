#!/bin/sh
# Checks the image, the systemd unit and the compose file without a container engine: the image's root is assembled in a
# temporary folder, and the binary runs in it as the image's user, read-only.
set -eu

usage() {
    cat <<'TEXT'
usage: deploy/check.sh [BINARY]      the default is target/release/schemad

  DATABASE_URL     a throwaway database, over TCP: everything is applied to it. Without it the daemon runs without a database
  CHECK_PORT       the first of two free ports; the default is 55051
  CHECK_LIMIT      bytes that the root may have; the default is 25,000,000, and a debug build has more
  COMPOSE_SCHEMA   compose-spec.json, to check compose.yaml against (needs python3 with jsonschema)

Linux. Needs root or user namespaces; what else is missing is said and passed over.
TEXT
}

case ${1:-} in -*) usage; exit 2 ;; esac
deploy=$(cd "$(dirname "$0")" && pwd)
binary=${1:-$deploy/../target/release/schemad}
port=${CHECK_PORT:-55051}
address=127.0.0.1:$port
limit=${CHECK_LIMIT:-25000000}   # bytes: what the image may have
exposure=15      # tenths: what systemd-analyze security may say

say() { printf 'check: %s\n' "$*"; }
skip() { say "NOT CHECKED: $*"; }
fail() { say "FAILED: $*" >&2; exit 1; }
has() { command -v "$1" >/dev/null 2>&1; }

[ -x "$binary" ] || fail "$binary is missing; cargo build --release"
binary=$(cd "$(dirname "$binary")" && pwd)/$(basename "$binary")

work=$(mktemp -d)
root=$work/root
daemon=
cleanup() {
    [ -z "$daemon" ] || kill "$daemon" 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM
chmod 755 "$work"

# --- The image's root

"$deploy/rootfs.sh" "$binary" "$root"
size=$(find "$root" -type f -exec cat {} + | wc -c)
[ "$size" -lt $limit ] || fail "the root has $size bytes, of $limit"
say "the root has $((size)) bytes, of $limit"

programs=$(cd "$root" && find . -type f -perm -100 ! -name '*.so' ! -name '*.so.*')
[ "$programs" = ./usr/local/bin/schemad ] || fail "programs in the root: $programs"
[ -z "$(find "$root" -type l)" ] || fail "links in the root"
say "its only program is schemad: no shell"

for path in $(grep -E '^(ENTRYPOINT|HEALTHCHECK)' "$deploy/Dockerfile" | grep -o '"/[^"]*"' | tr -d '"'); do
    [ -x "$root$path" ] || fail "the Dockerfile runs $path, which is not in the root"
done

# Written before the root becomes read-only, as an engine mounts a secret and its host names.
printf '%s\n' "${DATABASE_URL:-postgres://nobody@127.0.0.1:1/none}" >"$root/run/secrets/database_url"
printf '127.0.0.1 localhost\n' >"$root/etc/hosts"
chmod 400 "$root/run/secrets/database_url"

if [ "$(id -u)" = 0 ]; then
    chown 65532:65532 "$root/run/secrets/database_url"
    namespaces=-m user=--userspec=65532:65532
else
    namespaces=-rm user=    # one user is mapped, so the image's cannot be had
fi
# shellcheck disable=SC2016 # $0 is for the inner shell
read_only='mount --bind "$0" "$0" && mount -o remount,bind,ro "$0"'
if unshare $namespaces sh -c "$read_only && ! touch \"\$0/x\" 2>/dev/null" "$root" 2>/dev/null; then
    say "the root is mounted read-only"
elif [ "$(id -u)" = 0 ]; then
    namespaces='' read_only=true
    skip "a read-only mount (no namespaces here); the root belongs to another user than the daemon's"
else
    fail "needs root or user namespaces"
fi

# schemad inside the root, with nothing of this environment; replaces the (sub)shell.
become() {
    # shellcheck disable=SC2086 # no namespaces: no unshare
    exec env -i PATH="$PATH:/usr/sbin:/sbin" DATABASE_URL_FILE=/run/secrets/database_url SCHEMAD_ADDRESS="$address" \
        SCHEMAD_EXAMPLE=true \
        ${namespaces:+unshare $namespaces} sh -c "$read_only && exec chroot $user \"\$0\" /usr/local/bin/schemad \"\$@\"" "$root" "$@"
}
# expect CODE ARGS: what schemad says inside the root, and that it exits with CODE.
expect() {
    wanted=$1; shift
    code=0
    said=$( (become "$@") 2>&1) || code=$?
    [ "$code" = "$wanted" ] || fail "schemad $* exits with $code instead of $wanted: $said"
    say "schemad $*: $code, $said"
}

before=$(find "$root" -exec ls -ld {} +)
expect 0 --version
expect 2 health

if [ -n "${DATABASE_URL:-}" ]; then set -- --apply-on-start; else set --; fi
(become serve --listen "$address" --admin-listen "127.0.0.1:$((port + 1))" "$@") 2>"$work/log" &
daemon=$!
tries=0
until (become health) >/dev/null 2>&1; do
    tries=$((tries + 1))
    if [ $tries = 50 ] || ! kill -0 "$daemon" 2>/dev/null; then fail "the daemon does not answer: $(cat "$work/log")"; fi
    sleep 0.2
done
# Somebody else's daemon may have answered, and ours found its port taken.
kill -0 "$daemon" 2>/dev/null || fail "the daemon ended: $(cat "$work/log")"
expect 0 health
if [ -n "${DATABASE_URL:-}" ]; then
    expect 0 wait current --timeout 60s
    expect 0 health --service schemad.v1.MigrationService
else
    expect 4 health --service schemad.v1.MigrationService
    skip "a database (DATABASE_URL is not set)"
fi
kill -TERM "$daemon"
code=0
wait "$daemon" || code=$?
daemon=
[ $code = 0 ] || fail "after SIGTERM the daemon exits with $code: $(cat "$work/log")"
say "after SIGTERM it exits with 0"
[ "$before" = "$(find "$root" -exec ls -ld {} +)" ] || fail "the root has changed"
say "nothing was written"

# --- The systemd unit

if has systemd-analyze; then
    mkdir "$work/unit"
    # Only the binary's place differs: verify looks for it.
    sed "s|/usr/local/bin/schemad|$binary|" "$deploy/schemad.service" >"$work/unit/schemad.service"
    said=$(systemd-analyze verify --man=no "$work/unit/schemad.service" 2>&1) || fail "systemd-analyze verify: $said"
    case $said in *schemad.service*) fail "systemd-analyze verify: $said" ;; esac
    said=$(systemd-analyze security --offline=true --threshold=$exposure --no-pager "$work/unit/schemad.service" 2>&1) ||
        fail "systemd-analyze security: $said"
    say "schemad.service: $(printf '%s\n' "$said" | grep -o 'exposure level.*: [0-9.]*')"
else
    skip "schemad.service (no systemd-analyze)"
fi

# --- The compose file

if docker compose version >/dev/null 2>&1; then
    docker compose -f "$deploy/compose.yaml" --profile test config --quiet || fail "docker compose config"
    say "compose.yaml: docker compose takes it"
fi
if python3 -c 'import yaml' 2>/dev/null; then
    python3 - "$deploy/compose.yaml" "${COMPOSE_SCHEMA:-}" <<'PYTHON' || fail "compose.yaml"
import json, sys, yaml

compose = yaml.safe_load(open(sys.argv[1]))
if sys.argv[2]:
    import jsonschema
    jsonschema.Draft7Validator(json.load(open(sys.argv[2]))).validate(compose)
services = compose["services"]
problems = []
for name, service in services.items():
    problems += [f"{name} publishes {port} to other machines" for port in service.get("ports", []) if not port.startswith("127.0.0.1:")]
    problems += [f"{name} waits for {other}, which is not there" for other in service.get("depends_on", {}) if other not in services]
    problems += [f"{name} has no secret {secret}" for secret in service.get("secrets", []) if secret not in compose["secrets"]]
    if service.get("image") == "schemad" and not (service.get("read_only") and service.get("cap_drop") == ["ALL"]):
        problems.append(f"{name} is not hardened")
for problem in problems:
    print(problem, file=sys.stderr)
print(f"check: compose.yaml: {len(services)} services" + (", valid by the compose specification's schema" if sys.argv[2] else ""))
sys.exit(bool(problems))
PYTHON
else
    skip "compose.yaml's structure (no python3 with yaml)"
fi
version=$(sed -n 's/.*SCHEMA_VERSION:-\([0-9]*\)}.*/\1/p' "$deploy/compose.yaml")
found=
for folder in "$deploy"/../migrations/*; do
    [ "$(basename "${folder%%_*}" | tr -d -)" != "$version" ] || found=$folder
done
[ -n "$found" ] || fail "compose.yaml waits for version $version, which is not in migrations/"

# --- Lints

if has hadolint; then
    hadolint "$deploy/Dockerfile" || fail "hadolint"
    say "Dockerfile: hadolint has nothing to say"
else
    skip "Dockerfile (no hadolint)"
fi
if has shellcheck; then
    shellcheck "$deploy/rootfs.sh" "$deploy/check.sh" || fail "shellcheck"
    say "scripts: shellcheck has nothing to say"
fi
say "all is well"
