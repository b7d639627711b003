#!/bin/bash
# Installs dist/*.deb in a fresh Debian 12 without systemd running, starts it on
# the trial configuration and with its own Redis, upgrades, removes and purges it;
# then boots that Debian, follows docs/install.md and does what the other pages do
# with systemd (test-install.sh). Needs root, debootstrap, systemd-nspawn and a Debian mirror; ROOT= keeps and reuses the base
# system.
set -euo pipefail
cd "$(dirname "$0")/../.."
deb=$(ls -t dist/dispatchd_*.deb | head -1)
missing=
for p in debootstrap systemd-nspawn nsenter; do command -v $p >/dev/null || missing+=" $p"; done
[ -z "$missing" ] || { echo "test-deb:$missing missing: apt-get install debootstrap systemd-container util-linux" >&2; exit 1; }
[ "$(id -u)" = 0 ] || { echo "test-deb: it must be root to boot a Debian" >&2; exit 1; }
keep=${ROOT:-}
root=${ROOT:-$(mktemp -d)}
[ ! -d "$root" ] || chmod 755 "$root" # it is / to the users in it
say() { printf '== %s\n' "$*"; }
fail() { printf 'FAIL: %s\n' "$*" >&2; exit 1; }
pids=()
cleanup() {
  for p in "${pids[@]}"; do kill "$p" 2>/dev/null || true; done
  mountpoint -q "$root/proc" && umount "$root/proc" || true
  [ -n "$keep" ] || rm -rf "$root"
}
trap cleanup EXIT
if [ ! -x "$root/usr/bin/dpkg" ]; then
  say "debootstrap bookworm"
  debootstrap --variant=minbase --include=adduser,procps,ca-certificates,tzdata,redis-server,curl,man-db,bash-completion,systemd,systemd-sysv,dbus \
    bookworm "$root" "${MIRROR:-http://deb.debian.org/debian}" >"$root.log" 2>&1 || { tail -20 "$root.log" >&2; fail debootstrap; }
  rm -f "$root.log"
fi
printf '#!/bin/sh\nexit 101\n' > "$root/usr/sbin/policy-rc.d"; chmod 755 "$root/usr/sbin/policy-rc.d"
mountpoint -q "$root/proc" || mount -t proc proc "$root/proc"
inside() { chroot "$root" /usr/bin/env PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive "$@"; }
owner() { inside stat -c '%a %U:%G' "$1"; }
want() { [ "$(owner "$1")" = "$2" ] || fail "$1 is $(owner "$1"), want $2"; }
# Its ports may be taken on this machine; the addresses are the only change.
base=$((20000 + RANDOM % 10000))
ports() {
  sed -i -E "s,^callback = .*,callback = \"127.0.0.1:$base\",; s,^web = .*,web = \"127.0.0.1:$((base + 1))\",; s,^admin = .*,admin = \"127.0.0.1:$((base + 2))\"," \
    "$root/etc/dispatchd/config.toml"
}
start() {
  chroot "$root" setpriv --reuid=dispatchd --regid=dispatchd --clear-groups /usr/bin/dispatchd serve --config /etc/dispatchd/config.toml >"$root/tmp/log" 2>&1 &
  daemon=$!; pids+=("$daemon")
  for _ in $(seq 300); do
    grep -qE '^ *ok +redis' <<< "$(inside dispatchd health --config /etc/dispatchd/config.toml 2>&1)" && return
    kill -0 "$daemon" 2>/dev/null || { cat "$root/tmp/log" >&2; fail "the daemon ended"; }
    sleep 0.1
  done
  cat "$root/tmp/log" >&2; fail "the daemon is not ready"
}
stop() { kill -TERM "$daemon"; wait "$daemon" || fail "the daemon ended with $?"; }

# What a run before left there, whose Redis is not this installation's.
inside dpkg -P dispatchd >/dev/null 2>&1 || true
rm -rf "$root/var/lib/redis/dispatchd"
say "install $(basename "$deb")"
cp "$deb" "$root/tmp/one.deb"
inside dpkg -i /tmp/one.deb
want /etc/dispatchd "750 root:dispatchd"
want /etc/dispatchd/secrets "750 root:dispatchd"
want /etc/dispatchd/config.toml "640 root:dispatchd"
want /var/lib/dispatchd "700 dispatchd:dispatchd"
for k in callback.key master.key admin.token; do want "/var/lib/dispatchd/$k" "600 dispatchd:dispatchd"; done
for f in /lib/systemd/system/dispatchd.service /lib/systemd/system/dispatchd.socket /usr/share/dispatchd/alerts.yml /usr/share/dispatchd/dashboard.json \
  /usr/share/man/man8/dispatchd.8.gz /usr/share/man/man5/dispatchd.toml.5.gz /usr/share/bash-completion/completions/dispatchd \
  /etc/redis/redis-dispatchd.conf /usr/share/doc/dispatchd/runbook.md; do [ -e "$root$f" ] || fail "$f is missing"; done
