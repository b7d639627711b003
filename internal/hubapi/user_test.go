package hubapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/service"
	"dispatchd/internal/store"
)

func noUser(id string) string {
	return `{"error":"Invalid ORCID iD.","message":"User with given ORCID ID '` + id + `' doesn't exist."}`
}

func TestTellingOfAUserIsTheCallersAffairOnly(t *testing.T) {
	t.Parallel()
	b := setup(t)
	a, other := b.as("uni-a"), b.as("uni-b")
	b.user("uni-a", josiah)
	b.user("uni-b", josiah)
	b.user("uni-b", maria)
	path := "/api/v1/" + josiah + "/webhook"
	// Nothing is enabled: it is noted.
	a.want(202, "-", "PUT", path, "")
	a.want(201, "-", "PUT", "/api/v1/webhook", `{"enabled":true,"url":"https://a.example/x"}`)
	a.want(202, `{"message":"The user is being registered at ORCID."}`, "PUT", path, "")
	b.settle.Store(int32(event.RegRefused))
	a.want(404, "-", "PUT", path, "")
	b.settle.Store(int32(event.RegAlive))
	a.want(201, "", "PUT", path, "")
	a.want(204, "", "PUT", path+"/", "")
	a.want(204, "", "PUT", path+"/undefined", "")
	a.want(204, "", "PUT", "/api/v1.0/"+strings.ReplaceAll(josiah, "-", "")+"/webhook", "")
	muted := func(orgID string) bool {
		t.Helper()
		page, err := b.svc.Users(context.Background(), orgID, "", 10)
		b.must(err)
		for _, u := range page.Users {
			if u.ORCID.String() == josiah {
				return u.Muted
			}
		}
		t.Fatalf("%s lost its user", orgID)
		return false
	}
	a.want(204, "", "DELETE", path, "")
	if !muted("uni-a") || muted("uni-b") {
		t.Errorf("muted: %v %v", muted("uni-a"), muted("uni-b"))
	}
	a.want(204, "", "DELETE", path, "")
	a.want(201, "-", "PUT", path, "") // the row went with the last who wanted it, or is made again
	if muted("uni-a") {
		t.Error("still muted")
	}
	// Another's user, and nobody's.
	for _, id := range []string{maria, sofia} {
		a.want(404, noUser(id), "PUT", "/api/v1/"+id+"/webhook", "")
		a.want(404, noUser(id), "DELETE", "/api/v1/"+id+"/webhook", "")
		a.want(404, noUser(id), "DELETE", "/api/v1/users/"+id, "")
	}
	other.want(202, "-", "PUT", "/api/v1/"+maria+"/webhook", "")
	a.want(415, "-", "PUT", "/api/v1/0000-0002-1825-0098/webhook", "")
	res := a.want(415, "-", "DELETE", "/api/v1/%3Cscript%3E/webhook", "")
	var f failureBody
	if err := json.Unmarshal([]byte(res.body), &f); err != nil || f.Error != "Missing or invalid ORCID iD." || f.Message == "" {
		t.Errorf("%s: %v", res.body, err)
	}
}

func TestUsersOfTheOwnOrganisation(t *testing.T) {
	t.Parallel()
	b := setup(t)
	a, other := b.as("uni-a"), b.as("uni-b")
	path := "/api/v1/users/" + josiah
	a.steps([]step{
		{"PUT", path, `{"email":"jc@a.example","eppn":"jc@a","name":"Josiah Carberry"}`, 201, `{"orcid":"` + josiah + `","new":true}`},
		{"PUT", path, `{"email":"j.carberry@a.example"}`, 200, `{"orcid":"` + josiah + `","new":false}`},
		{"PUT", path, ``, 200, `{"orcid":"` + josiah + `","new":false}`},
		{"PUT", path, `{"name":1}`, 400, `{"error":"Invalid request","message":"The body is not what is expected here: name must be text (got number)."}`},
		{"PUT", path, `["x"]`, 400, `{"error":"Invalid request","message":"The body is not what is expected here: it must be an object (got array)."}`},
		{"PUT", "/api/v1/webhook", `{"enabled":"true"}`, 400, `{"error":"Invalid request","message":"The body is not what is expected here: enabled must be true or false (got string)."}`},
		{"POST", "/api/v1/webhook/replay", `{"since":"yesterday"}`, 400, `{"error":"Invalid request","message":"The body is not what is expected here: a time must be written like 2026-11-23T00:00:00Z."}`},
		{"PUT", path, `{"e-mail":"x"}`, 400, `{"error":"Invalid request","message":"The body is not what is expected here: unknown field \"e-mail\"."}`},
		{"PUT", path, `{"name":"a\nb"}`, 400, `{"error":"Invalid request","message":"body: name has control characters or is not UTF-8"}`},
		{"PUT", "/api/v1/users/1234", `{}`, 415, `-`},
		{"PUT", "/api/v1/users/" + josiah + "/x", `{}`, 404, `-`},
	})
	other.want(201, "-", "PUT", path, `{"name":"J."}`)
	story, err := b.svc.User(context.Background(), orcidID(t, josiah))
	b.must(err)
	if len(story.Affiliations) != 2 || story.Affiliations[0].Email != "j.carberry@a.example" || story.Affiliations[0].Name != "Josiah Carberry" || story.Affiliations[1].Email != "" {
		t.Errorf("%+v", story.Affiliations)
	}
	other.want(204, "", "DELETE", path, "")
	other.want(404, noUser(josiah), "DELETE", path, "")
	a.want(204, "", "DELETE", path, "")
}

