package service

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
)

func person(t testing.TB, n int) orcid.ID {
	t.Helper()
	id, err := orcid.FromBase(1_500_000_000 + uint64(n))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// listOf is a CSV of the persons from up to, not including, to.
func listOf(t testing.TB, from, to int, more ...string) string {
	var b strings.Builder
	b.WriteString("orcid,email\n")
	for n := from; n < to; n++ {
		fmt.Fprintf(&b, "%s,p%d@a.example\n", person(t, n), n)
	}
	for _, line := range more {
		b.WriteString(line + "\n")
	}
	return b.String()
}

func (b *testBundle) members(t testing.TB, orgID string) []uint64 {
	t.Helper()
	list, err := b.svc.memberBases(context.Background(), orgID)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func (b *testBundle) uniA(t testing.TB) {
	t.Helper()
	if _, _, err := b.svc.PutOrganisation(context.Background(), tester, "uni-a", uniA()); err != nil {
		t.Fatal(err)
	}
}

func (b *testBundle) imported(t testing.TB, list string) ImportReport {
	t.Helper()
	r, err := b.svc.Import(context.Background(), tester, "uni-a", strings.NewReader(list), CSV, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestSyncMakesTheListTheOrganisations(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx := context.Background()
	b.uniA(t)
	if err := b.store.Suppress(ctx, person(t, 50), false); err != nil {
		t.Fatal(err)
	}
	sync := func(list string, o SyncOptions) (SyncReport, error) {
		return b.svc.Sync(ctx, tester, "uni-a", strings.NewReader(list), CSV, o, nil)
	}
	for _, c := range []struct {
		name                                           string
		before, list                                   string
		o                                              SyncOptions
		lines, added, known, removed, bad, kept, suppr int
		needsForce, refused, withheld                  bool
		left                                           int
		there, notThere                                int // persons
	}{
		{name: "one leaves, two join", before: listOf(t, 0, 20), list: listOf(t, 1, 22), lines: 21, added: 2, known: 19, removed: 1, left: 21, there: 21, notThere: 0},
		{name: "dry run", before: listOf(t, 0, 20), list: listOf(t, 1, 22), o: SyncOptions{DryRun: true}, lines: 21, added: 2, known: 19, removed: 1, left: 20, there: 0, notThere: 21},
		{name: "too many leave", before: listOf(t, 0, 20), list: listOf(t, 3, 23), lines: 20, known: 17, refused: true, needsForce: true, left: 20, there: 0, notThere: 22},
		{name: "too many leave, dry run", before: listOf(t, 0, 20), list: listOf(t, 3, 23), o: SyncOptions{DryRun: true}, lines: 20, added: 3, known: 17, removed: 3, needsForce: true, left: 20, there: 0, notThere: 22},
		{name: "too many leave by force", before: listOf(t, 0, 20), list: listOf(t, 3, 23), o: SyncOptions{Force: true}, lines: 20, added: 3, known: 17, removed: 3, left: 20, there: 22, notThere: 2},
		{name: "exactly a tenth leaves", before: listOf(t, 0, 20), list: listOf(t, 2, 20), lines: 18, known: 18, removed: 2, left: 18, there: 19, notThere: 1},
		{name: "a header only", before: listOf(t, 0, 3), list: listOf(t, 0, 0), refused: true, needsForce: true, left: 3, there: 0, notThere: 9},
		{name: "a bad line keeps whom it names", before: listOf(t, 0, 20), list: listOf(t, 1, 20, person(t, 0).String()+",bad\x01mail"), lines: 20, known: 19, bad: 1, kept: 1, left: 20, there: 0, notThere: 21},
		{name: "a bad line that names nobody keeps all", before: listOf(t, 0, 20), list: listOf(t, 1, 21, "0000-0002-1825-0098,x@y"), lines: 21, added: 1, known: 19, bad: 1, kept: 1, withheld: true, left: 21, there: 0, notThere: 21},
		{name: "a line with a field too many keeps all", before: listOf(t, 0, 20), list: listOf(t, 0, 19, person(t, 19).String()+",a,b"), o: SyncOptions{Force: true}, lines: 20, known: 19, bad: 1, kept: 1, withheld: true, left: 20, there: 19, notThere: 21},
		{name: "who was erased is not taken", before: listOf(t, 0, 20), list: listOf(t, 0, 20, person(t, 50).String()+","), lines: 21, known: 20, suppr: 1, left: 20, there: 0, notThere: 50},
		{name: "who was erased, dry run", before: listOf(t, 0, 20), list: listOf(t, 0, 20, person(t, 50).String()+","), o: SyncOptions{DryRun: true}, lines: 21, known: 20, suppr: 1, left: 20, there: 0, notThere: 50},
		{name: "the same twice", before: listOf(t, 0, 3), list: listOf(t, 0, 3, person(t, 2).String()+","), lines: 4, known: 4, left: 3, there: 0, notThere: 9},
	} {
		t.Run(c.name, func(t *testing.T) {
			all := b.members(t, "uni-a")
			if _, err := b.svc.removeUsers(ctx, "uni-a", basesToIDs(all)); err != nil {
				t.Fatal(err)
			}
			b.imported(t, c.before)
			at := b.store.Now() // the users were there before
			b.svc.began = func() time.Time { return at.Add(time.Second) }
			got, err := sync(c.list, c.o)
			if refused := code(err) == CodeConflict; refused != c.refused || err != nil && !refused {
				t.Fatalf("%v, refused %v", err, c.refused)
			}
			if got.Lines != c.lines || got.Added != c.added || got.Known != c.known && c.name != "the same twice" || got.Removed != c.removed ||
				got.Bad != c.bad || got.Kept != c.kept || got.Suppressed != c.suppr || got.NeedsForce != c.needsForce || (got.Withheld != "") != c.withheld || got.DryRun != c.o.DryRun {
				t.Errorf("%+v", got)
			}
			left := b.members(t, "uni-a")
			if len(left) != c.left || !slices.Contains(left, person(t, c.there).Base()) || slices.Contains(left, person(t, c.notThere).Base()) {
				t.Errorf("%d members, person %d %v, person %d %v", len(left), c.there, slices.Contains(left, person(t, c.there).Base()), c.notThere, slices.Contains(left, person(t, c.notThere).Base()))
			}
		})
	}
}

// TestSyncKeepsWhoWasAddedMeanwhile: somebody whom an identity system affiliates
// after the list was written is not thrown out by it.
func TestSyncKeepsWhoWasAddedMeanwhile(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx := context.Background()
	b.uniA(t)
	b.imported(t, listOf(t, 0, 20))
	at := b.store.Now().Add(time.Second)
	b.svc.began = func() time.Time { return at }
	late := event.Affiliation{Org: "uni-a", AffiliatedAt: at.Add(time.Second)}
	if _, err := b.store.Affiliate(ctx, person(t, 99), late, time.Time{}); err != nil {
		t.Fatal(err)
	}
	r, err := b.svc.Sync(ctx, tester, "uni-a", strings.NewReader(listOf(t, 1, 20)), CSV, SyncOptions{}, nil)
	if err != nil || r.Removed != 1 || r.Kept != 1 {
		t.Errorf("%+v, %v", r, err)
	}
	if left := b.members(t, "uni-a"); len(left) != 20 || !slices.Contains(left, person(t, 99).Base()) {
		t.Errorf("%d members", len(left))
	}
}

// TestSyncCancelsWhatWaitsForWhoLeft: whoever is not in the list is told of no
// more.
func TestSyncCancelsWhatWaitsForWhoLeft(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx := context.Background()
	b.uniA(t)
	b.imported(t, listOf(t, 0, 10))
	b.slot(t, person(t, 0))
	b.slot(t, person(t, 1))
	at := b.store.Now().Add(time.Second)
	b.svc.began = func() time.Time { return at }
	if r, err := b.svc.Sync(ctx, tester, "uni-a", strings.NewReader(listOf(t, 1, 10)), CSV, SyncOptions{}, nil); err != nil || r.Removed != 1 {
		t.Fatalf("%+v, %v", r, err)
	}
	for n, want := range []int{0, 1} {
		got, err := b.store.Traces(ctx, []string{"uni-a"}, person(t, n))
		if err != nil || len(got) != want {
			t.Errorf("person %d: %+v, %v", n, got, err)
		}
	}
}

func TestAnImportSaysWhoWasErased(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx := context.Background()
	b.uniA(t)
	if err := b.store.Suppress(ctx, person(t, 1), false); err != nil {
		t.Fatal(err)
	}
	if r := b.imported(t, listOf(t, 0, 3)); r.Lines != 3 || r.Added != 2 || r.Suppressed != 1 || r.Known != 0 {
		t.Errorf("%+v", r)
	}
	again := strings.Replace(listOf(t, 0, 3), "p2@", "new@", 1)
	if r := b.imported(t, again); r.Lines != 3 || r.Added != 0 || r.Suppressed != 1 || r.Known != 2 || r.Updated != 1 {
		t.Errorf("%+v", r)
	}
	if _, err := b.svc.AddUser(ctx, tester, "uni-a", person(t, 1), Person{}); code(err) != CodeSuppressed {
		t.Errorf("%v", err)
	}
	if err := b.svc.Unsuppress(ctx, tester, person(t, 1)); err != nil {
		t.Fatal(err)
	}
	if err := b.svc.Unsuppress(ctx, tester, person(t, 1)); code(err) != CodeNotFound {
		t.Errorf("%v", err)
	}
	if isNew, err := b.svc.AddUser(ctx, tester, "uni-a", person(t, 1), Person{}); err != nil || !isNew {
		t.Error(isNew, err)
	}
}

// TestAnImportOutlastsARedisThatIsAway: a long list does not end because of a
// moment.
func TestAnImportOutlastsARedisThatIsAway(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.uniA(t)
	b.redis.Kill()
	done := make(chan ImportReport, 1)
	go func() {
		r, err := b.svc.Import(context.Background(), tester, "uni-a", strings.NewReader(listOf(t, 0, 3)), CSV, false, nil)
		if err != nil {
			t.Error(err)
		}
		done <- r
	}()
	await(t, "the import waiting", func() bool { return b.store.Ping(context.Background()) != nil })
	if err := b.redis.Restart(); err != nil {
		t.Fatal(err)
	}
	if r := <-done; r.Lines != 3 || r.Added+r.Known != 3 {
		t.Errorf("%+v", r)
	}
}

// TestAnImportThatIsCutOffIsTakenUp: by the same command again, which adds who is
// missing and changes nothing else.
func TestAnImportThatIsCutOffIsTakenUp(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.uniA(t)
	list := listOf(t, 0, 3500)
	cut, cancel := context.WithCancel(context.Background())
	first, err := b.svc.Import(cut, tester, "uni-a", strings.NewReader(list), CSV, true, func(r ImportReport) {
		if r.Lines == 2000 {
			cancel()
		}
	})
	if err == nil || first.Added != 2000 {
		t.Fatalf("%+v, %v", first, err)
	}
	before, err := b.store.User(context.Background(), person(t, 5))
	if err != nil || before == nil {
		t.Fatal(before, err)
	}
	again, err := b.svc.Import(context.Background(), tester, "uni-a", strings.NewReader(list), CSV, true, nil)
	if err != nil || again.Added != 1500 || again.Known != 2000 || again.Updated != 0 || len(b.members(t, "uni-a")) != 3500 {
		t.Errorf("%+v, %v", again, err)
	}
	after, err := b.store.User(context.Background(), person(t, 5))
	if err != nil || after.Version != before.Version {
		t.Errorf("%+v became %+v, %v", before, after, err)
	}
}
