package fanout

import (
	"testing"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/org"
	"dispatchd/internal/store"
)

type fixedDirectory map[string]*org.Organisation

func (d fixedDirectory) Organisation(id string) (*org.Organisation, bool) {
	o, ok := d[id]
	return o, ok
}

// TestMailIsDueByTheRulesOfItsOrganisation: single mails after the quiet period,
// gathered ones at the next digest; months are those of the organisation's zone.
func TestMailIsDueByTheRulesOfItsOrganisation(t *testing.T) {
	t.Parallel()
	dir := fixedDirectory{
		"each":  {ID: "each", Email: org.Email{Enabled: true, Mode: org.Each}},
		"daily": {ID: "daily", Timezone: "Pacific/Auckland", Email: org.Email{Enabled: true, Mode: org.Daily, Monthly: true}},
	}
	id, err := orcid.FromBase(1)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC) // 1 December, 01:00 in Auckland
	target := func(o string, ch event.Channel, typ event.Type) store.Target {
		return store.Target{Org: o, Channel: ch, ORCID: id, Type: typ, At: now.Add(-time.Minute), Entry: "1-0"}
	}
	list := []store.Target{
		target("each", event.Email, event.Updated), target("daily", event.Email, event.Updated), target("daily", event.Webhook, event.Updated),
		target("daily", event.Email, event.Created), target("gone", event.Email, event.Updated),
	}
	months := mail(dir, list, now)
	digest := time.Date(2026, 11, 30, 19, 0, 0, 0, time.UTC)
	for i, want := range []time.Time{{}, digest, {}, digest, {}} {
		if !list[i].Due.Equal(want) {
			t.Errorf("target %d is due %s, want %s", i, list[i].Due, want)
		}
	}
	if len(months) != 1 || months[0].Month != "2026-12" || months[0].Org != "daily" || !months[0].At.Equal(list[1].At) {
		t.Errorf("%+v", months)
	}
}
