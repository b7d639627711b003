package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// TestTheWebListenerAnswers: it is there while Redis works, says nothing about
// its paths in the log, and a client that sends its header too slowly goes.
func TestTheWebListenerAnswers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setting{})
	res, err := w.http.Get("http://" + w.addr[2] + "/")
	w.must(err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	w.must(err)
	if res.StatusCode != http.StatusOK || !strings.Contains(string(body), "<h1>") || res.Header.Get("Content-Security-Policy") == "" {
		t.Errorf("%d %v\n%s", res.StatusCode, res.Header, body)
	}
	conn, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", w.addr[2])
	w.must(err)
	defer conn.Close()
	_, err = io.WriteString(conn, "GET / HTTP/1.1\r\nX-Much: "+strings.Repeat("x", 2*webMaxHeader)+"\r\n\r\n")
	w.must(err)
	w.must(conn.SetReadDeadline(time.Now().Add(patience)))
	head := make([]byte, 64)
	n, err := io.ReadAtLeast(conn, head, 12)
	w.must(err)
	if !strings.HasPrefix(string(head[:n]), "HTTP/1.1 431") {
		t.Errorf("a header of %d bytes: %q", 2*webMaxHeader, head[:n])
	}
}

func TestAPanicEndsItsRequestOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setting{later: true})
	w.boot()
	before := w.metric("dispatchd_panics_total")
	rec := httptest.NewRecorder()
	w.d.app.surviving(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("boom") })).
		ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/confirm/s3cret-token", nil))
	if rec.Code != http.StatusInternalServerError || w.metric("dispatchd_panics_total") != before+1 {
		t.Errorf("%d, %v panics", rec.Code, w.metric("dispatchd_panics_total"))
	}
	if strings.Contains(w.log.String(), "s3cret-token") {
		t.Error("the log has the path")
	}
	w.d.cancel()
	w.must(<-w.d.done)
	w.d = nil // its one panic was ours
}
