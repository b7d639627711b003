package web

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/look"
	"dispatchd/internal/service"
	"dispatchd/internal/store"
)

func form(pairs ...string) url.Values {
	v := url.Values{"email_mode": {"each"}, "events": {"CREATED", "UPDATED"}}
	for i := 0; i+1 < len(pairs); i += 2 {
		v.Set(pairs[i], pairs[i+1])
	}
	return v
}

func (w *world) view(id string) service.View {
	w.Helper()
	v, err := w.svc.Organisation(w.Context(), id)
	w.must(err)
	return v
}

// TestEachWayOfBeingToldIsIndependent: the Hub cannot do e-mail only, and
// unticking Enabled there enables.
func TestEachWayOfBeingToldIsIndependent(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.org("uni-a", "University A", "it@a.example")
	c := w.signedInTo("uni-a")
	const url = "https://a.example/orcid"
	for _, x := range []struct {
		webhook, email bool
		url            string
		says           string
	}{
		{false, true, "", "There are no users yet"},
		{true, false, url, ""},
		{true, true, url, ""},
		{false, true, url, ""},
		{false, false, url, "you are told of nothing"},
	} {
		f := form("webhook_url", x.url)
		if x.webhook {
			f.Set("webhook_enabled", "1")
		}
		if x.email {
			f.Set("email_notifications_enabled", "1")
		}
		c.post("/settings/webhook", f).wants(t, http.StatusSeeOther, "done=saved")
		if v := w.view("uni-a"); v.Webhook.Enabled != x.webhook || v.Email.Enabled != x.email || v.Webhook.URL != x.url {
			t.Errorf("%+v gave %+v %+v", x, v.Webhook, v.Email)
		}
		c.get("/settings/webhook?done=saved").wants(t, http.StatusOK, "Saved.", x.says)
	}
	c.post("/settings/webhook", form()).wants(t, http.StatusBadRequest, "Provide a handler URL or enable email notifications")
	if v := w.view("uni-a"); v.Webhook.URL != url {
		t.Error("a form with problems was saved")
	}
}

func TestWhatIsWrongStandsBesideItsField(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.org("uni-a", "University A", "it@a.example")
	w.enable("uni-a")
	before := w.view("uni-a")
	c := w.signedInTo("uni-a")
	for field, value := range map[string]string{
		"webhook_url": "ftp://a.example", "webhook_apikey": strings.Repeat("k", 2000), "notification_email": "nobody", "email_mode": "hourly", "events": "NOTHING",
	} {
		f := form("webhook_url", "https://a.example/new", "webhook_enabled", "1", field, value)
		a := c.post("/settings/webhook", f).wants(t, http.StatusBadRequest, `href="#`+field+`"`, `id="summary"`, "Nothing was saved")
		if field == "webhook_apikey" && strings.Contains(a.body, "kkkk") {
			t.Error("the API key came back")
		}
	}
	for _, value := range []string{evil, `"><script>`, "javascript:alert(1)", "https://a.example/\r\nX: y", "https://u:p@a.example/", "https://a.example/" + strings.Repeat("x", 3000)} {
		a := c.post("/settings/webhook", form("webhook_url", value, "webhook_enabled", "1")).wants(t, http.StatusBadRequest, `id="webhook_url-problem"`)
		if strings.Contains(a.body, "<script>") || strings.Contains(a.body, "<img") {
			t.Errorf("%q came back as HTML", value)
		}
	}
	f := form("webhook_url", "https://a.example")
	f.Del("events")
	c.post("/settings/webhook", f).wants(t, http.StatusBadRequest, "Tick at least one event")
	c.post("/settings/webhook", form("webhook_enabled", "1", "email_notifications_enabled", "1")).wants(t, http.StatusBadRequest, "or untick Enabled")
	if after := w.view("uni-a"); string(must(json.Marshal(after))) != string(must(json.Marshal(before))) {
		t.Errorf("something was saved:\n%+v\n%+v", before, after)
	}
}

