package main

import (
	"fmt"
	"strings"

	"dispatchd/internal/orcid"
)

// Researchers are numbers from 0; their iDs are spread over ORCID's range as
// real ones are.
const (
	firstBase  = 15_000_000 // of ORCID's range 0000-0001-5000-0007 to 0000-0003-5000-0001
	baseStride = 13
	maxPeople  = 20_000_000 / baseStride
)

// person returns the iD of researcher n.
func person(n int) orcid.ID {
	if n < 0 || n >= maxPeople {
		panic(fmt.Sprintf("there is no researcher %d", n))
	}
	id, err := orcid.FromBase(firstBase + uint64(n)*baseStride)
	if err != nil {
		panic(err) // every number of the range is an iD
	}
	return id
}

// personOf undoes person; false for an iD that is none of ours.
func personOf(id orcid.ID) (int, bool) {
	base := id.Base()
	if base < firstBase || (base-firstBase)%baseStride != 0 || (base-firstBase)/baseStride >= maxPeople {
		return 0, false
	}
	return int((base - firstBase) / baseStride), true
}

// population is who is affiliated with whom: 1.5 organisations a researcher,
// when there is more than one.
type population struct {
	Users, Orgs int
	// Personal gives every affiliation an e-mail address and a name, which is
	// what makes a body of about 250 bytes.
	Personal bool
}

// orgsOf returns the organisations of a researcher, first and second; second is
// -1 for those (the odd ones) who have one only.
func (p population) orgsOf(n int) (first, second int) {
	first = n % p.Orgs
	if n%2 == 1 || p.Orgs < 2 {
		return first, -1
	}
	// Another one, and not the same pair all the time.
	return first, (first + 1 + (n/p.Orgs*7)%(p.Orgs-1)) % p.Orgs
}

// targets returns how many organisations hear of the researchers from ≤ n < to.
func (p population) targets(from, to int) int {
	sum := to - from
	if p.Orgs > 1 {
		sum += (to+1)/2 - (from+1)/2 // the even ones
	}
	return sum
}

// orgName is the id of organisation o.
func orgName(o int) string { return fmt.Sprintf("org-%04d", o) }

// csv returns the import of one organisation.
func (p population) csv(o int) string {
	var b strings.Builder
	b.WriteString("orcid")
	if p.Personal {
		b.WriteString(",email,name")
	}
	b.WriteByte('\n')
	line := func(n int) {
		b.WriteString(person(n).String())
		if p.Personal {
			fmt.Fprintf(&b, ",given.family%d@org%d.example,Given Middle Family", n%1000, o)
		}
		b.WriteByte('\n')
	}
	for n := o; n < p.Users; n += p.Orgs {
		line(n)
	}
	if p.Orgs > 1 {
		// Those who have o as their second, block by block of the formula.
		for block := 0; block*p.Orgs < p.Users; block++ {
			step := 1 + (block*7)%(p.Orgs-1)
			n := block*p.Orgs + ((o-step)%p.Orgs+p.Orgs)%p.Orgs
			if n < p.Users && n%2 == 0 {
				line(n)
			}
		}
	}
	return b.String()
}
