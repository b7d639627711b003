package cli

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"dispatchd/internal/admin"
	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/org"
	"dispatchd/internal/service"
)

func TestOrg(t *testing.T) {
	t.Parallel()
	tr := &transcript{bundle: setup(t)}
	tr.do("", "org", "list")
	tr.do("", "org", "add", "uni-a")
	tr.do("", "org", "add", "uni-a", "--name", "University A", "--url", "https://a.example/orcid", "--contact", "it@a.example", "--timezone", "Pacific/Auckland", "--events", "CREATED,UPDATED", "--append-orcid")
	tr.do("", "org", "add", "uni-a", "--name", "Again")
	tr.do("", "org", "add", "Uni B", "--name", "", "--url", "ftp://b.example", "--contact", "nobody")
	tr.do("the-key\n", "org", "add", "uni-b", "--name", "Ωmega 大学 \u202eevil", "--url", "https://b.example/"+strings.Repeat("long/", 30), "--apikey-file", "-", "--disabled", "--email-enabled", "--email-address", "x@b.example", "--email-mode", "daily", "--api-client-id", "uni-b", "--concurrency", "3", "--payload", "hub")
	tr.do("", "org", "list")
	tr.do("", "org", "show", "uni-b")
	tr.do("", "org", "show", "uni-b", "--secrets")
	tr.do("", "org", "show", "nobody")
	tr.do("", "org", "set", "uni-a", "name=A", "webhook.append_orcid=no", "email.enabled=true", "concurrency=2", "webhook.events=CREATED", "email.max_per_hour=5", "email.mode=weekly", "email.monthly=false", "email.cc=yes", "email.address=mail@a.example", "api.client_id=uni-a", "technical_contact=ops@a.example", "timezone=Europe/Berlin", "credential=main", "webhook.payload=hub", "webhook.url=https://a.example/2", "webhook.enabled=on")
	headers := tr.file("headers", "# ours\nX-One: 1\n\nX-Two: two words\n")
	tr.run("", "org", "set", "uni-a", "webhook.headers_file="+headers) // the path differs
	tr.do("s3cret-key\n", "org", "set", "uni-a", "webhook.apikey_file=-")
	tr.do("", "org", "show", "uni-a", "--secrets")
	tr.do("", "org", "set", "uni-a", "webhook.apikey_file=")
	tr.do("", "org", "set", "uni-a", "webhook.apikey=secret")
	tr.do("", "org", "set", "uni-a", "shoe=1")
	tr.do("", "org", "set", "uni-a", "name")
	tr.do("", "org", "set", "uni-a", "name=a", "name=b")
	tr.do("", "org", "set", "uni-a", "webhook.enabled=perhaps")
	tr.do("", "org", "set", "uni-a", "concurrency=many")
	tr.do("", "org", "set", "uni-a", "webhook.url=ftp://x", "timezone=Moon")
	tr.do("", "org", "set", "uni-a", "webhook.signing_secret_file=-", "api.client_secret_file=-")
	tr.do("", "org", "enable", "uni-b", "--channel", "webhook")
	tr.do("", "org", "enable", "uni-b", "--channel", "fax")
	tr.do("", "org", "disable", "uni-b")
	tr.do("", "org", "pause", "uni-a", "--reason", "they move house")
	tr.do("", "org", "resume", "uni-a", "--channel", "email")
	tr.do("", "org", "resume", "uni-a")
	tr.do("", "org", "test", "uni-a")
	tr.do("", "org", "test", "uni-b")
	tr.do("", "org", "rotate-secret", "uni-a")
	tr.do("", "org", "move", "uni-a")
	tr.do("", "org", "move", "uni-a", "--credential", "main")
	tr.do("", "org", "move", "uni-a", "--credential", "nobody")
	tr.other = true
	tr.do("", "org", "move", "uni-a", "--credential", "other")
	tr.do("", "org", "remove", "uni-b")
	tr.do("", "org", "remove", "uni-b", "--yes")
	tr.runJobs()
	tr.do("", "org", "show", "uni-b")
	_, err := tr.svc.ApplyFile(context.Background(), service.By{Who: "file"}, []org.Organisation{{
		ID: "uni-f", Name: "F", Credential: "main", Webhook: org.Webhook{Enabled: true, URL: "https://f.example"}, Email: org.Email{Mode: org.Each},
	}})
	tr.must(err)
	tr.do("", "org", "set", "uni-f", "name=G")
	tr.do("", "org", "show", "uni-f")
	tr.do("", "job", "list")
	tr.compare("org")
}