func TestSecretsAreNeverShownAgain(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.org("uni-a", "University A", "it@a.example")
	c := w.signedInTo("uni-a")
	save := func(pairs ...string) {
		t.Helper()
		c.post("/settings/webhook", form(append([]string{"webhook_url", "https://a.example/x"}, pairs...)...)).wants(t, http.StatusSeeOther)
	}
	save("webhook_apikey", "hunter2-key")
	if a := c.get("/settings/webhook").wants(t, http.StatusOK, "One is set; it is never shown"); strings.Contains(a.body, "hunter2") {
		t.Error("the API key is shown")
	}
	save()
	secrets := must(w.svc.Secrets(t.Context(), byTest, "uni-a"))
	if secrets["apikey"].Reveal() != "hunter2-key" {
		t.Error("an empty field took the API key away")
	}
	save("webhook_apikey_remove", "1")
	if w.view("uni-a").Webhook.APIKeySet {
		t.Error("the API key was not removed")
	}
	if a := c.get("/settings/secret").wants(t, http.StatusOK, "Make a new secret"); strings.Contains(a.body, "whsec_") {
		t.Error("the secret is shown without being made")
	}
	a := c.post("/settings/secret", nil).wants(t, http.StatusOK, "whsec_", "not shown again")
	made := must(w.svc.Secrets(t.Context(), byTest, "uni-a"))
	if !strings.Contains(strings.ReplaceAll(a.body, "&#43;", "+"), made["signing_secret"].Reveal()) || made["old_signing_secret"] != secrets["signing_secret"] {
		t.Error("another secret is shown, or the old one does not sign any more")
	}
	if a := c.get("/settings/secret"); strings.Contains(a.body, "whsec_") {
		t.Error("the secret is shown again")
	}
	if strings.Contains(w.log.String(), "hunter2") || strings.Contains(w.log.String(), "whsec_") {
		t.Error("a secret is in the log")
	}
}

// TestAnotherAddressIsAskedFirst: nothing goes to it before it has said yes.
func TestAnotherAddressIsAskedFirst(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.org("uni-a", "University <A>", "it@a.example")
	c := w.signedInTo("uni-a")
	save := func(address string) {
		t.Helper()
		c.post("/settings/webhook", form("email_notifications_enabled", "1", "notification_email", address)).wants(t, http.StatusSeeOther)
	}
	mails := func(address string, n int) string {
		t.Helper()
		w.eventually("a mail to "+address, func() bool { return len(w.mail.to(address)) == n })
		return strings.TrimPrefix(w.mail.to(address)[n-1].Link, w.url)
	}
	save("news@a.example")
	link := mails("news@a.example", 1)
	if e := w.view("uni-a").Email; e.Address != "" || e.Pending != "news@a.example" {
		t.Errorf("before: %+v", e)
	}
	c.get("/settings/webhook").wants(t, http.StatusOK, "has not confirmed yet", "mails go to it@a.example", `value="news@a.example"`)
	save("news@a.example") // the same again asks nobody again
	c.post("/settings/webhook/ask-again", nil).wants(t, http.StatusSeeOther, "done=asked")
	mails("news@a.example", 2)
	stranger := w.client()
	for range 2 {
		stranger.get(link).wants(t, http.StatusOK, "University &lt;A&gt;", "news@a.example", "Yes, send them")
	}
	if e := w.view("uni-a").Email; e.Address != "" {
		t.Error("looking at the link confirmed it")
	}
	for range 2 {
		stranger.post(link, nil).wants(t, http.StatusOK, "This address is confirmed")
	}
	if e := w.view("uni-a").Email; e.Address != "news@a.example" || e.Pending != "" {
		t.Errorf("after: %+v", e)
	}
	save("other@a.example")
	other := mails("other@a.example", 1)
	if e := w.view("uni-a").Email; e.Address != "news@a.example" {
		t.Error("the confirmed address went before the next one said yes")
	}
	save("IT@a.example") // the contact needs no asking
	if e := w.view("uni-a").Email; e.Address != "" || e.Pending != "" || len(w.mail.to("IT@a.example")) != 0 {
		t.Errorf("the contact: %+v", e)
	}
	stranger.post(other, nil).wants(t, http.StatusGone, "not asked for any more")
	stranger.post(other[:len(other)-2], nil).wants(t, http.StatusNotFound)
	c.post("/settings/webhook/ask-again", nil).wants(t, http.StatusConflict)
	w.ahead.Add(int64(8 * 24 * time.Hour))
	stranger.get(link).wants(t, http.StatusGone, "expired")
	if strings.Contains(w.log.String(), strings.TrimPrefix(link, "/confirm/")) {
		t.Error("the log has the link")
	}
}

