package main

import (
	"strings"
	"testing"

	"dispatchd/internal/orcid"
)

func TestPersonIsAnID(t *testing.T) {
	t.Parallel()
	seen := map[orcid.ID]bool{}
	for _, n := range []int{0, 1, 2, 999, 1_000_000, maxPeople - 1} {
		id := person(n)
		if _, err := orcid.ParseStrict(id.String()); err != nil || seen[id] {
			t.Errorf("researcher %d is %s: %v", n, id, err)
		}
		seen[id] = true
		if back, ok := personOf(id); !ok || back != n {
			t.Errorf("researcher %d comes back as %d, %v", n, back, ok)
		}
	}
	stranger, err := orcid.ParseStrict("0000-0002-1825-0097")
	if err != nil {
		t.Fatal(err)
	}
	if n, ok := personOf(stranger); ok {
		t.Errorf("a stranger is researcher %d", n)
	}
}

// TestPopulation: the lists that are imported say what orgsOf and targets do.
func TestPopulation(t *testing.T) {
	t.Parallel()
	for _, p := range []population{{Users: 1000, Orgs: 10}, {Users: 997, Orgs: 7}, {Users: 50, Orgs: 100}, {Users: 20, Orgs: 1}, {Users: 33, Orgs: 2, Personal: true}} {
		members := map[string]int{}
		total := 0
		for o := range p.Orgs {
			lines := strings.Split(strings.TrimSpace(p.csv(o)), "\n")[1:]
			total += len(lines)
			for _, l := range lines {
				id, _, _ := strings.Cut(l, ",")
				members[orgName(o)+" "+id]++
			}
		}
		if total != len(members) {
			t.Errorf("%+v: somebody is listed twice", p)
		}
		if got := p.targets(0, p.Users); got != total {
			t.Errorf("%+v: targets %d, lists %d", p, got, total)
		}
		if got := p.targets(0, 5) + p.targets(5, 12) + p.targets(12, p.Users); got != total {
			t.Errorf("%+v: parts of targets add up to %d", p, got)
		}
		for n := range p.Users {
			first, second := p.orgsOf(n)
			id := person(n).String()
			if members[orgName(first)+" "+id] != 1 || second >= 0 && (second == first || members[orgName(second)+" "+id] != 1) {
				t.Fatalf("%+v: researcher %d is not in %d and %d", p, n, first, second)
			}
		}
	}
	if got := float64((population{Users: 100_000, Orgs: 100}).targets(0, 100_000)); got != 150_000 {
		t.Errorf("%v organisations for 100,000 researchers", got)
	}
}
