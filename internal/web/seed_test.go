package web

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/org"
	"dispatchd/internal/service"
	"dispatchd/internal/store"
)

func ptr[T any](v T) *T { return &v }

// fileOrg makes an organisation that the configuration file owns.
func (w *world) fileOrg(id, name, contact string) {
	w.Helper()
	_, err := w.svc.ApplyFile(w.Context(), byTest, []org.Organisation{{
		ID: id, Name: name, TechnicalContact: contact, Credential: "main",
		Webhook: org.Webhook{Enabled: true, URL: "https://file.example/orcid", Payload: org.PayloadStandard},
	}})
	w.must(err)
}

// enable gives an organisation a webhook.
func (w *world) enable(id string) {
	w.Helper()
	_, err := w.svc.PatchOrganisation(w.Context(), byTest, id, service.Settings{
		Webhook: &service.WebhookSettings{Enabled: ptr(true), URL: ptr("https://" + id + ".example/orcid")},
	})
	w.must(err)
}

// people adds n users, from base on.
func (w *world) people(id string, base uint64, n int) []orcid.ID {
	w.Helper()
	out := make([]orcid.ID, n)
	for i := range out {
		var err error
		out[i], err = orcid.FromBase(base + uint64(i))
		w.must(err)
		_, err = w.svc.AddUser(w.Context(), byTest, id, out[i], service.Person{Name: fmt.Sprintf("Researcher %d", i), Email: fmt.Sprintf("r%d@%s.example", i, id)})
		w.must(err)
	}
	return out
}

// register does for a user what the actors do when ORCID has confirmed.
func (w *world) register(id orcid.ID, state event.RegState) {
	w.Helper()
	u, err := w.store.User(w.Context(), id)
	w.must(err)
	u.Registrations = []event.Registration{{Credential: "main", State: state, Changed: w.store.Now()}}
	_, err = w.store.SaveUser(w.Context(), *u, time.Time{})
	w.must(err)
}

// attempt has one delivery by webhook made for a user, with this result.
func (w *world) attempt(orgID string, id orcid.ID, r event.Result, status int, why, excerpt string) {
	w.Helper()
	ctx, now := w.Context(), w.store.Now()
	_, err := w.store.Enqueue(ctx, 0, []store.Target{{
		Org: orgID, Channel: event.Webhook, ORCID: id, Type: event.Updated, At: now, Entry: fmt.Sprintf("%d-%d", now.UnixMilli(), w.entries.Add(1)),
	}}, 0)
	w.must(err)
	w.ahead.Add(int64(time.Second))
	c, err := w.store.Claim(ctx, orgID, event.Webhook, 1, time.Minute)
	w.must(err)
	if len(c.Deliveries) != 1 {
		w.Fatalf("claimed %d", len(c.Deliveries))
	}
	d := c.Deliveries[0]
	_, err = w.store.Finish(ctx, d, event.Outcome{Result: r, RetryAt: w.store.Now().Add(10 * time.Minute), Attempt: event.Attempt{
		DeliveryID: d.ID(), ORCID: d.ORCID, Channel: event.Webhook, Type: d.Type, Number: d.Attempt, Start: w.store.Now(),
		Duration: 312 * time.Millisecond, Status: status, Error: why, Excerpt: excerpt, Result: r,
	}})
	w.must(err)
}

const evil = `<script>alert("x")</script><img src=x onerror=alert(1)>`

// refused is what a receiver says that tries to get into our pages.
var refused = service.TestAnswer{Status: http.StatusInternalServerError, Error: "answered 500 " + evil, Excerpt: evil + "\n{{.}}", Duration: 1234 * time.Millisecond}

// foreign serves a page of another site: "localhost" is another one than
// 127.0.0.1.
func foreign(t *testing.T, body string) string {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, body)
	}))
	t.Cleanup(srv.Close)
	return strings.Replace(srv.URL, "127.0.0.1", "localhost", 1)
}

// attempts has n attempts end, as many at a time as a busy organisation's do.
func (w *world) attempts(orgID string, n int, r event.Result) {
	w.Helper()
	id, err := orcid.FromBase(77)
	w.must(err)
	d := event.Delivery{Org: orgID, Channel: event.Webhook, ORCID: id, Type: event.Updated, Token: "none"}
	o := event.Outcome{Result: r, Attempt: event.Attempt{ORCID: id, Channel: event.Webhook, Type: event.Updated, Number: 1, Start: w.store.Now(), Result: r}}
	var all sync.WaitGroup
	for range n {
		all.Go(func() {
			if _, err := w.store.Finish(w.Context(), d, o); err != nil {
				w.Error(err)
			}
		})
	}
	all.Wait()
}