func TestMailsToConfirmAreLimited(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.org("uni-a", "University A", "it@a.example")
	c := w.signedInTo("uni-a")
	last := 0
	for i := range 12 {
		f := form("email_notifications_enabled", "1", "notification_email", "x"+string(rune('a'+i))+"@victim.example")
		last = c.post("/settings/webhook", f).StatusCode
	}
	if last != http.StatusTooManyRequests {
		t.Errorf("the twelfth address: %d", last)
	}
}

func TestTestEventShowsTheRealAnswer(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.org("uni-a", "University A", "it@a.example")
	c := w.signedInTo("uni-a")
	c.post("/settings/webhook/test", nil).wants(t, http.StatusBadRequest, "Save a webhook URL first")
	w.enable("uni-a")
	w.recv.answer.Store(&refused)
	a := c.post("/settings/webhook/test", nil).wants(t, http.StatusOK, "did not take the test event", "It answered 500 ", "after 1.2 s", "&lt;script&gt;", "{{.}}")
	if strings.Contains(a.body, "<script>") || strings.Contains(a.body, "<img") {
		t.Errorf("the receiver wrote into our page\n%s", a.body)
	}
	c.post("/settings/webhook/test", nil).wants(t, http.StatusTooManyRequests, "A test event was sent a moment ago",
		`href="/settings/webhook" aria-current="page"`, `href="/state"`, "Sign out")
}

func TestOfTheFileIsReadOnly(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.fileOrg("uni-f", "University F", "it@f.example")
	c := w.signedInTo("uni-f")
	a := c.get("/settings/webhook").wants(t, http.StatusOK, "configuration file", "disabled")
	if strings.Contains(a.body, ">Save<") {
		t.Error("there is a Save button")
	}
	c.post("/settings/webhook", form("webhook_url", "https://evil.example")).wants(t, http.StatusConflict, "configuration file")
	if w.view("uni-f").Webhook.URL != "https://file.example/orcid" {
		t.Error("it was changed")
	}
	c.post("/settings/webhook/test", nil).wants(t, http.StatusOK, "took the test event")
	c.post("/settings/secret", nil).wants(t, http.StatusOK, "whsec_")
	c.post("/state/pause", url.Values{"channel": {"webhook"}}).wants(t, http.StatusSeeOther, "done=pause")
	c.post("/users", url.Values{"orcid": {"0000-0002-1825-0097"}}).wants(t, http.StatusSeeOther, "done=added")
}

