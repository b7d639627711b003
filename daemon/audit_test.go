package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// audits are the lines about changes by persons.
func (w *world) audits() (lines []string) {
	for line := range strings.Lines(w.log.String()) {
		if strings.Contains(line, "msg=audit") {
			lines = append(lines, line)
		}
	}
	return lines
}

// Every change by a person is one line: what, who, and from where.
func TestEveryChangeByAPersonIsOneLine(t *testing.T) {
	t.Parallel()
	// However little of the rest is wanted.
	w := newWorld(t, setting{users: 6, later: true})
	w.writeConfig("[log]\nlevel = \"error\"\n")
	w.start()
	w.d.app.o.Level.Set(slog.LevelError)
	list := filepath.Join(t.TempDir(), "users.csv")
	w.must(os.WriteFile(list, []byte("orcid\n"+w.users[1].String()+"\n"), 0o600))
	id := w.users[0].String()
	for _, command := range []struct{ line, what string }{
		{"org add uni-a --credential main --name A --contact it@uni-a.example --url " + w.recv.URL() + "/uni-a", `what="organisation saved"`},
		{"org set uni-a name=B", `what="organisation saved"`},
		{"org rotate-secret uni-a", `what="signing secret rotated"`},
		{"org show uni-a --secrets", `what="showed secrets"`},
		{"org pause uni-a", "what=paused"},
		{"org resume uni-a", "what=resumed"},
		{"org test uni-a", `what="test event sent"`},
		{"org link uni-a", `what="sign-in link made"`},
		{"user add " + id + " --org uni-a", `what="user added"`},
		{"user import " + list + " --org uni-a", `what="users imported"`},
		{"user sync " + list + " --org uni-a --force", `what="users synchronised"`},
		{"user export " + id, `what="user exported"`},
		{"user remove " + w.users[1].String() + " --org uni-a", `what="user removed"`},
		{"delivery replay uni-a", `what="replay asked for"`},
		{"org disable uni-a", `what="organisation saved"`},
		{"org enable uni-a", `what="organisation saved"`},
		{"user erase " + id + " --yes", `what="user erased"`},
		{"user unsuppress " + id, `what="user taken off the suppression list"`},
		{"reload", `what="configuration reloaded"`},
		{"log-level info", `what="log level set"`},
		{"log-level error", `what="log level set"`},
		{"org remove uni-a --yes", `what="organisation is being removed"`},
	} {
		before := len(w.audits())
		said := w.run(strings.Fields(command.line)...)
		lines := w.audits()[before:]
		if len(lines) != 1 || !strings.Contains(lines[0], command.what) || !strings.Contains(lines[0], "who=admin") || !strings.Contains(lines[0], "from=127.0.0.1:") {
			t.Errorf("%s:\n%s%s", command.line, said, strings.Join(lines, ""))
		}
	}
}
