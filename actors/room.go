package actors

import "sync"

// room shares the places for deliveries in flight (delivery.max_in_flight)
// among the channels of all organisations. A channel takes what is free, or
// queues; every place that is given back goes to whoever has waited longest of
// those that may have it. It is not an actor: places are given back by
// deliveries whatever became of the actor that started them.
//
// A receiver that hangs keeps its places until the timeout, and nobody knows
// before that it hangs. So a channel has places beyond its first only by proof,
// which is an answer, or on trust, of which there is a quarter of the room:
//
//	slow    its last attempt timed out: one place, and together at most half
//	new     it has taken nothing in this run: one place
//	proven  as many as it had in flight when it last took one, one more if it
//	        wanted more; beyond that on trust
//
// What is slow, new or on trust has together at most three quarters, so that
// who answers always finds a place.
type room struct {
	mu       sync.Mutex
	capacity int
	tally    tally
	tickets  uint64
	queues   [classes]queue
}

// tally is how many places are used, and how many of them for what.
type tally struct{ used, slow, trusted, untested int }

func (t *tally) add(o tally, sign int) {
	t.used += sign * o.used
	t.slow += sign * o.slow
	t.trusted += sign * o.trusted
	t.untested += sign * o.untested
}

// class says by which rule a seat gets its next place.
type class int

const (
	sure    class = iota // by proof
	trusted              // on trust
	fresh                // new
	slow
	classes
)

// seat is one channel's claim on the room.
type seat struct {
	room   *room
	notify func() // places were set aside for this seat; must not block
	held   int    // places in use, and those set aside
	asked  int    // places of deliveries on their way, the rest of held is for claims
	aside  int    // places set aside that take has not collected
	proven int    // places that its answers speak for; 0: new
	slow   bool
	closed bool
	ticket uint64 // 0: not queued
}

func (s *seat) class() class {
	switch {
	case s.slow:
		return slow
	case s.proven == 0:
		return fresh
	case s.held < s.proven:
		return sure
	}
	return trusted
}

func (s *seat) tally() tally {
	t := tally{used: s.held}
	switch {
	case s.slow:
		t.slow, t.untested = s.held, s.held
	case s.proven == 0:
		t.untested = s.held
	default:
		t.trusted = max(s.held-s.proven, 0)
		t.untested = t.trusted
	}
	return t
}

// queue is first in, first out; a seat that left is skipped when its turn comes.
type queue struct{ seats []queued }

type queued struct {
	seat   *seat
	ticket uint64
}

func (q *queue) push(s *seat) { q.seats = append(q.seats, queued{s, s.ticket}) }

// head drops who left and returns the first, nil when nobody waits.
func (q *queue) head() *seat {
	for len(q.seats) > 0 {
		if first := q.seats[0]; first.seat.ticket == first.ticket {
			return first.seat
		}
		q.pop()
	}
	q.seats = nil
	return nil
}

func (q *queue) pop() {
	q.seats[0] = queued{}
	q.seats = q.seats[1:]
}

func newRoom(capacity int) *room { return &room{capacity: capacity} }

// seat makes a seat; notify is called without the room's lock.
func (r *room) seat(notify func()) *seat { return &seat{room: r, notify: notify} }

// take returns how many places the seat has got, at most n. When it is none,
// the seat is queued and notify will be called once a place is set aside; only
// a new or slow seat that has its one place is not: it asks again when it gave
// it back.
func (s *seat) take(n int) int {
	if n <= 0 {
		return 0
	}
	r := s.room
	var wake []*seat
	defer func() { notifyAll(wake) }()
	r.mu.Lock()
	defer r.mu.Unlock()
	if s.closed {
		return 0
	}
	got := min(n, s.aside)
	r.hold(s, got-s.aside)
	s.aside = 0
	if got == 0 {
		got = min(n, r.free(s))
		r.hold(s, got)
	}
	switch {
	case got > 0:
		s.ticket = 0
	case s.ticket == 0 && !s.full():
		r.enqueue(s)
	}
	wake = r.dispatch()
	return got
}

// release gives n places back that nobody was asked with.
func (s *seat) release(n int) {
	if n > 0 {
		s.change(func() { s.room.hold(s, -n) })
	}
}

// ask says that the receiver is asked with one of the places.
func (s *seat) ask() { s.change(func() { s.asked++ }) }

