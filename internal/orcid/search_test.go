package orcid

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

var since = time.Date(2026, 11, 23, 15, 5, 32, 999, time.FixedZone("NZDT", 13*3600))

func someIDs(t *testing.T, n int) []ID {
	t.Helper()
	ids := make([]ID, n)
	for i := range ids {
		id, err := FromBase(900_000_000_000 + uint64(i)*7)
		if err != nil {
			t.Fatal(err)
		}
		ids[i] = id
	}
	return ids
}

func result(ids ...ID) string {
	var b strings.Builder
	for i, id := range ids {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"orcid-identifier":{"uri":"https://orcid.org/%s","path":"%s","host":"orcid.org"}}`, id, id)
	}
	return fmt.Sprintf(`{"result":[%s],"num-found":%d}`, b.String(), len(ids))
}

func TestChangedSinceAsksOnceForAll(t *testing.T) {
	t.Parallel()
	ids := someIDs(t, MaxSearchIDs)
	stranger := mustID(t)
	s := newServer(t)
	s.api = answer(200, jsonType, result(ids[7], stranger, ids[0], ids[7]))
	got, err := s.client(t, nil).ChangedSince(t.Context(), ids, since)
	if err != nil || !slices.Equal(got, []ID{ids[7], ids[0]}) {
		t.Fatalf("got %v, %v; want %v and %v, once each", got, err, ids[7], ids[0])
	}
	req := s.last()
	u, err := url.Parse(req.uri)
	if err != nil {
		t.Fatal(err)
	}
	texts := make([]string, len(ids))
	for i, id := range ids {
		texts[i] = id.String()
	}
	want := "orcid:(" + strings.Join(texts, " ") + ") AND profile-last-modified-date:[2026-11-23T02:05:32Z TO *]"
	if u.Path != "/v3.0/search" || u.Query().Get("q") != want || u.Query().Get("rows") != "1000" {
		t.Errorf("asked %s", req.uri)
	}
	head := len(req.method) + len(req.uri)
	for name, v := range req.header {
		head += len(name) + len(v[0]) + 4
	}
	if head > 8<<10-256 {
		t.Errorf("the request has %d bytes, too near to Tomcat's 8192", head)
	}
	if tokens, calls := s.count(); tokens != 1 || calls != 1 || s.requests[0].form.Get("scope") != ScopeRead {
		t.Errorf("%d tokens (scope %q) and %d calls", tokens, s.requests[0].form.Get("scope"), calls)
	}
}

func TestChangedSinceLimits(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	c := s.client(t, nil)
	if got, err := c.ChangedSince(t.Context(), nil, since); got != nil || err != nil {
		t.Errorf("nobody: %v, %v", got, err)
	}
	if _, err := c.ChangedSince(t.Context(), someIDs(t, MaxSearchIDs+1), since); err == nil {
		t.Error("301 iDs were taken")
	}
	if tokens, calls := s.count(); tokens+calls != 0 {
		t.Errorf("%d requests were made", tokens+calls)
	}
}

func TestChangedSinceAnswers(t *testing.T) {
	t.Parallel()
	id := mustID(t)
	for name, tt := range map[string]struct {
		status int
		body   string
		want   []ID
		kind   Kind // OK when there is no error
	}{
		"nobody":            {200, `{"result":null,"num-found":0}`, nil, OK},
		"one":               {200, result(id), []ID{id}, OK},
		"pretty":            {200, "{\n  \"result\" : [ {\n \"orcid-identifier\" : {\n \"path\" : \"" + testID + "\"\n} } ],\n \"num-found\" : 1\n}", []ID{id}, OK},
		"some left out":     {200, `{"result":[],"num-found":3}`, nil, Unexpected},
		"no count":          {200, `{"result":[]}`, nil, Unexpected},
		"another shape":     {200, `{"result":"x","num-found":0}`, nil, Unexpected},
		"not an iD":         {200, `{"result":[{"orcid-identifier":{"path":"x"}}],"num-found":1}`, nil, Unexpected},
		"a page":            {200, `<html><title>Maintenance</title>`, nil, Unexpected},
		"cut short":         {200, `{"result":[{"orcid-ide`, nil, Unreachable},
		"empty":             {200, ``, nil, Unreachable},
		"rate limit":        {503, `<html>`, nil, Unavailable},
		"token of no scope": {403, `{"error-code":9038}`, nil, NoScope},
		"refused for good":  {401, `{"error":"invalid_token"}`, nil, Unauthorized},
		"bad query":         {400, `{"error-code":9012}`, nil, Unexpected},
	} {
		s := newServer(t)
		s.api = answer(tt.status, jsonType, tt.body)
		got, err := s.client(t, nil).ChangedSince(t.Context(), []ID{id}, since)
		if !slices.Equal(got, tt.want) || AnswerOf(err).Kind != tt.kind {
			t.Errorf("%s: got %v, %v; want %v, %s", name, got, err, tt.want, tt.kind)
		}
	}
}

const recordHead = `{"orcid-identifier":{"path":"` + testID + `"},"preferences":{"locale":"EN"},"history":{"creation-method":"DIRECT","completion-date":null,"submission-date":{"value":1460757617078},"last-modified-date":{"value":1795399532123},"claimed":true},`

func TestLastModifiedStopsReadingWhenItKnows(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.api = func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", jsonType)
		_, _ = io.WriteString(w, recordHead+`"person":{`)
		w.(http.Flusher).Flush()
		<-s.release // the rest never comes
	}
	at, err := s.client(t, nil).LastModified(t.Context(), mustID(t))
	if want := time.UnixMilli(1795399532123).UTC(); err != nil || !at.Equal(want) {
		t.Fatalf("got %s, %v; want %s", at, err, want)
	}
	if got := s.last().uri; got != "/v3.0/"+testID+"/record" {
		t.Errorf("asked %s", got)
	}
}

func TestLastModifiedAnswers(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		status int
		body   string
		kind   Kind
	}{
		"no history":      {200, `{"person":{}}`, Unexpected},
		"no date":         {200, `{"history":{"last-modified-date":null}}`, Unexpected},
		"a list":          {200, `[]`, Unexpected},
		"a page":          {200, `<html>`, Unexpected},
		"another shape":   {200, `{"history":{"last-modified-date":{"value":"x"}}}`, Unexpected},
		"broken later":    {200, `{"person":{},,}`, Unexpected},
		"cut before":      {200, `{"person":{"na`, Unreachable},
		"cut at a comma":  {200, `{"person":{}`, Unreachable},
		"empty":           {200, ``, Unreachable},
		"unknown iD":      {404, `{"error-code":9016}`, NoSuchRecord},
		"deactivated":     {409, `{"error-code":9044}`, Conflict},
		"deprecated":      {301, `{"error-code":9007}`, Redirected},
		"something wrong": {500, `{"error-code":9008}`, Unavailable},
	} {
		s := newServer(t)
		s.api = answer(tt.status, jsonType, tt.body)
		_, err := s.client(t, nil).LastModified(t.Context(), mustID(t))
		if got := AnswerOf(err); err == nil || got.Kind != tt.kind {
			t.Errorf("%s: got %v (%s), want %s", name, err, got.Kind, tt.kind)
		}
		var ae *AnswerError
		if tt.status != 200 && (!errors.As(err, &ae) || ae.Answer.Status != tt.status) {
			t.Errorf("%s: %v does not carry its answer", name, err)
		}
	}
}

func TestReadStopsAtTheTimeout(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.api = func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"person":{`)
		w.(http.Flusher).Flush()
		<-s.release
	}
	c := s.client(t, func(o *ClientOptions) { o.Timeout = time.Second })
	_, err := c.LastModified(t.Context(), mustID(t))
	var te *TransportError
	if !errors.As(err, &te) || !te.Timeout || te.Op != OpRecord {
		t.Errorf("got %v, want a timeout", err)
	}
}
