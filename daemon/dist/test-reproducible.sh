#!/bin/bash
# Builds the committed source twice, in two directories, with two empty caches,
# and compares. Usage: test-reproducible.sh VERSION
set -euo pipefail
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
for n in one another-place; do
  mkdir -p "$work/$n/src"
  git archive HEAD | tar -x -C "$work/$n/src"
  (cd "$work/$n/src" && GOCACHE="$work/$n/cache" CGO_ENABLED=0 go build -trimpath -buildvcs=false \
    -ldflags "-s -w -buildid= -X main.version=$1" -o "$work/$n/dispatchd" ./daemon)
  rm -rf "$work/$n/cache"
  sha256sum "$work/$n/dispatchd" | sed "s,$work/,,"
done
cmp "$work/one/dispatchd" "$work/another-place/dispatchd"
if readelf -d "$work/one/dispatchd" 2>/dev/null | grep -q NEEDED; then
  echo "the program is not static" >&2
  exit 1
fi
echo "the same, and static"
