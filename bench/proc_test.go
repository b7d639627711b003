package main

import (
	"math"
	"os"
	"runtime"
	"testing"
	"time"
)

func TestParseStat(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		raw  string
		want time.Duration
		bad  bool
	}{
		"plain":       {raw: "17 (dispatchd) S 1 17 17 0 -1 4194560 900 0 0 0 250 50 7 8 20 0 9 0 100 1 2 3", want: 3 * time.Second},
		"parentheses": {raw: "17 (a) b (c)) R 1 17 17 0 -1 4194560 900 0 0 0 1 2 7 8 20 0", want: 30 * time.Millisecond},
		"short":       {raw: "17 (a) R 1 17 17 0", bad: true},
		"no name":     {raw: "17 R 1 17", bad: true},
		"no number":   {raw: "17 (a) R 1 17 17 0 -1 4194560 900 0 0 0 x 2 7 8 20 0", bad: true},
	} {
		got, err := parseStat([]byte(c.raw))
		if (err != nil) != c.bad || got != c.want {
			t.Errorf("%s: %s, %v", name, got, err)
		}
	}
}

func TestParseStatus(t *testing.T) {
	t.Parallel()
	raw := []byte("Name:\tx\nVmHWM:\t   20480 kB\nVmRSS:\t    1024 kB\nThreads:\t9\n")
	if got, err := parseStatus(raw, "VmRSS"); err != nil || got != 1<<20 {
		t.Errorf("VmRSS %d, %v", got, err)
	}
	if got, err := parseStatus(raw, "VmHWM"); err != nil || got != 20<<20 {
		t.Errorf("VmHWM %d, %v", got, err)
	}
	for _, name := range []string{"VmSwap", "Threads"} {
		if got, err := parseStatus(raw, name); err == nil {
			t.Errorf("%s: %d", name, got)
		}
	}
}

func TestOwnProcess(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("/proc is Linux")
	}
	self := process(os.Getpid())
	if _, err := self.cpu(); err != nil {
		t.Error(err)
	}
	if now, peak, err := self.memory(); err != nil || now < 1<<20 || peak < now/2 {
		t.Errorf("memory %d, peak %d, %v", now, peak, err)
	}
	if _, err := process(math.MaxInt32).cpu(); err == nil {
		t.Error("a process that is not there has processor time")
	}
}

func TestModelName(t *testing.T) {
	t.Parallel()
	if got := modelName("processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\n"); got != "Some CPU @ 2 GHz" {
		t.Errorf("%q", got)
	}
	if got := modelName("Hardware : x\n"); got != "unknown" {
		t.Errorf("%q", got)
	}
}

func TestRedisInfo(t *testing.T) {
	t.Parallel()
	info := infoNumbers("# Memory\r\nused_memory:1234\r\nused_memory_human:1K\r\nratio:0.5\r\n")
	if len(info) != 2 || info["used_memory"] != 1234 || info["ratio"] != 0.5 {
		t.Errorf("%v", info)
	}
	stats := parseCommandStats("# Commandstats\r\ncmdstat_evalsha:calls=3,usec=120,usec_per_call=40.00,rejected_calls=0\r\nother:1\r\ncmdstat_config|get:calls=1,usec=9\r\n")
	if len(stats) != 2 || stats["evalsha"] != (commandStat{"evalsha", 3, 120}) || stats["config|get"].Micro != 9 {
		t.Errorf("%+v", stats)
	}
}
