package hubapi

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/store"
)

func TestCallbacksOfOnesOwn(t *testing.T) {
	t.Parallel()
	b := setup(t)
	a, other := b.as("uni-a"), b.as("uni-b")
	b.user("uni-a", josiah)
	b.user("uni-b", josiah)
	b.user("uni-b", maria)
	path := func(id, callback string) string {
		return "/api/v1/" + id + "/webhook/" + strings.ReplaceAll(url.QueryEscape(callback), "+", "%20")
	}
	const ping = "https://a.example/ping?key=1&x=%20y"
	row := josiah + " " + ping
	res := a.want(201, "", "PUT", path(josiah, ping), "")
	if got, want := res.Header.Get("Location"), "https://api.orcid.example/"+josiah+"/webhook/https%3A%2F%2Fa.example%2Fping%3Fkey%3D1%26x%3D%2520y"; got != want {
		t.Errorf("Location %s, want %s", got, want)
	}
	if owner, _ := b.rows.Load(row); owner != "main" {
		t.Errorf("at ORCID: %v", owner)
	}
	res = a.want(204, "", "PUT", path(josiah, ping), "")
	if res.Header.Get("Location") != "" {
		t.Error("Location of what was there")
	}
	// As a path, and merged by a proxy.
	a.want(201, "", "PUT", "/api/v1/"+josiah+"/webhook/https://a.example/as/it/is", "")
	a.want(204, "", "PUT", "/api/v1.0/"+josiah+"/webhook/https:/a.example/as/it/is", "")
	story, err := b.svc.User(context.Background(), orcidID(t, josiah))
	b.must(err)
	if len(story.Callbacks) != 2 || story.Callbacks[1].URL != ping || story.Callbacks[1].State != "alive" || story.Callbacks[1].Org != "uni-a" {
		t.Errorf("%+v", story.Callbacks)
	}
	// Nobody else's users, nobody else's callbacks.
	a.want(404, noUser(maria), "PUT", path(maria, ping), "")
	a.want(404, noUser(maria), "DELETE", path(maria, ping), "")
	other.want(404, "-", "DELETE", path(josiah, ping), "")
	if owner, _ := b.rows.Load(row); owner != "main" {
		t.Error("another organisation removed it")
	}
	for callback, why := range map[string]string{
		"ftp://a.example/x": "must start with", "https://": "host", "https://u:p@a.example/": "user name", "https://a.example/#x": "#fragment",
		"https://a.example/ä": "percent-encoded", "https://a.example/{x}": "percent-encoded", "https://a.example/a b": "spaces",
		"https://a.example/" + strings.Repeat("x", 2048): "2048", "https://hub.example/hooks/x": "this hub's own", "https://orcidhub.example/services/7/updated": "this hub's own", "nonsense": "must start with",
	} {
		res := a.want(415, "-", "PUT", path(josiah, callback), "")
		var f failureBody
		if err := json.Unmarshal([]byte(res.body), &f); err != nil || f.Error != "Invalid call-back URL" || !strings.HasPrefix(f.Message, "Invalid call-back URL: ") || !strings.Contains(f.Reason, why) {
			t.Errorf("%s: %s", callback, res.body)
		}
	}
	// The Hub's callback serves every organisation of the user.
	hubs := "https://orcidhub.example/services/7/updated"
	b.rows.Store(josiah+" "+hubs, "main")
	a.want(415, "-", "DELETE", path(josiah, hubs), "")
	if _, there := b.rows.Load(josiah + " " + hubs); !there {
		t.Error("an organisation removed the Hub's callback")
	}
	a.want(204, "", "DELETE", path(josiah, ping), "")
	if _, there := b.rows.Load(row); there {
		t.Error("it is still at ORCID")
	}
	a.want(404, "-", "DELETE", path(josiah, ping), "")
	// One that was made before this hub was there.
	b.rows.Store(josiah+" https://a.example/old", "main")
	a.want(204, "", "DELETE", path(josiah, "https://a.example/old"), "")
	b.rows.Store(josiah+" https://a.example/foreign", "someone")
	a.want(403, "-", "DELETE", path(josiah, "https://a.example/foreign"), "")
	a.want(204, "", "PUT", path(josiah, "https://a.example/foreign"), "")
}

func TestCallbacksWhenORCIDRefusesOrIsAway(t *testing.T) {
	t.Parallel()
	b := setup(t)
	a := b.as("uni-a")
	b.user("uni-a", josiah)
	path := "/api/v1/" + josiah + "/webhook/https%3A%2F%2Fa.example%2Fping"
	b.refuse.Store(&orcid.Answer{Kind: orcid.Unavailable, Status: 503, Detail: "503 try later"})
	a.want(202, `{"message":"The call-back URL is being registered at ORCID."}`, "PUT", path, "")
	a.want(202, `{"message":"The call-back URL is being removed at ORCID."}`, "DELETE", path, "")
	b.refuse.Store(&orcid.Answer{Kind: orcid.NoSuchRecord, Status: 404, Detail: "404 no such record"})
	second := "/api/v1/" + josiah + "/webhook/https%3A%2F%2Fa.example%2Fsecond"
	res := a.want(404, "-", "PUT", second, "")
	if !strings.Contains(res.body, "no such record") {
		t.Error(res.body)
	}
	b.refuse.Store(nil)
	a.want(201, "", "PUT", second, "") // asked for again, it is tried again
	// Leaving takes them along.
	n, err := b.store.GuestTotals(context.Background())
	b.must(err)
	a.want(204, "", "DELETE", "/api/v1/users/"+josiah, "")
	rows, err := b.store.Guests(context.Background(), orcidID(t, josiah))
	b.must(err)
	for _, g := range rows {
		if !g.Gone {
			t.Errorf("%s stays (%v)", g, n)
		}
		_, err := b.keeper.Settle(context.Background(), g.ORCID, g.URL)
		b.must(err)
	}
	if rows, err = b.store.Guests(context.Background(), orcidID(t, josiah)); err != nil || len(rows) > 1 {
		t.Errorf("left: %v %v", rows, err) // the first rests as ORCID asked
	}
	if _, there := b.rows.Load(josiah + " https://a.example/second"); there {
		t.Error("it is still at ORCID")
	}
}