// TestOrgLink prints a link that signs in, alone on its line for programs.
func TestOrgLink(t *testing.T) {
	t.Parallel()
	tr := setup(t)
	tr.run("", "org", "add", "uni-a", "--name", "A")
	r := tr.run("", "org", "link", "uni-a")
	link, ok := strings.CutPrefix(strings.TrimSpace(r.out), "https://hub.example/sign-in/")
	if !ok || r.code != 0 || !strings.Contains(r.err, "acts for uni-a, once") {
		t.Fatalf("%+v", r)
	}
	if err := tr.svc.LookAtLink(t.Context(), link); err != nil {
		t.Errorf("the link does not work: %v", err)
	}
	if r := tr.run("", "org", "link", "uni-z"); r.code != 1 || !strings.Contains(r.err, `There is no organisation "uni-z".`) {
		t.Errorf("%+v", r)
	}
}

func TestUser(t *testing.T) {
	t.Parallel()
	tr := &transcript{bundle: setup(t)}
	tr.addOrg("uni-a")
	tr.do("", "user", "list", "--org", "uni-a")
	tr.do("", "user", "add", josiah, "--org", "uni-a", "--name", "Josiah Carberry, of a department whose name is rather long", "--email", "josiah.carberry@psychoceramics.brown.example", "--eppn", "jc@brown.example")
	tr.do("", "user", "add", "https://orcid.org/"+josiah, "--org", "uni-a", "--name", "J. Carberry")
	tr.do("", "user", "add", "0000-0002-1825-0098", "--org", "uni-a")
	tr.do("", "user", "add", maria, "--org", "nobody")
	tr.do("", "user", "show", josiah)
	tr.attempt("uni-a", 218250, event.Delivered, 204, "", "") // somebody else's
	tr.attempt("uni-a", 218250_09, event.Retry, 503, "the receiver answered 503", "")
	tr.do("", "user", "show", maria)
	tr.do("orcid,name\n"+josiah+",J\nnonsense,N\n"+maria+",María\n0000-0002-1694-233X,a,b\n", "user", "import", "-", "--org", "uni-a", "--announce")
	tr.do("{\"orcid\":\""+maria+"\"}\n", "user", "import", "-", "--org", "uni-a", "--format", "ndjson")
	tr.do("orcid,shoe\n", "user", "import", "-", "--org", "uni-a")
	tr.do("", "user", "import", "-", "--org", "uni-a")
	tr.do("orcid\n", "user", "import", "-", "--org", "nobody")
	tr.do("", "user", "import", "/nonexistent/list.csv", "--org", "uni-a")
	tr.do("", "user", "import", "/", "--org", "uni-a")
	tr.do("", "user", "list", "--org", "uni-a")
	tr.do("", "user", "list", "--org", "uni-a", "--limit", "1")
	tr.do("", "user", "list", "--org", "uni-a", "--limit", "0")
	tr.do("", "user", "list", "--org", "uni-a", "--cursor", "nonsense")
	tr.do("", "user", "list")
	tr.do("", "user", "remove", josiah, "--org", "uni-a")
	tr.do("", "user", "remove", josiah, "--org", "uni-a")
	tr.compare("user")
}

func TestSync(t *testing.T) {
	t.Parallel()
	tr := &transcript{bundle: setup(t)}
	tr.addOrg("uni-a")
	list := "orcid,name\n"
	for i := range uint64(20) {
		id, err := orcid.FromBase(1000 + i)
		tr.must(err)
		list += id.String() + ",Researcher\n"
	}
	lines := strings.SplitAfter(list, "\n")
	without := func(n int) string { return lines[0] + strings.Join(lines[1+n:], "") }
	tr.do(list, "user", "sync", "-", "--org", "uni-a")
	tr.do(list, "user", "sync", "-", "--org", "uni-a")
	tr.clock.Add(3_600_000)
	tr.do(without(1)+maria+",María\n", "user", "sync", "-", "--org", "uni-a", "--dry-run")
	tr.do(without(1)+maria+",María\n", "user", "sync", "-", "--org", "uni-a")
	tr.do(without(3), "user", "sync", "-", "--org", "uni-a", "--dry-run")
	tr.do(without(3), "user", "sync", "-", "--org", "uni-a")
	tr.do(without(3), "user", "sync", "-", "--org", "uni-a", "--force")
	tr.do(without(4)+"0000-0002-1825-0098,wrong check digit\n", "user", "sync", "-", "--org", "uni-a")
	tr.do(without(4)+lines[4][:19]+",bad\x01name\n", "user", "sync", "-", "--org", "uni-a")
	tr.do("orcid\n", "user", "sync", "-", "--org", "nobody")
	tr.do("shoe\n", "user", "sync", "-", "--org", "uni-a")
	tr.compare("sync")
}