func orcidID(t *testing.T, text string) orcid.ID {
	t.Helper()
	id, err := orcid.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// die has a delivery to the organisation's webhook fail for good.
func (b *bundle) die(orgID string, id orcid.ID, n int) {
	b.Helper()
	ctx := context.Background()
	now := b.store.Now()
	_, err := b.store.Enqueue(ctx, 0, []store.Target{{Org: orgID, Channel: event.Webhook, ORCID: id, Type: event.Updated, At: now, Entry: fmt.Sprintf("%d-%d", now.UnixMilli(), n)}}, 0)
	b.must(err)
	var c event.Claims
	for deadline := time.Now().Add(time.Minute); len(c.Deliveries) == 0; {
		c, err = b.store.Claim(ctx, orgID, event.Webhook, 1, time.Minute)
		b.must(err)
		if time.Now().After(deadline) {
			b.Fatal("nothing comes due")
		}
	}
	d := c.Deliveries[0]
	_, err = b.store.Finish(ctx, d, event.Outcome{Result: event.Dead, Attempt: event.Attempt{
		DeliveryID: d.ID(), ORCID: id, Channel: event.Webhook, Type: d.Type, Number: 1, Start: now.Add(time.Duration(n) * time.Millisecond),
		Status: 400, Error: "the receiver answered 400", Excerpt: "no <b>", Result: event.Dead,
	}})
	b.must(err)
}

func TestAttemptsTestAndReplayOfTheOwnOrganisation(t *testing.T) {
	t.Parallel()
	b := setup(t)
	a, other := b.as("uni-a"), b.as("uni-b")
	a.want(400, "-", "POST", "/api/v1/webhook/test", "")
	a.want(201, "-", "PUT", "/api/v1/webhook", `{"enabled":true,"url":"https://a.example/x"}`)
	a.want(200, `{"ok":true,"status":204,"duration_ns":3000000}`, "POST", "/api/v1/webhook/test", "")
	res := a.want(429, "-", "POST", "/api/v1/webhook/test", "")
	if b.tested.Load() != 1 || res.Header.Get("Retry-After") == "" {
		t.Errorf("%d test events, %v", b.tested.Load(), res.Header)
	}
	for i, id := range []string{josiah, maria, sofia} {
		b.user("uni-a", id)
		b.die("uni-a", orcidID(t, id), i)
	}
	var page service.AttemptPage
	var seen []string
	for path := "/api/v1/webhook/attempts?limit=2"; path != ""; {
		res := a.want(200, "-", "GET", path, "")
		page = service.AttemptPage{}
		b.must(json.Unmarshal([]byte(res.body), &page))
		for _, x := range page.Attempts {
			seen = append(seen, x.ORCID.String())
		}
		path = ""
		if page.Next != "" {
			path = "/api/v1/webhook/attempts?limit=2&cursor=" + page.Next
		}
	}
	if strings.Join(seen, " ") != strings.Join([]string{sofia, maria, josiah}, " ") {
		t.Errorf("attempts: %v", seen)
	}
	other.want(200, `{"attempts":[]}`, "GET", "/api/v1/webhook/attempts", "")
	a.want(200, `{"attempts":[]}`, "GET", "/api/v1/webhook/attempts?channel=email", "")
	a.want(400, "-", "GET", "/api/v1/webhook/attempts?channel=pigeon", "")
	a.want(400, "-", "GET", "/api/v1/webhook/attempts?limit=0", "")
	a.want(400, "-", "GET", "/api/v1/webhook/attempts?cursor=x", "")

	a.want(400, "-", "POST", "/api/v1/webhook/replay", "")
	a.want(400, "-", "POST", "/api/v1/webhook/replay", `{"orcid":"x"}`)
	a.want(400, "-", "POST", "/api/v1/webhook/replay", `{"orcid":""}`)
	a.want(400, "-", "POST", "/api/v1/webhook/replay", `{"orkid":"`+josiah+`"}`)
	res = a.want(202, "-", "POST", "/api/v1/webhook/replay", `{"orcid":"`+josiah+`"}`)
	if !jobRE.MatchString(res.body) {
		t.Errorf("no job: %s", res.body)
	}
	other.want(202, "-", "POST", "/api/v1/webhook/replay", `{}`)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.svc.Run(ctx) }()
	deadline := time.Now().Add(time.Minute)
	for {
		list, err := b.svc.DeadLetters(ctx, "uni-a", event.Webhook, "", 10)
		b.must(err)
		if len(list.DeadLetters) == 2 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("dead letters: %+v", list)
		}
		<-time.After(5 * time.Millisecond)
	}
	cancel()
	if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestRedisAwayIsSaidAndKept(t *testing.T) {
	t.Parallel()
	b := setup(t)
	a := b.as("uni-a")
	b.redis.Kill()
	res := a.want(503, "-", "GET", "/api/v1/webhook", "")
	if res.Header.Get("Retry-After") != "5" || res.Header.Get("WWW-Authenticate") != "" || strings.Contains(res.body, "127.0.0.1") {
		t.Errorf("%v %s", res.Header, res.body)
	}
}
