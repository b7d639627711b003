package callback

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"dispatchd/internal/orcid"
	"dispatchd/internal/secret"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	keyA = secret.Text("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")
	keyB = secret.Text("bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb")
)

func mustKeys(tb testing.TB, keys ...secret.Text) *Keys {
	tb.Helper()
	k, err := NewKeys(keys)
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

func mustID(tb testing.TB, s string) orcid.ID {
	tb.Helper()
	id, err := orcid.ParseStrict(s)
	if err != nil {
		tb.Fatal(err)
	}
	return id
}

func mustPath(tb testing.TB, k *Keys, client string, epoch int, keyID string) string {
	tb.Helper()
	const host = "https://hub.example.edu"
	u, err := k.URL(host, client, mustID(tb, "0000-0002-1825-0097"), epoch, keyID)
	if err != nil {
		tb.Fatal(err)
	}
	return strings.TrimPrefix(u, host)
}

// TestURLIsWhatTheDesignSays computes the token by hand: rows at ORCID live for
// years, so the form must never change.
func TestURLIsWhatTheDesignSays(t *testing.T) {
	t.Parallel()
	k := mustKeys(t, keyA)
	h := hmac.New(sha256.New, []byte(keyA.Reveal()))
	fmt.Fprint(h, "v1|APP-1234567890ABCDEF|0000-0002-1825-0097|3")
	token := base64.RawURLEncoding.EncodeToString(h.Sum(nil)[:16])
	for public, want := range map[string]string{
		"https://hub.example.edu":         "https://hub.example.edu/hooks/APP-1234567890ABCDEF/0000-0002-1825-0097/3/" + token,
		"https://hub.example.edu/":        "https://hub.example.edu/hooks/APP-1234567890ABCDEF/0000-0002-1825-0097/3/" + token,
		"http://10.0.0.1:8080/orcid/in":   "http://10.0.0.1:8080/orcid/in/hooks/APP-1234567890ABCDEF/0000-0002-1825-0097/3/" + token,
		"http://10.0.0.1:8080/orcid/in//": "http://10.0.0.1:8080/orcid/in/hooks/APP-1234567890ABCDEF/0000-0002-1825-0097/3/" + token,
	} {
		got, err := k.URL(public, "APP-1234567890ABCDEF", mustID(t, "0000-0002-1825-0097"), 3, "")
		if err != nil || got != want {
			t.Errorf("URL(%s) = %s, %v; want %s", public, got, err, want)
		}
	}
}

func TestRotation(t *testing.T) {
	t.Parallel()
	old, both, other := mustKeys(t, keyA), mustKeys(t, keyB, keyA), mustKeys(t, keyB)
	path := mustPath(t, old, "APP-1", 0, "")
	if _, ok := both.Verify([]byte(path)); !ok {
		t.Error("a URL of the old key is refused while both keys are there")
	}
	if _, ok := other.Verify([]byte(path)); ok {
		t.Error("a URL of a key that was removed still verifies")
	}
	if both.SigningID() != other.SigningID() || both.SigningID() == old.SigningID() {
		t.Error("the first key does not sign")
	}
	if got := mustPath(t, both, "APP-1", 0, old.SigningID()); got != path {
		t.Errorf("the old URL cannot be rebuilt: %s, want %s", got, path)
	}
	if _, err := other.URL("https://a.example", "APP-1", mustID(t, "0000-0002-1825-0097"), 0, old.SigningID()); err == nil {
		t.Error("a URL of an unknown key was made")
	}
	if !both.Has(old.SigningID()) || other.Has(old.SigningID()) || both.Has("") {
		t.Error("Has is wrong")
	}
	if len(both.SigningID()) != 8 || strings.Trim(both.SigningID(), "0123456789abcdef") != "" {
		t.Errorf("SigningID = %q, want 8 hex digits", both.SigningID())
	}
}

func TestNewKeysRefuses(t *testing.T) {
	t.Parallel()
	for name, keys := range map[string][]secret.Text{
		"none": nil, "empty": {""}, "short": {"fifteen bytes.."}, "twice": {keyA, keyB, keyA}, "second short": {keyA, "x"},
	} {
		_, err := NewKeys(keys)
		if err == nil {
			t.Errorf("%s: accepted", name)
		} else if strings.Contains(err.Error(), keyA.Reveal()) || strings.Contains(err.Error(), "fifteen") {
			t.Errorf("%s: the error shows a key: %v", name, err)
		}
	}
}

func TestURLRefuses(t *testing.T) {
	t.Parallel()
	k, id := mustKeys(t, keyA), mustID(t, "0000-0002-1825-0097")
	for name, call := range map[string]func() (string, error){
		"no url":         func() (string, error) { return k.URL("", "APP-1", id, 0, "") },
		"no scheme":      func() (string, error) { return k.URL("hub.example.edu", "APP-1", id, 0, "") },
		"ftp":            func() (string, error) { return k.URL("ftp://hub.example.edu", "APP-1", id, 0, "") },
		"user":           func() (string, error) { return k.URL("https://u:p@hub.example.edu", "APP-1", id, 0, "") },
		"query":          func() (string, error) { return k.URL("https://hub.example.edu/?a=b", "APP-1", id, 0, "") },
		"fragment":       func() (string, error) { return k.URL("https://hub.example.edu/#a", "APP-1", id, 0, "") },
		"no client":      func() (string, error) { return k.URL("https://hub.example.edu", "", id, 0, "") },
		"dots":           func() (string, error) { return k.URL("https://hub.example.edu", "..", id, 0, "") },
		"long client":    func() (string, error) { return k.URL("https://hub.example.edu", strings.Repeat("x", 257), id, 0, "") },
		"no iD":          func() (string, error) { return k.URL("https://hub.example.edu", "APP-1", orcid.ID{}, 0, "") },
		"negative epoch": func() (string, error) { return k.URL("https://hub.example.edu", "APP-1", id, -1, "") },
		"huge epoch":     func() (string, error) { return k.URL("https://hub.example.edu", "APP-1", id, 1_000_000_000, "") },
	} {
		if u, err := call(); err == nil {
			t.Errorf("%s: made %s", name, u)
		}
	}
}

// TestOneWrongCharacterIsRefused changes every character of a good path.
func TestOneWrongCharacterIsRefused(t *testing.T) {
	t.Parallel()
	k := mustKeys(t, keyA)
	good := mustPath(t, k, "APP-1", 12, "")
	if got, ok := k.Verify([]byte(good)); !ok || got != (Target{"APP-1", mustID(t, "0000-0002-1825-0097"), 12}) {
		t.Fatalf("Verify(%s) = %v, %v", good, got, ok)
	}
	for i := range good {
		for _, c := range []byte("A0x/%-_.\x00|") {
			if good[i] == c {
				continue
			}
			bad := []byte(good)
			bad[i] = c
			if _, ok := k.Verify(bad); ok {
				t.Errorf("byte %d as %q is accepted: %s", i, c, bad)
			}
		}
		if _, ok := k.Verify([]byte(good[:i])); ok {
			t.Errorf("the first %d bytes are accepted", i)
		}
	}
	for _, bad := range []string{good + "/", good + "A", "/" + good, good + "?x", strings.Replace(good, "/12/", "/012/", 1), strings.Replace(good, "/12/", "/+12/", 1)} {
		if _, ok := k.Verify([]byte(bad)); ok {
			t.Errorf("accepted: %s", bad)
		}
	}
}

func TestShapedKnowsNothingOfTheToken(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]bool{
		"/hooks/APP-1/0000-0002-1825-0097/0/AAAAAAAAAAAAAAAAAAAAAA":       true,
		"/hooks/APP%2D1/0000-0002-1825-0097/0/AAAAAAAAAAAAAAAAAAAAAA":     true,
		"/hooks/APP-1/0000-0002-1825-0098/0/AAAAAAAAAAAAAAAAAAAAAA":       false,
		"/hooks/APP-1/0000-0002-1825-0097/0/AAAAAAAAAAAAAAAAAAAAA":        false,
		"/hooks/APP-1/0000-0002-1825-0097/x/AAAAAAAAAAAAAAAAAAAAAA":       false,
		"/hooks//0000-0002-1825-0097/0/AAAAAAAAAAAAAAAAAAAAAA":            false,
		"/hooks/%zz/0000-0002-1825-0097/0/AAAAAAAAAAAAAAAAAAAAAA":         false,
		"/hooks/%4/0000-0002-1825-0097/0/AAAAAAAAAAAAAAAAAAAAAA":          false,
		"/hooks/APP-1/0000-0002-1825-0097/0/AAAAAAAAAAAAAAAAAAAAAA/extra": false,
		"/": false, "": false, "/hooks/": false,
	} {
		if got := Shaped([]byte(path)); got != want {
			t.Errorf("Shaped(%s) = %v", path, got)
		}
	}
}

