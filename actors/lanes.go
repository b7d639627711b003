package actors

import "time"

const (
	// expressRow is how many express tickets go before one of the sweep, when
	// both wait: single changes overtake sweeps but do not stop them.
	expressRow = 9
	// expressMax bounds the express lane; more wait in Redis.
	expressMax = 10_000
)

// lanes are those who wait for permits of one credential: single changes in the
// express lane, sweeps behind them.
type lanes struct {
	express, sweep []*ticket // entries of tickets that left or moved stay behind as nil-keyed
	waiting        map[ticketKey]*ticket
	row            int // express tickets since the last one of the sweep
	nExpress       int
}

func newLanes() lanes { return lanes{waiting: map[ticketKey]*ticket{}} }

// add queues a ticket. A ticket that waits already only changes the lane. It
// reports whether there was room: the sweep lane holds at most sweepMax.
func (l *lanes) add(t ticket, sweepMax int) bool {
	if old := l.waiting[t.key()]; old != nil {
		old.answer = t.answer // the asker may be a new instance
		if t.express && !old.express {
			moved := *old
			moved.express = true
			l.waiting[t.key()] = &moved
			l.express = append(l.express, &moved)
			l.nExpress++
		}
		return true
	}
	if t.express && l.nExpress >= expressMax || !t.express && len(l.waiting)-l.nExpress >= sweepMax {
		return false
	}
	l.waiting[t.key()] = &t
	if t.express {
		l.express = append(l.express, &t)
		l.nExpress++
	} else {
		l.sweep = append(l.sweep, &t)
	}
	return true
}

// remove takes a ticket out.
func (l *lanes) remove(key ticketKey) {
	if t := l.waiting[key]; t != nil {
		if t.express {
			l.nExpress--
		}
		delete(l.waiting, key)
	}
}

// first returns whose turn it is of those who may go; nil when none may.
func (l *lanes) first(may func(*ticket) bool) *ticket {
	one, other := &l.express, &l.sweep
	if l.row >= expressRow {
		one, other = other, one
	}
	for _, lane := range []*[]*ticket{one, other} {
		if t := l.head(lane); t != nil && may(t) {
			return t
		}
	}
	return nil
}

// next takes out whose turn it is of those who may go; nil when none may.
func (l *lanes) next(may func(*ticket) bool) *ticket {
	t := l.first(may)
	switch {
	case t == nil:
		return nil
	case t.express:
		l.row++
	default:
		l.row = 0
	}
	l.remove(t.key())
	return t
}

// head returns the first of the lane that still waits there.
func (l *lanes) head(lane *[]*ticket) *ticket {
	for len(*lane) > 0 {
		t := (*lane)[0]
		if l.waiting[t.key()] == t {
			return t
		}
		(*lane)[0] = nil
		*lane = (*lane)[1:]
	}
	*lane = nil
	return nil
}

// all takes everybody out.
func (l *lanes) all() []*ticket {
	var list []*ticket
	for t := l.next(anybody); t != nil; t = l.next(anybody) {
		list = append(list, t)
	}
	return list
}

// anybody may go.
func anybody(*ticket) bool { return true }

func (l *lanes) len() int { return len(l.waiting) }

// booking spreads the work that does not fit into the lanes of a credential with
// a low rate of its own over the time it will take, so that it is not looked at
// over and over.
type booking struct{ horizon time.Time }

// maxBooking is how far ahead work is put off at most: the rate may be raised.
const maxBooking = 30 * time.Minute

// book returns when to come back. rate is above 0, rnd in [0,1).
func (b *booking) book(now time.Time, rate, rnd float64, lane time.Duration) time.Time {
	step := time.Duration(float64(time.Second) / rate)
	if first := now.Add(lane); b.horizon.Before(first) {
		b.horizon = first
	}
	b.horizon = b.horizon.Add(step)
	if limit := now.Add(maxBooking); b.horizon.After(limit) {
		b.horizon = limit
		return now.Add(lane + time.Duration(rnd*float64(maxBooking)))
	}
	return b.horizon
}