// TestOneOrganisationOnly: whatever is put into paths and fields, what shows and
// changes is the session's own.
func TestOneOrganisationOnly(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.org("uni-a", "University A", "it@a.example")
	w.org("uni-b", "University B", "it@b.example")
	w.enable("uni-b")
	b := w.people("uni-b", 100_000_000, 2)
	w.attempt("uni-b", b[0], event.Dead, 500, "of B", "")
	c := w.signedInTo("uni-a")
	before := string(must(json.Marshal(w.view("uni-b"))))
	other := []string{"org", "uni-b", "id", "uni-b", "organisation", "uni-b"}
	c.post("/settings/webhook?org=uni-b", form(append(other, "webhook_url", "https://evil.example")...)).wants(t, http.StatusSeeOther)
	c.post("/settings/secret?org=uni-b", form(other...)).wants(t, http.StatusOK)
	c.post("/state/pause?org=uni-b", form(append(other, "channel", "webhook")...)).wants(t, http.StatusSeeOther)
	c.post("/state/replay", form(append(other, "orcid", b[0].String())...)).wants(t, http.StatusSeeOther)
	c.post("/users/"+b[0].String()+"/remove", form(other...)).wants(t, http.StatusNotFound)
	c.post("/choose", form("org", "uni-b")).wants(t, http.StatusNotFound)
	w.eventually("the replay of A ends", func() bool {
		for _, j := range must(w.svc.Jobs(t.Context())) {
			if j.State == "running" {
				return false
			}
		}
		return true
	})
	for _, path := range []string{"/settings/webhook?org=uni-b", "/state?org=uni-b", "/users?org=uni-b", "/settings/webhook/uni-b", "/users/" + b[0].String()} {
		if a := c.get(path); strings.Contains(a.body, "University B") || strings.Contains(a.body, "of B") || strings.Contains(a.body, "Researcher") || strings.Contains(a.body, "uni-b.example") {
			t.Errorf("%s shows something of B", path)
		}
	}
	if after := string(must(json.Marshal(w.view("uni-b")))); after != before {
		t.Errorf("B was changed:\n%s\n%s", before, after)
	}
}

func TestStateShowsWhatIsWrong(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.org("uni-a", "University A", "it@a.example")
	c := w.signedInTo("uni-a")
	c.get("/state").wants(t, http.StatusOK, "you are told of nothing", "There were none yet", "Nothing was sent")
	w.enable("uni-a")
	u := w.people("uni-a", 200_000_000, 4)
	c.get("/state").wants(t, http.StatusOK, "0 of 4", `content="3"`)
	w.register(u[0], event.RegAlive)
	w.register(u[1], event.RegRefused)
	w.attempt("uni-a", u[0], event.Delivered, 204, "", "")
	c.get("/state").wants(t, http.StatusOK, ">working<")
	_, err := w.store.SetBreaker(t.Context(), "uni-a", event.Webhook, event.Breaker{Failures: 2}, time.Time{}) // nothing held
	w.must(err)
	a := c.get("/state").wants(t, http.StatusOK, ">failing<", "<dd>2</dd>")
	if strings.Contains(a.body, ">working<") {
		t.Error("what fails is said to work")
	}
	w.attempt("uni-a", u[1], event.Dead, 500, "the receiver failed "+evil, evil)
	w.attempt("uni-a", u[2], event.Dead, 400, "it refuses", "no")
	w.eventually("the count is made anew", func() bool { return strings.Contains(c.get("/state").body, "1 of 4, 1 refused by ORCID") })
	a = c.get("/state").wants(t, http.StatusOK, "Given up", "Replay all", "Status 500. The receiver failed", "&lt;script&gt;", "1 delivered, 2 failed attempts")
	if strings.Contains(a.body, "<script>") || strings.Contains(a.body, "<img") {
		t.Error("the receiver wrote into our page")
	}
	c.post("/state/replay", url.Values{"orcid": {u[1].String()}}).wants(t, http.StatusSeeOther, "done=replay")
	w.eventually("one is replayed", func() bool { return w.view("uni-a").Channels[0].Dead == 1 })
	c.post("/state/replay", nil).wants(t, http.StatusSeeOther)
	w.eventually("all are replayed", func() bool { return w.view("uni-a").Channels[0].Dead == 0 })
	c.post("/state/replay", url.Values{"orcid": {evil}}).wants(t, http.StatusBadRequest, "not an ORCID iD")
	c.post("/state/pause", url.Values{"channel": {"webhook"}}).wants(t, http.StatusSeeOther)
	c.get("/state?done=pause").wants(t, http.StatusOK, "paused", "until somebody resumes it", "By link of uni-a.", "Resume")
	c.post("/state/resume", url.Values{"channel": {"webhook"}}).wants(t, http.StatusSeeOther)
	for _, ch := range []string{"", "fax", evil} {
		c.post("/state/pause", url.Values{"channel": {ch}}).wants(t, http.StatusBadRequest)
	}
	_, err = w.store.SetHold(t.Context(), "uni-a", event.Webhook, event.HoldBreaker, w.store.Now().Add(10*time.Minute), "status 500")
	w.must(err)
	c.get("/state").wants(t, http.StatusOK, "failing", "Too many failures in a row. It rests until")
	_, err = w.store.SetHold(t.Context(), "uni-a", event.Webhook, event.HoldSuspend, event.Forever, "the receiver answered 410")
	w.must(err)
	c.get("/state").wants(t, http.StatusOK, "stopped", "The receiver answered 410.", "Resume")
}

