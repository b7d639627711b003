package spool

import (
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"dispatchd/internal/event"
)

// TestModel compares the spool with a slice that does the same by hand.
func TestModel(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	run := 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		path := filepath.Join(dir, fmt.Sprint(run, ".db"))
		open := func() *Spool {
			s, err := Open(path, Options{})
			if err != nil {
				rt.Fatal(err)
			}
			s.db.NoSync = true // durability is not what this test is about
			return s
		}
		s := open()
		defer func() { _ = s.Close() }()
		type entry struct {
			user, place, seq int
			latest           time.Time
		}
		var model []entry // by place
		var want Stats
		var inHand []Item
		var handModel []entry
		ctx := t.Context()
		seq := 0
		rt.Repeat(map[string]func(*rapid.T){
			"put": func(rt *rapid.T) {
				var list []event.Ping
				for _, u := range rapid.SliceOfN(rapid.IntRange(0, 8), 1, 6).Draw(rt, "users") {
					seq++
					p := ping(u, seq)
					list = append(list, p)
					want.Received++
					if i := slices.IndexFunc(model, func(e entry) bool { return e.user == u }); i >= 0 {
						model[i].seq, model[i].latest = seq, p.AcceptedAt
						want.Coalesced++
					} else {
						model = append(model, entry{u, seq, seq, p.AcceptedAt})
					}
				}
				if err := s.Put(ctx, list); err != nil {
					rt.Fatal(err)
				}
			},
			"next": func(rt *rapid.T) {
				n := rapid.IntRange(1, 5).Draw(rt, "n")
				var err error
				if inHand, err = s.Next(ctx, n); err != nil {
					rt.Fatal(err)
				}
				handModel = slices.Clone(model[:min(n, len(model))])
				if len(inHand) != len(handModel) {
					rt.Fatalf("Next gives %d items, want %d", len(inHand), len(handModel))
				}
				for i, it := range inHand {
					if it.Ping.ORCID != ping(handModel[i].user, 0).ORCID || !it.Ping.AcceptedAt.Equal(handModel[i].latest) {
						rt.Fatalf("item %d is %v, want user %d at %v", i, it, handModel[i].user, handModel[i].latest)
					}
				}
			},
			"done": func(rt *rapid.T) {
				if err := s.Done(ctx, inHand); err != nil {
					rt.Fatal(err)
				}
				for _, h := range handModel {
					i := slices.IndexFunc(model, func(e entry) bool { return e.user == h.user })
					want.Drained++
					if model[i].seq == h.seq {
						model = slices.Delete(model, i, i+1)
						continue
					}
					want.Coalesced--
					model[i].place = model[i].seq
				}
				inHand, handModel = nil, nil
				slices.SortFunc(model, func(a, b entry) int { return a.place - b.place })
			},
			"reopen": func(rt *rapid.T) {
				if err := s.Close(); err != nil {
					rt.Fatal(err)
				}
				s = open()
			},
			"": func(rt *rapid.T) {
				got := s.Stats()
				want.Waiting = int64(len(model))
				if got.Oldest.IsZero() != (len(model) == 0) {
					rt.Fatalf("oldest is %v with %d waiting", got.Oldest, len(model))
				}
				got.Oldest = time.Time{}
				if got != want || got.Received != got.Waiting+got.Coalesced+got.Drained {
					rt.Fatalf("stats are %+v, want %+v", got, want)
				}
			},
		})
	})
}
