package actors

import "sync"

// room shares the places for deliveries in flight (delivery.max_in_flight)
// among the channels of all organisations. A channel takes what is free, or
// queues; every place that is given back goes to whoever has waited longest.
// Slow channels, whose last attempt timed out, have one place each and together
// at most half. It is not an actor: places are given back by deliveries
// whatever became of the actor that started them.
type room struct {
	mu       sync.Mutex
	capacity int
	used     int
	slowUsed int
	tickets  uint64
	fast     queue
	slow     queue
}

// seat is one channel's claim on the room.
type seat struct {
	room   *room
	notify func() // places were set aside for this seat; must not block
	held   int    // places in use, and those set aside
	aside  int    // places set aside that take has not collected
	slow   bool
	closed bool
	ticket uint64 // 0: not queued
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
// a slow seat that has its one place is not: it asks again when it gave it back.
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
	r.drop(s, s.aside-got)
	s.aside = 0
	if got == 0 {
		got = min(n, r.free(s))
		r.add(s, got)
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

// release gives n places back.
func (s *seat) release(n int) {
	if n <= 0 {
		return
	}
	r := s.room
	r.mu.Lock()
	r.drop(s, n)
	wake := r.dispatch()
	r.mu.Unlock()
	notifyAll(wake)
}

// leave takes the seat out of the queue and gives back what was set aside.
func (s *seat) leave() { s.end(false) }

// close is leave for ever; places in use are still to be released.
func (s *seat) close() { s.end(true) }

func (s *seat) end(closed bool) {
	r := s.room
	r.mu.Lock()
	s.ticket, s.closed = 0, s.closed || closed
	r.drop(s, s.aside)
	s.aside = 0
	wake := r.dispatch()
	r.mu.Unlock()
	notifyAll(wake)
}

// setSlow says whether the last attempt timed out.
func (s *seat) setSlow(slow bool) {
	r := s.room
	r.mu.Lock()
	if s.slow == slow {
		r.mu.Unlock()
		return
	}
	if s.slow = slow; slow {
		r.slowUsed += s.held
	} else {
		r.slowUsed -= s.held
	}
	if s.ticket != 0 {
		if s.ticket = 0; !s.full() {
			r.enqueue(s)
		}
	}
	wake := r.dispatch()
	r.mu.Unlock()
	notifyAll(wake)
}

// full reports whether the seat has all that it may ever have at once.
func (s *seat) full() bool { return s.slow && s.held > 0 }

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
	for _, q := range []*queue{&r.fast, &r.slow} {
		for _, w := range q.seats {
			if w.seat.ticket == w.ticket {
				waiting++
			}
		}
	}
	return r.used, r.capacity, waiting
}

// free is how many places the seat may have now, whoever waits: while a place
// is free nobody waits who could have it.
func (r *room) free(s *seat) int {
	n := max(r.capacity-r.used, 0)
	if s.slow {
		n = min(n, max(1-s.held, 0), max(r.slowMax()-r.slowUsed, 0))
	}
	return n
}

// slowMax is half of the places, but one at least: nobody may starve.
func (r *room) slowMax() int { return max(r.capacity/2, 1) }

func (r *room) add(s *seat, n int) {
	s.held += n
	r.used += n
	if s.slow {
		r.slowUsed += n
	}
}

func (r *room) drop(s *seat, n int) { r.add(s, -n) }

func (r *room) enqueue(s *seat) {
	r.tickets++
	s.ticket = r.tickets
	if s.slow {
		r.slow.push(s)
	} else {
		r.fast.push(s)
	}
}

// dispatch sets free places aside for those who wait, one each, in the order in
// which they came.
func (r *room) dispatch() (wake []*seat) {
	for r.used < r.capacity {
		fast, slow := r.fast.head(), r.slow.head()
		if slow != nil && r.free(slow) == 0 {
			slow = nil
		}
		var s *seat
		switch {
		case fast == nil && slow == nil:
			return wake
		case slow == nil || fast != nil && fast.ticket < slow.ticket:
			s = fast
			r.fast.pop()
		default:
			s = slow
			r.slow.pop()
		}
		s.ticket, s.aside = 0, 1
		r.add(s, 1)
		wake = append(wake, s)
	}
	return wake
}

func notifyAll(seats []*seat) {
	for _, s := range seats {
		s.notify()
	}
}
