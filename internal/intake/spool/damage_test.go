package spool

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"
)

// whole returns the bytes of a good spool with n pings.
func whole(tb testing.TB, n int) []byte {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "good.db")
	s := mustOpen(tb, path)
	mustPut(tb, s, pings(0, n)...)
	if err := s.Close(); err != nil {
		tb.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func TestDamagedFilesAreRefusedAndKept(t *testing.T) {
	t.Parallel()
	good := whole(t, 2000)
	page := os.Getpagesize()
	change := func(f func(b []byte) []byte) []byte { return f(append([]byte(nil), good...)) }
	fill := func(from, to int, c byte) []byte {
		return change(func(b []byte) []byte {
			for i := from; i < to; i++ {
				b[i] = c
			}
			return b
		})
	}
	for name, content := range map[string][]byte{
		"empty":                {},
		"not ours":             []byte("hello, this is a text file\n"),
		"not ours, big":        []byte(strings.Repeat("hello, this is a text file\n", 10_000)),
		"zeroes":               make([]byte, len(good)),
		"one byte":             good[:1],
		"one page":             good[:page],
		"cut in half":          good[:len(good)/2],
		"both metas gone":      fill(0, 2*page, 0),
		"all data zeroed":      fill(2*page, len(good), 0),
		"all data of one byte": fill(2*page, len(good), 0xff),
		"books changed": change(func(b []byte) []byte {
			// Every copy of the books: received says one more than there is.
			n := 0
			for i := 0; i+8 < len(b); i++ {
				if string(b[i:i+5]) == "books" {
					b[i+5+7]++
					n++
				}
			}
			if n == 0 {
				t.Error("no books found to change")
			}
			return b
		}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "spool.db")
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
			s, err := Open(path, Options{})
			if err == nil {
				_ = s.Close()
				t.Fatal("was opened")
			}
			if !errors.Is(err, ErrDamaged) {
				t.Errorf("error is not ErrDamaged: %v", err)
			}
			for _, want := range []string{path, "move the file away"} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error does not say %q: %v", want, err)
				}
			}
			if strings.Count(err.Error(), ErrDamaged.Error()) != 1 {
				t.Errorf("error repeats itself: %v", err)
			}
			after, err := os.ReadFile(path)
			if err != nil || string(after) != string(content) {
				t.Errorf("the file was changed: %d bytes, were %d, %v", len(after), len(content), err)
			}
		})
	}
}

// TestRandomDamageNeverEndsTheProcess overwrites random places: the spool must
// open whole, refuse, or fail later with an error, but never crash or hang.
func TestRandomDamageNeverEndsTheProcess(t *testing.T) {
	t.Parallel()
	good := whole(t, 3000)
	page := os.Getpagesize()
	dir := t.TempDir()
	refused := 0
	const rounds = 50
	for i := range rounds {
		rng := rand.New(rand.NewPCG(1, uint64(i)))
		b := append([]byte(nil), good...)
		for range 1 + rng.IntN(3) {
			at := 2*page + rng.IntN(len(b)-2*page-64)
			for j := range 1 + rng.IntN(64) {
				b[at+j] = byte(rng.Uint32())
			}
		}
		path := filepath.Join(dir, fmt.Sprint(i, ".db"))
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Open(path, Options{})
		if err != nil {
			refused++
			if !errors.Is(err, ErrDamaged) {
				t.Errorf("round %d: %v", i, err)
			}
			continue
		}
		// Unused pages may hold anything: it must then work.
		if err := s.Put(t.Context(), pings(5000, 5300)); err != nil {
			t.Errorf("round %d: opened, but Put fails: %v", i, err)
		}
		if items, err := s.Next(t.Context(), 10_000); err != nil || len(items) != 3300 {
			t.Errorf("round %d: opened, but Next gives %d items: %v", i, len(items), err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("round %d: %v", i, err)
		}
	}
	if refused == 0 {
		t.Error("no damage was found in any round")
	}
	t.Logf("%d of %d were refused", refused, rounds)
}

// TestAFileThatGoesBadWhileOpen cuts the file under the memory map: reading
// beyond its end is a fault, which would end the process.
func TestAFileThatGoesBadWhileOpen(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "spool.db")
	s := mustOpen(t, path)
	mustPut(t, s, pings(0, 3000)...)
	if err := os.Truncate(path, int64(4*os.Getpagesize())); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Next(t.Context(), 3000); !errors.Is(err, ErrDamaged) {
		t.Errorf("Next: %v, want ErrDamaged", err)
	}
	if err := s.Put(t.Context(), pings(0, 1)); !errors.Is(err, ErrDamaged) {
		t.Errorf("Put: %v, want ErrDamaged", err)
	}
}

func TestOpenSaysWhatIsWrongWithThePath(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	_, err := Open(filepath.Join(dir, "no", "spool.db"), Options{})
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), filepath.Join(dir, "no", "spool.db")) {
		t.Errorf("no such directory: %v", err)
	}
	if _, err := Open(dir, Options{}); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a directory: %v", err)
	}
	newer := filepath.Join(dir, "newer.db")
	s := mustOpen(t, newer)
	err = s.db.Update(func(tx *bolt.Tx) error { return tx.Bucket(metaBucket).Put(formatKey, []byte("2")) })
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(newer, Options{}); err == nil || !strings.Contains(err.Error(), `format is "2"`) {
		t.Errorf("a newer format: %v", err)
	}
}

// TestARemovedFileTakesNoPings: what would be put into a file that has no name
// any more would be gone with the process. What waits in it can be drained.
func TestARemovedFileTakesNoPings(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "spool.db")
	s := mustOpen(t, path)
	mustPut(t, s, pings(0, 3)...)
	refused := func() {
		t.Helper()
		if err := s.Put(t.Context(), pings(3, 4)); err == nil || !strings.Contains(err.Error(), "removed or exchanged") {
			t.Errorf("a ping for a file that is not there: %v", err)
		}
	}
	away := path + ".away"
	if err := os.Rename(path, away); err != nil {
		t.Fatal(err)
	}
	refused()
	if err := os.WriteFile(path, whole(t, 1), 0o600); err != nil {
		t.Fatal(err)
	}
	refused()
	mustDone(t, s, mustNext(t, s, 2))
	if err := os.Rename(away, path); err != nil {
		t.Fatal(err)
	}
	mustPut(t, s, pings(3, 4)...)
	if n := s.Len(); n != 2 {
		t.Errorf("%d pings wait, want 2", n)
	}
}
