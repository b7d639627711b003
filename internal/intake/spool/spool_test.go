package spool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	bolt "go.etcd.io/bbolt"
	"go.uber.org/goleak"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var epoch = time.UnixMicro(1_800_000_000_123_456)

// ping makes the n-th user's ping, accepted at minutes after epoch.
func ping(n, minutes int) event.Ping {
	id, err := orcid.FromBase(uint64(n) + 1)
	if err != nil {
		panic(err)
	}
	return event.Ping{Credential: "main", ORCID: id, AcceptedAt: epoch.Add(time.Duration(minutes) * time.Minute)}
}

func pings(from, to int) []event.Ping {
	var list []event.Ping
	for n := from; n < to; n++ {
		list = append(list, ping(n, n))
	}
	return list
}

func mustOpen(tb testing.TB, path string) *Spool {
	tb.Helper()
	s, err := Open(path, Options{})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Error(err)
		}
	})
	return s
}

func newSpool(tb testing.TB) *Spool {
	tb.Helper()
	return mustOpen(tb, filepath.Join(tb.TempDir(), "spool.db"))
}

func mustPut(tb testing.TB, s *Spool, list ...event.Ping) {
	tb.Helper()
	if err := s.Put(tb.Context(), list); err != nil {
		tb.Fatal(err)
	}
}

func mustNext(tb testing.TB, s *Spool, n int) []Item {
	tb.Helper()
	items, err := s.Next(tb.Context(), n)
	if err != nil {
		tb.Fatal(err)
	}
	return items
}

func mustDone(tb testing.TB, s *Spool, items []Item) {
	tb.Helper()
	if err := s.Done(tb.Context(), items); err != nil {
		tb.Fatal(err)
	}
}

func wantStats(tb testing.TB, s *Spool, want Stats) {
	tb.Helper()
	got := s.Stats()
	if !got.Oldest.Equal(want.Oldest) {
		tb.Errorf("oldest is %v, want %v", got.Oldest, want.Oldest)
	}
	got.Oldest, want.Oldest = time.Time{}, time.Time{}
	if got != want {
		tb.Errorf("stats are %+v, want %+v", got, want)
	}
	if s.Len() != int(want.Waiting) {
		tb.Errorf("Len is %d, want %d", s.Len(), want.Waiting)
	}
}

func TestOrderCoalescingAndReopening(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "spool.db")
	s := mustOpen(t, path)
	wantStats(t, s, Stats{})
	mustPut(t, s, ping(1, 1), ping(2, 2), ping(3, 3))
	other := ping(1, 4)
	other.Credential = "second" // another credential is another key
	mustPut(t, s, other)
	mustPut(t, s, ping(1, 9), ping(2, 1)) // the second is older than what waits: the later accepted-at stays
	wantStats(t, s, Stats{Waiting: 4, Received: 6, Coalesced: 2, Oldest: ping(1, 1).AcceptedAt})

	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, path)
	wantStats(t, s, Stats{Waiting: 4, Received: 6, Coalesced: 2, Oldest: ping(1, 1).AcceptedAt})
	items := mustNext(t, s, 10)
	var got []event.Ping
	for _, it := range items {
		got = append(got, it.Ping)
	}
	want := []event.Ping{ping(1, 9), ping(2, 2), ping(3, 3), other}
	if d := cmp.Diff(want, got, cmp.Comparer(func(a, b event.Ping) bool {
		return a.Credential == b.Credential && a.ORCID == b.ORCID && a.AcceptedAt.Equal(b.AcceptedAt) && a.CaughtUp == b.CaughtUp
	})); d != "" {
		t.Error(d)
	}
	if again := mustNext(t, s, 2); !slices.Equal(again, items[:2]) {
		t.Errorf("Next gives %v, before it gave %v", again, items[:2])
	}
	mustDone(t, s, items[:3])
	wantStats(t, s, Stats{Waiting: 1, Received: 6, Coalesced: 2, Drained: 3, Oldest: other.AcceptedAt})
	mustDone(t, s, items)
	wantStats(t, s, Stats{Received: 6, Coalesced: 2, Drained: 4})
	mustDone(t, s, items) // again: nothing
	wantStats(t, s, Stats{Received: 6, Coalesced: 2, Drained: 4})
}

// TestANewerPingSurvivesDone is the reason for sequence numbers.
func TestANewerPingSurvivesDone(t *testing.T) {
	t.Parallel()
	s := newSpool(t)
	mustPut(t, s, ping(1, 1), ping(2, 2))
	items := mustNext(t, s, 10)
	mustPut(t, s, ping(1, 5))
	mustPut(t, s, ping(1, 6))
	mustDone(t, s, items)
	wantStats(t, s, Stats{Waiting: 1, Received: 4, Coalesced: 1, Drained: 2, Oldest: ping(1, 6).AcceptedAt})
	mustDone(t, s, items) // a Done that is repeated must not take the newer ping, nor count
	wantStats(t, s, Stats{Waiting: 1, Received: 4, Coalesced: 1, Drained: 2, Oldest: ping(1, 6).AcceptedAt})
	rest := mustNext(t, s, 10)
	if len(rest) != 1 || !rest[0].Ping.AcceptedAt.Equal(ping(1, 6).AcceptedAt) {
		t.Fatalf("what stays is %v", rest)
	}
	mustDone(t, s, rest)
	wantStats(t, s, Stats{Received: 4, Coalesced: 1, Drained: 3})
}

