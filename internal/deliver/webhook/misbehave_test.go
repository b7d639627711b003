package webhook

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"dispatchd/internal/deliver"
	"dispatchd/internal/event"
)

// drip writes b one byte at a time until the receiver goes away.
func drip(c net.Conn, b []byte, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for i := range b {
		if _, err := c.Write(b[i : i+1]); err != nil {
			return
		}
		<-tick.C
	}
}

// hang waits until the other side goes away.
func hang(c net.Conn) { _, _ = io.Copy(io.Discard, c) }

func bomb(size int) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write(make([]byte, size))
	_ = w.Close()
	return b.Bytes()
}

var zeros = make([]byte, 64<<10)

// pour writes zeros until n bytes are written or the receiver goes away.
func pour(c net.Conn, n int64, poured *atomic.Int64) {
	for n > 0 {
		m, err := c.Write(zeros[:min(n, int64(len(zeros)))])
		poured.Add(int64(m))
		if n -= int64(m); err != nil {
			return
		}
	}
}

func say(text string) func(net.Conn) {
	b := []byte(text)
	return func(c net.Conn) { _, _ = c.Write(b) }
}

// TestMisbehaviour runs one attempt against receivers of every bad kind. Not
// parallel: it measures what each attempt allocates.
func TestMisbehaviour(t *testing.T) {
	gz := bomb(50 << 20)
	mayKeep := map[string]bool{"401": true, "404": true, "410": true, "a few 1xx first": true, "gzip bomb": true}
	var poured atomic.Int64
	for _, c := range []struct {
		name   string
		answer func(net.Conn)
		kind   deliver.Kind
		status int
		words  string // contained in the words
		slow   bool   // takes the whole timeout
	}{
		{"closes at once", func(net.Conn) {}, deliver.KindNetwork, 0, "closed by the receiver", false},
		{"resets", func(c net.Conn) { _ = c.(*net.TCPConn).SetLinger(0) }, deliver.KindNetwork, 0, "reset by the receiver", false},
		{"hangs before headers", hang, deliver.KindTimeout, 0, "timed out while waiting for the answer", true},
		{"hangs in the headers", func(c net.Conn) { say("HTTP/1.1 200 OK\r\nA: b")(c); hang(c) }, deliver.KindTimeout, 0, "timed out while reading the answer", true},
		{"drips the headers", func(c net.Conn) {
			drip(c, []byte("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), 100*time.Millisecond)
		}, deliver.KindTimeout, 0, "timed out while reading the answer", true},
		{"closes in the headers", say("HTTP/1.1 200 OK\r\nConte"), deliver.KindNetwork, 0, "middle of the answer's headers", false},
		{"drips the body of a success", func(c net.Conn) {
			say("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")(c)
			drip(c, make([]byte, 1000), 100*time.Millisecond)
		}, deliver.KindOK, 200, "", true},
		{"drips the body of a failure", func(c net.Conn) {
			say("HTTP/1.1 503 x\r\nRetry-After: 7\r\nContent-Length: 1000\r\n\r\n")(c)
			drip(c, bytes.Repeat([]byte("x"), 1000), 100*time.Millisecond)
		}, deliver.KindHTTP, 503, "answered 503", true},
		{"hangs in a chunk", func(c net.Conn) { say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nab")(c); hang(c) }, deliver.KindOK, 200, "", true},
		{"body cut short", say("HTTP/1.1 500 x\r\nContent-Length: 1000\r\n\r\nabc"), deliver.KindHTTP, 500, "answered 500", false},
		{"endless body", func(c net.Conn) {
			say("HTTP/1.1 200 OK\r\n\r\n")(c)
			pour(c, 1<<40, &poured)
		}, deliver.KindOK, 200, "", false},
		{"endless chunks of a failure", func(c net.Conn) {
			say("HTTP/1.1 500 x\r\nTransfer-Encoding: chunked\r\n\r\n7fffffff\r\n")(c)
			pour(c, 1<<40, &poured)
		}, deliver.KindHTTP, 500, "answered 500", false},
		{"body of 1 GiB", func(c net.Conn) {
			say("HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n")(c)
			pour(c, 1<<30, &poured)
		}, deliver.KindOK, 200, "", false},
		{"gzip bomb", func(c net.Conn) {
			say(fmt.Sprintf("HTTP/1.1 500 x\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n", len(gz)))(c)
			_, _ = c.Write(gz)
		}, deliver.KindHTTP, 500, "answered 500", false},
		{"huge header", func(c net.Conn) {
			say("HTTP/1.1 200 OK\r\nX: ")(c)
			pour(c, 1<<40, &poured)
		}, deliver.KindNetwork, 0, "headers of the answer are longer than 16 KiB", false},
		{"many headers", say("HTTP/1.1 200 OK\r\n" + strings.Repeat("X: y\r\n", 100_000) + "\r\n"), deliver.KindNetwork, 0, "headers of the answer are longer", false},
		{"storm of 1xx", say(strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", 100_000)), deliver.KindNetwork, 0, "too many 1xx answers", false},
		{"storm of 100", say(strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 100_000)), deliver.KindNetwork, 0, "too many 1xx answers", false},
		{"slow storm of 1xx", func(c net.Conn) {
			drip(c, []byte(strings.Repeat("HTTP/1.1 102 Processing\r\n\r\n", 1000)), 2*time.Millisecond)
		}, deliver.KindTimeout, 0, "timed out while reading the answer", true},
		{"a few 1xx first", say("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 x\r\nLink: <a>\r\n\r\n" + noContent), deliver.KindOK, 204, "", false},
		{"1xx, then nothing", say("HTTP/1.1 100 Continue\r\n\r\n"), deliver.KindNetwork, 0, "middle of the answer's headers", false},
		{"switches protocols", say("HTTP/1.1 101 x\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n"), deliver.KindHTTP, 101, "answered 101", false},
		{"no HTTP", say("SSH-2.0-OpenSSH_9.2p1\r\n"), deliver.KindNetwork, 0, "not valid HTTP/1.1", false},
		{"TLS on a plain port", say("\x15\x03\x01\x00\x02\x02\x0a\r\n\r\n"), deliver.KindNetwork, 0, "not valid HTTP/1.1", false},
		{"HTTP/2 frames", say("\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x80\r\n\r\n"), deliver.KindNetwork, 0, "not valid HTTP/1.1", false},
		{"HTTP/3 status line", say("HTTP/3.0 200 OK\r\n\r\n"), deliver.KindNetwork, 0, "not valid HTTP/1.1", false},
		{"000 after a 100", say("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 000 OK\r\n\r\n"), deliver.KindNetwork, 0, "not valid HTTP/1.1", false},
		{"status of letters", say("HTTP/1.1 abc OK\r\n\r\n"), deliver.KindNetwork, 0, "not valid HTTP/1.1", false},
		{"status 0", say("HTTP/1.1 000 OK\r\n\r\n"), deliver.KindNetwork, 0, "not valid HTTP/1.1", false},
		{"status 999", say("HTTP/1.1 999 OK\r\n\r\n"), deliver.KindNetwork, 0, "not valid HTTP/1.1", false},
		{"negative length", say("HTTP/1.1 500 OK\r\nContent-Length: -5\r\n\r\n"), deliver.KindNetwork, 0, "not valid HTTP/1.1", false},
		{"two lengths", say("HTTP/1.1 500 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"), deliver.KindNetwork, 0, "not valid HTTP/1.1", false},
		{"length beyond numbers", say("HTTP/1.1 500 x\r\nContent-Length: 99999999999999999999999\r\n\r\n"), deliver.KindNetwork, 0, "not valid HTTP/1.1", false},
		{"chunk beyond numbers", say("HTTP/1.1 500 x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffffff\r\n"), deliver.KindHTTP, 500, "answered 500", false},
		{"410", say("HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n"), deliver.KindHTTP, 410, "answered 410 Gone", false},
		{"401", say("HTTP/1.1 401 x\r\nContent-Length: 0\r\n\r\n"), deliver.KindHTTP, 401, "answered 401 Unauthorized", false},
		{"404", say("HTTP/1.1 404 x\r\nContent-Length: 0\r\n\r\n"), deliver.KindHTTP, 404, "answered 404 Not Found", false},
		{"HTTP/1.0", say("HTTP/1.0 200 OK\r\n\r\nthanks"), deliver.KindOK, 200, "", false},
		{"204 with a body", say("HTTP/1.1 204 x\r\nContent-Length: 5\r\n\r\nabcde"), deliver.KindOK, 204, "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			addr := rawServer(t, func(conn net.Conn, next func() (request, bool)) {
				if _, ok := next(); ok {
					c.answer(conn)
				}
			})
			limit := time.Minute
			if c.slow {
				limit = short
			}
			s := newSender(t, Options{Timeout: limit})
			d := newDelivery(t)
			o := newOrg("http://" + addr)
			poured.Store(0)
			var before, later runtime.MemStats
			runtime.ReadMemStats(&before)
			begun := time.Now()
			a := s.Send(background(), o, d, event.Affiliation{})
			took := time.Since(begun)
			runtime.ReadMemStats(&later)
			if a.Kind != c.kind || a.Status != c.status {
				t.Errorf("%s %d, want %s %d", a.Kind, a.Status, c.kind, c.status)
			}
			if w := a.Words(); !strings.Contains(w, c.words) || (w == "") != (c.words == "") {
				t.Errorf("words %q, want %q in them", w, c.words)
			}
			if c.slow && took < short-50*time.Millisecond || took > short+slack {
				t.Errorf("took %s, timeout %s", took, limit)
			}
			if wantSlow := c.slow && a.Status > 0; a.SlowBody != wantSlow {
				t.Errorf("SlowBody %v", a.SlowBody)
			}
			if grown := later.TotalAlloc - before.TotalAlloc; grown > 4<<20 {
				t.Errorf("allocated %d KiB", grown>>10)
			}
			// What is not read waits in the kernel's buffers and is dropped.
			if n := poured.Load(); n > 16<<20 {
				t.Errorf("%d MiB were taken off the receiver", n>>20)
			}
			if a.Kind == deliver.KindOK && a.Excerpt != "" {
				t.Errorf("a success keeps %q", a.Excerpt)
			}
			if kept := len(s.conns.hosts) > 0; kept && !mayKeep[c.name] {
				t.Error("a connection that cannot be used again was kept")
			}
		})
	}
}

// TestManyHanging: the places of many hanging receivers come free together.
func TestManyHanging(t *testing.T) {
	t.Parallel()
	addr := rawServer(t, func(c net.Conn, next func() (request, bool)) { next(); hang(c) })
	s := newSender(t, Options{Timeout: short})
	d := newDelivery(t)
	answers := make(chan deliver.Answer, 100)
	begun := time.Now()
	for range cap(answers) {
		go func() { answers <- s.Send(background(), newOrg("http://"+addr), d, event.Affiliation{}) }()
	}
	for range cap(answers) {
		if a := <-answers; a.Kind != deliver.KindTimeout {
			t.Errorf("%+v", a)
		}
	}
	if took := time.Since(begun); took > short+slack {
		t.Errorf("took %s", took)
	}
}

func TestRefuses(t *testing.T) {
	t.Parallel()
	ln := listen(t)
	ln.Close()
	a := newSender(t, Options{}).Send(background(), newOrg("http://"+ln.Addr().String()), newDelivery(t), event.Affiliation{})
	if a.Kind != deliver.KindNetwork || a.Words() != "connection refused while connecting" {
		t.Errorf("%s: %s", a.Kind, a.Words())
	}
}

func TestExcerptAndRetryAfter(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		header string
		want   time.Duration
		has    bool
	}{
		"seconds":  {"120", 2 * time.Minute, true},
		"date":     {"Mon, 23 Nov 2026 03:05:32 GMT", time.Hour, true}, // t0 has a fraction: a second less
		"nonsense": {"soon", 0, false},
		"negative": {"-1", 0, false},
		"a year":   {"31536000", 365 * 24 * time.Hour, true},
		"none":     {"", 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			body := "try\tlater, key-1 " + strings.Repeat("x", 2000)
			header := ""
			if c.header != "" {
				header = "Retry-After: " + c.header + "\r\n"
			}
			addr, _ := answering(t, fmt.Sprintf("HTTP/1.1 503 x\r\n%sContent-Length: %d\r\n\r\n%s", header, len(body), body))
			o := newOrg("http://" + addr)
			o.Webhook.APIKey = "key-1"
			s := newSender(t, Options{Now: func() time.Time { return t0 }})
			a := s.Send(background(), o, newDelivery(t), event.Affiliation{})
			if a.HasRetryAfter != c.has || a.RetryAfter > c.want || c.want-a.RetryAfter >= time.Second {
				t.Errorf("%s %v, want %s %v", a.RetryAfter, a.HasRetryAfter, c.want, c.has)
			}
			if !strings.HasPrefix(a.Excerpt, `try\tlater, <secret> xxx`) || len(a.Excerpt) != deliver.ExcerptBytes {
				t.Errorf("excerpt of %d bytes: %.40q", len(a.Excerpt), a.Excerpt)
			}
		})
	}
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	t.Parallel()
	target, seen := answering(t, noContent)
	s := newSender(t, Options{})
	for _, status := range []int{300, 301, 302, 303, 305, 307, 308} {
		for location, want := range map[string]string{
			"http://" + target + "/x?token=abc":  "redirect to http://" + target + "/x?…",
			"http://user:pw@" + target + "/":     "redirect to http://" + target + "/",
			"http://169.254.169.254/latest/meta": "redirect to http://169.254.169.254/latest/meta",
			"/login":                             "redirect to /login",
			"":                                   "redirect to nowhere",
		} {
			header := ""
			if location != "" {
				header = "Location: " + location + "\r\n"
			}
			addr, _ := answering(t, fmt.Sprintf("HTTP/1.1 %d x\r\n%sContent-Length: 0\r\n\r\n", status, header))
			a := s.Send(background(), newOrg("http://"+addr), newDelivery(t), event.Affiliation{})
			if a.Kind != deliver.KindHTTP || a.Status != status || !strings.HasPrefix(a.Words(), want) {
				t.Errorf("%d to %q: %s %d %q", status, location, a.Kind, a.Status, a.Words())
			}
		}
	}
	if len(seen) != 0 {
		t.Errorf("the target saw %d requests", len(seen))
	}
}