inside dispatchd version
grep -q "EXIT STATUS" <<< "$(inside man -P cat 8 dispatchd)" || fail "the man page"

say "starts on the trial configuration"
inside dispatchd check /etc/dispatchd/config.toml
ports
start; inside dispatchd health --config /etc/dispatchd/config.toml; stop

say "works with its own Redis"
inside install -d -m 2750 -o redis -g dispatchd /run/redis-dispatchd /var/lib/redis/dispatchd   # systemd does this
chroot "$root" setpriv --reuid=redis --regid=dispatchd --clear-groups redis-server /etc/redis/redis-dispatchd.conf --supervised no >"$root/tmp/redis.log" 2>&1 &
pids+=("$!")
sed -i 's,^url = "embedded",url = "unix:///run/redis-dispatchd/redis-server.sock",' "$root/etc/dispatchd/config.toml"
cat >> "$root/etc/dispatchd/config.toml" <<'TOML'

[orcid.credential.main]
client_id = "APP-PACKAGETEST00001"
client_secret_file = "orcid.secret"
TOML
install -m 0640 /dev/stdin "$root/etc/dispatchd/secrets/orcid.secret" <<< "package-test-secret"
inside chown root:dispatchd /etc/dispatchd/secrets/orcid.secret
for _ in $(seq 100); do [ -S "$root/run/redis-dispatchd/redis-server.sock" ] && break; sleep 0.1; done
want /run/redis-dispatchd/redis-server.sock "770 redis:dispatchd"
start
inside dispatchd org add uni-a --name "University A" --contact it@uni-a.example --url https://uni-a.example/orcid --config /etc/dispatchd/config.toml
printf 'orcid\n0000-0002-1825-0097\n' > "$root/tmp/users.csv"
inside dispatchd user import /tmp/users.csv --org uni-a --config /etc/dispatchd/config.toml
inside dispatchd status --config /etc/dispatchd/config.toml || true
stop

say "upgrade keeps configuration and state"
sum() { (cd "$root" && sha256sum etc/dispatchd/config.toml etc/dispatchd/secrets/orcid.secret var/lib/dispatchd/*.key var/lib/dispatchd/admin.token); }
before=$(sum)
VERSION=99.0.0 ARCH=$(dpkg --print-architecture) "$(ls .tools/nfpm-*)" package -f daemon/dist/nfpm.yaml -p deb -t "$root/tmp/two.deb" >/dev/null
inside dpkg -i --force-confold /tmp/two.deb
[ "$(sum)" = "$before" ] || fail "the upgrade changed configuration or state"
[ "$(inside dpkg-query -Wf '${Version}' dispatchd)" = 99.0.0 ] || fail "it was not upgraded"
want /etc/dispatchd/config.toml "640 root:dispatchd"
start
grep -q uni-a <<< "$(inside dispatchd org list --config /etc/dispatchd/config.toml)" || fail "the organisation is gone"
grep -q uni-a <<< "$(inside dispatchd user show 0000-0002-1825-0097 --config /etc/dispatchd/config.toml)" || fail "the researcher is gone"
stop

say "remove keeps, purge takes"
inside dpkg -r dispatchd
[ -e "$root/etc/dispatchd/config.toml" ] && [ -e "$root/var/lib/dispatchd/callback.key" ] || fail "remove took configuration or state"
[ ! -e "$root/usr/bin/dispatchd" ] || fail "remove left the program"
inside dpkg -P dispatchd
for f in /etc/dispatchd /var/lib/dispatchd /etc/redis/redis-dispatchd.conf /usr/share/dispatchd; do [ ! -e "$root$f" ] || fail "purge left $f"; done
inside getent passwd dispatchd >/dev/null && fail "purge left the user"
say "the package installs, starts, upgrades, and purges, in ${SECONDS} s"

for p in "${pids[@]}"; do kill "$p" 2>/dev/null || true; done
pids=()
umount "$root/proc"
daemon/dist/test-install.sh "$root" "$deb" "$root/tmp/two.deb"
