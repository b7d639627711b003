package main

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"dispatchd/internal/servicetest"
)

// The format follows where the log goes, unless it is set: text for people,
// JSON for programs, and journald's own level and time under journald alone.
func TestTheLogSuitsItsReader(t *testing.T) {
	t.Parallel()
	prefixes := map[slog.Level]string{slog.LevelDebug: "<7>", slog.LevelInfo: "<6>", slog.LevelWarn: "<4>", slog.LevelError: "<3>"}
	for _, c := range []struct {
		format             string
		terminal, journald bool
		json               bool
	}{
		{"auto", true, false, false},
		{"auto", false, false, true},
		{"auto", false, true, false},
		{"text", false, false, false},
		{"text", false, true, false},
		{"json", true, false, true},
		{"json", false, true, true},
	} {
		var out servicetest.Log
		log, level := newLogger(&out, c.format, c.terminal, c.journald)
		level.Set(slog.LevelDebug)
		for l := range prefixes {
			log.Log(t.Context(), l, "level=ERROR", "words", "two\nlines \"level\":\"ERROR\"", "was", l.String())
		}
		lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
		if len(lines) != len(prefixes) {
			t.Fatalf("%+v: %d lines for %d messages:\n%s", c, len(lines), len(prefixes), out.String())
		}
		for _, line := range lines {
			rest, prefix := line, ""
			if strings.HasPrefix(line, "<") {
				prefix, rest = line[:3], line[3:]
			}
			var is slog.Level
			for l := range prefixes {
				if strings.Contains(rest, "was="+l.String()) || strings.Contains(rest, `"was":"`+l.String()+`"`) {
					is = l
				}
			}
			want := ""
			if c.journald {
				want = prefixes[is]
			}
			timed := strings.HasPrefix(rest, "time=") || strings.HasPrefix(rest, `{"time":`)
			if prefix != want || json.Valid([]byte(rest)) != c.json || timed == c.journald {
				t.Errorf("%+v: %s", c, line)
			}
		}
	}
}

// $JOURNAL_STREAM is inherited; it counts only for what it names.
func TestOnlyWhatLeadsToJournaldIsUnderJournald(t *testing.T) {
	t.Parallel()
	open := func() (*os.File, string) {
		f, err := os.Create(filepath.Join(t.TempDir(), "log"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		var st syscall.Stat_t
		if err := syscall.Fstat(int(f.Fd()), &st); err != nil {
			t.Fatal(err)
		}
		return f, fmt.Sprintf("%d:%d", st.Dev, st.Ino)
	}
	journal, stream := open()
	file, other := open()
	for _, c := range []struct {
		f      *os.File
		stream string
		want   bool
	}{{journal, stream, true}, {file, stream, false}, {journal, other, false}, {journal, "", false}, {journal, "1:x", false}} {
		if got := underJournald(c.f, c.stream); got != c.want {
			t.Errorf("%s with %q: %v", c.f.Name(), c.stream, got)
		}
	}
}

// The level is changed while the daemon runs: by the API until the next reload,
// by the file and a reload for good.
func TestTheLogLevelChangesAtRunTime(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setting{later: true})
	w.writeConfig("[log]\nlevel = \"warn\"\n")
	w.start()
	level := func() string {
		var out struct{ Level string }
		w.ask("GET", "/v1/log-level", nil, &out)
		return out.Level
	}
	// said reports whether a line of this level comes out.
	said := func(l slog.Level, mark string) bool {
		w.d.app.log.Log(t.Context(), l, "a line", "mark", mark)
		return strings.Contains(w.log.String(), "mark="+mark)
	}
	reload := func(to string) {
		w.writeConfig("[log]\nlevel = \"" + to + "\"\n")
		w.ask("POST", "/v1/reload", nil, nil)
	}
	reload("warn")
	if level() != "warn" || said(slog.LevelInfo, "one") || !said(slog.LevelWarn, "two") {
		t.Errorf("the level of the file is %s", level())
	}
	w.ask("PUT", "/v1/log-level", object{"level": "debug"}, nil)
	if level() != "debug" || !said(slog.LevelDebug, "three") {
		t.Errorf("the level that was set is %s", level())
	}
	if status := w.api("PUT", "/v1/log-level", object{"level": "loud"}, nil); status != http.StatusBadRequest || level() != "debug" {
		t.Errorf("no level: %d, %s", status, level())
	}
	reload("error")
	if level() != "error" || said(slog.LevelWarn, "four") || !said(slog.LevelError, "five") {
		t.Errorf("the level after the reload is %s", level())
	}
	reload("info")
	if level() != "info" || said(slog.LevelDebug, "six") || !said(slog.LevelInfo, "seven") {
		t.Errorf("the level after the second reload is %s", level())
	}
}
