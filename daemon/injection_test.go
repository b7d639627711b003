package main

import (
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"dispatchd/internal/browsertest"
	"dispatchd/internal/service"
	"dispatchd/internal/sim/receiver"
	"dispatchd/internal/sim/smtpsink"
)

// hostile are texts that are to be something else: script, markup, a template, a
// formula of a spreadsheet.
var hostile = []string{
	`<script>window.ran=1</script>`, `"><img src=x onerror="window.ran=1">`, `'><svg onload=window.ran=1>`, `</textarea><script>window.ran=1</script>`,
	`{{7*7}} {{.Org}} ${7*7} <%= 7*7 %> %s %d`, `=cmd|'/c calc'!A0`, `+1+1`, `-1+1`, `@SUM(1)`, `</title><script>window.ran=1</script>`, `javascript:window.ran=1`,
}

// breaking are texts that would end a line of a header.
var breaking = []string{"A\r\nBcc: victim@x.example", "A\nBcc: victim@x.example", "A\rBcc: victim@x.example", "A\x00B", "A\r\n\r\n<script>window.ran=1</script>"}

// TestNothingThatIsGivenIsMoreThanText: what comes by the admin API, by an
// upload and by the Hub-compatible API as a name, an address, a URL or a key is
// refused, or is shown as it was written: on the organisation's and the
// operator's pages, in mails, in the deliveries. Nothing of it runs, and no mail
// gets a header of it.
func TestNothingThatIsGivenIsMoreThanText(t *testing.T) {
	t.Parallel()
	browser := browsertest.For(t)
	mail, smtp := mailServer(t, smtpsink.Options{})
	w := newWorld(t, setting{users: len(hostile) + 1, more: smtp, delivery: []string{`quiet_period = "0s"`}})
	w.hostileSettings()

	// One organisation for each text, with one user whose name it is too.
	for i, text := range hostile {
		id := fmt.Sprintf("uni-%d", i)
		w.organisation(id, object{
			"name": text, "technical_contact": "it@" + id + ".example", "email": object{"enabled": true, "mode": "each"},
			"api": object{"client_id": "client-" + id, "client_secret": "secret-of-" + strings.Repeat("x", 32)},
		})
		quoted := `"` + strings.ReplaceAll(text, `"`, `""`) + `"`
		if i%2 == 0 { // by upload, by the Hub-compatible API
			w.ask("POST", "/v1/organisations/"+id+"/users", "orcid,name,eppn\n"+w.users[i].String()+","+quoted+","+quoted+"\n", nil)
		} else {
			w.hubUser(id, w.users[i].String(), text)
		}
	}
	w.registered(clientMain, w.users[:len(hostile)]...)
	w.recv.BehaveFor("/uni-0", receiver.Status(http.StatusUnprocessableEntity, strings.Join(hostile, "\n")))
	w.recv.BehaveFor("/uni-1", receiver.Status(http.StatusServiceUnavailable, strings.Join(hostile, "\n")))
	w.pingAll(len(hostile), w.users[:len(hostile)])
	for i := range hostile {
		to := fmt.Sprintf("it@uni-%d.example", i)
		w.eventually("the mail to "+to, func() bool { return len(subjects(t, mail, to)) > 0 })
	}
	p := browser.Page(t, browsertest.Look{})
	w.mailsAreText(mail, p)
	w.eventually("one is given up", func() bool { return w.channel("uni-0").Dead == 1 })

	harmless := func(where string, shown ...string) {
		t.Helper()
		if browsertest.Eval[bool](p, "'ran' in window") || p.Count("main script, main img, main svg[onload], h1 *, title *") > 0 {
			t.Errorf("%s: something came into the page:\n%s", where, p.HTML())
		}
		text := browsertest.Eval[string](p, `document.body.textContent + [...document.querySelectorAll("input,textarea")].map(e => e.value).join("\n")`)
		for _, s := range shown {
			if !strings.Contains(text, s) {
				t.Errorf("%s does not show %q", where, s)
			}
		}
	}
	web, operator := "http://"+w.addr[2], "http://"+w.addr[1]
	for i, text := range hostile {
		id := fmt.Sprintf("uni-%d", i)
		var link struct {
			Link string `json:"link"`
		}
		w.ask("POST", "/v1/organisations/"+id+"/link", object{}, &link)
		p.Open(link.Link)
		harmless("the link of " + id)
		p.Press("main button")
		for _, path := range []string{"/settings/webhook", "/state", "/users"} {
			if status := p.Open(web + path); status != http.StatusOK {
				t.Fatalf("%s of %s: %d", path, id, status)
			}
			harmless(path+" of "+id, text)
		}
	}
	p.Open(operator + "/sign-in")
	p.Fill("#token", w.d.token)
	p.Press("main button")
	p.Open(operator + "/")
	harmless("the operator's page", hostile[0], hostile[4])
	for i, text := range hostile {
		p.Open(operator + fmt.Sprintf("/organisations/uni-%d", i))
		harmless(fmt.Sprintf("the operator's page of uni-%d", i), text)
	}
	for _, text := range append(hostile, breaking...) {
		p.Open(operator + "/researcher?orcid=" + url.QueryEscape(text))
		harmless("the search for " + text)
	}
}

