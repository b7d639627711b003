package main

import (
	"io/fs"
	"math"
	"path"
	"strconv"
	"strings"
)

// memoryLimit returns nine tenths of the least memory limit that the control
// groups (v2) of this process set, for Go's soft limit: near it the garbage is
// collected sooner, rather than that the kernel kills us. 0 means none. The file
// system is the root directory's.
func memoryLimit(root fs.FS) int64 {
	own, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return 0
	}
	least := int64(math.MaxInt64)
	for line := range strings.Lines(string(own)) {
		group, ok := strings.CutPrefix(strings.TrimSpace(line), "0::/")
		if !ok {
			continue // version 1
		}
		// A limit of any group above holds for us too. In a container the
		// groups above are not to be seen, and its own is the root.
		for dir := group; ; dir = path.Dir(dir) {
			if dir == "." {
				dir = ""
			}
			for _, name := range []string{"memory.max", "memory.high"} {
				raw, err := fs.ReadFile(root, path.Join("sys/fs/cgroup", dir, name))
				if err != nil {
					continue
				}
				// "max" is no number.
				if n, err := strconv.ParseInt(strings.TrimSpace(string(raw)), 10, 64); err == nil && n > 0 {
					least = min(least, n)
				}
			}
			if dir == "" {
				break
			}
		}
	}
	if least == math.MaxInt64 {
		return 0
	}
	return least / 10 * 9
}
