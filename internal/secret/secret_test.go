package secret

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
)

func TestTextNeverPrintsItself(t *testing.T) {
	t.Parallel()
	s := struct{ K Text }{"hunter2"}
	js, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "k", s.K, "s", s)
	all := fmt.Sprintf("%v %+v %#v %s %q", s, s, s, s.K, s.K) + string(js) + log.String()
	if strings.Contains(all, "hunter2") || !strings.Contains(all, redacted) {
		t.Fatalf("the secret shows: %s", all)
	}
}

func TestBoxOpensOnlyWhatItSealedForThatUse(t *testing.T) {
	t.Parallel()
	box, err := NewBox([]byte(strings.Repeat("k", 32)))
	if err != nil {
		t.Fatal(err)
	}
	sealed := box.Seal("org/a/apikey", "hunter2")
	if strings.Contains(sealed, "hunter2") {
		t.Fatal("sealed text shows the secret")
	}
	if got, err := box.Open("org/a/apikey", sealed); err != nil || got != "hunter2" {
		t.Fatalf("Open = %q, %v", got.Reveal(), err)
	}
	other, err := NewBox([]byte(strings.Repeat("o", 32)))
	if err != nil {
		t.Fatal(err)
	}
	for name, open := range map[string]func() (Text, error){
		"another use":  func() (Text, error) { return box.Open("org/b/apikey", sealed) },
		"another key":  func() (Text, error) { return other.Open("org/a/apikey", sealed) },
		"changed":      func() (Text, error) { return box.Open("org/a/apikey", sealed[:len(sealed)-2]+"AA") },
		"not sealed":   func() (Text, error) { return box.Open("org/a/apikey", "hunter2") },
		"not base64":   func() (Text, error) { return box.Open("org/a/apikey", "s1:***") },
		"only a frame": func() (Text, error) { return box.Open("org/a/apikey", "s1:") },
	} {
		if _, err := open(); !errors.Is(err, ErrSealed) {
			t.Errorf("%s: %v, want ErrSealed", name, err)
		}
	}
	if _, err := NewBox([]byte("short")); err == nil {
		t.Error("a short master key was accepted")
	}
}

func TestHashKnowsTextUseAndKey(t *testing.T) {
	t.Parallel()
	box, other := newBox(t, "m"), newBox(t, "n")
	want := box.Hash("users", "0000-0002-1825-0097")
	if len(want) != 16 {
		t.Fatalf("%d bytes, want 16", len(want))
	}
	for name, got := range map[string][]byte{
		"another use":     box.Hash("tokens", "0000-0002-1825-0097"),
		"another text":    box.Hash("users", "0000-0001-5109-3700"),
		"another key":     other.Hash("users", "0000-0002-1825-0097"),
		"the cut shifted": box.Hash("user", "s0000-0002-1825-0097"),
	} {
		if bytes.Equal(got, want) {
			t.Errorf("%s gives the same hash", name)
		}
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				if got := box.Hash("users", "0000-0002-1825-0097"); !bytes.Equal(got, want) {
					t.Errorf("%x after other hashes, want %x", got, want)
				}
			}
		})
	}
	wg.Wait()
}

func newBox(t *testing.T, letter string) *Box {
	t.Helper()
	box, err := NewBox(bytes.Repeat([]byte(letter), 32))
	if err != nil {
		t.Fatal(err)
	}
	return box
}
