package orcid

import (
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestChangedBetweenReadsOnePage(t *testing.T) {
	t.Parallel()
	ids := someIDs(t, 3)
	s := newServer(t)
	s.api = answer(200, jsonType, strings.Replace(result(ids...), `"num-found":3`, `"num-found":2003`, 1))
	got, total, err := s.client(t, nil).ChangedBetween(t.Context(), since, since.Add(time.Hour), 2000, 1000)
	if err != nil || !slices.Equal(got, ids) || total != 2003 {
		t.Fatalf("got %v of %d, %v; want %v of 2003", got, total, err, ids)
	}
	u, err := url.Parse(s.last().uri)
	if err != nil {
		t.Fatal(err)
	}
	want := "profile-last-modified-date:[2026-11-23T02:05:32Z TO 2026-11-23T03:05:32Z]"
	if q := u.Query(); q.Get("q") != want || q.Get("start") != "2000" || q.Get("rows") != "1000" || u.Path != "/v3.0/search" {
		t.Errorf("asked %s, want %s from 2000 on", u, want)
	}
}

func TestChangedBetweenRefusesWhatWouldHideChanges(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	ids := someIDs(t, 2)
	for name, body := range map[string]string{
		"a short page": strings.Replace(result(ids...), `"num-found":2`, `"num-found":500`, 1),
		"no total":     `{"result":[]}`,
		"no iD":        `{"result":[{"orcid-identifier":{"path":"x"}}],"num-found":1}`,
	} {
		s.api = answer(200, jsonType, body)
		if got, _, err := s.client(t, nil).ChangedBetween(t.Context(), since, since, 0, 1000); err == nil {
			t.Errorf("%s: got %v", name, got)
		}
	}
	for _, bad := range [][2]int{{-1, 1}, {0, 0}, {0, MaxSearchRows + 1}} {
		if _, _, err := s.client(t, nil).ChangedBetween(t.Context(), since, since, bad[0], bad[1]); err == nil {
			t.Errorf("%v was asked", bad)
		}
	}
}

func TestChangedBetweenOfNothing(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.api = answer(200, jsonType, `{"result":null,"num-found":0}`)
	if got, total, err := s.client(t, nil).ChangedBetween(t.Context(), since, since, 0, 1); err != nil || len(got) != 0 || total != 0 {
		t.Errorf("got %v of %d, %v", got, total, err)
	}
}
