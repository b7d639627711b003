package unsubscribe

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"dispatchd/internal/directory"
	"dispatchd/internal/look"
	"dispatchd/internal/org"
	"dispatchd/internal/redistest"
	"dispatchd/internal/secret"
	"dispatchd/internal/service"
	"dispatchd/internal/servicetest"
	"dispatchd/internal/signed"
	"dispatchd/internal/store"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("internal/poll.runtime_pollWait"))
}

type noTester struct{}

func (noTester) Test(context.Context, *org.Organisation) service.TestAnswer {
	return service.TestAnswer{}
}

// outbox keeps letters.
type outbox struct {
	mu      sync.Mutex
	letters []service.Letter
	came    chan struct{}
}

func (o *outbox) Mail(_ context.Context, l service.Letter) error {
	o.mu.Lock()
	o.letters = append(o.letters, l)
	o.mu.Unlock()
	o.came <- struct{}{}
	return nil
}

type world struct {
	*testing.T
	svc *service.Service
	dir *directory.Directory
	srv *httptest.Server
	box *outbox
	log *servicetest.Log
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{T: t, dir: directory.New(), box: &outbox{came: make(chan struct{}, 10)}, log: &servicetest.Log{}}
	log := slog.New(slog.NewTextHandler(w.log, nil))
	box, err := secret.NewBox([]byte(strings.Repeat("m", 32)))
	w.must(err)
	st, err := store.New(store.Options{URL: redistest.Start(t).URL(), DataDir: t.TempDir(), Box: box, Logger: log})
	w.must(err)
	t.Cleanup(func() { st.Close() })
	w.must(st.Attach(t.Context()))
	signer, err := signed.New([]byte(strings.Repeat("m", 32)))
	w.must(err)
	mux := http.NewServeMux()
	w.srv = httptest.NewServer(mux)
	t.Cleanup(w.srv.Close)
	w.svc, err = service.New(service.Options{
		Store: st, Directory: w.dir, Hints: servicetest.NoHints{}, Tester: noTester{}, Credentials: func() []string { return []string{"main"} },
		Mailer: w.box, Signer: signer, WebURL: func() string { return w.srv.URL }, Logger: log, Panics: func(c string) { t.Errorf("%s panicked", c) },
	})
	w.must(err)
	w.must(w.svc.Load(t.Context()))
	pages, err := New(Options{Service: w.svc, Logger: log, Version: "test"})
	w.must(err)
	mux.Handle("/u/", pages.Handler())
	mux.Handle(look.AssetPath, look.Assets())
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = w.svc.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
	list := []org.Organisation{w.organisation("filed", "File <b>& Co</b>")}
	_, err = w.svc.ApplyFile(t.Context(), service.By{Who: "file"}, list)
	w.must(err)
	name, contact, yes := "University A", "it@uni-a.example", true
	_, _, err = w.svc.PutOrganisation(t.Context(), service.By{Who: "admin"}, "uni-a", service.Settings{
		Name: &name, TechnicalContact: &contact, Email: &service.EmailSettings{Enabled: &yes},
	})
	w.must(err)
	return w
}

func (w *world) organisation(id, name string) org.Organisation {
	return org.Organisation{ID: id, Name: name, Credential: "main", TechnicalContact: "it@" + id + ".example", Email: org.Email{Enabled: true, Address: "library@" + id + ".example"}}
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) link(id string) string {
	w.Helper()
	o, ok := w.dir.Organisation(id)
	if !ok {
		w.Fatalf("no organisation %s", id)
	}
	link := w.svc.UnsubscribeLink(o)
	if !strings.HasPrefix(link, w.srv.URL+"/u/unsubscribe/") {
		w.Fatalf("link %q", link)
	}
	return link
}