// TestLongListsAreFolded: on a phone a row is a block of lines.
func TestLongListsAreFolded(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.org("uni-a", "University A", "it@a.example")
	w.enable("uni-a")
	c := w.signedInTo("uni-a")
	u := w.people("uni-a", 210_000_000, unfolded+3)
	for i, id := range u {
		w.attempt("uni-a", id, event.Dead, 500, "the receiver failed", "")
		a := c.get("/state").wants(t, http.StatusOK)
		if n := strings.Count(a.body, "<details id="); (n > 0) != (i >= unfolded) {
			t.Fatalf("%d rows: %d lists are folded", i+1, n)
		}
	}
	a := c.get("/state").wants(t, http.StatusOK, `<details id="more-dead"><summary>Show 3 more</summary>`, `<details id="more-attempts"><summary>Show 3 more</summary>`)
	if strings.Contains(a.body, "And ") || strings.Count(a.body, `name="orcid"`) != len(u) {
		t.Errorf("rows are missing\n%s", a.body)
	}
}

func (c *client) upload(list string, announce bool) answer {
	c.w.Helper()
	var b bytes.Buffer
	m := multipart.NewWriter(&b)
	if announce {
		c.w.must(m.WriteField("announce", "1"))
	}
	f, err := m.CreateFormFile("list", "users.csv")
	c.w.must(err)
	_, err = f.Write([]byte(list))
	c.w.must(err)
	c.w.must(m.Close())
	req, err := http.NewRequestWithContext(c.w.Context(), http.MethodPost, c.w.url+"/users/upload", &b)
	c.w.must(err)
	req.Header.Set("Content-Type", m.FormDataContentType())
	req.Header.Set("Origin", c.w.url)
	return c.send(req)
}

