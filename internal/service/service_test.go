package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"dispatchd/internal/directory"
	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/org"
	"dispatchd/internal/redistest"
	"dispatchd/internal/secret"
	"dispatchd/internal/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type hintRecorder struct {
	mu    sync.Mutex
	users []orcid.ID
}

func (h *hintRecorder) HintChannel(event.ChannelKey, time.Time) {}
func (h *hintRecorder) HintUser(id orcid.ID, express bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if express {
		h.users = append(h.users, id)
	}
}

type okTester struct{}

func (okTester) Test(context.Context, *org.Organisation) TestAnswer {
	return TestAnswer{OK: true, Status: 204}
}

type testBundle struct {
	svc   *Service
	store *store.Store
	dir   *directory.Directory
	hints *hintRecorder
	log   *strings.Builder
	redis *redistest.Server
	data  string
}

var tester = By{Who: "tester", From: "127.0.0.1"}

func setup(t testing.TB) *testBundle {
	t.Helper()
	return setupOn(t, redistest.Start(t), t.TempDir())
}

// setupOn makes a service on a redis that may hold state already: a restart.
func setupOn(t testing.TB, srv *redistest.Server, data string, change ...func(*store.Options)) *testBundle {
	t.Helper()
	box, err := secret.NewBox([]byte(strings.Repeat("m", 32)))
	if err != nil {
		t.Fatal(err)
	}
	b := &testBundle{dir: directory.New(), hints: &hintRecorder{}, log: &strings.Builder{}, redis: srv, data: data}
	log := slog.New(slog.NewTextHandler(io.MultiWriter(b.log, io.Discard), nil))
	o := store.Options{URL: srv.URL(), DataDir: data, Box: box, Logger: log}
	for _, f := range change {
		f(&o)
	}
	b.store, err = store.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.store.Close() })
	if err := b.store.Attach(context.Background()); err != nil {
		t.Fatal(err)
	}
	b.svc, err = New(Options{
		Store: b.store, Directory: b.dir, Hints: b.hints, Tester: okTester{}, Credentials: func() []string { return []string{"main", "other"} },
		Logger: log, Panics: func(c string) { t.Errorf("%s panicked", c) },
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.svc.Load(context.Background()); err != nil {
		t.Fatal(err)
	}
	return b
}

// runJobs runs every job to its end.
func (b *testBundle) runJobs(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.svc.Run(ctx) }()
	deadline := time.After(time.Minute)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		jobs, err := b.svc.Jobs(ctx)
		if err != nil {
			t.Fatal(err)
		}
		running := slices.ContainsFunc(jobs, func(j store.Job) bool { return j.State == jobRunning })
		for _, j := range jobs {
			if j.State == jobFailed {
				t.Fatalf("job %+v failed", j)
			}
		}
		if !running {
			break
		}
		select {
		case <-deadline:
			t.Fatalf("jobs do not end: %+v", jobs)
		case <-tick.C:
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func ptr[T any](v T) *T { return &v }

func uniA() Settings {
	return Settings{
		Name: ptr("University A"), Credential: ptr("main"), TechnicalContact: ptr("it@a.example"),
		Webhook: &WebhookSettings{Enabled: ptr(true), URL: ptr("https://a.example/orcid"), APIKey: ptr("key-1")},
	}
}

func code(err error) Code {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return Code(fmt.Sprintf("no service error: %v", err))
}

func TestPutPatchAndWhatTheyRefuse(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx := context.Background()
	v, made, err := b.svc.PutOrganisation(ctx, tester, "uni-a", uniA())
	if err != nil || !made || !v.Webhook.Enabled || !v.Webhook.APIKeySet || v.Email.Mode != org.Each {
		t.Fatalf("put: %+v made=%v err=%v", v, made, err)
	}
	secrets, err := b.svc.Secrets(ctx, tester, "uni-a")
	if err != nil || !strings.HasPrefix(secrets["signing_secret"].Reveal(), "whsec_") {
		t.Fatalf("no signing secret was made: %v", err)
	}
	// PUT replaces settings, but never forgets a secret that was not sent.
	again := uniA()
	again.Webhook.APIKey = nil
	again.Webhook.AppendORCID = ptr(true)
	if _, made, err = b.svc.PutOrganisation(ctx, tester, "uni-a", again); err != nil || made {
		t.Fatalf("second put: made=%v err=%v", made, err)
	}
	later, err := b.svc.Secrets(ctx, tester, "uni-a")
	if err != nil || later["apikey"] != "key-1" || later["signing_secret"] != secrets["signing_secret"] {
		t.Error("a PUT without secrets lost one")
	}
	if v, err = b.svc.PatchOrganisation(ctx, tester, "uni-a", Settings{Name: ptr("A2")}); err != nil || v.Name != "A2" || !v.Webhook.AppendORCID {
		t.Errorf("patch: %+v %v", v, err)
	}
	for name, c := range map[string]struct {
		id   string
		in   Settings
		want string // a bad key
	}{
		"bad id":             {"Uni A", uniA(), "id"},
		"unknown credential": {"uni-x", Settings{Name: ptr("X"), Credential: ptr("nope")}, "credential"},
		"no url":             {"uni-x", Settings{Name: ptr("X"), Credential: ptr("main"), Webhook: &WebhookSettings{Enabled: ptr(true)}}, "webhook.url"},
		"bad url":            {"uni-a", Settings{Name: ptr("X"), Credential: ptr("main"), Webhook: &WebhookSettings{URL: ptr("file:///etc/passwd")}}, "webhook.url"},
		"id in body":         {"uni-a", Settings{ID: ptr("uni-b")}, "body"},
		"api client taken":   {"uni-x", Settings{Name: ptr("X"), Credential: ptr("main"), API: &APISettings{ClientID: ptr("taken")}}, "api.client_id"},
	} {
		if name == "api client taken" {
			if _, err := b.svc.PatchOrganisation(ctx, tester, "uni-a", Settings{API: &APISettings{ClientID: ptr("taken"), ClientSecret: ptr("s")}}); err != nil {
				t.Fatal(err)
			}
		}
		_, _, err := b.svc.PutOrganisation(ctx, tester, c.id, c.in)
		var e *Error
		if !errors.As(err, &e) || e.Code != CodeInvalid || !slices.ContainsFunc(e.Problems, func(p org.Problem) bool { return p.Key == c.want }) {
			t.Errorf("%s: %v (problems %v), want a problem of %s", name, err, e.Problems, c.want)
		}
	}
	if b.dir.Len() != 1 {
		t.Errorf("a refused organisation is there: %d", b.dir.Len())
	}
	if _, err := b.svc.PatchOrganisation(ctx, tester, "nobody", Settings{}); code(err) != CodeNotFound {
		t.Errorf("patch of nobody: %v", err)
	}
	if log := b.log.String(); strings.Contains(log, "key-1") || strings.Contains(log, secrets["signing_secret"].Reveal()) || !strings.Contains(log, "who=tester") {
		t.Errorf("the audit log is wrong or shows a secret: %s", log)
	}
	// What was saved is there after a restart, secrets included.
	r := setupOn(t, b.redis, b.data)
	o, ok := r.dir.Organisation("uni-a")
	if !ok || o.Webhook.APIKey != "key-1" || o.Name != "A2" || o.Owner != org.OwnedByAPI {
		t.Errorf("after a restart: %+v", o)
	}
}

func TestFileOwnsItsOrganisations(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx := context.Background()
	by := By{Who: "file"}
	file := func(url string) []org.Organisation {
		return []org.Organisation{{
			ID: "uni-f", Name: "F", Credential: "main", TechnicalContact: "x@f.example",
			Webhook: org.Webhook{Enabled: true, URL: url, Payload: org.PayloadStandard}, Email: org.Email{Mode: org.Each},
		}}
	}
	changes, err := b.svc.ApplyFile(ctx, by, file("https://f.example/1"))
	if err != nil || !slices.Equal(changes, []string{"uni-f: added"}) {
		t.Fatalf("%v %v", changes, err)
	}
	first, err := b.svc.Secrets(ctx, by, "uni-f")
	if err != nil {
		t.Fatal(err)
	}
	if changes, err = b.svc.ApplyFile(ctx, by, file("https://f.example/1")); err != nil || len(changes) != 0 {
		t.Errorf("nothing changed, but: %v %v", changes, err)
	}
	if changes, err = b.svc.ApplyFile(ctx, by, file("https://f.example/2")); err != nil || !slices.Equal(changes, []string{"uni-f: webhook.url changed; nothing removed"}) {
		t.Errorf("%v %v", changes, err)
	}
	if second, err := b.svc.Secrets(ctx, by, "uni-f"); err != nil || second["signing_secret"] != first["signing_secret"] {
		t.Error("a reload changed a generated secret")
	}
	if _, err := b.svc.PatchOrganisation(ctx, tester, "uni-f", Settings{Name: ptr("x")}); code(err) != CodeReadOnly {
		t.Errorf("a file's organisation was changed: %v", err)
	}
	if err := b.svc.RemoveOrganisation(ctx, tester, "uni-f"); code(err) != CodeReadOnly {
		t.Errorf("a file's organisation was removed: %v", err)
	}
	if err := b.svc.Pause(ctx, tester, "uni-f", "", "maintenance"); err != nil {
		t.Errorf("a pause is no setting: %v", err)
	}
	if _, err := b.svc.RotateSecret(ctx, tester, "uni-f"); err != nil {
		t.Errorf("neither is the signing secret: %v", err)
	}
	// Out of the file: suspended, kept; back in it: goes on, the pause stays.
	if changes, err = b.svc.ApplyFile(ctx, by, nil); err != nil || len(changes) != 1 || !strings.Contains(changes[0], "suspended; nothing removed") {
		t.Fatalf("%v %v", changes, err)
	}
	holds := func() (out []event.Hold) {
		v, err := b.svc.Organisation(ctx, "uni-f")
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range v.Channels[0].Holds {
			out = append(out, h.Hold)
		}
		return out
	}
	if got := holds(); !slices.Equal(got, []event.Hold{event.HoldPause, event.HoldSuspend}) {
		t.Errorf("holds %v", got)
	}
	if changes, err = b.svc.ApplyFile(ctx, by, nil); err != nil || len(changes) != 0 {
		t.Errorf("suspended again: %v %v", changes, err)
	}
	if changes, err = b.svc.ApplyFile(ctx, by, file("https://f.example/2")); err != nil || len(changes) != 1 {
		t.Errorf("%v %v", changes, err)
	}
	if got := holds(); !slices.Equal(got, []event.Hold{event.HoldPause}) {
		t.Errorf("holds %v", got)
	}
	// All or nothing: the second is wrong, so the first is not taken either.
	bad := append(file("https://f.example/3"), org.Organisation{ID: "uni-g", Name: "G", Credential: "nope"})
	if _, err = b.svc.ApplyFile(ctx, by, bad); code(err) != CodeInvalid {
		t.Errorf("%v", err)
	}
	if o, _ := b.dir.Organisation("uni-f"); o.Webhook.URL != "https://f.example/2" {
		t.Error("half of a bad file was applied")
	}
	// Vanished ones may be removed.
	if _, err = b.svc.ApplyFile(ctx, by, nil); err != nil {
		t.Fatal(err)
	}
	if err := b.svc.RemoveOrganisation(ctx, tester, "uni-f"); err != nil {
		t.Errorf("%v", err)
	}
	b.runJobs(t)
	if b.dir.Len() != 0 {
		t.Error("it is still there")
	}
}

func TestImportTakesGoodLinesAndNamesBadOnes(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx := context.Background()
	if _, _, err := b.svc.PutOrganisation(ctx, tester, "uni-a", uniA()); err != nil {
		t.Fatal(err)
	}
	list := "\xef\xbb\xbfORCID;Name;Email\r\n" + // a spreadsheet's: BOM, semicolons, CRLF
		"0000-0002-1825-0097;\"Carberry; Josiah\";jc@a.example\r\n" +
		"0000-0002-1825-0098;wrong digit;\r\n" +
		"https://orcid.org/0000-0001-5109-3700;;\r\n" +
		"0000-0002-1694-233X;too;many;fields\r\n" +
		"0000-0002-1694-233x;evil\x07name;\r\n" +
		"0000-0002-1694-233x;Zoë;z@a.example\r\n" +
		"0000-0002-1825-0097;Twice;jc2@a.example\r\n"
	report, err := b.svc.Import(ctx, tester, "uni-a", strings.NewReader(list), CSV, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	var lines []int
	for _, l := range report.BadLines {
		lines = append(lines, l.Line)
	}
	if report.Lines != 7 || report.Added != 3 || report.Known != 1 || report.Bad != 3 || !slices.Equal(lines, []int{3, 5, 6}) {
		t.Errorf("report %+v", report)
	}
	page, err := b.svc.Users(ctx, "uni-a", "", 100)
	if err != nil || len(page.Users) != 3 {
		t.Fatalf("%+v %v", page, err)
	}
	report, err = b.svc.Import(ctx, tester, "uni-a", strings.NewReader(
		`{"orcid":"0000-0002-1825-0097","name":"J"}`+"\n\n"+`{"orcid":1}`+"\n"+`{"orcid":"0000-0002-1825-0097","shoe":1}`+"\n"+`nonsense`+"\n"), NDJSON, false, nil)
	if err != nil || report.Known != 1 || report.Bad != 3 || report.BadLines[0].Line != 3 {
		t.Errorf("ndjson: %+v %v", report, err)
	}
	for name, bad := range map[string]string{
		"empty": "", "no orcid column": "email\nx@y\n", "unknown column": "orcid,shoe\n", "twice": "orcid,orcid\n",
	} {
		if _, err := b.svc.Import(ctx, tester, "uni-a", strings.NewReader(bad), CSV, false, nil); code(err) != CodeInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	for begin, want := range map[string]string{
		"PK\x03\x04\x14\x00": "spreadsheet", "\xd0\xcf\x11\xe0\xa1\xb1": "spreadsheet", "\xff\xfeo\x00r\x00": "UTF-8", "\xfe\xff\x00o\x00r": "UTF-8",
	} {
		_, err := b.svc.Import(ctx, tester, "uni-a", strings.NewReader(begin+strings.Repeat("x", 100)), CSV, false, nil)
		var e *Error
		if !errors.As(err, &e) || e.Code != CodeInvalid || !strings.Contains(e.What, want) || len(e.Problems) != 1 || !strings.Contains(e.Problems[0].Why, "CSV UTF-8") {
			t.Errorf("%q: %+v", begin, err)
		}
	}
	if _, err := b.svc.Import(ctx, tester, "nobody", strings.NewReader("orcid\n"), CSV, false, nil); code(err) != CodeNotFound {
		t.Errorf("nobody: %v", err)
	}
	if n, err := b.store.MemberCount(ctx, "uni-a"); err != nil || n != 3 {
		t.Errorf("%d users, %v", n, err)
	}
}

func TestUsersComeAndGo(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx := context.Background()
	if _, _, err := b.svc.PutOrganisation(ctx, tester, "uni-a", uniA()); err != nil {
		t.Fatal(err)
	}
	id, err := orcid.Parse("0000-0002-1825-0097")
	if err != nil {
		t.Fatal(err)
	}
	if added, err := b.svc.AddUser(ctx, tester, "uni-a", id, Person{Name: "Josiah", Email: "jc@a.example"}); err != nil || !added {
		t.Fatalf("%v %v", added, err)
	}
	if added, err := b.svc.AddUser(ctx, tester, "uni-a", id, Person{Name: "J. C."}); err != nil || added {
		t.Fatalf("again: %v %v", added, err)
	}
	if len(b.hints.users) != 2 {
		t.Error("a single change must overtake sweeps")
	}
	u, err := b.store.User(ctx, id)
	if err != nil || len(u.Affiliations) != 1 || !u.Affiliations[0].Announce || u.Affiliations[0].Name != "J. C." {
		t.Fatalf("%+v %v", u, err)
	}
	if _, err := b.svc.AddUser(ctx, tester, "uni-a", id, Person{Name: "a\r\nBcc: x"}); code(err) != CodeInvalid {
		t.Errorf("header injection: %v", err)
	}
	story, err := b.svc.User(ctx, id)
	if err != nil || len(story.Affiliations) != 1 || story.Affiliations[0].Email != "jc@a.example" {
		t.Errorf("%+v %v", story, err)
	}
	if err := b.svc.RemoveUser(ctx, tester, "uni-a", id); err != nil {
		t.Fatal(err)
	}
	if err := b.svc.RemoveUser(ctx, tester, "uni-a", id); code(err) != CodeNotFound {
		t.Errorf("second removal: %v", err)
	}
}

// TestAJobIsFinishedByTheNextProcess: the process that took the change dies
// before it ran the job.
func TestAJobIsFinishedByTheNextProcess(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx := context.Background()
	if _, _, err := b.svc.PutOrganisation(ctx, tester, "uni-a", uniA()); err != nil {
		t.Fatal(err)
	}
	if _, err := b.svc.Import(ctx, tester, "uni-a", strings.NewReader("orcid\n0000-0002-1825-0097\n0000-0001-5109-3700\n"), CSV, false, nil); err != nil {
		t.Fatal(err)
	}
	id, err := orcid.Parse("0000-0002-1825-0097")
	if err != nil {
		t.Fatal(err)
	}
	due, err := b.store.Enqueue(ctx, 0, []store.Target{{Org: "uni-a", Channel: event.Webhook, ORCID: id, Type: event.Updated, At: b.store.Now(), Entry: "1-1"}}, 0)
	if err != nil || len(due) != 1 {
		t.Fatalf("%v %v", due, err)
	}
	if _, err := b.svc.Disable(ctx, tester, "uni-a", ""); err != nil {
		t.Fatal(err)
	}
	// No b.svc.Run: it died. The next one has only Redis.
	next := setupOn(t, b.redis, b.data)
	next.runJobs(t)
	l, err := next.svc.Ledger(ctx)
	if err != nil || !l.Balanced || l.Cancelled != 1 || l.Pending != 0 {
		t.Errorf("%+v %v", l, err)
	}
	ids, _, err := next.store.DueUsers(ctx, next.store.Now(), 10)
	if err != nil || len(ids) != 2 {
		t.Errorf("users to look at: %v %v", ids, err)
	}
}

func TestTestEventsAreRateLimited(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx := context.Background()
	if _, _, err := b.svc.PutOrganisation(ctx, tester, "uni-a", uniA()); err != nil {
		t.Fatal(err)
	}
	if a, err := b.svc.Test(ctx, tester, "uni-a"); err != nil || !a.OK {
		t.Fatalf("%+v %v", a, err)
	}
	if _, err := b.svc.Test(ctx, tester, "uni-a"); code(err) != CodeRateLimited {
		t.Errorf("second test at once: %v", err)
	}
	var at testedAt
	at.last = map[string]time.Time{}
	now := time.Now()
	if at.claim("x", now) != 0 || at.claim("x", now.Add(4*time.Second)) != 6*time.Second || at.claim("x", now.Add(10*time.Second)) != 0 {
		t.Error("ten seconds are not kept")
	}
}

func TestRedisAwayIsSaidAndNothingIsHalfDone(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx := context.Background()
	if _, _, err := b.svc.PutOrganisation(ctx, tester, "uni-a", uniA()); err != nil {
		t.Fatal(err)
	}
	b.redis.Kill()
	if _, err := b.svc.Disable(ctx, tester, "uni-a", ""); code(err) != CodeUnavailable {
		t.Errorf("%v", err)
	}
	if st := b.svc.Status(ctx); len(st.Problems) == 0 {
		t.Error("status does not tell")
	}
	if o, _ := b.dir.Organisation("uni-a"); !o.AnyEnabled() {
		t.Error("the directory runs ahead of redis")
	}
}

func FuzzReadSettings(f *testing.F) {
	f.Add(`{"name":"x","webhook":{"enabled":true}}`)
	f.Add(`{"id":1}`)
	f.Add(`[]`)
	f.Fuzz(func(t *testing.T, s string) {
		in, err := ReadSettings(strings.NewReader(s))
		if err != nil {
			if code(err) != CodeInvalid {
				t.Fatalf("%q: %v", s, err)
			}
			return
		}
		o := defaults("x")
		in.apply(&o)
		_ = o.Validate() // must not panic, whatever came in
	})
}
