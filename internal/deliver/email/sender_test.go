package email

import (
	"context"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net"
	"net/mail"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
	"go.uber.org/goleak"

	"dispatchd/internal/deliver"
	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/org"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const short = 300 * time.Millisecond

var t0 = time.Date(2026, 11, 23, 2, 5, 32, 0, time.UTC)

// received is one message as the server took it.
type received struct {
	from string
	to   []string
	data string
}

// behaviour is how the server answers; nil errors take everything.
type behaviour struct {
	session, mail, data error
	rcpt                map[string]error
	auth                bool
	hang                bool // in DATA, until the client goes away
}

type server struct {
	behaviour
	mu       sync.Mutex
	messages []received
	users    []string
}

type session struct {
	s    *server
	msg  received
	conn *smtp.Conn
}

func (s *server) NewSession(c *smtp.Conn) (smtp.Session, error) {
	if s.session != nil {
		return nil, s.session
	}
	ses := &session{s: s, conn: c}
	if s.auth {
		return authSession{ses}, nil
	}
	return ses, nil
}

func (s *session) Reset()        { s.msg = received{} }
func (s *session) Logout() error { return nil }

func (s *session) Mail(from string, _ *smtp.MailOptions) error {
	s.msg.from = from
	return s.s.mail
}

func (s *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	if err := s.s.rcpt[to]; err != nil {
		return err
	}
	s.msg.to = append(s.msg.to, to)
	return nil
}

func (s *session) Data(r io.Reader) error {
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if s.s.hang {
		_, _ = io.Copy(io.Discard, s.conn.Conn())
		return errors.New("gone")
	}
	if s.s.data != nil {
		return s.s.data
	}
	s.msg.data = string(b)
	s.s.mu.Lock()
	s.s.messages = append(s.s.messages, s.msg)
	s.s.mu.Unlock()
	return nil
}

type authSession struct{ *session }

func (s authSession) AuthMechanisms() []string { return []string{sasl.Plain} }

func (s authSession) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, user, password string) error {
		if password != "hunter2" {
			return smtp.ErrAuthFailed
		}
		s.s.mu.Lock()
		s.s.users = append(s.s.users, user)
		s.s.mu.Unlock()
		return nil
	}), nil
}

func smtpErr(code int, text string) error {
	return &smtp.SMTPError{Code: code, EnhancedCode: smtp.EnhancedCode{code / 100, 1, 1}, Message: text}
}

// serve runs the mail server until the end of the test.
func serve(t *testing.T, b behaviour, change func(*smtp.Server)) (*server, Options) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	be := &server{behaviour: b}
	srv := smtp.NewServer(be)
	srv.Domain, srv.AllowInsecureAuth = "mail.example", true
	srv.ErrorLog = discard{}
	srv.EnableSMTPUTF8 = true
	if change != nil {
		change(srv)
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ln) }()
	t.Cleanup(func() { srv.Close(); ln.Close(); <-done }) // ln: Serve may not have begun
	return be, Options{
		Host: "127.0.0.1", Port: ln.Addr().(*net.TCPAddr).Port, TLS: "none", From: "ORCID Hub <no-reply@hub.example>",
		UserAgent: "dispatchd/test", Helo: "hub.example", Now: func() time.Time { return t0 }, Timeout: 10 * time.Second,
	}
}

type discard struct{}

func (discard) Printf(string, ...any) {}
func (discard) Println(...any)        {}