func TestErase(t *testing.T) {
	t.Parallel()
	tr := &transcript{bundle: setup(t)}
	tr.addOrg("uni-a")
	tr.addOrg("uni-b")
	tr.run("", "user", "add", josiah, "--org", "uni-a", "--name", "Josiah Carberry", "--email", "jc@a.example")
	tr.run("", "user", "add", josiah, "--org", "uni-b", "--eppn", "jc@b.example")
	tr.attempt("uni-a", 218250_09, event.Dead, 400, "the receiver answered 400 Bad Request", "")
	tr.attempt("uni-b", 218250_09, event.Retry, 503, "the receiver answered 503", "")
	ctx := context.Background()
	id, err := orcid.Parse(josiah)
	tr.must(err)
	save := func(state event.RegState, epoch, tries, status int) {
		u, err := tr.store.User(ctx, id)
		tr.must(err)
		u.Registrations = []event.Registration{{Credential: "main", State: state, Epoch: epoch, Base: 1, Tries: tries, Status: status, Changed: tr.now()}}
		_, err = tr.store.SaveUser(ctx, *u, time.Time{})
		tr.must(err)
	}
	save(event.RegPutting, 1, 2, 503)
	save(event.RegAlive, 2, 0, 0)
	tr.must(tr.store.AddChecks(ctx, []event.Check{{Kind: event.CheckBaseline, ORCID: id, Credential: "main", At: tr.now().Add(time.Hour)}}))
	tr.do("", "user", "show", josiah)
	var export service.Export
	tr.must(json.Unmarshal([]byte(tr.run("", "user", "export", josiah).out), &export))
	if export.ORCID != id || len(export.Affiliations) != 2 || len(export.History) != 2 || len(export.Watched) != 1 || len(export.NotHere) == 0 {
		t.Errorf("%+v", export)
	}
	tr.do("", "user", "export", maria)
	tr.do("", "user", "erase", josiah, "--yes", "--wait", "0s")
	tr.do("", "user", "show", josiah)
	tr.do("", "user", "unsuppress", josiah)
	u, err := tr.store.User(ctx, id)
	tr.must(err)
	u.Registrations = nil // as the user's actor does when ORCID has confirmed
	_, err = tr.store.SaveUser(ctx, *u, time.Time{})
	tr.must(err)
	tr.clock.Add(600_000) // what is on its way ends
	tr.runJobs()
	tr.do("", "user", "show", josiah)
	tr.do("", "user", "add", josiah, "--org", "uni-a")
	tr.do("orcid\n"+josiah+"\n", "user", "import", "-", "--org", "uni-a")
	tr.do("", "user", "unsuppress", josiah)
	tr.do("", "user", "unsuppress", josiah)
	tr.do("", "user", "show", josiah)
	tr.do("", "user", "add", josiah, "--org", "uni-a")
	tr.compare("erase")
}

func TestDelivery(t *testing.T) {
	t.Parallel()
	tr := &transcript{bundle: setup(t)}
	tr.addOrg("uni-a")
	tr.do("", "delivery", "log", "uni-a")
	tr.do("", "delivery", "list", "uni-a", "--dead")
	for i := range uint64(3) {
		tr.attempt("uni-a", 100+i, event.Dead, 400, "the receiver answered 400 Bad Request, and refuses this for good; it was tried three times", "no such person: \x1b[2J"+strings.Repeat("x", 120))
	}
	tr.attempt("uni-a", 200, event.Dead, 0, "no connection: connect: connection refused", "")
	tr.attempt("uni-a", 300, event.Delivered, 204, "", "")
	tr.do("", "delivery", "log", "uni-a")
	tr.do("", "delivery", "log", "uni-a", "--limit", "2", "--answers")
	tr.do("", "delivery", "log", "uni-a", "--channel", "email")
	tr.do("", "delivery", "log", "nobody")
	tr.do("", "delivery", "list", "uni-a", "--dead")
	tr.do("", "delivery", "list", "uni-a", "--limit", "2")
	tr.do("", "delivery", "list", "uni-a", "--limit", "2", "--all")
	tr.do("", "delivery", "replay", "uni-a", "0000-0000-0000-1012")
	tr.runJobs()
	tr.do("", "job", "list")
	tr.do("", "delivery", "list", "uni-a")
	tr.do("", "delivery", "replay", "uni-a", "nonsense")
	tr.do("", "delivery", "replay", "uni-a", "--since", "yesterday")
	tr.do("", "delivery", "purge", "uni-a")
	tr.do("", "delivery", "purge", "uni-a", "--yes", "--since", "90s")
	tr.do("", "delivery", "purge", "uni-a", "--yes", "--since", "2026-11-24T00:00:00Z")
	tr.do("", "delivery", "purge", "uni-a", "-y")
	tr.do("", "delivery", "list", "uni-a")
	tr.compare("delivery")
}