func TestUsers(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.org("uni-a", "University A", "it@a.example")
	w.enable("uni-a")
	c := w.signedInTo("uni-a")
	c.get("/users").wants(t, http.StatusOK, "There are no users yet")
	c.post("/users", url.Values{"orcid": {"https://orcid.org/0000-0002-1825-0097"}, "name": {evil}, "email": {"jc@a.example"}}).wants(t, http.StatusSeeOther, "done=added")
	c.post("/users", url.Values{"orcid": {"0000-0002-1825-0097"}, "name": {evil}, "email": {"jc@a.example"}}).wants(t, http.StatusSeeOther, "done=known")
	a := c.get("/users").wants(t, http.StatusOK, "1 researcher", "0000-0002-1825-0097", "being registered", "&lt;script&gt;")
	if strings.Contains(a.body, "<script>") {
		t.Error("a name became HTML")
	}
	for _, bad := range []string{"", "0000-0002-1825-0098", "x", evil} {
		c.post("/users", url.Values{"orcid": {bad}, "name": {"kept"}}).wants(t, http.StatusBadRequest, `id="orcid-problem"`, `value="kept"`)
	}
	c.post("/users", url.Values{"orcid": {"0000-0002-1825-0097"}, "name": {"a\nb"}}).wants(t, http.StatusBadRequest, `id="name-problem"`)
	a = c.upload("orcid,name\n0000-0002-1694-233X,Ada\n0000-0002-1825-0097,Josiah\nnonsense "+evil+",x\n0000-0001-5109-3700\n", true)
	a.wants(t, http.StatusOK, "Bad lines", "<dd>1</dd>", "<dd>2</dd>", "A CREATED event follows")
	if strings.Contains(a.body, "<script>") {
		t.Error("a line became HTML")
	}
	for list, says := range map[string]string{"": "The list is empty", "surname\nx\n": "&#34;surname&#34;"} {
		a := c.upload(list, false).wants(t, http.StatusBadRequest, "<h1>The list was not imported</h1>", says, "To the users")
		if strings.Contains(a.body, "Known before") || strings.Contains(a.body, "to its end") {
			t.Errorf("a list that was refused has a report\n%s", a.body)
		}
	}
	c.post("/users/upload", nil).wants(t, http.StatusBadRequest, "Choose a file first")
	c.get("/users/0000-0002-1825-0097/remove").wants(t, http.StatusOK, "Remove", "0000-0002-1825-0097")
	c.post("/users/0000-0002-1825-0097/remove", nil).wants(t, http.StatusSeeOther, "done=removed")
	c.post("/users/0000-0002-1825-0097/remove", nil).wants(t, http.StatusNotFound)
	c.get("/users/nobody/remove").wants(t, http.StatusNotFound)
	w.people("uni-a", 300_000_000, usersShown+9)
	first := c.get("/users").wants(t, http.StatusOK, "60 researchers", "Next page")
	_, next, _ := strings.Cut(first.body, `href="/users?after=`)
	next, _, _ = strings.Cut(next, `"`)
	second := c.get("/users?after="+next).wants(t, http.StatusOK, "First page")
	if n := strings.Count(first.body, "/remove") + strings.Count(second.body, "/remove"); n != 60 {
		t.Errorf("%d users on two pages", n)
	}
	for _, bad := range []string{"x", "1-2-3", url.QueryEscape(evil)} {
		c.get("/users?after="+bad).wants(t, http.StatusNotFound)
	}
	w.client().post("/users", url.Values{"orcid": {"0000-0002-1825-0097"}}).wants(t, http.StatusUnauthorized, "You are signed out")
}

func TestWordsAfterSaving(t *testing.T) {
	t.Parallel()
	both := service.View{Webhook: service.WebhookView{Enabled: true}, Email: service.EmailView{Enabled: true}}
	one := service.View{Email: service.EmailView{Enabled: true}}
	for _, c := range []struct {
		o    service.View
		r    service.RegistrationProgress
		want string
	}{
		{one, service.RegistrationProgress{}, "you are told of nothing"},
		{one, service.RegistrationProgress{Wanted: true}, "There are no users yet"},
		{one, service.RegistrationProgress{Wanted: true, Users: 2310, Rate: 20}, "Now registering 2,310 users with ORCID, about 2 min."},
		{one, service.RegistrationProgress{Wanted: true, Users: 5, Alive: 4, Rate: 20}, "Now registering 1 user with ORCID, a few seconds."},
		{one, service.RegistrationProgress{Wanted: true, Users: 5, Alive: 3}, "Now registering 2 users with ORCID."},
		{one, service.RegistrationProgress{Wanted: true, Users: 5, Problem: "ORCID refuses the client"}, "right now: ORCID refuses the client."},
		{one, service.RegistrationProgress{Wanted: true, Users: 5, Alive: 3, Refused: 2}, "It takes effect at once."},
		{both, service.RegistrationProgress{Wanted: true, Users: 5, Alive: 5}, "for the webhook and for e-mail"},
	} {
		if got := nowWords(c.o, c.r); !strings.Contains(got, c.want) {
			t.Errorf("%+v: %q, want %q", c.r, got, c.want)
		}
	}
}

