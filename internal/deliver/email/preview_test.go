package email_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net/mail"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"dispatchd/internal/deliver"
	"dispatchd/internal/deliver/email"
	"dispatchd/internal/directory"
	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/org"
	"dispatchd/internal/redistest"
	"dispatchd/internal/secret"
	"dispatchd/internal/service"
	"dispatchd/internal/servicetest"
	"dispatchd/internal/signed"
	"dispatchd/internal/sim/smtpsink"
	"dispatchd/internal/store"
)

var update = flag.Bool("update", false, "write the previews in docs/mails anew")

// previewDir holds what people look at: docs/mails.
const previewDir = "../../../docs/mails"

var previewTime = time.Date(2026, 11, 23, 2, 5, 32, 0, time.UTC)

// soft may stand in the middle of a word in a mail's source.
const soft = `(?:=\n)?`

// fixed makes what is made by chance the same every time.
var fixed = []struct {
	re *regexp.Regexp
	to string
}{
	{regexp.MustCompile(`/` + strings.Join(strings.Split(`sign-in/`, ``), soft) + `(?:[A-Za-z0-9_-]|=\n){20,}`), "/sign-in/TOKEN"},
	{regexp.MustCompile(`(notice|link|confirm)-[A-Za-z0-9_-]{8}`), "$1-MADEMADE"},
}

// TestPreviews: docs/mails shows every mail as it is sent, by way of a real mail
// server. `make generate` writes them.
func TestPreviews(t *testing.T) {
	t.Parallel()
	w := newPreviews(t)
	o := &org.Organisation{
		ID: "uni-a", Name: "University of Auckland", Timezone: "Pacific/Auckland", TechnicalContact: "it@uni-a.example",
		Webhook: org.Webhook{URL: "https://uni-a.example/orcid?key=1"},
		Email:   org.Email{Enabled: true, Address: "library@uni-a.example", CC: true, Mode: org.Each},
	}
	who := []event.Affiliation{
		{Name: "Josiah Stinkney Carberry", Email: "j.carberry@uni-a.example"},
		{Name: "Aroha Ngata-Whāriki", Email: "a.ngata-whariki@uni-a.example"},
		{Name: "Dr Maximiliana Featherstonehaugh-Cholmondeley von und zu Hohenstaufen-Lichtenberg", Email: "maximiliana.featherstonehaugh-cholmondeley@medicine.uni-a.example"},
		{},
		{Name: "<script>alert(1)</script> {{7*7}}"},
	}
	items := make([]event.DigestItem, len(who))
	for i := range items {
		items[i] = event.DigestItem{ORCID: previewID(t, 2182509+uint64(i)*7919), Types: []event.Type{event.Updated}, LatestAt: previewTime.Add(-time.Duration(len(who)-i+3) * 3 * time.Hour)}
	}
	items[1].Types, items[1].CreatedAt = []event.Type{event.Created, event.Updated}, previewTime.Add(-29*time.Hour)
	d := event.Delivery{Org: o.ID, Channel: event.Email, ORCID: items[0].ORCID, Type: event.Updated, Generation: 42, LatestAt: previewTime.Add(-time.Minute)}
	w.sent("changed", w.sender.Send(t.Context(), o, d, who[0]))
	d.Type, d.CreatedAt, d.ORCID = event.Created, previewTime.Add(-time.Minute), items[1].ORCID
	w.sent("linked", w.sender.Send(t.Context(), o, d, who[1]))
	o.Email.Mode = org.Daily
	w.sent("digest", w.sender.SendDigest(t.Context(), o, event.Digest{Org: o.ID, ID: "dig_MADEMADE", Items: items, MadeAt: time.Date(2026, 11, 23, 8, 0, 0, 0, o.Zone())}, who))
	sum := event.Summary{ID: "month_uni-a_2026-11", Year: 2026, Month: time.November}
	for i, item := range items {
		sum.Users = append(sum.Users, event.SummaryUser{ORCID: item.ORCID, Who: who[i], At: item.LatestAt})
	}
	w.must(w.sender.SendSummary(t.Context(), o, sum))
	w.took("monthly-summary")

	n, since := w.svc.Notices(), previewTime.Add(-time.Hour)
	n.ChannelDown(o, event.Webhook, since, 503, "answered 503 Service Unavailable")
	w.took("channel-down")
	n.ChannelRecovered(o, event.Webhook, since)
	w.took("channel-recovered")
	n.ChannelSuspended(o, event.Webhook, "the receiver answered 410 Gone: it does not want to be told any more")
	w.took("channel-suspended")
	w.must(w.svc.AskLink(t.Context(), service.By{Who: "web"}, "it@uni-a.example"))
	w.took("sign-in")
	address := "research.office@uni-a.example"
	_, err := w.svc.SaveOwn(t.Context(), service.By{Who: "it@uni-a.example"}, "uni-a", service.Settings{Email: &service.EmailSettings{Address: &address}})
	w.must(err)
	w.took("confirm-address")
	stored, ok := w.dir.Organisation("uni-a")
	if !ok {
		t.Fatal("no organisation")
	}
	link := w.svc.UnsubscribeLink(stored)
	_, err = w.svc.Unsubscribe(t.Context(), "127.0.0.1", link[strings.LastIndexByte(link, '/')+1:])
	w.must(err)
	w.took("unsubscribed")
}

type previews struct {
	*testing.T
	sink   *smtpsink.Sink
	sender *email.Sender
	svc    *service.Service
	dir    *directory.Directory
	n      int
}

