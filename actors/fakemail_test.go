package actors

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
)

// fakeDigest is a digest in fakeSlots: its slots stay where they are.
type fakeDigest struct {
	event.Digest
	flying bool
}

func (f *fakeSlots) OpenDigest(_ context.Context, o string, most int, lease time.Duration) (event.Opened, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.begin("open digest"); err != nil {
		return event.Opened{}, err
	}
	c, now := f.channel(event.ChannelKey{Org: o, Channel: event.Email}), time.Now()
	if c.hold().After(now) {
		return event.Opened{Next: c.next(), More: c.digest != nil}, nil
	}
	if c.digest == nil {
		f.tokens++
		d := event.Digest{Org: o, ID: fmt.Sprint("digest-", f.tokens), MadeAt: now, Attempt: 1}
		for _, u := range slices.SortedFunc(maps.Keys(c.slots), func(a, b orcid.ID) int { return int(a.Base()) - int(b.Base()) }) {
			if !c.slots[u].due.After(now) && len(d.Items) < most {
				d.Items = append(d.Items, event.DigestItem{ORCID: u, Types: []event.Type{event.Updated}, LatestAt: c.slots[u].due})
			}
		}
		if len(d.Items) == 0 {
			return event.Opened{Next: c.next()}, nil
		}
		c.digest = &fakeDigest{Digest: d}
	}
	if c.digest.flying {
		c.digest.Crashes++
	}
	c.digest.flying, c.digest.LeaseEnd = true, now.Add(lease)
	c.holds[event.HoldDigest] = c.digest.LeaseEnd
	d := c.digest.Digest
	return event.Opened{Digest: &d, Next: c.next(), More: true}, nil
}

func (f *fakeSlots) FinishDigest(_ context.Context, d event.Digest, o event.Outcome, gone []orcid.ID, due time.Time) (time.Time, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.begin("finish digest"); err != nil {
		return time.Time{}, err
	}
	c := f.channel(event.ChannelKey{Org: d.Org, Channel: event.Email})
	if c.digest == nil || c.digest.ID != d.ID {
		return c.next(), nil
	}
	f.digests = append(f.digests, finishedDigest{d, o, gone, due, time.Now()})
	c.digest.flying = false
	switch o.Result {
	case event.Retry, event.Released:
		c.holds[event.HoldDigest] = o.RetryAt
		if o.Result == event.Retry {
			c.digest.Attempt++
		}
	default:
		for _, i := range d.Items {
			delete(c.slots, i.ORCID)
		}
		c.digest = nil
		delete(c.holds, event.HoldDigest)
	}
	return c.next(), nil
}

func (f *fakeSlots) Mailed(_ context.Context, o string) (map[int64]int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.mails[o]), f.begin("mailed")
}

func (f *fakeSlots) CountMail(_ context.Context, o string, at time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.mails == nil {
		f.mails = map[string]mailRate{}
	}
	if f.mails[o] == nil {
		f.mails[o] = mailRate{}
	}
	f.mails[o].note(at)
	return f.begin("count mail")
}

type finishedDigest struct {
	event.Digest
	event.Outcome
	gone []orcid.ID
	due  time.Time
	at   time.Time
}

func (f *fakeSlots) ended() []finishedDigest {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.digests)
}
