package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/url"
	"strings"
	"testing"
	"time"

	"dispatchd/internal/deliver"
	"dispatchd/internal/event"
	"dispatchd/internal/org"
	"dispatchd/internal/secret"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

const noContent = "HTTP/1.1 204 No Content\r\n\r\n"

func TestBody(t *testing.T) {
	t.Parallel()
	everything := event.Affiliation{Org: "uni-a", Email: "j@uni-a.example", EPPN: "j@uni-a", Name: `Jo "<Ø>" Carberry`}
	d := newDelivery(t)
	created := d
	created.Type = event.Created
	head := `{"id":"` + d.ID() + `","orcid":"0000-0002-1825-0097","url":"https://orcid.org/0000-0002-1825-0097",`
	hubHead := `{"orcid":"0000-0002-1825-0097","url":"https://orcid.org/0000-0002-1825-0097",`
	for name, c := range map[string]struct {
		d       event.Delivery
		who     event.Affiliation
		payload org.Payload
		want    string
	}{
		"bare":        {d, event.Affiliation{}, "", head + `"type":"UPDATED","updated-at":"2026-11-23T02:05:32+00:00"}`},
		"all":         {d, everything, org.PayloadStandard, head + `"type":"UPDATED","updated-at":"2026-11-23T02:05:32+00:00","email":"j@uni-a.example","eppn":"j@uni-a","name":"Jo \"\u003cØ\u003e\" Carberry"}`},
		"created":     {created, event.Affiliation{EPPN: "x"}, "", strings.Replace(head, d.ID(), created.ID(), 1) + `"type":"CREATED","updated-at":"2026-11-23T02:05:32+00:00","created-at":"2026-11-22T02:05:32+00:00","eppn":"x"}`},
		"hub bare":    {d, event.Affiliation{}, org.PayloadHub, hubHead + `"type":"UPDATED","updated-at":"2026-11-23T02:05:32","email":null}`},
		"hub all":     {d, everything, org.PayloadHub, hubHead + `"type":"UPDATED","updated-at":"2026-11-23T02:05:32","email":"j@uni-a.example","eppn":"j@uni-a"}`},
		"hub created": {created, everything, org.PayloadHub, hubHead + `"type":"CREATED","updated-at":"2026-11-23T02:05:32","created-at":"2026-11-22T02:05:32","email":"j@uni-a.example","eppn":"j@uni-a"}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			addr, seen := answering(t, noContent)
			o := newOrg("http://" + addr + "/orcid")
			o.Webhook.Payload = c.payload
			if a := newSender(t, Options{}).Send(background(), o, c.d, c.who); a.Kind != deliver.KindOK || a.Status != 204 {
				t.Fatalf("%+v", a)
			}
			r := received(t, seen)
			if r.body != c.want {
				t.Errorf("body\n%s, want\n%s", r.body, c.want)
			}
			if !json.Valid([]byte(r.body)) {
				t.Error("not JSON")
			}
		})
	}
}

func TestTimesAreTrueInAnyZone(t *testing.T) {
	t.Parallel()
	addr, seen := answering(t, noContent)
	d := newDelivery(t)
	d.LatestAt = t0.In(time.FixedZone("NZDT", 13*3600))
	newSender(t, Options{}).Send(background(), newOrg("http://"+addr), d, event.Affiliation{})
	if r := received(t, seen); !strings.Contains(r.body, `"updated-at":"2026-11-23T02:05:32+00:00"`) {
		t.Error(r.body)
	}
}

func TestHeaders(t *testing.T) {
	t.Parallel()
	addr, seen := answering(t, noContent)
	o := newOrg("http://" + addr + "/orcid")
	o.Webhook.APIKey = "key-1"
	o.Webhook.Headers = map[string]string{"X-One": "1", "Authorization": "Bearer x"}
	d := newDelivery(t)
	s := newSender(t, Options{})
	s.Send(background(), o, d, event.Affiliation{})
	r := received(t, seen)
	for name, want := range map[string]string{
		"Content-Type": "application/json", "User-Agent": "dispatchd/test", "Apikey": "key-1", "X-One": "1",
		"Authorization": "Bearer x", "Webhook-Id": d.ID(), "Accept-Encoding": "", "Expect": "",
	} {
		if got := r.header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if _, there := r.header["Accept-Encoding"]; there {
		t.Error("Accept-Encoding was sent")
	}
	if r.line != "POST /orcid HTTP/1.1" || r.host != addr {
		t.Errorf("%q to %q", r.line, r.host)
	}
}

func TestSignature(t *testing.T) {
	t.Parallel()
	const current, old = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_b2xkLXNlY3JldC1vbGQtc2VjcmV0"
	for name, c := range map[string]struct {
		current, old secret.Text
		verifies     []string
	}{
		"one":      {current, "", []string{current}},
		"rotation": {current, old, []string{current, old}},
		"only old": {"", old, []string{old}},
		"none":     {"", "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			addr, seen := answering(t, noContent)
			o := newOrg("http://" + addr)
			o.Webhook.SigningSecret, o.Webhook.OldSigningSecret = c.current, c.old
			if a := newSender(t, Options{}).Send(background(), o, newDelivery(t), event.Affiliation{}); a.Kind != deliver.KindOK {
				t.Fatalf("%+v", a)
			}
			r := received(t, seen)
			header := r.header.Get("webhook-signature")
			if n := len(strings.Fields(header)); n != len(c.verifies) {
				t.Errorf("%d signatures: %q", n, header)
			}
			for i, key := range c.verifies {
				wh, err := standardwebhooks.NewWebhook(key)
				if err != nil {
					t.Fatal(err)
				}
				if err := wh.Verify([]byte(r.body), r.header); err != nil {
					t.Errorf("the library does not verify with secret %d: %v", i+1, err)
				}
				if wh.Verify([]byte(r.body+" "), r.header) == nil {
					t.Error("a changed body verifies")
				}
				// The same by hand, from the specification.
				raw, _ := base64.StdEncoding.DecodeString(key[len("whsec_"):])
				mac := hmac.New(sha256.New, raw)
				mac.Write([]byte(r.header.Get("webhook-id") + "." + r.header.Get("webhook-timestamp") + "." + r.body))
				if want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)); strings.Fields(header)[i] != want {
					t.Errorf("signature %d is %q, by hand %q", i+1, strings.Fields(header)[i], want)
				}
			}
		})
	}
}

func TestBadSigningSecret(t *testing.T) {
	t.Parallel()
	o := newOrg("http://127.0.0.1:1/")
	o.Webhook.SigningSecret = "whsec_not base64!"
	a := newSender(t, Options{}).Send(background(), o, newDelivery(t), event.Affiliation{})
	if a.Kind != deliver.KindSettings || strings.Contains(a.Words(), "not base64!") {
		t.Errorf("%s: %s", a.Kind, a.Words())
	}
}

func TestRequestLine(t *testing.T) {
	t.Parallel()
	addr, seen := answering(t, noContent)
	s := newSender(t, Options{})
	for path, want := range map[string][2]string{ // plain, with append_orcid
		"":             {"/", "/0000-0002-1825-0097"},
		"/":            {"/", "/0000-0002-1825-0097"},
		"/a":           {"/a", "/a/0000-0002-1825-0097"},
		"/a/":          {"/a/", "/a/0000-0002-1825-0097"},
		"/a?x=1&y=%20": {"/a?x=1&y=%20", "/a/0000-0002-1825-0097?x=1&y=%20"},
		"?x=1":         {"/?x=1", "/0000-0002-1825-0097?x=1"},
		"/a%2Fb//c":    {"/a%2Fb//c", "/a%2Fb//c/0000-0002-1825-0097"},
		"/a/../b":      {"/a/../b", "/a/../b/0000-0002-1825-0097"},
		"/é?q=é":       {"/%C3%A9?q=%C3%A9", "/%C3%A9/0000-0002-1825-0097?q=%C3%A9"},
	} {
		for i, appendIt := range []bool{false, true} {
			o := newOrg("http://" + addr + path)
			o.Webhook.AppendORCID = appendIt
			if a := s.Send(background(), o, newDelivery(t), event.Affiliation{}); a.Kind != deliver.KindOK {
				t.Fatalf("%q: %+v", path, a)
			}
			if r := received(t, seen); r.line != "POST "+want[i]+" HTTP/1.1" {
				t.Errorf("%q, append %v: %q, want %q", path, appendIt, r.line, want[i])
			}
		}
	}
}

func TestTest(t *testing.T) {
	t.Parallel()
	addr, seen := answering(t, "HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\nthanks, key-1!")
	o := newOrg("http://" + addr + "/orcid")
	o.Webhook.AppendORCID, o.Webhook.APIKey = true, "key-1"
	s := newSender(t, Options{Now: func() time.Time { return t0 }})
	a := s.Test(background(), o)
	if a.Kind != deliver.KindOK || a.Status != 200 || a.Excerpt != "thanks, <secret>!" || !a.Start.Equal(t0) || a.Duration <= 0 {
		t.Errorf("%+v", a)
	}
	r := received(t, seen)
	id := r.header.Get("webhook-id")
	if !strings.HasPrefix(id, "msg_test_") || r.body != `{"id":"`+id+`","type":"PING","updated-at":"2026-11-23T02:05:32+00:00"}` {
		t.Errorf("id %q, body %s", id, r.body)
	}
	if r.line != "POST /orcid HTTP/1.1" || r.header.Get("webhook-signature") == "" {
		t.Errorf("%q, signature %q", r.line, r.header.Get("webhook-signature"))
	}
	s.Test(background(), o)
	if second := received(t, seen); second.header.Get("webhook-id") == id {
		t.Error("two tests with one id")
	}
}

func TestUnsendableSettings(t *testing.T) {
	t.Parallel()
	s := newSender(t, Options{})
	for _, raw := range []string{
		"", "x", "ftp://a.example/", "file:///etc/passwd", "gopher://a.example/", "javascript:alert(1)", "http://", "http:///x",
		"http://user:pw@a.example/", "http://user@a.example/", "http://a.example/\r\nX: y", "http://a.example/\nx", "http://a.exa\r\nmple/",
		"http://a.example\x00/", "http://a.example/#f", "http://a example/", "http://a.example:99999/", "http://[::1/", "unix:///run/x.sock",
		"http://127.1/", "http://2130706433/", "http://0x7f000001/", "http://0x7f.1/", "http://0177.0.0.1/", "http://1.2.3.4.5/", "http://a!b.example/",
	} {
		o := newOrg(raw)
		a := s.Send(background(), o, newDelivery(t), event.Affiliation{})
		if a.Kind != deliver.KindSettings || a.Err == nil || a.Status != 0 {
			t.Errorf("%q: %s %v", raw, a.Kind, a.Err)
		}
	}
	addr, seen := answering(t, noContent)
	for _, change := range []func(*org.Webhook){
		func(w *org.Webhook) { w.APIKey = "a\r\nX-Evil: 1" },
		func(w *org.Webhook) { w.Headers = map[string]string{"X-A": "a\r\nX-Evil: 1"} },
		func(w *org.Webhook) { w.Headers = map[string]string{"X-A: b\r\nX-Evil": "1"} },
		func(w *org.Webhook) { w.Headers = map[string]string{"": "1"} },
	} {
		o := newOrg("http://" + addr)
		change(&o.Webhook)
		if a := s.Send(background(), o, newDelivery(t), event.Affiliation{}); a.Kind != deliver.KindSettings {
			t.Errorf("%+v", a)
		}
	}
	if len(seen) != 0 {
		t.Errorf("%d requests were sent", len(seen))
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]Options{
		"no user agent":  {},
		"two lines":      {UserAgent: "a\r\nb"},
		"socks proxy":    {UserAgent: "a", Proxy: &url.URL{Scheme: "socks5", Host: "p:1"}},
		"hostless proxy": {UserAgent: "a", Proxy: &url.URL{Scheme: "http"}},
		"below 0":        {UserAgent: "a", Timeout: -1},
	} {
		if _, err := New(o); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func TestHostField(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string][3]string{ // Host header, address, TLS name
		"http://A.Example/":        {"a.example", "a.example:80", "a.example"},
		"https://a.example":        {"a.example", "a.example:443", "a.example"},
		"https://a.example:8443/x": {"a.example:8443", "a.example:8443", "a.example"},
		"http://bücher.example/":   {"xn--bcher-kva.example", "xn--bcher-kva.example:80", "xn--bcher-kva.example"},
		"http://[2606:4700::1]/":   {"[2606:4700::1]", "[2606:4700::1]:80", "2606:4700::1"},
		"http://[::1]:81/":         {"[::1]:81", "[::1]:81", "::1"},
		"http://[fe80::1%25eth0]/": {"[fe80::1]", "[fe80::1%eth0]:80", "fe80::1%eth0"},
		"http://my_host:1/":        {"my_host:1", "my_host:1", "my_host"},
	} {
		got, err := parseTarget(raw)
		if err != nil || got.field != want[0] || got.addr != want[1] || got.host != want[2] {
			t.Errorf("%s: %+v %v, want %q", raw, got, err, want)
		}
	}
}

func FuzzParseTarget(f *testing.F) {
	for _, s := range []string{"http://a.example/x?y", "https://[::1]:1/%0d", "http://a%2e/", "http://é/é?é"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		got, err := parseTarget(raw)
		if err != nil {
			return
		}
		for _, part := range []string{got.field, got.path, got.query, got.addr} {
			if strings.ContainsFunc(part, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
				t.Errorf("%q → %+v: not fit for a request line", raw, got)
			}
		}
		if !strings.HasPrefix(got.path, "/") {
			t.Errorf("%q → path %q", raw, got.path)
		}
	})
}