// hostileSettings tries every text in every setting of an organisation, by the
// admin API and by the Hub-compatible one.
func (w *world) hostileSettings() {
	w.t.Helper()
	w.organisation("uni-z", object{"api": object{"client_id": "client-uni-z", "client_secret": "secret-of-" + strings.Repeat("x", 32)}, "email": object{"enabled": true, "mode": "each"}})
	for _, text := range append(append([]string{}, hostile...), breaking...) {
		for _, in := range []object{
			{"webhook": object{"url": text}},
			{"webhook": object{"url": "https://a.example/" + text}},
			{"webhook": object{"apikey": text}},
			{"technical_contact": text},
			{"email": object{"address": text}},
			{"email": object{"address": "a@b.example" + text}},
			{"timezone": text},
			{"webhook": object{"headers": object{text: "x"}}},
			{"webhook": object{"headers": object{"X-A": text}}},
			{"name": text},
		} {
			status, raw := w.raw("PATCH", "/v1/organisations/uni-z", in)
			if status != http.StatusOK && status != http.StatusBadRequest {
				w.t.Errorf("%v answered %d %s", in, status, raw)
			}
			if strings.ContainsAny(text, "\r\n\x00") && status == http.StatusOK {
				w.t.Errorf("%q was taken: %s", in, raw)
			}
			if !json.Valid(raw) {
				w.t.Errorf("%v answered no JSON: %s", in, raw)
			}
		}
		var report service.ImportReport
		list := "orcid,name\n" + w.users[len(hostile)].String() + `,"` + strings.ReplaceAll(text, `"`, `""`) + "\"\n"
		if status := w.api("POST", "/v1/organisations/uni-z/users", list, &report); status != http.StatusOK || strings.ContainsAny(text, "\r\n\x00") && report.Added+report.Known > 0 {
			w.t.Errorf("a list with the name %q: %d %+v", text, status, report)
		}
		token := w.hubToken("uni-z")
		for _, in := range []object{{"url": text}, {"apikey": text}, {"notification-email": text}, {"notification-email": "a@b.example" + text}} {
			in["enabled"] = true
			status, header, raw := w.hub(http.MethodPatch, "/api/v1/webhook", token, in)
			if status >= 500 || strings.ContainsAny(text, "\r\n\x00") && status < 400 {
				w.t.Errorf("the Hub-compatible API answered %v with %d %s", in, status, raw)
			}
			if !strings.HasPrefix(header.Get("Content-Type"), "application/") || header.Get("Bcc") != "" {
				w.t.Errorf("the Hub-compatible API answered with %v", header)
			}
		}
	}
	w.ask("DELETE", "/v1/organisations/uni-z", nil, nil)
}

func (w *world) hubToken(id string) string {
	w.t.Helper()
	res, err := w.http.PostForm("http://"+w.addr[2]+"/oauth/token", url.Values{
		"grant_type": {"client_credentials"}, "client_id": {"client-" + id}, "client_secret": {"secret-of-" + strings.Repeat("x", 32)},
	})
	w.must(err)
	defer res.Body.Close()
	var token struct {
		Access string `json:"access_token"`
	}
	w.must(json.NewDecoder(res.Body).Decode(&token))
	return token.Access
}