// TestThePictureOfABusyDay counts also those attempts that the log has no more.
func TestThePictureOfABusyDay(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.org("uni-a", "University A", "it@uni-a.example")
	w.enable("uni-a")
	w.attempts("uni-a", 1100, event.Delivered)
	w.attempts("uni-a", 150, event.Retry)
	w.signedInTo("uni-a").get("/state").wants(t, http.StatusOK,
		`aria-label="Attempts of each hour: 1,100 delivered, 150 failed attempts in the last 24 hours"`, "1,100 delivered</span>", "150 failed attempts</span>")
}

// TestWhyDeliveriesWaitIsSaid in words, with how many and until when.
func TestWhyDeliveriesWaitIsSaid(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.org("uni-a", "University A", "it@uni-a.example")
	w.enable("uni-a")
	ids := w.people("uni-a", 500, 4)
	for _, id := range ids[:2] {
		w.attempt("uni-a", id, event.Retry, 503, "the receiver answered 503 Service Unavailable "+evil, "")
	}
	w.attempt("uni-a", ids[2], event.Retry, 0, "no answer within 15s", "")
	_, err := w.store.Enqueue(t.Context(), 0, []store.Target{{Org: "uni-a", Channel: event.Webhook, ORCID: ids[3], Type: event.Updated, At: w.store.Now(), Entry: "99-0", Due: w.store.Now().Add(time.Minute)}}, 0)
	w.must(err)
	c := w.signedInTo("uni-a")
	c.get("/state").wants(t, http.StatusOK, "Why they wait", "2 are tried again, the next at ", "since the receiver answered 503 Service Unavailable &lt;script&gt;",
		"1 is tried again, at ", "since the last attempt failed: no answer within 15s.", "1 is new and sent shortly, at ")
	w.must(w.svc.Pause(t.Context(), byTest, "uni-a", event.Webhook, "receiver moves"))
	c.get("/state").wants(t, http.StatusOK, "4 wait: somebody has paused the deliveries.", "2 are tried again")
}

// A further channel has no fields in the form; the page says that it is there
// and whose it is, and calls it by its own name.
func TestAFurtherChannelIsNamed(t *testing.T) {
	t.Parallel()
	pages, err := New(Options{Service: setup(t).svc, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	channel := func(name event.Channel, on bool) service.Channel {
		c := service.Channel{Channel: name}
		c.Enabled = on
		return c
	}
	usual := []service.Channel{channel(event.Webhook, true), channel(event.Email, true)}
	for _, c := range []struct {
		more []service.Channel
		says string
	}{
		{nil, ""},
		{[]service.Channel{channel("chat", false)}, ""},
		{[]service.Channel{channel("chat", true)}, "Ünï A is also told by chat. The operator"},
		{[]service.Channel{channel("chat", true), channel("queue", true)}, "Ünï A is also told by chat and queue. The operator"},
	} {
		d := settingsData{Org: service.View{Name: "Ünï A"}, Further: strings.Join(further(slices.Concat(usual, c.more)), " and ")}
		rec := httptest.NewRecorder()
		if err := pages.pages.Render(rec, http.StatusOK, "settings", look.Page{Title: "Settings", Data: d}); err != nil {
			t.Fatal(err)
		}
		body := rec.Body.String()
		if !strings.Contains(body, c.says) || (c.says == "") == strings.Contains(body, "also told by") {
			t.Errorf("%+v:\n%s", c, body)
		}
		// Who is told in another way need not be told by the form's.
		neither := settingsForm{Events: []event.Type{event.Created}}
		if problems := neither.gaps(slices.Concat(usual[:1], c.more)); (len(problems) == 0) != (c.says != "") {
			t.Errorf("%+v: a form without both has the problems %v", c, problems)
		}
	}
	for ch, want := range map[event.Channel]string{event.Webhook: "Webhook", event.Email: "E-mail", "chat": "chat"} {
		if got := channelName(ch); got != want {
			t.Errorf("the channel %q is called %q", ch, got)
		}
	}
}