func newSender(t *testing.T, o Options) *Sender {
	t.Helper()
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func newOrg() *org.Organisation {
	return &org.Organisation{
		ID: "uni-a", Name: "University A", TechnicalContact: "it@uni-a.example",
		Email: org.Email{Enabled: true, Address: "library@uni-a.example", CC: true},
	}
}

func newDelivery(t *testing.T) event.Delivery {
	t.Helper()
	id, err := orcid.ParseStrict("0000-0002-1825-0097")
	if err != nil {
		t.Fatal(err)
	}
	return event.Delivery{Org: "uni-a", Channel: event.Email, ORCID: id, Type: event.Updated, Generation: 42, Attempt: 1, LatestAt: t0}
}

// taken returns the one message that the server took, parsed.
func (s *server) taken(t *testing.T) (received, *mail.Message, string, string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.messages) != 1 {
		t.Fatalf("%d messages", len(s.messages))
	}
	m, err := mail.ReadMessage(strings.NewReader(s.messages[0].data))
	if err != nil {
		t.Fatal(err)
	}
	kind, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/alternative" {
		t.Fatalf("%q, %v", kind, err)
	}
	var parts []string
	r := multipart.NewReader(m.Body, params["boundary"])
	for {
		p, err := r.NextRawPart()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(quotedprintable.NewReader(p))
		if err != nil {
			t.Fatal(err)
		}
		parts = append(parts, strings.ReplaceAll(string(b), "\r\n", "\n"))
	}
	if len(parts) != 2 {
		t.Fatalf("%d parts", len(parts))
	}
	return s.messages[0], m, parts[0], parts[1]
}

func TestMessage(t *testing.T) {
	t.Parallel()
	be, o := serve(t, behaviour{}, nil)
	d := newDelivery(t)
	a := newSender(t, o).Send(context.Background(), newOrg(), d, event.Affiliation{Org: "uni-a", Name: "Jo <b>Ø</b> Carberry"})
	if a.Kind != deliver.KindOK || a.Status != 250 || !a.Start.Equal(t0) || a.Duration <= 0 {
		t.Fatalf("%+v", a)
	}
	raw, m, text, page := be.taken(t)
	if raw.from != "no-reply@hub.example" || strings.Join(raw.to, " ") != "library@uni-a.example it@uni-a.example" {
		t.Errorf("from %s to %v", raw.from, raw.to)
	}
	for name, want := range map[string]string{
		"From": `"ORCID Hub" <no-reply@hub.example>`, "To": "<library@uni-a.example>", "Cc": "<it@uni-a.example>",
		"Subject": "ORCID Profile Update (0000-0002-1825-0097)", "Auto-Submitted": "auto-generated",
		"X-Auto-Response-Suppress": "DR, RN, NRN, OOF", "Message-Id": "<" + d.ID() + "@hub.example>",
		"User-Agent": "dispatchd/test", "Date": "Mon, 23 Nov 2026 02:05:32 +0000",
	} {
		if got := m.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	const why = "You receive this because University A asked to be told when ORCID records of its researchers change."
	if want := "User Jo <b>Ø</b> Carberry (0000-0002-1825-0097, https://orcid.org/0000-0002-1825-0097) profile was updated at 2026-11-23 02:05 UTC.\n\n" + why + "\n"; text != want {
		t.Errorf("text\n%q, want\n%q", text, want)
	}
	if want := `User Jo &lt;b&gt;Ø&lt;/b&gt; Carberry (<a href="https://orcid.org/0000-0002-1825-0097" target="_blank" style="white-space:nowrap">0000-0002-1825-0097</a>) profile was updated at 2026-11-23 02:05 UTC.</p>`; !strings.Contains(page, want) {
		t.Errorf("HTML\n%s, want in it\n%s", page, want)
	}
}

func TestWords(t *testing.T) {
	t.Parallel()
	s := newSender(t, Options{Host: "h", From: "a@b.example", UserAgent: "x", SiteURL: "https://sandbox.orcid.org/", Now: func() time.Time { return t0 }})
	d := newDelivery(t)
	created := d
	created.Type, created.CreatedAt = event.Created, t0.Add(-time.Hour)
	auckland := &org.Organisation{Name: "A", Timezone: "Pacific/Auckland"}
	for _, c := range []struct {
		o    *org.Organisation
		d    event.Delivery
		name string
		want string
	}{
		{auckland, d, "Jo", "User Jo (0000-0002-1825-0097, https://sandbox.orcid.org/0000-0002-1825-0097) profile was updated at 2026-11-23 15:05 NZDT.\n"},
		{&org.Organisation{Timezone: "Nowhere/None"}, created, "", "User (0000-0002-1825-0097, https://sandbox.orcid.org/0000-0002-1825-0097) has linked their account at 2026-11-23 01:05 UTC.\n"},
		{&org.Organisation{}, d, strings.Repeat("é", 300), "User " + strings.Repeat("é", 200) + "… (0000-"},
		{&org.Organisation{}, d, " a\u202eb\r\n\tc\x00\xff ", "User ab c (0000-"},
	} {
		text, _, err := s.templates.render(s.newsLetter(c.o, c.d, event.Affiliation{Name: c.name}))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(text, c.want) {
			t.Errorf("%q, want %q", text, c.want)
		}
	}
}

func TestRecipients(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		address, contact string
		cc               bool
		want             string
	}{
		{"a@x.example", "it@x.example", true, "a@x.example|it@x.example"},
		{"a@x.example", "it@x.example", false, "a@x.example|"},
		{"", "it@x.example", true, "it@x.example|"},
		{"a@x.example", "", true, "a@x.example|"},
		{"it@x.example", "IT@x.example", true, "it@x.example|"},
		{"", "", true, "|"},
	} {
		to, cc := recipients(&org.Organisation{TechnicalContact: c.contact, Email: org.Email{Address: c.address, CC: c.cc}})
		if got := to + "|" + cc; got != c.want {
			t.Errorf("%+v: %s", c, got)
		}
	}
}

