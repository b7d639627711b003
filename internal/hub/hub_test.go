package hub

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var t0 = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

func writeFile(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func readMap(t *testing.T, text string) *Map {
	t.Helper()
	m, err := ReadMap(writeFile(t, "legacy.csv", text), []string{"main", "other"})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestReadMap(t *testing.T) {
	t.Parallel()
	m := readMap(t, "\xef\xbb\xbfUser_ID, orcid ,credential,note\r\n"+
		"12,0000-0002-1825-0097,main,x\r\n"+
		"3,https://orcid.org/0000-0001-5109-3700,other,\r\n"+
		"4,0000-0000-0000-00X3,main,the Hub's own tests have it\r\n"+
		"5,,main,\r\n")
	if len(m.Rows) != 2 || m.Rows[0].UserID != 3 || m.Rows[1].Credential != "main" || m.Find(12) != m.Rows[1] || m.Find(4) != nil {
		t.Errorf("read: %+v", m.Rows)
	}
	if len(m.Skipped) != 2 || !strings.Contains(m.Skipped[0].Error(), "legacy.csv:4: ") {
		t.Errorf("skipped: %v", m.Skipped)
	}
	if got := m.Credentials(); len(got) != 2 {
		t.Errorf("credentials: %v", got)
	}
}

func TestReadMapTellsEveryMistake(t *testing.T) {
	t.Parallel()
	path := writeFile(t, "legacy.csv", "user_id,orcid,credential\n"+
		"x,0000-0002-1825-0097,main\n"+
		"0,0000-0002-1825-0097,main\n"+
		"1,0000-0002-1825-0097,mian\n"+
		"2,0000-0002-1825-0097,main\n"+
		"2,0000-0001-5109-3700,main\n"+
		"3,0000-0001-5109-3700\n"+
		"1000000000,0000-0001-5109-3700,main\n"+
		"4,\"0000-0001-5109-3700,main\n")
	_, err := ReadMap(path, []string{"main"})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{":2: user_id must be", ":3: user_id must be", `:4: there is no [orcid.credential.NAME] of the name "mian"`, ":6: user_id 2 comes twice", ":7: has 2 fields", ":8: user_id must be", ":9: "} {
		if !strings.Contains(err.Error(), path+want) {
			t.Errorf("no %q in:\n%v", want, err)
		}
	}
	for name, text := range map[string]string{"empty": "", "no header": "1,0000-0002-1825-0097,main\n", "no credential": "user_id,orcid\n"} {
		if _, err := ReadMap(writeFile(t, "a.csv", text), []string{"main"}); err == nil || !strings.Contains(err.Error(), "a.csv:1: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := ReadMap(filepath.Join(t.TempDir(), "gone.csv"), nil); err == nil {
		t.Error("a missing file is accepted")
	}
	_, err = ReadMap(writeFile(t, "a.csv", "user_id,orcid,credential\n"+strings.Repeat("x,,main\n", 50)), []string{"main"})
	if n := strings.Count(err.Error(), "\n"); n != maxProblems || !strings.HasSuffix(err.Error(), "… and 30 more") {
		t.Errorf("%d lines: %v", n, err)
	}
}

func TestCallbacksFind(t *testing.T) {
	t.Parallel()
	m := readMap(t, "user_id,orcid,credential\n7,0000-0002-1825-0097,main\n")
	c, err := NewCallbacks("https://hub.example/orcid/", t0.Add(time.Hour), m)
	if err != nil {
		t.Fatal(err)
	}
	if got := CallbackURL("https://hub.example/orcid/", 7); got != "https://hub.example/orcid/services/7/updated" {
		t.Errorf("the URL is %s", got)
	}
	for path, want := range map[string]Verdict{
		"/services/7/updated": Good, "/orcid/services/7/updated": Good,
		"/services/8/updated": Unknown, "/services/07/updated": Unknown, "/services/+7/updated": Unknown, "/services//updated": Unknown,
		"/services/7/updated/": Unknown, "/services/7": Unknown, "/services/7/update": Unknown, "/services/9999999999/updated": Unknown,
		"/other/services/7/updated": Unknown, "/services/7%2Fupdated": Unknown, "": Unknown, "/services/updated": Unknown,
	} {
		credential, id, v := c.Find([]byte(path), t0)
		if v != want || v == Good && (credential != "main" || id.String() != "0000-0002-1825-0097") {
			t.Errorf("%s: %v %s %s, want %v", path, v, credential, id, want)
		}
	}
	if _, _, v := c.Find([]byte("/services/7/updated"), t0.Add(time.Hour)); v != Unknown {
		t.Errorf("after its time it is %v", v)
	}
}

// The limit is far above what ORCID sends, and each callback's own.
func TestCallbacksAreLimited(t *testing.T) {
	t.Parallel()
	m := readMap(t, "user_id,orcid,credential\n7,0000-0002-1825-0097,main\n8,0000-0001-5109-3700,main\n")
	c, err := NewCallbacks("https://hub.example", t0.Add(24*time.Hour), m)
	if err != nil {
		t.Fatal(err)
	}
	count := func(path string, at time.Time, n int) (good int) {
		for range n {
			if _, _, v := c.Find([]byte(path), at); v == Good {
				good++
			}
		}
		return good
	}
	if n := count("/services/7/updated", t0, 100); n != pingBurst {
		t.Errorf("%d of 100 at once are good, want %d", n, pingBurst)
	}
	if n := count("/services/8/updated", t0, 1); n != 1 {
		t.Error("one callback's limit is another's")
	}
	if n := count("/services/7/updated", t0.Add(pingEvery), 5); n != 1 {
		t.Errorf("%d are good after %s, want 1", n, pingEvery)
	}
	if n := count("/services/7/updated", t0.Add(time.Hour), 100); n != pingBurst {
		t.Errorf("%d are good after an hour, want %d", n, pingBurst)
	}
}

// store is the store in memory; fail makes its next writes fail, lost makes
// them fail although they were made.
type store struct {
	users      map[orcid.ID]event.User
	taken      map[int]bool
	saves      int
	fail, lost map[string]int
	conflicts  int
	damaged    map[orcid.ID]bool
	leaves     orcid.ID // leaves after the first reading
}

func (s *store) ReadableUsers(_ context.Context, ids []orcid.ID) (users []*event.User, damaged []orcid.ID, err error) {
	users = make([]*event.User, len(ids))
	for i, id := range ids {
		if s.damaged[id] {
			damaged = append(damaged, id)
		} else if u, ok := s.users[id]; ok {
			u.Registrations = append([]event.Registration(nil), u.Registrations...)
			users[i] = &u
		}
	}
	delete(s.users, s.leaves)
	return users, damaged, nil
}

var errAway = errors.New("away")

func (s *store) broken(what string, do func()) error {
	if s.fail[what] > 0 {
		s.fail[what]--
		return errAway
	}
	do()
	if s.lost[what] > 0 {
		s.lost[what]--
		return errAway
	}
	return nil
}

func (s *store) SaveUser(_ context.Context, u event.User, _ time.Time) (string, error) {
	if s.conflicts > 0 {
		s.conflicts--
		return "", event.ErrConflict
	}
	return "", s.broken("save", func() { s.saves++; s.users[u.ORCID] = u })
}

func (s *store) HubTaken(_ context.Context, userIDs []int) ([]bool, error) {
	out := make([]bool, len(userIDs))
	for i, id := range userIDs {
		out[i] = s.taken[id]
	}
	return out, nil
}

func (s *store) NoteHubTaken(_ context.Context, userIDs []int) error {
	return s.broken("note", func() {
		for _, id := range userIDs {
			s.taken[id] = true
		}
	})
}

func id(t *testing.T, text string) orcid.ID {
	t.Helper()
	i, err := orcid.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// Each row is put into its user's record once, whatever fails in between, and
// never again when it is gone.
func TestTakerTakesEachRowOnce(t *testing.T) {
	t.Parallel()
	ours, nobodys := id(t, "0000-0002-1825-0097"), id(t, "0000-0001-5109-3700")
	st := &store{
		users: map[orcid.ID]event.User{
			ours:    {ORCID: ours, Affiliations: []event.Affiliation{{Org: "uni-a"}}, Registrations: []event.Registration{{Credential: "main", Epoch: 1, State: event.RegAlive}}},
			nobodys: {ORCID: nobodys}, // on the way out
		},
		taken: map[int]bool{}, fail: map[string]int{"save": 1, "note": 1}, lost: map[string]int{"save": 1, "note": 1}, conflicts: 2,
	}
	taker, err := NewTaker(TakerOptions{
		Store: st, Now: func() time.Time { return t0 }, Logger: slog.New(slog.DiscardHandler), Panics: func(string) { t.Error("panicked") },
		Base: func(_ context.Context, hubURL, credential string) (int, error) {
			if hubURL != "https://hub.example" || credential != "main" {
				t.Errorf("base of %s, %s", hubURL, credential)
			}
			return 5, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	m := readMap(t, "user_id,orcid,credential\n7,0000-0002-1825-0097,main\n8,0000-0001-5109-3700,main\n9,0000-0002-1694-233X,main\n10,0000-0002-1825-0097,main\n")
	c, err := NewCallbacks("https://hub.example", t0.Add(time.Hour), m)
	if err != nil {
		t.Fatal(err)
	}
	taker.Set(c)
	var p Progress
	failed := 0
	for range 20 {
		if p, err = taker.runOnce(t.Context()); err == nil {
			break
		}
		failed++
	}
	if err != nil || failed != 4 {
		t.Fatalf("%d failures, then %v", failed, err)
	}
	if p != (Progress{Rows: 4, NoUser: 2, Waiting: 2}) {
		t.Errorf("progress %+v", p)
	}
	rows := st.users[ours].Registrations
	if len(rows) != 3 || st.saves != 2 {
		t.Fatalf("%d saves, rows %+v", st.saves, rows)
	}
	for i, want := range []int{7, 10} {
		if r := rows[i]; r.Credential != "hub:main" || r.Epoch != want || r.Base != 5 || r.State != event.RegAlive || !r.Changed.IsZero() {
			t.Errorf("row %d: %+v", i, r)
		}
	}
	// One is unregistered: it must not come back.
	u := st.users[ours]
	u.Registrations = rows[1:]
	st.users[ours] = u
	for range 3 {
		if p, err = taker.runOnce(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if p != (Progress{Rows: 4, NoUser: 2, Waiting: 1, Gone: 1}) || st.saves != 2 {
		t.Errorf("progress %+v after %d saves", p, st.saves)
	}
	taker.Set(nil)
	if p, err = taker.runOnce(t.Context()); err != nil || p != (Progress{}) {
		t.Errorf("without a map: %+v %v", p, err)
	}
}

// Whoever cannot be read, or leaves right then, is looked for again, and holds up
// nobody else.
func TestTakerGoesOnWithoutWhomItCannotTake(t *testing.T) {
	t.Parallel()
	damaged, leaves, other := id(t, "0000-0002-1825-0097"), id(t, "0000-0001-5109-3700"), id(t, "0000-0002-1694-233X")
	user := func(i orcid.ID) event.User {
		return event.User{ORCID: i, Affiliations: []event.Affiliation{{Org: "uni-a"}}}
	}
	st := &store{
		users: map[orcid.ID]event.User{damaged: user(damaged), leaves: user(leaves), other: user(other)},
		taken: map[int]bool{}, damaged: map[orcid.ID]bool{damaged: true}, leaves: leaves,
	}
	taker, err := NewTaker(TakerOptions{
		Store: st, Now: func() time.Time { return t0 }, Logger: slog.New(slog.DiscardHandler), Panics: func(string) { t.Error("panicked") },
		Base: func(context.Context, string, string) (int, error) { return 5, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewCallbacks("https://hub.example", t0.Add(time.Hour), readMap(t, "user_id,orcid,credential\n7,0000-0002-1825-0097,main\n8,0000-0001-5109-3700,main\n9,0000-0002-1694-233X,main\n"))
	if err != nil {
		t.Fatal(err)
	}
	taker.Set(c)
	p, err := taker.runOnce(t.Context())
	if err != nil || p != (Progress{Rows: 3, NoUser: 2, Waiting: 1}) || !st.taken[9] || st.taken[7] || st.taken[8] {
		t.Errorf("%+v, %v; taken %v", p, err, st.taken)
	}
	st.leaves, st.damaged = orcid.ID{}, nil
	st.users[leaves] = user(leaves) // and is back
	if p, err = taker.runOnce(t.Context()); err != nil || p != (Progress{Rows: 3, Waiting: 3}) {
		t.Errorf("later: %+v, %v", p, err)
	}
}
