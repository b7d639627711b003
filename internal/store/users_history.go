package store

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
)

// The history of a user tells what happened to the registrations besides the
// usual first one, so that who is only registered has none.
const (
	historyKept = 20 // lines a user
	historyDays = 90 // after the last line all of them go
)

// What a history line says.
const (
	HistoryPlanned = "planned" // to be registered anew
	HistoryAlive   = "alive"   // registered again, or at last
	HistoryFailing = "failing" // ORCID answered Status to the request
	HistoryRefused = "refused" // ORCID will not have it
	HistoryRemove  = "remove"  // to be unregistered
	HistoryGone    = "gone"    // unregistered
)

// History is one thing that happened to a registration.
type History struct {
	At         time.Time `json:"at"`
	What       string    `json:"what"`
	Credential string    `json:"credential"`
	Epoch      int       `json:"epoch"`
	Status     int       `json:"status,omitempty"` // ORCID's answer; 0 when none is known
}

// userHistoryBody: KEYS mark, list; ARGV mark. Returns the lines, newest first.
const userHistoryBody = `return redis.call('LRANGE', KEYS[2], 0, -1)`

// historyLines writes what a save changes, the oldest first.
func historyLines(before, after []event.Registration, now time.Time) string {
	var b strings.Builder
	note := func(what string, r event.Registration) {
		fmt.Fprintf(&b, "%d %s %d %d %s\n", now.UnixMilli(), what, r.Epoch, r.Status, r.Credential)
	}
	same := func(a, b event.Registration) bool { return a.Credential == b.Credential && a.Epoch == b.Epoch }
	find := func(list []event.Registration, r event.Registration) (event.Registration, bool) {
		for _, o := range list {
			if same(o, r) {
				return o, true
			}
		}
		return event.Registration{}, false
	}
	for _, r := range before {
		if _, stays := find(after, r); !stays {
			r.Status = 0 // of an earlier request
			note(HistoryGone, r)
		}
	}
	for _, r := range after {
		old, was := find(before, r)
		if was && old.State == r.State {
			if r.Status != 0 && r.Status != old.Status {
				note(HistoryFailing, r)
			}
			continue
		}
		switch r.State {
		case event.RegNone:
			note(HistoryPlanned, r)
		case event.RegAlive:
			if r.Epoch > 1 || old.Tries > 0 {
				note(HistoryAlive, r)
			}
		case event.RegDeleting:
			note(HistoryRemove, r)
		case event.RegRefused:
			note(HistoryRefused, r)
		case event.RegPutting:
		}
	}
	return b.String()
}

// History returns what happened to a user's registrations, newest first.
func (s *Store) History(ctx context.Context, id orcid.ID) ([]History, error) {
	p := userPartition(id)
	c := &call{script: s.scripts.userHistory, mark: s.keys.mark(p), keys: []string{historyKey(s.keys, id)}}
	if err := s.do(ctx, c); err != nil {
		return nil, fmt.Errorf("read the history of %s: %w", id, err)
	}
	lines, err := stringList(c, c.res)
	if err != nil {
		return nil, fmt.Errorf("read the history of %s: %w", id, err)
	}
	out := make([]History, 0, len(lines))
	for _, line := range lines {
		f := strings.SplitN(line, " ", 5)
		if len(f) != 5 {
			continue // damaged by hand; the others still tell
		}
		ms, err1 := strconv.ParseInt(f[0], 10, 64)
		epoch, err2 := strconv.Atoi(f[2])
		status, err3 := strconv.Atoi(f[3])
		if err1 == nil && err2 == nil && err3 == nil {
			out = append(out, History{At: time.UnixMilli(ms).UTC(), What: f[1], Credential: f[4], Epoch: epoch, Status: status})
		}
	}
	return out, nil
}

func historyKey(k keys, id orcid.ID) string {
	return fmt.Sprintf("%s:%x", k.userHistory(userPartition(id)), mixedField(id))
}
