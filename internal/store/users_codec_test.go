package store

import (
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
)

// testTable numbers the names from one.
func testTable(names ...string) *numberTable {
	t := &numberTable{number: map[string]uint32{}, names: names}
	for i, n := range names {
		t.number[n] = uint32(i + 1)
	}
	return t
}

// manyNames are enough for numbers of two bytes.
func manyNames(prefix string, n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = prefix + string(rune('a'+i%26)) + "-" + hex.EncodeToString([]byte{byte(i)})
	}
	return out
}

var (
	testOrgs  = testTable(manyNames("uni-", 200)...)
	testCreds = testTable(manyNames("cred-", 40)...)
)

func genSeconds() *rapid.Generator[time.Time] {
	return rapid.Custom(func(t *rapid.T) time.Time {
		s := rapid.Uint32().Draw(t, "seconds")
		if s == 0 {
			return time.Time{}
		}
		return time.Unix(int64(s), 0).UTC()
	})
}

func genID() *rapid.Generator[orcid.ID] {
	return rapid.Custom(func(t *rapid.T) orcid.ID {
		id, err := orcid.FromBase(rapid.Uint64Range(0, 999_999_999_999_999).Draw(t, "base"))
		if err != nil {
			t.Fatal(err)
		}
		return id
	})
}

func genUser() *rapid.Generator[event.User] {
	return rapid.Custom(func(t *rapid.T) event.User {
		u := event.User{ORCID: genID().Draw(t, "id"), LastPing: genSeconds().Draw(t, "ping")}
		text := rapid.StringN(0, 100, maxPersonal)
		for _, o := range rapid.SliceOfNDistinct(rapid.SampledFrom(testOrgs.names), 0, 40, rapid.ID[string]).Draw(t, "orgs") {
			u.Affiliations = append(u.Affiliations, event.Affiliation{
				Org: o, Email: text.Draw(t, "email"), EPPN: text.Draw(t, "eppn"), Name: text.Draw(t, "name"),
				AffiliatedAt: genSeconds().Draw(t, "at"), Announce: rapid.Bool().Draw(t, "announce"),
				Muted: rapid.IntRange(0, 9).Draw(t, "muted") == 9,
			})
		}
		type row struct {
			cred  string
			epoch int
		}
		rows := rapid.SliceOfNDistinct(rapid.Custom(func(t *rapid.T) row {
			return row{rapid.SampledFrom(testCreds.names).Draw(t, "cred"), rapid.IntRange(0, 1<<31-1).Draw(t, "epoch")}
		}), 0, 5, rapid.ID[row])
		if len(u.Affiliations) == 0 {
			rows = rapid.SliceOfNDistinct(rapid.Just(row{testCreds.names[0], 1}), 1, 1, rapid.ID[row])
		}
		for _, r := range rows.Draw(t, "rows") {
			reg := event.Registration{
				Credential: r.cred, Epoch: r.epoch, State: event.RegState(rapid.IntRange(0, int(event.RegRefused)).Draw(t, "state")),
				Base: rapid.IntRange(0, 1<<31-1).Draw(t, "base"), Changed: genSeconds().Draw(t, "changed"),
			}
			if rapid.Bool().Draw(t, "troubled") {
				reg.Tries, reg.Status = rapid.IntRange(0, 1000).Draw(t, "tries"), rapid.IntRange(0, 599).Draw(t, "status")
				reg.RetryAt = genSeconds().Draw(t, "retry")
			}
			u.Registrations = append(u.Registrations, reg)
		}
		return u
	})
}

var sameID = cmp.Comparer(func(a, b orcid.ID) bool { return a == b })

