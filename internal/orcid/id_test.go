package orcid

import (
	"errors"
	"testing"

	"pgregory.net/rapid"
)

func TestParseAcceptsWhatPeopleWrite(t *testing.T) {
	t.Parallel()
	const want = "0000-0002-1694-233X"
	for _, in := range []string{
		want, "0000-0002-1694-233x", "000000021694233X", " 0000-0002-1694-233X\n",
		"https://orcid.org/0000-0002-1694-233X", "http://www.orcid.org/0000-0002-1694-233X/",
		"https://sandbox.orcid.org/0000-0002-1694-233X?lang=en", "orcid.org/0000-0002-1694-233X",
		"orcid:0000-0002-1694-233X", "0000‐0002–1694−233X", "https://orcid.org/0000-0002-1694-233X/record",
	} {
		id, err := Parse(in)
		if err != nil || id.String() != want {
			t.Errorf("Parse(%q) = %v, %v; want %s", in, id, err, want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for _, in := range []string{
		"", "0000-0002-1825-0098", "0000-0002-1825-009", "X000-0002-1825-0097", "0000-0002-1825-00977",
		"https://evil.example/0000-0002-1825-0097", "0000-0000-0000-00X3", "０000-0002-1825-0097",
	} {
		if id, err := Parse(in); !errors.Is(err, ErrBadID) {
			t.Errorf("Parse(%q) = %v, %v; want ErrBadID", in, id, err)
		}
	}
}

func TestParseStrictTakesOnlyTheCanonicalForm(t *testing.T) {
	t.Parallel()
	for _, good := range []string{"0000-0002-1825-0097", "0000-0001-5109-3700", "0000-0002-1694-233X"} {
		if id, err := ParseStrict(good); err != nil || id.String() != good {
			t.Errorf("ParseStrict(%q) = %v, %v", good, id, err)
		}
	}
	for _, bad := range []string{"0000-0002-1694-233x", "0000000218250097", "0000-0002-1825-0098", "0000-0002-18250-097", ""} {
		if _, err := ParseStrict(bad); err == nil {
			t.Errorf("ParseStrict(%q) was accepted", bad)
		}
	}
}

func TestEveryBaseRoundTrips(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		id, err := FromBase(rapid.Uint64Range(0, maxBase).Draw(t, "base"))
		if err != nil {
			t.Fatal(err)
		}
		strict, err := ParseStrict(id.String())
		if err != nil || strict != id {
			t.Fatalf("ParseStrict(%s) = %v, %v", id, strict, err)
		}
		// ORCID.md §4: r=0; for all 16: r=(2r+v)%11; right when 1.
		r := 0
		for _, c := range id.String() {
			switch c {
			case '-':
			case 'X':
				r = (2*r + 10) % 11
			default:
				r = (2*r + int(c-'0')) % 11
			}
		}
		if r != 1 {
			t.Fatalf("%s fails the verifying form of MOD 11-2: %d", id, r)
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"0000-0002-1825-0097", "https://orcid.org/0000-0002-1694-233X", "orcid:", "x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := Parse(s)
		if err != nil {
			return
		}
		if again, err := ParseStrict(id.String()); err != nil || again != id {
			t.Fatalf("Parse(%q) = %s, which does not parse again: %v", s, id, err)
		}
	})
}