func TestStatusHealthLedger(t *testing.T) {
	t.Parallel()
	tr := &transcript{bundle: setup(t)}
	tr.do("", "status")
	tr.addOrg("uni-a")
	tr.addOrg("university-of-the-far-away-islands-and-of-everything-else-b")
	tr.fine("user", "add", josiah, "--org", "uni-a")
	tr.do("", "status")
	tr.do("", "ledger")
	tr.do("", "health")

	tr.fine("org", "pause", "uni-a", "--reason", "they move house and asked for peace until the new servers are up, which takes a week")
	tr.attempt("university-of-the-far-away-islands-and-of-everything-else-b", 7, event.Dead, 410, "gone", "")
	tr.attempt("university-of-the-far-away-islands-and-of-everything-else-b", 8, event.Retry, 500, "the receiver answered 500", "")
	tr.worse = []service.Problem{{What: "Redis is embedded: this is a trial", Since: begin.Add(-72 * time.Hour), Cost: "everything is lost when the daemon stops", Do: `set redis.url = "redis://127.0.0.1:6379/0" in the configuration file`}}
	tr.spool = service.SpoolState{Waiting: 12_345, Received: 12_350, Coalesced: 4, Drained: 1, Oldest: begin.Add(-90 * time.Second)}
	tr.actors.Paused = true
	tr.actors.Credentials = append(tr.actors.Credentials, service.CredentialState{Name: "second", State: "refused", Detail: "ORCID answers 401 invalid_client to the token request", Since: begin.Add(-5 * time.Minute), Rate: 0.5})
	tr.ready = admin.Readiness{Checks: []admin.Check{{Name: "redis", Detail: "redis does not answer: dial tcp 127.0.0.1:6379: connect: connection refused, and so on", Since: begin.Add(-time.Minute)}, {Name: "spool", OK: true, Detail: "0 pings wait"}}}
	tr.do("", "status")
	tr.do("", "ledger")
	tr.spool.Received++
	tr.do("", "ledger")
	tr.do("", "health")
	tr.do("", "org", "show", "uni-a")
	tr.do("", "credential", "list")
	tr.do("", "credential", "show", "second")
	tr.do("", "credential", "show", "third")
	tr.actors.Credentials = nil
	tr.do("", "credential", "list")
	for i := range mostShown {
		tr.addOrg("many-" + string(rune('a'+i/26)) + string(rune('a'+i%26)))
	}
	if out := tr.run("", "status").out; !strings.Contains(out, "… and 2 more, none of them worse: dispatchd org list\n") {
		t.Errorf("many organisations:\n%s", out)
	}
	tr.redis.Kill()
	tr.do("", "status")
	tr.compare("status")
}

func TestReloadAndRecover(t *testing.T) {
	t.Parallel()
	tr := &transcript{bundle: setup(t)}
	tr.do("", "reload")
	tr.reload = errors.New("c.toml:3: log.level: must be \"debug\", \"info\", \"warn\" or \"error\"\nc.toml:9: smtp.port: must be 1 to 65535")
	tr.do("", "reload")
	tr.do("", "log-level")
	tr.do("", "log-level", "debug")
	tr.do("", "log-level")
	tr.do("", "recover")
	tr.do("", "recover", "--accept-loss")
	tr.forgot = true
	tr.do("", "recover", "--accept-loss")
	tr.compare("control")
}

func TestAChannelInOneWord(t *testing.T) {
	t.Parallel()
	for want, c := range map[string]service.Channel{
		"off":     {Failures: 3},
		"DAMAGED": {Unread: true},
		"on":      {Enabled: true},
		"failing": {Enabled: true, Failures: 3},
		"PAUSED":  {Enabled: true, Failures: 3, Holds: []service.HoldView{{Hold: event.HoldPause}}},
	} {
		if got := channelWord(c); got != want {
			t.Errorf("%+v: %q, want %q", c, got, want)
		}
	}
}
