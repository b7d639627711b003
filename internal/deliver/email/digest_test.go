package email

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/csv"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net/mail"
	"strings"
	"testing"
	"time"

	gomail "github.com/wneessen/go-mail"

	"dispatchd/internal/deliver"
	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/org"
	"dispatchd/internal/sim/smtpsink"
)

func digestOf(t *testing.T, n int) (event.Digest, []event.Affiliation) {
	t.Helper()
	d := event.Digest{Org: "uni-a", ID: "dig_1", Attempt: 1, MadeAt: t0}
	var who []event.Affiliation
	for i := range n {
		id, err := orcid.FromBase(uint64(i) + 1)
		if err != nil {
			t.Fatal(err)
		}
		d.Items = append(d.Items, event.DigestItem{ORCID: id, Types: []event.Type{event.Updated}, LatestAt: t0.Add(time.Duration(i-n) * time.Minute)})
		who = append(who, event.Affiliation{Org: "uni-a", Name: fmt.Sprintf("Researcher %d", i+1), Email: fmt.Sprintf("r%d@uni-a.example", i+1)})
	}
	return d, who
}

// parts returns the leaves of a mail by content type, decoded.
func parts(t *testing.T, raw []byte) (mail.Header, map[string]string) {
	t.Helper()
	m, err := mail.ReadMessage(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	var walk func(contentType, encoding string, body io.Reader)
	walk = func(contentType, encoding string, body io.Reader) {
		kind, params, err := mime.ParseMediaType(contentType)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(kind, "multipart/") {
			b, err := io.ReadAll(decoded(encoding, body))
			if err != nil {
				t.Fatal(err)
			}
			out[kind] = strings.ReplaceAll(string(b), "\r\n", "\n")
			return
		}
		r := multipart.NewReader(body, params["boundary"])
		for {
			p, err := r.NextRawPart()
			if err != nil {
				return
			}
			walk(p.Header.Get("Content-Type"), p.Header.Get("Content-Transfer-Encoding"), p)
		}
	}
	walk(m.Header.Get("Content-Type"), m.Header.Get("Content-Transfer-Encoding"), m.Body)
	return m.Header, out
}

func written(t *testing.T, m *gomail.Msg) []byte {
	t.Helper()
	var b bytes.Buffer
	if _, err := m.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestDigestMail(t *testing.T) {
	t.Parallel()
	sink, s := sinkSender(t, smtpsink.Options{}, func(o *Options) { o.WebURL = "https://hub.example/" })
	d, who := digestOf(t, 3)
	d.Items[1].Types = []event.Type{event.Created, event.Updated}
	d.Items[1].CreatedAt = t0.Add(-5 * time.Hour)
	who[2] = event.Affiliation{Org: "uni-a"}
	o := newOrg()
	o.Timezone, o.Email.Mode = "Pacific/Auckland", org.Daily
	if a := s.SendDigest(context.Background(), o, d, who); a.Kind != deliver.KindOK || !a.Start.Equal(t0) {
		t.Fatalf("%+v", a)
	}
	got := sink.Mails()[0]
	head, body := parts(t, got.Data)
	if strings.Join(got.To, " ") != "library@uni-a.example it@uni-a.example" || head.Get("Message-Id") != "<dig_1@hub.example>" ||
		head.Get("Subject") != "ORCID Profile Updates (3 researchers)" || head.Get("Auto-Submitted") != "auto-generated" {
		t.Errorf("%v to %v", head, got.To)
	}
	const text = `3 researchers with news at ORCID

This is what ORCID told us of the researchers of University A until Monday, 23 November 2026, 15:05 NZDT.

- Researcher 1 (r1@uni-a.example, 0000-0000-0000-001X, https://orcid.org/0000-0000-0000-001X): profile updated, 2026-11-23 15:02 NZDT
- Researcher 2 (r2@uni-a.example, 0000-0000-0000-0028, https://orcid.org/0000-0000-0000-0028): linked their account, 2026-11-23 10:05 NZDT
- Researcher 2 (r2@uni-a.example, 0000-0000-0000-0028, https://orcid.org/0000-0000-0000-0028): profile updated, 2026-11-23 15:03 NZDT
- (0000-0000-0000-0036, https://orcid.org/0000-0000-0000-0036): profile updated, 2026-11-23 15:04 NZDT

You receive this because University A asked to be told when ORCID records of its researchers change.
These e-mails are sent once a day, when there is something to tell.
Change the settings: https://hub.example/settings/webhook
`
	if body["text/plain"] != text {
		t.Errorf("text\n%s\nwant\n%s", body["text/plain"], text)
	}
	if page := body["text/html"]; !strings.Contains(page, `Researcher 2<br><a href="https://orcid.org/0000-0000-0000-0028" target="_blank" style="white-space:nowrap">`) || len(body) != 2 {
		t.Errorf("%d parts\n%s", len(body), page)
	}
}

// TestManyAreInATable: a digest shows maxRows, and has all of them attached.
func TestManyAreInATable(t *testing.T) {
	t.Parallel()
	_, s := sinkSender(t, smtpsink.Options{}, nil)
	d, who := digestOf(t, 1734)
	who[1733].Name = `=cmd|' /C calc'!A0`
	m, err := s.digestMessage(envelope{to: "a@b.example", id: d.ID}, newOrg(), d, who)
	if err != nil {
		t.Fatal(err)
	}
	head, body := parts(t, written(t, m))
	if head.Get("Subject") != "ORCID Profile Updates (1,734 researchers)" || strings.Count(body["text/plain"], "\n- ") != maxRows ||
		!strings.Contains(body["text/plain"], "and 1,234 more. All 1,734 are in the attached table.") {
		t.Errorf("%s\n%.300s", head.Get("Subject"), body["text/plain"])
	}
	lines, err := csv.NewReader(strings.NewReader(body["text/csv"])).ReadAll()
	if err != nil || len(lines) != 1735 {
		t.Fatalf("%d lines, %v", len(lines), err)
	}
	if got := lines[1734]; got[0] != `'=cmd|' /C calc'!A0` || got[2] != d.Items[1733].ORCID.String() || got[4] != "UPDATED" {
		t.Errorf("%q", got)
	}
}

func TestSummaryMail(t *testing.T) {
	t.Parallel()
	sink, s := sinkSender(t, smtpsink.Options{}, nil)
	d, who := digestOf(t, 2)
	who[1].Email = ""
	sum := event.Summary{ID: "month_uni-a_2026-11", Year: 2026, Month: time.November}
	for i, item := range d.Items {
		sum.Users = append(sum.Users, event.SummaryUser{ORCID: item.ORCID, Who: who[i], At: item.LatestAt})
	}
	if err := s.SendSummary(context.Background(), newOrg(), sum); err != nil {
		t.Fatal(err)
	}
	got := sink.Mails()[0]
	head, body := parts(t, got.Data)
	if strings.Join(got.To, " ") != "library@uni-a.example" || head.Get("Cc") != "" || head.Get("Subject") != "Updated ORCID Profiles" ||
		head.Get("Message-Id") != "<month_uni-a_2026-11@hub.example>" {
		t.Errorf("%v to %v", head, got.To)
	}
	for _, want := range []string{
		"The ORCID profiles of 2 researchers of University A were updated in November 2026:\n\n" +
			"- Researcher 1 (r1@uni-a.example, 0000-0000-0000-001X, https://orcid.org/0000-0000-0000-001X, updated at 2026-11-23 02:03:32)\n" +
			"- Researcher 2 (0000-0000-0000-0028, https://orcid.org/0000-0000-0000-0028, updated at 2026-11-23 02:04:32)\n\n" +
			"Times are those of UTC.\n",
	} {
		if !strings.Contains(body["text/plain"], want) {
			t.Errorf("text\n%s\nwant in it\n%s", body["text/plain"], want)
		}
	}
	sink.Refuse(smtpsink.Refusal{Stage: smtpsink.AtTo, Code: 550, Text: "no such user"})
	err := s.SendSummary(context.Background(), newOrg(), sum)
	if err == nil || !strings.Contains(err.Error(), "the mail server refused the message (550)") {
		t.Errorf("%v", err)
	}
}

func decoded(encoding string, body io.Reader) io.Reader {
	switch strings.ToLower(encoding) {
	case "quoted-printable":
		return quotedprintable.NewReader(body)
	case "base64":
		return base64.NewDecoder(base64.StdEncoding, body)
	}
	return body
}

func TestNoCellIsAFormula(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"": "", "Aroha": "Aroha", "O'Neill": "O'Neill", "=1": "'=1", "+1": "'+1", "-1": "'-1", "@SUM(1)": "'@SUM(1)", "  =1": "'=1", "\t=1": "'=1", "＝1": "'＝1", "\u3000＠x": "'＠x",
	} {
		if got := cell(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}
