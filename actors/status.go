package actors

import (
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"dispatchd/internal/event"
)

// Status is what the actors do at the moment.
type Status struct {
	InFlight    map[event.Channel]int // deliveries on their way
	Places      int                   // of MaxInFlight, in use or set aside
	MaxInFlight int
	Waiting     int // channels that wait for a place
	BusyUsers   int // users whose registrations are being worked on
	Credentials []CredentialStatus
	Rate        float64 // requests a second to ORCID allowed now
	Speed       float64 // requests a second made in the last seconds
	// NotBefore is when ORCID wants to be asked again; zero means now.
	NotBefore time.Time
	Paused    bool  // registrations are paused by an operator
	Panics    int64 // since the start
}

// CredentialStatus is one credential's part of a Status.
type CredentialStatus struct {
	Name string
	// State is one word: ok, paused or refused.
	State string
	// Detail says why it is refused and what to do; empty otherwise.
	Detail string
	Since  time.Time // when ORCID began to refuse it; zero when it does not
	// NextProbe is when a refused credential is tried again.
	NextProbe time.Time
	Waiting   int    // users that wait for a permit
	Express   int    // of them, in the express lane
	InFlight  int    // requests on their way
	Used      uint64 // requests sent since the start
	// Rate is the requests a second that it may send at most now: its own rate
	// or the one for all, whichever is lower.
	Rate float64
}

// The states of a credential.
const (
	StateOK      = "ok"
	StatePaused  = "paused"
	StateRefused = "refused"
)

// Status returns what the actors do at the moment.
func (s *System) Status() Status {
	st := Status{
		InFlight:  map[event.Channel]int{},
		BusyUsers: int(s.busyUsers.Load()),
		Paused:    s.paused.Load(),
		Panics:    s.panics.Load(),
	}
	for i, ch := range event.Channels {
		st.InFlight[ch] = int(s.flying[i].Load())
	}
	st.Places, st.MaxInFlight, st.Waiting = s.room.usage()
	st.Rate, st.NotBefore, st.Credentials = s.board.list()
	st.Speed = s.requests.speed(time.Now())
	return st
}

// board is where credentials write how they are, and others read it without
// asking them. The zero value is ready.
type board struct {
	mu        sync.Mutex
	rate      float64
	notBefore time.Time
	entries   map[string]boardEntry
}

type boardEntry struct {
	CredentialStatus
	run  uint64 // the instance that wrote it
	slow bool   // it has a rate of its own
}

func (b *board) setRate(rate float64, notBefore time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rate, b.notBefore = rate, notBefore
}

func (b *board) set(e boardEntry) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.entries == nil {
		b.entries = map[string]boardEntry{}
	}
	b.entries[e.Name] = e
}

// remove forgets what that instance wrote, not what a later one did.
func (b *board) remove(name string, run uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.entries[name].run == run {
		delete(b.entries, name)
	}
}

func (b *board) list() (rate float64, notBefore time.Time, list []CredentialStatus) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.entries {
		c := e.CredentialStatus
		if c.Rate <= 0 || c.Rate > b.rate {
			c.Rate = b.rate
		}
		list = append(list, c)
	}
	slices.SortFunc(list, func(x, y CredentialStatus) int { return strings.Compare(x.Name, y.Name) })
	return b.rate, b.notBefore, list
}

// waitingSlow is how many users wait for credentials with a rate of their own.
func (b *board) waitingSlow() (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.entries {
		if e.slow {
			n += e.Waiting + e.InFlight
		}
	}
	return n
}

// blocked reports for how long no user needs to ask the credential. The longer
// it has been refused, the more the users spread when they look again.
func (b *board) blocked(name string, now time.Time, probeEvery time.Duration) (wait time.Duration, blocked bool) {
	b.mu.Lock()
	e := b.entries[name]
	b.mu.Unlock()
	switch {
	case e.State == StatePaused:
		return probeEvery, true
	case e.State == StateRefused && now.Before(e.NextProbe):
		age := min(now.Sub(e.Since), maxBooking)
		return e.NextProbe.Sub(now) + time.Duration(rand.Float64()*float64(max(age-probeEvery, 0))), true
	}
	return 0, false
}

func (a *credentialActor) publish() {
	e := boardEntry{run: a.run, slow: a.own != nil, CredentialStatus: CredentialStatus{
		Name: a.cred.Name, State: StateOK, Detail: a.trouble, Since: a.since, NextProbe: a.probeAt,
		Rate: a.cred.Rate, Waiting: a.lanes.len(), Express: a.lanes.nExpress, InFlight: len(a.flying), Used: a.used,
	}}
	switch {
	case a.cred.Locked != "":
		e.State, e.Detail, e.NextProbe = StateRefused, a.cred.Locked, time.Time{}
	case a.trouble != "":
		e.State = StateRefused
	case a.paused:
		e.State = StatePaused
	}
	a.sys.board.set(e)
}
