package org

import (
	"testing"
	"time"
)

func TestNextDigest(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		zone string
		mode Mode
		at   string
		want string
	}{
		{"before eight", "", Daily, "2026-11-23T07:59:59Z", "2026-11-23T08:00:00Z"},
		{"at eight", "", Daily, "2026-11-23T08:00:00Z", "2026-11-24T08:00:00Z"},
		{"after eight", "", Daily, "2026-11-23T08:00:01Z", "2026-11-24T08:00:00Z"},
		{"end of the month", "", Daily, "2026-11-30T12:00:00Z", "2026-12-01T08:00:00Z"},
		{"end of the year", "", Daily, "2026-12-31T23:59:59Z", "2027-01-01T08:00:00Z"},
		{"leap day", "", Daily, "2028-02-28T09:00:00Z", "2028-02-29T08:00:00Z"},
		{"Auckland in summer", "Pacific/Auckland", Daily, "2026-11-23T02:05:32Z", "2026-11-24T08:00:00+13:00"},
		{"Auckland: summer time ends that night", "Pacific/Auckland", Daily, "2027-04-03T12:00:00+13:00", "2027-04-04T08:00:00+12:00"},
		{"Auckland: summer time begins that night", "Pacific/Auckland", Daily, "2026-09-26T12:00:00+12:00", "2026-09-27T08:00:00+13:00"},
		{"Berlin: the hour that is there twice", "Europe/Berlin", Daily, "2026-10-25T01:30:00Z", "2026-10-25T08:00:00+01:00"},
		{"Monday before eight", "", Weekly, "2026-11-23T07:00:00Z", "2026-11-23T08:00:00Z"},
		{"Monday after eight", "", Weekly, "2026-11-23T09:00:00Z", "2026-11-30T08:00:00Z"},
		{"Sunday", "", Weekly, "2026-11-29T23:00:00Z", "2026-11-30T08:00:00Z"},
		{"Sunday in UTC, Monday in Auckland", "Pacific/Auckland", Weekly, "2026-11-22T18:30:00Z", "2026-11-23T08:00:00+13:00"},
		{"week with the change of the clock", "Europe/Berlin", Weekly, "2026-10-19T09:00:00+02:00", "2026-10-26T08:00:00+01:00"},
		{"unknown zone", "Nowhere/None", Daily, "2026-11-23T07:00:00Z", "2026-11-23T08:00:00Z"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			at, err := time.Parse(time.RFC3339, c.at)
			if err != nil {
				t.Fatal(err)
			}
			want, err := time.Parse(time.RFC3339, c.want)
			if err != nil {
				t.Fatal(err)
			}
			o := &Organisation{Timezone: c.zone, Email: Email{Mode: c.mode}}
			if got := o.NextDigest(at); !got.Equal(want) {
				t.Errorf("%s, want %s", got, want)
			}
		})
	}
	for _, mode := range []Mode{"", Each} {
		if at := (&Organisation{Email: Email{Mode: mode}}).NextDigest(time.Now()); !at.IsZero() {
			t.Errorf("mode %q has a digest at %s", mode, at)
		}
	}
}

func TestSummaryDue(t *testing.T) {
	t.Parallel()
	o := &Organisation{Timezone: "Pacific/Auckland"}
	if got := o.SummaryDue(2026, time.December); got.Format(time.RFC3339) != "2027-01-01T08:00:00+13:00" {
		t.Errorf("%s", got)
	}
	if got := o.SummaryDue(2026, time.August); got.Format(time.RFC3339) != "2026-09-01T08:00:00+12:00" {
		t.Errorf("%s", got)
	}
}
