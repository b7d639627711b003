package sim

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"dispatchd/internal/orcid"
	"dispatchd/internal/secret"
	"dispatchd/internal/sim/receiver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// begin is when every manual clock of these tests starts.
var begin = time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)

// bundle is a registry with a manual clock, its HTTP server, and a receiver.
type bundle struct {
	t    *testing.T
	r    *Registry
	http *httptest.Server
	recv *receiver.Receiver
	tok  string // of client "one" with every scope
}

func setup(t *testing.T, change ...func(*Options)) *bundle {
	t.Helper()
	t.Parallel()
	o := Options{
		Start: begin, Manual: true, RateLimit: -1, Seed: 7, PostTimeout: 10 * time.Second,
		Clients: []Client{{ID: "one", Secret: "s1"}, {ID: "two", Secret: "s2"}, {ID: "pub", Secret: "s3", Public: true}},
	}
	for _, f := range change {
		f(&o)
	}
	r, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	b := &bundle{t: t, r: r, http: httptest.NewServer(r.Handler())}
	t.Cleanup(func() { r.ClearFault(0); b.http.Close(); r.Close() })
	b.recv = b.receiver(receiver.Options{})
	b.tok = b.token("one")
	return b
}

func (b *bundle) receiver(o receiver.Options) *receiver.Receiver {
	b.t.Helper()
	recv, err := receiver.Start(o)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(recv.Close)
	return recv
}

func (b *bundle) token(client string) string {
	b.t.Helper()
	tok, err := b.r.IssueToken(client, []string{"/webhook", "/read-public"}, orcid.ID{})
	if err != nil {
		b.t.Fatal(err)
	}
	return tok
}

// reply is an answer that was read whole.
type reply struct {
	status int
	header http.Header
	body   string
}

// do sends a request; headers are name, value, name, value …
func (b *bundle) do(method, path, body string, headers ...string) reply {
	b.t.Helper()
	req, err := http.NewRequestWithContext(b.t.Context(), method, b.http.URL+path, strings.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	if body == "" {
		req.Body, req.ContentLength = http.NoBody, 0
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := b.client().Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return reply{resp.StatusCode, resp.Header, string(got)}
}

func (b *bundle) client() *http.Client {
	c := *b.http.Client()
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &c
}

// api is do with JSON and the token of client one.
func (b *bundle) api(method, path string) reply {
	b.t.Helper()
	return b.do(method, path, "", "Authorization", "Bearer "+b.tok, "Accept", "application/json")
}

func hookPath(id orcid.ID, uri string) string {
	return "/" + id.String() + "/webhook/" + strings.ReplaceAll(url.QueryEscape(uri), "+", "%20")
}

// put registers uri by the token and wants a status.
func (b *bundle) put(tok string, id orcid.ID, uri string, want int) {
	b.t.Helper()
	if got := b.do("PUT", hookPath(id, uri), "", "Authorization", "Bearer "+tok, "Accept", "application/json"); got.status != want {
		b.t.Fatalf("PUT %s answered %d %s; want %d", uri, got.status, got.body, want)
	}
}

func (b *bundle) del(tok string, id orcid.ID, uri string, want int) {
	b.t.Helper()
	if got := b.do("DELETE", hookPath(id, uri), "", "Authorization", "Bearer "+tok, "Accept", "application/json"); got.status != want {
		b.t.Fatalf("DELETE %s answered %d %s; want %d", uri, got.status, got.body, want)
	}
}

// profile makes one record.
func (b *bundle) profile() orcid.ID { return b.r.AddProfiles(1)[0] }

// hooked makes a record with a webhook at the receiver, a second ago.
func (b *bundle) hooked() orcid.ID {
	b.t.Helper()
	id := b.profile()
	b.put(b.tok, id, b.uri(id), 201)
	b.r.Shift(time.Second)
	return id
}

func (b *bundle) uri(id orcid.ID) string { return b.recv.URL() + "/p/" + id.String() }

// change edits a record's works.
func (b *bundle) change(id orcid.ID) {
	b.t.Helper()
	if err := b.r.Change(id, "works", Edit); err != nil {
		b.t.Fatal(err)
	}
}

// pings wants so many requests at the receiver since the last call.
func (b *bundle) pings(want int, what string) {
	b.t.Helper()
	got := b.recv.Count()
	b.recv.Forget()
	if got != want {
		b.t.Fatalf("%s: %d pings, want %d", what, got, want)
	}
}

// hook returns the only row of a record.
func (b *bundle) hook(id orcid.ID) Webhook {
	b.t.Helper()
	list, err := b.r.WebhooksOf(id)
	if err != nil || len(list) != 1 {
		b.t.Fatalf("WebhooksOf(%s) = %v, %v; want one row", id, list, err)
	}
	return list[0]
}

func (b *bundle) send() { b.r.SendOnce(b.t.Context()) }

// control calls the control API and decodes its answer into out.
func (b *bundle) control(method, path, body string, out any) int {
	b.t.Helper()
	got := b.do(method, "/_sim/"+path, body)
	if out != nil && got.status == 200 {
		d := json.NewDecoder(bytes.NewReader([]byte(got.body)))
		if err := d.Decode(out); err != nil {
			b.t.Fatalf("%s %s answered %s: %v", method, path, got.body, err)
		}
	}
	return got.status
}

func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestNewNamesEveryBadOption(t *testing.T) {
	t.Parallel()
	_, err := New(Options{Speed: -1, Threads: -2, IndexDelay: -time.Second, Clients: []Client{{ID: "a/b"}}})
	for _, want := range []string{"Speed", "Threads", "IndexDelay", "a/b"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("New = %v, which does not name %s", err, want)
		}
	}
	if _, err := New(Options{Clients: []Client{{ID: "a"}, {ID: "a"}}}); err == nil {
		t.Error("two clients of one id were accepted")
	}
	if DefaultClient().Secret != secret.Text("sim-secret") {
		t.Error("the default client's secret is not the documented one")
	}
}