// hub sends a request of the Hub-compatible API.
func (w *world) hub(method, path, token string, body any) (int, http.Header, string) {
	w.t.Helper()
	raw, err := json.Marshal(body)
	w.must(err)
	req, err := http.NewRequestWithContext(w.t.Context(), method, "http://"+w.addr[2]+path, strings.NewReader(string(raw)))
	w.must(err)
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	res, err := w.http.Do(req)
	w.must(err)
	defer res.Body.Close()
	said, err := io.ReadAll(res.Body)
	w.must(err)
	return res.StatusCode, res.Header, string(said)
}

func (w *world) hubUser(id, iD, name string) {
	w.t.Helper()
	token := w.hubToken(id)
	for _, bad := range breaking {
		if status, _, said := w.hub(http.MethodPut, "/api/v1/users/"+iD, token, object{"name": bad}); status < 400 || status >= 500 {
			w.t.Errorf("a user called %q: %s", bad, said)
		}
	}
	if status, _, said := w.hub(http.MethodPut, "/api/v1/users/"+iD, token, object{"name": name}); status >= 300 {
		w.t.Fatalf("a user called %q: %s", name, said)
	}
}

// mailsAreText looks at every mail: the headers are ours alone, and what the
// page shows runs nothing. What was unsubscribed is told with the name in the
// subject.
func (w *world) mailsAreText(mail *smtpsink.Sink, p *browsertest.Page) {
	w.t.Helper()
	seen, told := 0, 0
	var page atomic.Pointer[string]
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = io.WriteString(rw, *page.Load())
	}))
	defer srv.Close()
	for seen < mail.Count() {
		m := mail.Mails()[seen]
		seen++
		msg, err := m.Message()
		w.must(err)
		for name := range msg.Header {
			switch name {
			case "Auto-Submitted", "Date", "List-Unsubscribe", "List-Unsubscribe-Post", "Mime-Version", "Message-Id", "Subject", "User-Agent",
				"X-Auto-Response-Suppress", "X-Mailer", "From", "To", "Content-Type":
			default:
				w.t.Errorf("a mail has the header %s: %v", name, msg.Header[name])
			}
		}
		var i int
		if _, err := fmt.Sscanf(m.To[0], "it@uni-%d.example", &i); err != nil || len(m.To) != 1 {
			w.t.Fatalf("a mail goes to %v", m.To)
		}
		body := map[string]string{}
		_, params, err := mime.ParseMediaType(msg.Header.Get("Content-Type"))
		w.must(err)
		for r := multipart.NewReader(msg.Body, params["boundary"]); ; {
			part, err := r.NextPart() // undoes quoted-printable
			if err != nil {
				break
			}
			raw, err := io.ReadAll(part)
			w.must(err)
			kind, _, _ := strings.Cut(part.Header.Get("Content-Type"), ";")
			body[kind] = string(raw)
		}
		if !strings.Contains(body["text/plain"], hostile[i]) {
			w.t.Errorf("the text of a mail of uni-%d does not say %q:\n%s", i, hostile[i], body["text/plain"])
		}
		html := body["text/html"]
		page.Store(&html)
		p.Open(srv.URL)
		if browsertest.Eval[bool](p, "'ran' in window") || p.Count("script, img, svg, title *") > 0 || !strings.Contains(p.Text("body"), hostile[i]) {
			w.t.Errorf("the page of a mail of uni-%d:\n%s", i, html)
		}
		if link := strings.Trim(msg.Header.Get("List-Unsubscribe"), "<>"); link != "" {
			res, err := w.http.PostForm(link, url.Values{"List-Unsubscribe": {"One-Click"}})
			w.must(err)
			res.Body.Close()
			w.eventually("the contact is told", func() bool {
				return slices.ContainsFunc(subjects(w.t, mail, m.To[0]), func(s string) bool { return strings.HasPrefix(s, "=?") || strings.Contains(s, "stopped") })
			})
			continue
		}
		subject, err := new(mime.WordDecoder).DecodeHeader(msg.Header.Get("Subject"))
		w.must(err)
		if want := "ORCID notifications for " + hostile[i] + ": e-mail was stopped"; subject != want {
			w.t.Errorf("subject %q, want %q", subject, want)
		}
		told++
	}
	if told != len(hostile) {
		w.t.Errorf("%d were told that e-mail was stopped, want %d", told, len(hostile))
	}
}
