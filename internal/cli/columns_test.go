package cli

import (
	"context"
	"strings"
	"testing"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/service"
)

// TestEverythingFitsEightyColumns runs every command that prints for people
// against a daemon whose names are as long and as wide as they may be, and whose
// counts are large. Only a command to be copied may be longer.
func TestEverythingFitsEightyColumns(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.other = true
	org, wide := strings.Repeat("library-of-a-", 4)+"university", "東京大学附属図書館情報システム部"+strings.Repeat("研究", 20)+" ファイル"
	long := strings.Repeat("a", 60)
	url := "https://" + long + "." + long + ".example/" + strings.Repeat("orcid/", 100) + "?key=" + strings.Repeat("k", 200)
	mail := strings.Repeat("m", 60) + "@" + long + "." + long + ".example"
	b.fine("org", "add", org, "--name", wide, "--url", url, "--contact", mail, "--credential", "main")
	b.fine("org", "set", org, "email.enabled=true", "email.mode=weekly", "timezone=America/Argentina/ComodRivadavia")
	b.fine("org", "add", "zz", "--name", strings.Repeat("W", 190), "--credential", "other")
	b.fine("user", "add", josiah, "--org", org, "--name", wide, "--email", mail, "--eppn", mail)
	b.fine("user", "add", maria, "--org", org, "--name", strings.Repeat("Maximiliana ", 15))
	why := "the receiver answered 503 Service Unavailable: " + strings.Repeat("東京", 40) + " " + url
	b.attempt(org, 20_000, event.Dead, 503, why, wide+strings.Repeat(" very long", 30))
	b.attempt(org, 1_000_000, event.Retry, 503, why, url)
	u, err := b.store.User(context.Background(), b.id(josiah))
	b.must(err)
	u.LastPing = b.now()
	u.Registrations = []event.Registration{{Credential: "main", State: event.RegRefused, Changed: b.now(), Tries: 1_000_000, Status: 503, RetryAt: b.now().Add(time.Hour), Epoch: 12345}}
	_, err = b.store.SaveUser(context.Background(), *u, time.Time{})
	b.must(err)
	b.must(b.svc.Pause(context.Background(), service.By{Who: "test"}, org, event.Webhook, strings.Repeat("they move house ", 12)))
	b.actors = service.ActorState{
		InFlight: map[event.Channel]int{event.Webhook: 123_456_789, event.Email: 123_456_789},
		Credentials: []service.CredentialState{
			{Name: "main", State: "ok", Rate: 12345.678, Waiting: 123_456_789, Since: begin.AddDate(-20, 0, 0)},
			{Name: "other", State: "refused: " + why, Rate: 20, Waiting: 3, Since: begin},
		},
	}
	b.spool = service.SpoolState{Waiting: 123_456_789_012, Oldest: begin.AddDate(-3, 0, 0)}
	b.worse = []service.Problem{{What: why, Since: begin, Cost: wide, Do: "dispatchd org resume " + org}, {What: wide + wide, Cost: url, Do: strings.Repeat("look at it ", 20)}}
	file := b.file("users.csv", "orcid,name\n"+strings.Repeat("wrong-"+long+","+wide+"\n", 3)+josiah+","+wide+"\n")

	life, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.svc.Run(life) }()
	defer func() {
		stop()
		b.must(<-done)
	}()
	check := func(ok bool, args ...string) {
		t.Helper()
		b.clock.Add(1000)
		r := b.run("", args...)
		if ok && r.code != 0 {
			t.Errorf("dispatchd %s: exit %d\n%s%s", strings.Join(args, " "), r.code, r.out, r.err)
		}
		if r.out+r.err == "" {
			t.Errorf("dispatchd %s prints nothing", strings.Join(args, " "))
		}
		for line := range strings.Lines(r.out + r.err) {
			line = strings.TrimSuffix(line, "\n")
			if n := textWidth(line); n > 80 && !isCommand(line) {
				t.Errorf("dispatchd %s: %d columns:\n%s", strings.Join(args, " "), n, line)
			}
		}
	}
	for _, args := range [][]string{
		{"org", "list"},
		{"org", "show", org},
		{"org", "show", "zz"},
		{"org", "set", org, "concurrency=3"},
		{"org", "resume", org},
		{"org", "pause", org, "--reason", wide},
		{"org", "move", org, "--credential", "other"},
		{"org", "link", org},
		{"org", "rotate-secret", org},
		{"org", "enable", org, "--channel", "email"},
		{"user", "list", "--org", org},
		{"user", "show", josiah},
		{"user", "show", maria},
		{"user", "parked"},
		{"user", "add", maria, "--org", org, "--name", wide},
		{"user", "remove", maria, "--org", org},
		{"delivery", "log", org},
		{"delivery", "log", org, "--answers"},
		{"delivery", "log", org, "--limit", "1"},
		{"delivery", "log", org, "--channel", "email"},
		{"delivery", "list", org},
		{"delivery", "list", org, "--channel", "email"},
		{"delivery", "replay", org},
		{"delivery", "purge", org, "--yes"},
		{"registration", "status"},
		{"registration", "sync"},
		{"credential", "list"},
		{"credential", "show", "main"},
		{"credential", "show", "other"},
		{"credential", "test", "main"},
		{"job", "list"},
		{"health"},
		{"reload"},
		{"log-level", "debug"},
		{"version"},
		{"org", "disable", org},
		{"org", "remove", org, "--yes"},
	} {
		check(true, args...)
	}
	for _, args := range [][]string{ // these have something to say against it
		{"status"},
		{"ledger"},
		{"org", "test", org},
		{"registration", "rearm", josiah},
		{"registration", "pause"},
		{"user", "import", file, "--org", "zz"},
		{"user", "sync", file, "--org", "zz"},
		{"org", "show", org + "x"},
		{"org", "set", "zz", "webhook.url=ftp://" + long + long + "/"},
		{"user", "show", "0000-0000-0000-0001"},
		{"recover", "--accept-loss"},
		{"nonsense"},
	} {
		check(false, args...)
	}
	for _, args := range [][]string{nil, {"--help"}, {"org", "--help"}, {"user", "import", "--help"}, {"delivery", "list", "--help"}, {"serve", "--help"}} {
		check(false, args...)
	}
}

// isCommand reports whether a line is too long because of a command or a link
// that has to stay whole to be copied.
func isCommand(line string) bool {
	if strings.HasPrefix(line, "https://hub.example/sign-in/") {
		return true
	}
	before, _, found := strings.Cut(line, "dispatchd ")
	return found && textWidth(before) < 60
}

func (b *bundle) id(text string) orcid.ID {
	b.Helper()
	id, err := orcid.Parse(text)
	b.must(err)
	return id
}
