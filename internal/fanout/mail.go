package fanout

import (
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/org"
	"dispatchd/internal/store"
)

// mail sets when news by e-mail is due where it is gathered, and returns who
// changed for the monthly summaries. It asks once per organisation: zones are
// read from disk.
func mail(dir Directory, targets []store.Target, now time.Time) []store.Changed {
	type rule struct {
		o    *org.Organisation
		due  time.Time
		zone *time.Location
	}
	var rules map[string]*rule
	var months []store.Changed
	for i := range targets {
		t := &targets[i]
		if t.Channel != event.Email {
			continue
		}
		r := rules[t.Org]
		if r == nil {
			o, ok := dir.Organisation(t.Org)
			if !ok {
				continue
			}
			if rules == nil {
				rules = map[string]*rule{}
			}
			r = &rule{o: o, due: o.NextDigest(now), zone: o.Zone()}
			rules[t.Org] = r
		}
		t.Due = r.due
		if r.o.Email.Monthly && t.Type == event.Updated {
			months = append(months, store.Changed{Org: t.Org, Month: store.MonthOf(t.At.In(r.zone)), ORCID: t.ORCID, At: t.At})
		}
	}
	return months
}