func TestUserRecordsComeBackAsTheyWere(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		u := genUser().Draw(t, "user")
		b, err := encodeUser(&u, testOrgs, testCreds)
		if err != nil {
			t.Fatal(err)
		}
		raw := string(append(appendPing(nil, u.LastPing), b...))
		got, err := decodeUser(u.ORCID, raw, testOrgs, testCreds)
		if err != nil {
			t.Fatalf("%x: %v", raw, err)
		}
		u.Version = string(b)
		if diff := cmp.Diff(u, *got, sameID); diff != "" {
			t.Fatal(diff)
		}
		// Cut anywhere, it is refused, unless the cut falls between two
		// registrations: then the rest is a record too.
		cut := rapid.IntRange(0, len(raw)-1).Draw(t, "cut")
		if got, err := decodeUser(u.ORCID, raw[:cut], testOrgs, testCreds); err == nil {
			if len(got.Registrations) >= len(u.Registrations) || len(got.Affiliations) != len(u.Affiliations) {
				t.Fatalf("cut at %d of %d: %+v", cut, len(raw), got)
			}
		} else if !errors.Is(err, ErrDamaged) {
			t.Fatalf("cut at %d: %v", cut, err)
		}
	})
}

func TestAnIdleUserIsSmall(t *testing.T) {
	t.Parallel()
	at := time.Unix(1_795_000_000, 0)
	u := event.User{
		Affiliations:  []event.Affiliation{{Org: testOrgs.names[20], AffiliatedAt: at}},
		Registrations: []event.Registration{{Credential: testCreds.names[0], State: event.RegAlive, Epoch: 1, Base: 1, Changed: at}},
	}
	b, err := encodeUser(&u, testOrgs, testCreds)
	if err != nil {
		t.Fatal(err)
	}
	if n := pingBytes + len(b); n > 17 {
		t.Errorf("the record has %d bytes, the memory goal of DESIGN §5 needs 17", n)
	}
}

func TestRecordsThatCannotBeStoredAreRefused(t *testing.T) {
	t.Parallel()
	at := time.Unix(1_795_000_000, 0)
	o, c := testOrgs.names[0], testCreds.names[0]
	aff := func(a event.Affiliation) event.User { return event.User{Affiliations: []event.Affiliation{a}} }
	reg := func(r ...event.Registration) event.User { return event.User{Registrations: r} }
	for name, tc := range map[string]struct {
		user event.User
		want string
	}{
		"unknown organisation": {aff(event.Affiliation{Org: "nobody", AffiliatedAt: at}), `"nobody" has no number`},
		"before 1970":          {aff(event.Affiliation{Org: o, AffiliatedAt: time.Unix(-1, 0)}), "cannot be stored"},
		"after 2106":           {aff(event.Affiliation{Org: o, AffiliatedAt: time.Unix(1<<32, 0)}), "cannot be stored"},
		"long name":            {aff(event.Affiliation{Org: o, Name: strings.Repeat("x", maxPersonal+1)}), "name has 513 bytes"},
		"twice":                {event.User{Affiliations: []event.Affiliation{{Org: o}, {Org: o}}}, "affiliated twice"},
		"unknown credential":   {reg(event.Registration{Credential: "nobody"}), `"nobody" has no number`},
		"unknown state":        {reg(event.Registration{Credential: c, State: event.RegRefused + 1}), "cannot be stored"},
		"negative epoch":       {reg(event.Registration{Credential: c, Epoch: -1}), "cannot be stored"},
		"the same row twice":   {reg(event.Registration{Credential: c}, event.Registration{Credential: c, Base: 1}), "stands twice"},
	} {
		if _, err := encodeUser(&tc.user, testOrgs, testCreds); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
}

func TestDamagedRecordsAreRefused(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		hex  string // after the ping
		want error
	}{
		"nothing":                   {"", ErrDamaged},
		"another form":              {"61" + "04" + "6a000000", ErrDamaged},
		"nobody":                    {"20", ErrDamaged},
		"no affiliation follows":    {"21", ErrDamaged},
		"organisation zero":         {"21" + "00" + "6a000000", errNoName},
		"organisation out of table": {"21" + "a41f" + "6a000000", errNoName},
		"time cut off":              {"21" + "04" + "6a0000", ErrDamaged},
		"no personal data":          {"21" + "05" + "6a000000" + "000000", ErrDamaged},
		"personal data cut off":     {"21" + "05" + "6a000000" + "05616263", ErrDamaged},
		"personal data too long":    {"21" + "05" + "6a000000" + "ff7f", ErrDamaged},
		"padded number":             {"21" + "8400" + "6a000000", ErrDamaged},
		"endless number":            {"21" + strings.Repeat("ff", 12), ErrDamaged},
		"a million affiliations":    {"3f" + "c0843d" + "04" + "6a000000", ErrDamaged},
		"credential out of table":   {"20" + "f07f" + "0101" + "6a000000", errNoName},
		"unknown state":             {"20" + "17" + "0101" + "6a000000", ErrDamaged},
		"trouble cut off":           {"20" + "1a" + "0101" + "6a000000" + "01", ErrDamaged},
	} {
		raw, err := hex.DecodeString("00000000" + tc.hex)
		if err != nil {
			t.Fatal(err)
		}
		if u, err := decodeUser(orcid.ID{}, string(raw), testOrgs, testCreds); !errors.Is(err, tc.want) {
			t.Errorf("%s: %+v, %v, want %v", name, u, err, tc.want)
		}
	}
}