// answered gives the place of a delivery back that the receiver took. It proves
// as many as were on their way: places for a claim that is under way are not.
func (s *seat) answered() {
	s.change(func() {
		proven := s.asked
		if s.ticket != 0 {
			proven++
		}
		s.room.judge(s, func() { s.proven, s.asked, s.held = proven, s.asked-1, s.held-1 })
	})
}

// failed gives the place of a delivery back that the receiver did not take. One
// that fails, however fast, gets no more places by it.
func (s *seat) failed() {
	s.change(func() {
		s.asked--
		s.room.hold(s, -1)
	})
}

// leave takes the seat out of the queue and gives back what was set aside.
func (s *seat) leave() { s.end(false) }

// close is leave for ever; places in use are still to be released.
func (s *seat) close() { s.end(true) }

func (s *seat) end(closed bool) {
	s.change(func() {
		s.ticket, s.closed = 0, s.closed || closed
		s.room.hold(s, -s.aside)
		s.aside = 0
	})
}

// setSlow says whether the last attempt timed out.
func (s *seat) setSlow(slow bool) {
	s.change(func() {
		if s.slow != slow {
			s.room.judge(s, func() { s.slow, s.proven = slow, min(s.proven, 1) })
		}
	})
}

// full reports whether the seat has all that it may ever have at once.
func (s *seat) full() bool { return s.held > 0 && s.class() >= fresh }

// change does f under the lock, and then sets aside what became free.
func (s *seat) change(f func()) {
	r := s.room
	r.mu.Lock()
	f()
	wake := r.dispatch()
	r.mu.Unlock()
	notifyAll(wake)
}

// resize changes the capacity; places in use beyond it are not taken away.
func (r *room) resize(capacity int) {
	r.mu.Lock()
	r.capacity = capacity
	wake := r.dispatch()
	r.mu.Unlock()
	notifyAll(wake)
}

// usage returns places in use, the capacity and how many seats wait.
func (r *room) usage() (used, capacity, waiting int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.queues {
		for _, w := range r.queues[i].seats {
			if w.seat.ticket == w.ticket {
				waiting++
			}
		}
	}
	return r.tally.used, r.capacity, waiting
}

// free is how many places the seat may have now, whoever waits: while a place
// is free nobody waits who could have it.
func (r *room) free(s *seat) int {
	t := r.tally
	untested := max(r.share(3)-t.untested, 0)
	n := max(r.capacity-t.used, 0)
	switch s.class() {
	case slow:
		return min(n, max(1-s.held, 0), untested, max(r.share(2)-t.slow, 0))
	case fresh:
		return min(n, max(1-s.held, 0), untested)
	default:
		return min(n, max(s.proven-s.held, 0)+min(untested, max(r.share(1)-t.trusted, 0)))
	}
}

// share is so many quarters of the places, but one at least: nobody may starve.
func (r *room) share(quarters int) int { return max(r.capacity*quarters/4, 1) }

// hold gives the seat n places, or takes them back.
func (r *room) hold(s *seat, n int) {
	if n != 0 {
		r.judge(s, func() { s.held += n })
	}
}

// judge changes what is known of a seat, and what it counts for with it. A
// seat that waits queues anew when it is of another class then.
func (r *room) judge(s *seat, change func()) {
	before := s.class()
	r.tally.add(s.tally(), -1)
	change()
	r.tally.add(s.tally(), 1)
	if s.ticket == 0 || s.class() == before {
		return
	}
	if s.ticket = 0; !s.full() {
		r.enqueue(s)
	}
}

func (r *room) enqueue(s *seat) {
	r.tickets++
	s.ticket = r.tickets
	r.queues[s.class()].push(s)
}

// dispatch sets free places aside for those who wait, one each, in the order in
// which they came; who may not have one now holds up nobody of another class.
func (r *room) dispatch() (wake []*seat) {
	for r.tally.used < r.capacity {
		var next *seat
		for i := range r.queues {
			s := r.queues[i].head()
			if s != nil && (next == nil || s.ticket < next.ticket) && r.free(s) > 0 {
				next = s
			}
		}
		if next == nil {
			return wake
		}
		r.queues[next.class()].pop()
		next.ticket, next.aside = 0, 1
		r.hold(next, 1)
		wake = append(wake, next)
	}
	return wake
}

func notifyAll(seats []*seat) {
	for _, s := range seats {
		s.notify()
	}
}
