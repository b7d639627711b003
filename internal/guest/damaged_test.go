package guest

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"dispatchd/internal/directory"
	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
)

// rows is a store of many rows of one partition, and an ORCID that takes all.
type rows struct {
	mu     sync.Mutex
	rows   map[Key]event.Guest
	looks  map[Key]time.Time
	broken map[orcid.ID]bool // whose record is damaged
	now    time.Time
	sent   []Key
}

func (r *rows) Guests(_ context.Context, id orcid.ID) (out []event.Guest, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for key, g := range r.rows {
		if key.ORCID == id {
			out = append(out, g)
		}
	}
	return out, nil
}

func (r *rows) SaveGuest(_ context.Context, g event.Guest, look time.Time) (event.Guest, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := Key{g.ORCID, g.URL}
	if look.IsZero() {
		delete(r.rows, key)
		delete(r.looks, key)
		return g, nil
	}
	r.rows[key], r.looks[key] = g, look
	return g, nil
}

func (r *rows) User(_ context.Context, id orcid.ID) (*event.User, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.broken[id] {
		return nil, fmt.Errorf("read user %s: %w", id, event.ErrDamaged)
	}
	return &event.User{Affiliations: []event.Affiliation{{Org: "uni-a"}}}, nil
}

func (r *rows) due(_ context.Context, now time.Time, limit int) (out []Key, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for key, look := range r.looks {
		if !look.After(now) {
			out = append(out, key)
		}
	}
	slices.SortFunc(out, func(a, b Key) int {
		return cmp.Or(r.looks[a].Compare(r.looks[b]), cmp.Compare(a.ORCID.Base(), b.ORCID.Base()), cmp.Compare(a.URL, b.URL))
	})
	return out[:min(limit, len(out))], nil
}

func (r *rows) Put(_ context.Context, _ string, id orcid.ID, url string) (orcid.Answer, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sent = append(r.sent, Key{id, url})
	return orcid.Answer{Kind: orcid.Created, Status: 201}, nil
}

func (r *rows) Delete(ctx context.Context, credential string, id orcid.ID, url string) (orcid.Answer, error) {
	return r.Put(ctx, credential, id, url)
}

// TestADamagedRowOrRecordStopsNobodyElse: however many there are, the others have
// their turn; each is said once, and goes on when it is mended.
func TestADamagedRowOrRecordStopsNobodyElse(t *testing.T) {
	t.Parallel()
	var said bytes.Buffer
	r := &rows{rows: map[Key]event.Guest{}, looks: map[Key]time.Time{}, broken: map[orcid.ID]bool{}, now: noon}
	dir := directory.New()
	serving(dir, "main")
	k, err := New(Options{
		Store: r, Directory: dir, ORCID: r, Configured: func(string) bool { return true }, Guard: func() error { return nil }, Now: func() time.Time { return r.now },
		Logger: slog.New(slog.NewTextHandler(&said, nil)), Panics: func(string) { t.Error("panicked") }, Due: r.due,
	})
	if err != nil {
		t.Fatal(err)
	}
	id := func(n uint64) orcid.ID {
		v, err := orcid.FromBase(n)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	add := func(n uint64, url string, damaged bool) {
		g := event.Guest{ORCID: id(n), URL: url, Version: "v", Damaged: damaged}
		if !damaged {
			g.Orgs, g.Registration = []string{"uni-a"}, event.Registration{Credential: "main", Epoch: 1}
		}
		key := Key{id(n), url}
		r.rows[key], r.looks[key] = g, noon.Add(-time.Hour)
	}
	for n := range uint64(batch) {
		add(n+1, callback, true)
	}
	for i := range batch {
		add(100, callback+fmt.Sprint(i), false)
	}
	r.broken[id(100)] = true
	for i := range batch { // entries without a row
		r.looks[Key{id(101), callback + fmt.Sprint(i)}] = noon.Add(-time.Hour)
	}
	add(1, "https://a.example/beside", false) // beside a damaged one
	add(200, callback, false)
	passes := func(n int) {
		t.Helper()
		for range n {
			if err := k.runOnce(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	passes(4)
	if len(r.sent) != 2 || !slices.Contains(r.sent, Key{id(200), callback}) || !slices.Contains(r.sent, Key{id(1), "https://a.example/beside"}) {
		t.Errorf("registered: %v", r.sent)
	}
	for range 3 {
		r.now = r.now.Add(lookEvery)
		passes(4)
	}
	if n := strings.Count(said.String(), "level=WARN"); n != batch+1 || strings.Contains(said.String(), callback) {
		t.Errorf("%d warnings for %d rows and a record:\n%s", n, batch, said.String())
	}
	if len(r.rows) != 2*batch+2 || len(r.looks) != len(r.rows) {
		t.Errorf("%d rows, %d to be looked at", len(r.rows), len(r.looks))
	}
	// Mended.
	r.sent, r.broken = nil, nil
	add(1, callback, false)
	r.now = r.now.Add(lookEvery)
	passes(4)
	if len(r.sent) != batch+1 {
		t.Errorf("registered: %v", r.sent)
	}
	// Damaged again it is said again.
	said.Reset()
	add(1, callback, true)
	passes(1)
	if n := strings.Count(said.String(), "level=WARN"); n != 1 {
		t.Errorf("said %d times", n)
	}
}
