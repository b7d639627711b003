#!/bin/bash
# Builds what is committed twice and compares: in a clone, as `make release` does,
# and from an archive without the history, told only what the first program says of
# itself. Two directories, two empty caches.
set -euo pipefail
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
git clone -q --no-checkout . "$work/clone"
git -C "$work/clone" checkout -q --detach "$(git rev-parse HEAD)"
mkdir "$work/archive"
git archive HEAD | tar -x -C "$work/archive"
build() { # DIRECTORY [VARIABLE=VALUE…]
  GOCACHE="$work/cache-$1" make -s --no-print-directory -C "$work/$1" build "${@:2}" >&2
  rm -rf "$work/cache-$1"
}
build clone
said() { "$work/clone/bin/dispatchd" version --json | grep -oP "\"$1\":\"\\K[^\"]*"; }
build archive VERSION="$(said version)" COMMIT="$(said commit)" COMMIT_TIME="$(said commit_time)"
(cd "$work" && sha256sum clone/bin/dispatchd archive/bin/dispatchd)
cmp "$work/clone/bin/dispatchd" "$work/archive/bin/dispatchd"
if readelf -d "$work/clone/bin/dispatchd" 2>/dev/null | grep -q NEEDED; then
  echo "the program is not static" >&2
  exit 1
fi
echo "the same, and static"