func TestEveryURLVerifies(t *testing.T) {
	t.Parallel()
	k := mustKeys(t, keyB, keyA)
	rapid.Check(t, func(t *rapid.T) {
		client := string(rapid.SliceOfN(rapid.Byte(), 1, 60).Draw(t, "client"))
		if client == "." || client == ".." {
			return
		}
		id, err := orcid.FromBase(rapid.Uint64Range(1, 999_999_999_999_999).Draw(t, "base"))
		if err != nil {
			t.Fatal(err)
		}
		epoch := rapid.IntRange(0, maxEpoch).Draw(t, "epoch")
		keyID := rapid.SampledFrom([]string{"", k.keys[0].id, k.keys[1].id}).Draw(t, "key")
		u, err := k.URL("https://hub.example.edu", client, id, epoch, keyID)
		if err != nil {
			t.Fatal(err)
		}
		got, ok := k.Verify([]byte(strings.TrimPrefix(u, "https://hub.example.edu")))
		if want := (Target{client, id, epoch}); !ok || got != want {
			t.Fatalf("Verify(%s) = %v, %v; want %v", u, got, ok, want)
		}
	})
}

// FuzzVerify looks for a path that is accepted but is not one that URL makes.
func FuzzVerify(f *testing.F) {
	k := mustKeys(f, keyA, keyB)
	f.Add([]byte(mustPath(f, k, "APP-1", 0, "")))
	f.Add([]byte(mustPath(f, k, "a b|c/d%", 77, k.keys[1].id)))
	f.Add([]byte("/hooks/%41/0000-0002-1825-0097/0/AAAAAAAAAAAAAAAAAAAAAA"))
	f.Add([]byte("/hooks/////"))
	f.Fuzz(func(t *testing.T, path []byte) {
		before := string(path)
		got, ok := k.Verify(path)
		if string(path) != before {
			t.Fatal("Verify changed the path")
		}
		if !ok {
			return
		}
		if !Shaped(path) {
			t.Fatalf("%s verifies but is not shaped", path)
		}
		for _, keyID := range []string{k.keys[0].id, k.keys[1].id} {
			u, err := k.URL("https://a.example", got.ClientID, got.ORCID, got.Epoch, keyID)
			if err != nil {
				t.Fatal(err)
			}
			if u[len(u)-tokenLen:] == before[len(before)-tokenLen:] {
				return
			}
		}
		t.Fatalf("%s was accepted under no key", path)
	})
}

func TestVerifyAllocatesOnlyTheClientID(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes sync.Pool forgetful")
	}
	k := mustKeys(t, keyA)
	good := []byte(mustPath(t, k, "APP-1234567890ABCDEF", 0, ""))
	bad := append([]byte(nil), good...)
	bad[len(bad)-1] ^= 1
	if n := testing.AllocsPerRun(1000, func() { k.Verify(good) }); n > 1.05 {
		t.Errorf("a good path costs %v allocations, want 1", n)
	}
	if n := testing.AllocsPerRun(1000, func() { k.Verify(bad) }); n > 0.05 {
		t.Errorf("a forged path costs %v allocations, want 0", n)
	}
}

func BenchmarkVerify(b *testing.B) {
	k := mustKeys(b, keyA)
	good := []byte(mustPath(b, k, "APP-1234567890ABCDEF", 0, ""))
	forged := append([]byte(nil), good...)
	forged[len(forged)-1] ^= 1
	for name, path := range map[string][]byte{"good": good, "forged": forged} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				k.Verify(path)
			}
		})
	}
}