func TestCallbacksAreBounded(t *testing.T) {
	t.Parallel()
	b := setup(t)
	a := b.as("uni-a")
	b.user("uni-a", josiah)
	for i := range store.MaxGuests {
		a.want(201, "", "PUT", fmt.Sprintf("/api/v1/%s/webhook/https%%3A%%2F%%2Fa.example%%2F%d", josiah, i), "")
	}
	a.want(409, "-", "PUT", "/api/v1/"+josiah+"/webhook/https%3A%2F%2Fa.example%2Fmore", "")
	a.want(404, "-", "DELETE", "/api/v1/"+josiah+"/webhook/https%3A%2F%2Fa.example%2Funknown", "")
	// Another organisation of the researcher is not shut out by that.
	b.user("uni-b", josiah)
	b.as("uni-b").want(201, "", "PUT", "/api/v1/"+josiah+"/webhook/https%3A%2F%2Fb.example%2Fping", "")
	a.want(204, "", "DELETE", "/api/v1/"+josiah+"/webhook/https%3A%2F%2Fa.example%2F0", "")
	a.want(201, "", "PUT", "/api/v1/"+josiah+"/webhook/https%3A%2F%2Fa.example%2Fmore", "")
}

// TestRemovalsThatWaitAreBounded: each is remembered until ORCID has answered.
func TestRemovalsThatWaitAreBounded(t *testing.T) {
	t.Parallel()
	b := setup(t)
	a := b.as("uni-a")
	b.user("uni-a", josiah)
	b.refuse.Store(&orcid.Answer{Kind: orcid.Unavailable, Status: 503, Detail: "503 try later"})
	for i := range store.MaxGuests {
		a.want(202, "-", "DELETE", fmt.Sprintf("/api/v1/%s/webhook/https%%3A%%2F%%2Fa.example%%2Fgone%d", josiah, i), "")
	}
	a.want(409, "-", "DELETE", "/api/v1/"+josiah+"/webhook/https%3A%2F%2Fa.example%2Fmore", "")
}

// TestNobodyLearnsWhoElseHasACallback: with a URL that another organisation of
// the researcher has, every answer is that to one that nobody has, and neither
// takes it from the other.
func TestNobodyLearnsWhoElseHasACallback(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, org := range []string{"uni-a", "uni-b"} {
		b.user(org, josiah)
	}
	a, other := b.as("uni-a"), b.as("uni-b")
	at := func(name string) string { return "/api/v1/" + josiah + "/webhook/https%3A%2F%2Fx.example%2F" + name }
	const row = josiah + " https://x.example/taken"
	there := func(when string, want bool) {
		t.Helper()
		if _, is := b.rows.Load(row); is != want {
			t.Errorf("%s: at ORCID %v, want %v", when, is, want)
		}
	}
	a.want(201, "", "PUT", at("taken"), "")
	for _, step := range []struct {
		verb   string
		status int
	}{{"DELETE", 404}, {"PUT", 201}, {"PUT", 204}, {"DELETE", 204}, {"DELETE", 404}, {"PUT", 201}} {
		free := other.want(step.status, "-", step.verb, at("free"), "")
		taken := other.want(step.status, "-", step.verb, at("taken"), "")
		for _, name := range []string{"Location", "Content-Type"} {
			if got, want := strings.ReplaceAll(taken.Header.Get(name), "taken", "free"), free.Header.Get(name); got != want {
				t.Errorf("%s: %s %q, want %q", step.verb, name, got, want)
			}
		}
		if taken.body != free.body {
			t.Errorf("%s: %s, want %s", step.verb, taken.body, free.body)
		}
		there("after the other's "+step.verb, true)
	}
	a.want(204, "", "PUT", at("taken"), "")
	a.want(204, "", "DELETE", at("taken"), "")
	a.want(404, "-", "DELETE", at("taken"), "")
	there("when one of two has gone", true)
	// Who joins while it waits to go keeps it.
	b.refuse.Store(&orcid.Answer{Kind: orcid.Unavailable, Status: 503, Detail: "503 try later"})
	other.want(202, "-", "DELETE", at("taken"), "")
	a.want(404, "-", "DELETE", at("taken"), "")
	a.want(202, "-", "PUT", at("taken"), "")
	rows, err := b.store.Guests(context.Background(), orcidID(t, josiah))
	b.must(err)
	i := slices.IndexFunc(rows, func(g event.Guest) bool { return g.URL == "https://x.example/taken" })
	if i < 0 || rows[i].Gone || !slices.Equal(rows[i].Orgs, []string{"uni-a"}) {
		t.Errorf("%+v", rows)
	}
}