func TestAPingOfORCIDIsNotHiddenByACaughtUpOne(t *testing.T) {
	t.Parallel()
	caught := func(n, at int) event.Ping { p := ping(n, at); p.CaughtUp = true; return p }
	s := newSpool(t)
	mustPut(t, s, caught(1, 1), ping(1, 2), caught(2, 1), caught(2, 2), ping(3, 1), caught(3, 2))
	var got []bool
	for _, it := range mustNext(t, s, 10) {
		got = append(got, it.Ping.CaughtUp)
	}
	if want := []bool{false, true, false}; !slices.Equal(got, want) {
		t.Errorf("caught up: %v, want %v", got, want)
	}
}

func TestConcurrentPutsShareTransactions(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "spool.db")
	s := mustOpen(t, path)
	txid := func() (id int) {
		if err := s.db.View(func(tx *bolt.Tx) error { id = tx.ID(); return nil }); err != nil {
			t.Fatal(err)
		}
		return id
	}
	before := txid()
	const writers, each = 64, 10
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				if err := s.Put(t.Context(), []event.Ping{ping(w*each+i, 0)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	wantStats(t, s, Stats{Waiting: writers * each, Received: writers * each, Oldest: epoch})
	if n := txid() - before; n > writers*each/2 {
		t.Errorf("%d puts took %d transactions", writers*each, n)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if n := mustOpen(t, path).Len(); n != writers*each {
		t.Errorf("%d of %d are there after reopening", n, writers*each)
	}
}

func TestCloseAnswersEveryPut(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "spool.db")
	s := mustOpen(t, path)
	var wg sync.WaitGroup
	var mu sync.Mutex
	stored := 0
	first := make(chan struct{}, 1000)
	for w := range 8 {
		wg.Go(func() {
			for i := 0; ; i++ {
				err := s.Put(t.Context(), []event.Ping{ping(w*1_000_000+i, 0)})
				if errors.Is(err, ErrClosed) {
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				stored++
				mu.Unlock()
				select {
				case first <- struct{}{}:
				default:
				}
			}
		})
	}
	for range 20 {
		<-first
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if n := mustOpen(t, path).Len(); n != stored {
		t.Errorf("%d puts were acknowledged, %d are there", stored, n)
	}
	for name, err := range map[string]error{
		"Put":  s.Put(t.Context(), pings(0, 1)),
		"Done": s.Done(t.Context(), []Item{{Ping: ping(0, 0), Sequence: 1}}),
		"Next": func() error { _, err := s.Next(t.Context(), 1); return err }(),
	} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%s after Close: %v", name, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

func TestPutGivesUpWithItsContext(t *testing.T) {
	t.Parallel()
	s := newSpool(t)
	tx, err := s.db.Begin(true) // a disk that hangs: nobody else can write
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeoutCause(t.Context(), 20*time.Millisecond, errors.New("told to hurry"))
	defer cancel()
	mine := pings(0, 1)
	for range 2 { // the first is taken by the committer, the second is not
		if err := s.Put(ctx, mine); err == nil || !strings.Contains(err.Error(), "told to hurry") {
			t.Errorf("Put on a hanging disk: %v", err)
		}
	}
	mine[0] = ping(9, 9) // who gave up may use the slice again
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	mustPut(t, s, ping(5, 5))
	items := mustNext(t, s, 10)
	if len(items) != 2 || items[0].Ping.ORCID != ping(0, 0).ORCID {
		t.Errorf("the spool has %v, want user 0, late, and user 5", items)
	}
}

func TestPutRefusesWhatIsNoKey(t *testing.T) {
	t.Parallel()
	s := newSpool(t)
	for _, credential := range []string{"", strings.Repeat("x", 256)} {
		p := ping(1, 1)
		p.Credential = credential
		if err := s.Put(t.Context(), []event.Ping{ping(2, 2), p}); err == nil {
			t.Errorf("credential %q was taken", credential)
		}
	}
	if err := s.Put(t.Context(), nil); err != nil {
		t.Error(err)
	}
	wantStats(t, s, Stats{})
}

func TestUnsureIsCounted(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "spool.db")
	s := mustOpen(t, path)
	if err := s.PutUnsure(t.Context(), pings(0, 3)); err != nil {
		t.Fatal(err)
	}
	if err := s.noteUnsure(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	wantStats(t, mustOpen(t, path), Stats{Waiting: 3, Received: 3, Unsure: 5, Oldest: epoch})
}

func TestMetricIsTheSize(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	s, err := Open(filepath.Join(t.TempDir(), "spool.db"), Options{Registerer: reg})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	mustPut(t, s, pings(0, 7)...)
	const want = `
# HELP dispatchd_spool_pings Pings that wait on the local disk for Redis.
# TYPE dispatchd_spool_pings gauge
dispatchd_spool_pings 7
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "dispatchd_spool_pings"); err != nil {
		t.Error(err)
	}
	if _, err := Open(filepath.Join(t.TempDir(), "other.db"), Options{Registerer: reg}); err == nil {
		t.Error("a second spool on one registry was taken")
	}
}

func TestFileIsPrivateAndAlone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "spool.db")
	s := mustOpen(t, path)
	mustPut(t, s, ping(1, 1))
	fi, err := os.Stat(path)
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", fi.Mode(), err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 {
		t.Errorf("files left in data_dir: %v, %v", left, err)
	}
	if _, err := Open(path, Options{}); err == nil || !strings.Contains(err.Error(), "second dispatchd") {
		t.Errorf("a second Open of the same file: %v", err)
	}
}

func BenchmarkPut(b *testing.B) {
	for _, group := range []int{1, 256} {
		b.Run(fmt.Sprint(group), func(b *testing.B) {
			s := newSpool(b)
			n := 0
			for b.Loop() {
				mustPut(b, s, pings(n, n+group)...)
				n += group
			}
			b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "pings/s")
		})
	}
}