func FuzzDecodeUser(f *testing.F) {
	f.Add([]byte("\x6a\x00\x00\x00\x21\x04\x6a\x00\x00\x00\x12\x01\x01\x6a\x00\x00\x00"))
	f.Add([]byte("\x00\x00\x00\x00\x21\x05\x6a\x00\x00\x00\x01a\x01b\x01c\x1a\x01\x01\x6a\x00\x00\x00\x01\x03\x6a\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		u, err := decodeUser(orcid.ID{}, string(raw), testOrgs, testCreds)
		if err != nil {
			if u != nil || !errors.Is(err, ErrDamaged) && !errors.Is(err, errNoName) {
				t.Fatalf("%+v with %v", u, err)
			}
			return
		}
		// Whatever is accepted can be written again, unless it says something
		// twice; then it reads the same.
		b, err := encodeUser(u, testOrgs, testCreds)
		if err != nil {
			if !strings.Contains(err.Error(), "twice") && !strings.Contains(err.Error(), "at most") {
				t.Fatal(err)
			}
			return
		}
		again, err := decodeUser(orcid.ID{}, string(raw[:pingBytes])+string(b), testOrgs, testCreds)
		if err != nil {
			t.Fatal(err)
		}
		u.Version, again.Version = "", ""
		if diff := cmp.Diff(u, again, sameID); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestMixIsAPermutationThatSpreads(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		id := genID().Draw(t, "id")
		if unmix(mix(id.Base())) != id.Base() || mix(id.Base()) > mixMask {
			t.Fatal("mix is not undone")
		}
		if got, err := userOfMixedField(userPartition(id), mixedField(id)); err != nil || got != id {
			t.Fatalf("field: %v, %v", got, err)
		}
	})
	for name, step := range map[string]uint64{"in sequence": 1, "even": 2, "hundreds": 100, "blocks": 4096, "far apart": 1 << 32} {
		const n = 64_000
		var parts [Partitions]int
		var buckets [Partitions][16]int
		for i := range uint64(n) {
			id := testID(t, (1_500_000_000+i*step)%1_000_000_000_000_000)
			p := userPartition(id)
			parts[p]++
			buckets[p][mixedField(id)[mixedFieldBytes-1]&15]++
		}
		if least, most := slices.Min(parts[:]), slices.Max(parts[:]); least < 850 || most > 1150 {
			t.Errorf("%s: partitions have %d to %d users, 1000 on average", name, least, most)
		}
		for _, b := range buckets {
			if most := slices.Max(b[:]); most > 2*n/Partitions/16 {
				t.Errorf("%s: a bucket has %d users, %d on average", name, most, n/Partitions/16)
			}
		}
	}
	for _, field := range []string{"", "12345", "1234567", "\x10aaaaa"} {
		if _, err := userOfMixedField(0, field); err == nil {
			t.Errorf("field %q was accepted", field)
		}
	}
}
