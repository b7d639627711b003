package main

import (
	"testing"
	"testing/fstest"
)

func TestMemoryLimit(t *testing.T) {
	t.Parallel()
	file := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }
	for name, c := range map[string]struct {
		files fstest.MapFS
		want  int64
	}{
		"no control groups": {},
		"version 1":         {files: fstest.MapFS{"proc/self/cgroup": file("9:memory:/x\n"), "sys/fs/cgroup/memory.max": file("1000\n")}},
		"unlimited": {files: fstest.MapFS{
			"proc/self/cgroup": file("0::/system.slice/dispatchd.service\n"), "sys/fs/cgroup/system.slice/dispatchd.service/memory.max": file("max\n"),
		}},
		"its own": {want: 900, files: fstest.MapFS{
			"proc/self/cgroup": file("0::/system.slice/dispatchd.service\n"), "sys/fs/cgroup/system.slice/dispatchd.service/memory.max": file("1000\n"),
			"sys/fs/cgroup/system.slice/memory.max": file("max\n"),
		}},
		"the slice's is less": {want: 450, files: fstest.MapFS{
			"proc/self/cgroup": file("0::/system.slice/dispatchd.service\n"), "sys/fs/cgroup/system.slice/dispatchd.service/memory.max": file("1000\n"),
			"sys/fs/cgroup/system.slice/memory.high": file("500\n"),
		}},
		"in a container": {want: 1800, files: fstest.MapFS{"proc/self/cgroup": file("0::/\n"), "sys/fs/cgroup/memory.max": file("2000\n")}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := memoryLimit(c.files); got != c.want {
				t.Errorf("%d, want %d", got, c.want)
			}
		})
	}
}