type quietTester struct{}

func (quietTester) Test(context.Context, *org.Organisation) service.TestAnswer {
	return service.TestAnswer{}
}

type throughSender struct{ s *email.Sender }

func (m throughSender) Mail(ctx context.Context, l service.Letter) error {
	return m.s.Notice(ctx, email.Notice{
		To: l.To, Subject: l.Subject, Paragraphs: l.Paragraphs, Button: email.Link{Text: l.LinkText, URL: l.Link}, Small: l.Small, ID: l.ID,
	})
}

func newPreviews(t *testing.T) *previews {
	t.Helper()
	w := &previews{T: t, dir: directory.New()}
	var err error
	w.sink, err = smtpsink.Start(smtpsink.Options{})
	w.must(err)
	t.Cleanup(w.sink.Close)
	log := slog.New(slog.DiscardHandler)
	box, err := secret.NewBox([]byte(strings.Repeat("m", 32)))
	w.must(err)
	signer, err := signed.New([]byte(strings.Repeat("m", 32)))
	w.must(err)
	st, err := store.New(store.Options{
		URL: redistest.Start(t).URL(), DataDir: t.TempDir(), Box: box, Logger: log, Now: func() time.Time { return previewTime },
	})
	w.must(err)
	t.Cleanup(func() { st.Close() })
	w.must(st.Attach(t.Context()))
	w.sender, err = email.New(email.Options{
		Host: "127.0.0.1", Port: w.sink.Port(), TLS: "none", From: "ORCID Hub <no-reply@hub.example>", UserAgent: "dispatchd/1.0.0",
		Helo: "hub.example", Now: func() time.Time { return previewTime }, WebURL: "https://hub.example",
		Unsubscribe: func(o *org.Organisation) string { return w.svc.UnsubscribeLink(o) },
	})
	w.must(err)
	t.Cleanup(w.sender.Close)
	w.svc, err = service.New(service.Options{
		Store: st, Directory: w.dir, Hints: servicetest.NoHints{}, Tester: quietTester{}, Credentials: func() []string { return []string{"main"} },
		Mailer: throughSender{w.sender}, Signer: signer, WebURL: func() string { return "https://hub.example" }, Logger: log,
		Panics: func(c string) { t.Errorf("%s panicked", c) },
	})
	w.must(err)
	w.must(w.svc.Load(t.Context()))
	name, contact, yes := "University of Auckland", "it@uni-a.example", true
	_, _, err = w.svc.PutOrganisation(t.Context(), service.By{Who: "admin"}, "uni-a", service.Settings{
		Name: &name, TechnicalContact: &contact, Email: &service.EmailSettings{Enabled: &yes},
	})
	w.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = w.svc.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
	return w
}

func (w *previews) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func previewID(t *testing.T, base uint64) orcid.ID {
	t.Helper()
	id, err := orcid.FromBase(base)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func (w *previews) sent(name string, a deliver.Answer) {
	w.Helper()
	if a.Kind != deliver.KindOK {
		w.Fatalf("%s: %+v", name, a)
	}
	w.took(name)
}

// took compares the mail that came with its previews, or writes them.
func (w *previews) took(name string) {
	w.Helper()
	w.n++
	ctx, cancel := context.WithTimeout(w.Context(), 30*time.Second)
	defer cancel()
	w.must(w.sink.Wait(ctx, w.n))
	raw := w.sink.Mails()[w.n-1].Data
	m, err := mail.ReadMessage(bytes.NewReader(raw))
	w.must(err)
	_, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	w.must(err)
	raw = bytes.ReplaceAll(raw, []byte(params["boundary"]), []byte("boundary"))
	w.file(name+".eml", strings.ReplaceAll(string(raw), "\r\n", "\n"))
	r := multipart.NewReader(m.Body, params["boundary"])
	var head strings.Builder
	for _, h := range []string{"From", "To", "Cc", "Subject", "Date", "Message-Id", "List-Unsubscribe", "List-Unsubscribe-Post"} {
		if v := m.Header.Get(h); v != "" {
			fmt.Fprintf(&head, "%s: %s\n", h, v)
		}
	}
	for {
		p, err := r.NextRawPart()
		if err != nil {
			break
		}
		var body io.Reader = p
		switch p.Header.Get("Content-Transfer-Encoding") {
		case "quoted-printable":
			body = quotedprintable.NewReader(p)
		case "base64":
			body = base64.NewDecoder(base64.StdEncoding, p)
		}
		text, err := io.ReadAll(body)
		w.must(err)
		clean := strings.ReplaceAll(string(text), "\r\n", "\n")
		if strings.HasPrefix(p.Header.Get("Content-Type"), "text/plain") {
			w.file(name+".txt", head.String()+"\n"+clean)
		} else {
			w.file(name+".html", clean)
		}
	}
}

func (w *previews) file(name, text string) {
	w.Helper()
	for _, f := range fixed {
		text = f.re.ReplaceAllString(text, f.to)
	}
	path := filepath.Join(previewDir, name)
	if *update {
		w.must(os.MkdirAll(previewDir, 0o755))
		w.must(os.WriteFile(path, []byte(text), 0o644))
		return
	}
	want, err := os.ReadFile(path)
	if err != nil || string(want) != text {
		w.Errorf("docs/mails/%s is out of date (%v); run make generate. It is now\n%s", name, err, text)
	}
}
