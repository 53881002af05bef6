#!/bin/sh
# Assembles the image's root: the binary and what it needs to run, nothing else. The Dockerfile copies the result onto
# `scratch`; check.sh runs in it, so what is checked without a container engine is what the image holds.
set -eu

if [ $# != 2 ]; then
    echo "usage: rootfs.sh BINARY FOLDER" >&2
    exit 2
fi
binary=$1 root=$2
certificates=${CA_CERTIFICATES:-/etc/ssl/certs/ca-certificates.crt}

fail() { printf 'rootfs.sh: %s\n' "$*" >&2; exit 1; }
[ -f "$binary" ] || fail "$binary is not a file"
[ -s "$certificates" ] || fail "$certificates is missing; install ca-certificates"

# The image's user is not the builder's: everything is readable by all, and writable by its owner only.
umask 022
mkdir -p "$root"
[ -z "$(ls -A "$root")" ] || fail "$root is not empty"

# put FILE PATH: a copy of FILE, never a link, at PATH inside the root.
put() {
    mkdir -p "$root$(dirname "$2")"
    cp -L "$1" "$root$2"
}

put "$binary" /usr/local/bin/schemad
chmod 755 "$root/usr/local/bin/schemad"

# The loader and the libraries, at the paths where the loader looks for them. A static binary has none. DNS needs no more:
# glibc 2.34 and later hold the "files" and "dns" look-ups themselves; for an older one the modules are copied too.
if linked=$(ldd "$binary" 2>/dev/null); then
    case $linked in *"not found"*) fail "a library is missing: $linked" ;; esac
    libraries=$(printf '%s\n' "$linked" | sed -n 's|^[^/]*\(/[^ ]*\) (0x[0-9a-f]*)$|\1|p')
    for library in $libraries; do
        put "$library" "$library"
        case $library in
            */libc.so.6)
                if ! grep -q 'GLIBC_2\.34' "$library"; then
                    for module in libnss_files.so.2 libnss_dns.so.2 libresolv.so.2; do
                        put "${library%/*}/$module" "${library%/*}/$module"
                    done
                fi
                ;;
        esac
    done
fi

put "$certificates" /etc/ssl/certs/ca-certificates.crt
mkdir -p "$root/etc"
printf 'root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n' >"$root/etc/passwd"
printf 'root:x:0:\nnonroot:x:65532:\n' >"$root/etc/group"
# Without it glibc would ask for modules that are not there.
printf 'passwd: files\ngroup: files\nhosts: files dns\n' >"$root/etc/nsswitch.conf"

# Mount points: nothing can be made in a root that is read-only.
mkdir -p "$root/dev" "$root/proc" "$root/sys" "$root/run/secrets"