func (w *world) ask(method, link string, form url.Values, header ...string) (int, string) {
	w.Helper()
	req, err := http.NewRequestWithContext(w.Context(), method, link, strings.NewReader(form.Encode()))
	w.must(err)
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := w.srv.Client().Do(req)
	w.must(err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	w.must(err)
	return resp.StatusCode, string(body)
}

var oneClick = url.Values{"List-Unsubscribe": {"One-Click"}}

func TestOneClick(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	link := w.link("uni-a")
	for range 2 { // a scanner and a person open it
		status, page := w.ask(http.MethodGet, link, nil)
		if status != 200 || !strings.Contains(page, "<button>Stop these e-mails</button>") || !strings.Contains(page, "it@uni-a.example") {
			t.Fatalf("%d\n%s", status, page)
		}
	}
	if o, _ := w.dir.Organisation("uni-a"); !o.Email.Enabled {
		t.Fatal("opening the link switched it off")
	}
	if status, page := w.ask(http.MethodPost, link, oneClick, "Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example"); status != 403 {
		t.Errorf("another site's form: %d\n%s", status, page)
	}
	if o, _ := w.dir.Organisation("uni-a"); !o.Email.Enabled {
		t.Fatal("another site switched it off")
	}
	if status, page := w.ask(http.MethodPost, link, oneClick); status != 200 || !strings.Contains(page, "No more e-mail") {
		t.Fatalf("%d\n%s", status, page)
	}
	if o, _ := w.dir.Organisation("uni-a"); o.Email.Enabled {
		t.Error("it is still on")
	}
	<-w.box.came
	w.box.mu.Lock()
	letter := w.box.letters[0]
	w.box.mu.Unlock()
	if letter.To != "it@uni-a.example" || !strings.Contains(letter.Subject, "e-mail was stopped") || letter.Link != w.srv.URL+"/settings/webhook" {
		t.Errorf("%+v", letter)
	}
	log := w.log.String()
	if !strings.Contains(log, `who="unsubscribe link of it@uni-a.example"`) || strings.Contains(log, link[len(link)-20:]) {
		t.Errorf("the audit log: %s", log)
	}
	// Again, and by the button's form: nothing more happens.
	if status, page := w.ask(http.MethodPost, link, nil); status != 200 || !strings.Contains(page, "No more e-mail") {
		t.Errorf("%d\n%s", status, page)
	}
	select {
	case <-w.box.came:
		t.Error("the contact was told twice")
	default:
	}
}

// TestFileOwned: its settings cannot be changed, so the channel is suspended,
// and says so.
func TestFileOwned(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	link := w.link("filed")
	status, page := w.ask(http.MethodGet, link, nil)
	if status != 200 || strings.Contains(page, "<b>& Co") || !strings.Contains(page, "File &lt;b&gt;&amp; Co&lt;/b&gt;") {
		t.Errorf("%d\n%s", status, page)
	}
	if status, page := w.ask(http.MethodPost, link, oneClick); status != 200 || !strings.Contains(page, "configuration file") {
		t.Fatalf("%d\n%s", status, page)
	}
	v, err := w.svc.Organisation(t.Context(), "filed")
	w.must(err)
	held := ""
	for _, c := range v.Channels {
		for _, h := range c.Holds {
			held += string(c.Channel) + " " + string(h.Hold) + ": " + h.Reason
		}
	}
	if o, _ := w.dir.Organisation("filed"); !o.Email.Enabled || held != "email suspend: unsubscribed by library@filed.example" {
		t.Errorf("enabled %v, held %q", o.Email.Enabled, held)
	}
	<-w.box.came
	if status, page := w.ask(http.MethodGet, link, nil); status != 200 || !strings.Contains(page, "No more e-mail") {
		t.Errorf("%d\n%s", status, page)
	}
}

func TestLinksThatDoNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	link := w.link("uni-a")
	for _, bad := range []string{link[:len(link)-1], link + "A", w.srv.URL + "/u/unsubscribe/x", w.srv.URL + "/u/other", w.srv.URL + "/u/"} {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			if status, _ := w.ask(method, bad, oneClick); status != 404 {
				t.Errorf("%s %s: %d", method, bad, status)
			}
		}
	}
	if o, _ := w.dir.Organisation("uni-a"); !o.Email.Enabled {
		t.Error("it was switched off")
	}
	// The address was changed since: the old mail's link ends nothing.
	address := "new@uni-a.example"
	_, err := w.svc.PatchOrganisation(t.Context(), service.By{Who: "admin"}, "uni-a", service.Settings{Email: &service.EmailSettings{Address: &address}})
	w.must(err)
	if status, page := w.ask(http.MethodPost, link, oneClick); status != 200 || !strings.Contains(page, "No more mails") {
		t.Errorf("%d\n%s", status, page)
	}
	if o, _ := w.dir.Organisation("uni-a"); !o.Email.Enabled {
		t.Error("the link of an old address switched it off")
	}
	fresh := w.link("uni-a")
	w.must(w.svc.RemoveOrganisation(t.Context(), service.By{Who: "admin"}, "uni-a"))
	deadline := time.Now().Add(time.Minute)
	for status := 0; status != http.StatusGone; status, _ = w.ask(http.MethodGet, fresh, nil) {
		if time.Now().After(deadline) {
			t.Fatalf("after the removal: %d", status)
		}
	}
}

func TestAWrongMethodIsNoMissingPage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	link := w.link("uni-a")
	if status, body := w.ask(http.MethodPut, link, nil); status != http.StatusMethodNotAllowed || !strings.Contains(body, "Open the link in the mail once more") {
		t.Errorf("PUT: %d\n%s", status, body)
	}
	if status, _ := w.ask(http.MethodGet, w.srv.URL+"/u/nothing", nil); status != http.StatusNotFound {
		t.Errorf("a path that is not there: %d", status)
	}
}
