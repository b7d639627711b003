package org

import "time"

// DigestHour is when digests and monthly summaries are sent, by the clock of
// the organisation: when the day's work begins, and late enough on the first of
// a month that the last pings of the old one are in.
const DigestHour = 8

// PerHour is how many mails an hour the organisation takes at most.
func (e Email) PerHour() int {
	if e.MaxPerHour <= 0 {
		return 20
	}
	return e.MaxPerHour
}

// Digest reports whether news of the e-mail channel is gathered.
func (e Email) Digest() bool { return e.Mode == Daily || e.Mode == Weekly }

// Zone is the organisation's time zone; UTC where it has none or an unknown one.
func (o *Organisation) Zone() *time.Location {
	if loc, err := time.LoadLocation(o.Timezone); err == nil && o.Timezone != "Local" {
		return loc
	}
	return time.UTC
}

// NextDigest returns the first moment after t at which a digest is sent: every
// day, or every Monday, at DigestHour in the organisation's zone. The zero time
// says that its mail is sent one by one.
func (o *Organisation) NextDigest(t time.Time) time.Time {
	if !o.Email.Digest() {
		return time.Time{}
	}
	local := t.In(o.Zone())
	year, month, day := local.Date()
	for ; ; day++ {
		// By the calendar, not by adding 24 hours: days of 23 and 25 hours exist.
		at := time.Date(year, month, day, DigestHour, 0, 0, 0, local.Location())
		if at.After(t) && (o.Email.Mode == Daily || at.Weekday() == time.Monday) {
			return at
		}
	}
}

// SummaryDue returns when the summary of a month is sent: on the
// first of the next one at DigestHour in the organisation's zone.
func (o *Organisation) SummaryDue(year int, month time.Month) time.Time {
	return time.Date(year, month+1, 1, DigestHour, 0, 0, 0, o.Zone())
}