// TestNoHeaderInjection: whatever people are called, the headers stay the same.
func TestNoHeaderInjection(t *testing.T) {
	t.Parallel()
	for _, name := range []string{
		"Jo\r\nBcc: victim@x.example", "Jo\nSubject: evil\n\nbody", "Jo\r\n.\r\nMAIL FROM:<x@y.example>", "=?utf-8?q?Jo=0D=0ABcc:_v@x.example?=",
		"{{7*7}}${x}%s%d", "\x00\x1b[31m", "</p><script>alert(1)</script>",
	} {
		be, o := serve(t, behaviour{}, nil)
		organisation := newOrg()
		organisation.Name = name
		who := event.Affiliation{Name: name, Email: name, EPPN: name}
		if a := newSender(t, o).Send(context.Background(), organisation, newDelivery(t), who); a.Kind != deliver.KindOK {
			t.Fatalf("%q: %+v", name, a)
		}
		raw, m, _, page := be.taken(t)
		if len(raw.to) != 2 || m.Header.Get("Bcc") != "" || len(m.Header["Subject"]) != 1 || len(m.Header) != 12 {
			t.Errorf("%q: to %v, headers %v", name, raw.to, m.Header)
		}
		if head, _, _ := strings.Cut(raw.data, "\r\n\r\n"); strings.Contains(head, "Jo") || strings.Contains(head, "victim") {
			t.Errorf("%q is in the headers:\n%s", name, head)
		}
		if strings.Contains(page, "<script>") {
			t.Errorf("HTML: %s", page)
		}
	}
	for _, address := range []string{"a@x.example\r\nBcc: v@x.example", "a@x.example>, <v@x.example", "no address", "a@x.example\r\nRCPT TO:<v@x.example>"} {
		be, o := serve(t, behaviour{}, nil)
		organisation := newOrg()
		organisation.Email.Address = address
		if a := newSender(t, o).Send(context.Background(), organisation, newDelivery(t), event.Affiliation{}); a.Kind != deliver.KindSettings {
			t.Errorf("%q: %+v", address, a)
		}
		if len(be.messages) != 0 {
			t.Errorf("%q: something was sent", address)
		}
	}
}

func TestMessageIDIsStable(t *testing.T) {
	t.Parallel()
	be, o := serve(t, behaviour{}, nil)
	s := newSender(t, o)
	d := newDelivery(t)
	for i := range 3 {
		d.Attempt, d.Token = i+1, strings.Repeat("t", i)
		if i == 2 {
			d.Generation++
		}
		s.Send(context.Background(), newOrg(), d, event.Affiliation{})
	}
	ids := map[string]int{}
	for _, m := range be.messages {
		parsed, err := mail.ReadMessage(strings.NewReader(m.data))
		if err != nil {
			t.Fatal(err)
		}
		ids[parsed.Header.Get("Message-Id")]++
	}
	if len(ids) != 2 || ids["<"+d.ID()+"@hub.example>"] != 1 {
		t.Errorf("%v", ids)
	}
}
