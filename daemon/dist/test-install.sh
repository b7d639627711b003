#!/bin/bash
# Follows docs/install.md in a Debian 12 that runs: test-install.sh ROOT DEB NEWER
# boots ROOT with systemd-nspawn, without a network, and does what the page says
# with the page's own commands, from the package to the first delivery. ORCID is
# `dispatchd simulate-orcid`, the organisation a receiver beside it. Then it runs
# the blocks "sh booted" of all pages, and what they tell in a sentence to do with
# systemctl and journalctl; the package NEWER is what they upgrade to. Needs root.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$1 deb=$2 newer=$3 page=docs/install.md
say() { printf '== %s\n' "$*"; }
fail() { printf 'FAIL: %s\n' "$*" >&2; exit 1; }
console=$(mktemp) work="$root/root"
# What the world of the page is here.
orcid=http://127.0.0.1:9700 receiver=http://127.0.0.1:9900 client=APP-INSTALLTEST00001
secret=11111111-2222-3333-4444-555555555555

# The commands: one file for each block of the page, up to "From source".
rm -rf "$work/page"; mkdir -p "$work/page" "$work/dist"
awk -v dir="$work/page" '
  /^## From source/ { exit }
  /^```sh/ { in_block = 1; file = sprintf("%s/%02d.sh", dir, ++n); print "set -euxo pipefail" > file; next }
  /^```/ { in_block = 0 }
  in_block { print > file }' "$page"
# What is done already, and what the world is called here.
sed -i -E "s,^make deb.*,:,; s,https://uni-a.example,$receiver," "$work"/page/*.sh
[ "$(cat "$work"/page/*.sh | grep -cE '^(apt install|systemctl enable|install |editor |runuser |dispatchd )')" -ge 12 ] || fail "the commands of $page are not found"
cp "$deb" "$work/dist/"
# The person at the editor: the lines that the page shows, for this world.
awk '/^```toml/ { if (!done) on = 1; next } /^```/ { if (on) done = 1; on = 0 } on' "$page" > "$work/page/lines.toml"
cat > "$root/usr/local/bin/editor" <<END
#!/bin/bash
set -eu
while IFS= read -r line; do
  case \$line in
  "[orcid.credential.main]") break ;;
  *=*) key=\${line%% *}; grep -qE "^#?\$key += " "\$1"; sed -i -E "0,/^#?\$key += .*/s||\${line%%#*}|" "\$1" ;;
  esac
done < /root/page/lines.toml
sed -n '/^\[orcid.credential.main\]/,\$p' /root/page/lines.toml >> "\$1"
sed -i -E 's,^public_url.*,public_url = "http://127.0.0.1:8080",; s,^web_url.*,web_url = "http://127.0.0.1:8081",; s,^environment.*,environment = "sandbox"\napi_url = "$orcid"\ntoken_url = "$orcid/oauth/token",
  s,^client_id .*,client_id = "$client",; s,^#?allow_private.*,allow_private = ["127.0.0.0/8"],; s,^#?quiet_period.*,quiet_period = "1s",' "\$1"
END
cat > "$root/usr/local/bin/receive" <<'END'
#!/usr/bin/perl
# Answers 204 to every request and writes its body down.
use IO::Socket::INET; use strict; $| = 1;
my $s = IO::Socket::INET->new(LocalAddr => '127.0.0.1:9900', Listen => 16, ReuseAddr => 1) or die $!;
while (my $c = $s->accept) {
  my ($n, $body) = (0, '');
  while (<$c>) { $n = $1 if /^content-length: (\d+)/i; last if /^\r?\n$/ }
  read $c, $body, $n; print "$body\n"; print $c "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"; close $c;
}
END
chmod 755 "$root/usr/local/bin/editor" "$root/usr/local/bin/receive"
# What a run before left there; the purge keeps its Redis.
chroot "$root" dpkg -P dispatchd >/dev/null 2>&1 || true
rm -rf "$root/var/lib/redis/dispatchd"
printf 'APT::Get::Assume-Yes "true";\n' > "$root/etc/apt/apt.conf.d/99test"
rm -f "$root/usr/sbin/policy-rc.d"

say "boot Debian"
systemd-nspawn -q -D "$root" --boot --private-network --register=no --keep-unit -M dispatchd-install </dev/null >"$console" 2>&1 &
machine=$!
cleanup() {
  code=$?
  [ "$code" = 0 ] || { tail -20 "$console"; inside journalctl -u 'dispatchd*' -u orcid -u receiver --no-pager -n 40 || true; } >&2
  kill "$machine" 2>/dev/null || true
  wait "$machine" || true
  rm -f "$console" "$root/etc/apt/apt.conf.d/99test" "$root/usr/local/bin/editor" "$root/usr/local/bin/receive"
}
trap cleanup EXIT
inside() { nsenter -t "$leader" -m -u -i -n -p -- /usr/bin/env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb DEBIAN_FRONTEND=noninteractive "$@"; }
leader=
for _ in $(seq 600); do
  leader=$(pgrep -P "$machine" | head -1) || true
  case $([ -z "$leader" ] || inside systemctl is-system-running 2>/dev/null) in running|degraded) break ;; esac
  kill -0 "$machine" 2>/dev/null || fail "it does not boot"
  sleep 0.1
done
inside systemctl is-active --quiet multi-user.target || fail "it is not up within a minute"

SECONDS=0
for block in "$work"/page/*.sh; do
  say "$(grep -vE '^set |^:$' "$block" | head -1)"
  if grep -q /dev/stdin "$block"; then input=$secret; else input=; fi
  if grep -q 'dispatchd check' "$block"; then
    inside systemd-run -q --unit=orcid dispatchd simulate-orcid --listen 127.0.0.1:9700 --speed 60 --profiles 20 --client "$client:$secret"
    inside systemd-run -q --unit=receiver receive
    inside curl -fsS --retry 50 --retry-connrefused --retry-delay 1 -o /root/profiles.json "$orcid/_sim/profiles"
    { echo orcid; grep -oE '[0-9]{4}-[0-9]{4}-[0-9]{4}-[0-9]{3}[0-9X]' "$work/profiles.json" | sort -u | head -5; } > "$work/users.csv"
  fi
  inside bash -c "cd /root && bash /root/page/${block##*/}" <<< "$input"
done
say "a change of a record"
id=$(sed -n 2p "$work/users.csv")
until_true() { for _ in $(seq 1200); do ! "$@" || return 0; sleep 0.1; done; fail "not within two minutes: $*"; }
registered() { inside curl -fsS "$orcid/_sim/webhooks" | grep "$id" >/dev/null; }
told() { inside journalctl -u receiver -o cat --no-pager | grep "\"$id\"" | grep '"UPDATED"' >/dev/null; }
until_true registered
inside curl -fsS -X POST -d '{}' -o /dev/null "$orcid/_sim/profiles/$id/change"
until_true told
for unit in dispatchd.service dispatchd.socket redis-server@dispatchd.service; do inside systemctl is-active --quiet "$unit" || fail "$unit does not run"; done
[ "$(inside systemctl show -P NRestarts dispatchd)" = 0 ] || fail "it was started again"
took=$SECONDS
[ "$took" -lt 600 ] || fail "docs/install.md took $took s, 10 minutes are allowed"
say "docs/install.md, from the package to the first delivery: $took s"

say "what the pages do with systemd"
cp "$newer" "$work/dispatchd_NEW_amd64.deb"
rm -rf "$work/booted"; mkdir "$work/booted"
awk -v dir="$work/booted" '
  FNR == 1 { in_block = 0 }
  /^```sh booted/ { in_block = 1; file = sprintf("%s/%02d.sh", dir, ++n); print "set -euxo pipefail" > file; next }
  /^```/ { in_block = 0 }
  in_block { print > file }' docs/*.md
# Not what a person does in an editor, or what nothing is found by here.
grep -hoE '`(systemctl|journalctl) [^`]+`' docs/*.md | tr -d '`' | sort -u | grep -vE ' edit |panic|disable' > "$work/booted/sentences"
[ "$(cat "$work"/booted/* | grep -cE '^(systemctl|journalctl|apt) ')" -ge 10 ] || fail "the commands of the pages are not found"
for block in "$work"/booted/*.sh; do inside bash -c "cd /root && bash /root/booted/${block##*/}"; done
while read -r line; do
  say "$line"
  inside bash -c "set -euo pipefail; $line" </dev/null >"$work/said" || { cat "$work/said"; fail "$line"; }
done < "$work/booted/sentences"
[ "$(inside dpkg-query -Wf '${Version}' dispatchd)" = 99.0.0 ] || fail "it was not upgraded"
grep -q 'msg=ready' <<< "$(inside journalctl -u dispatchd -o cat --no-pager)" || fail "journald has no line of the daemon"
id=$(sed -n 3p "$work/users.csv")
until_true registered
inside curl -fsS -X POST -d '{}' -o /dev/null "$orcid/_sim/profiles/$id/change"
until_true told
for unit in dispatchd.service dispatchd.socket redis-server@dispatchd.service; do inside systemctl is-active --quiet "$unit" || fail "$unit does not run"; done
[ "$(inside systemctl show -P NRestarts dispatchd)" = 0 ] || fail "it was started again"
say "they work, and the next change is told"
