package actors

import (
	"testing"

	"pgregory.net/rapid"
)

// TestRoom plays random takers against the room and checks after every step that
// no more places are used than there are, that slow seats keep to their share,
// and that nobody waits while a place is free for them.
func TestRoom(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		r := newRoom(rapid.IntRange(1, 12).Draw(t, "capacity"))
		type taker struct {
			*seat
			told  int // notifications not answered yet
			inUse int
			wants bool // was told 0 and not yet notified
		}
		var all []*taker
		for range rapid.IntRange(1, 8).Draw(t, "seats") {
			k := &taker{}
			k.seat = r.seat(func() { k.told++ })
			all = append(all, k)
		}
		check := func() {
			var sum tally
			for _, k := range all {
				sum.add(k.tally(), 1)
			}
			if sum != r.tally {
				t.Fatalf("the room counts %+v, the seats %+v", r.tally, sum)
			}
			for i, k := range all {
				if k.held < k.inUse || k.held != k.inUse+k.aside {
					t.Fatalf("seat %d holds %d, uses %d, aside %d", i, k.held, k.inUse, k.aside)
				}
				if k.aside > 0 && k.told == 0 {
					t.Fatalf("seat %d was not told of its place", i)
				}
				if k.ticket != 0 && r.free(k.seat) > 0 {
					t.Fatalf("seat %d waits while %d places are free", i, r.free(k.seat))
				}
				if k.wants && k.told == 0 && k.ticket == 0 && !k.closed {
					t.Fatalf("seat %d was forgotten", i)
				}
			}
		}
		for range rapid.IntRange(1, 120).Draw(t, "steps") {
			k := all[rapid.IntRange(0, len(all)-1).Draw(t, "who")]
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0, 1, 2:
				n := rapid.IntRange(1, 5).Draw(t, "n")
				before := r.tally
				full := k.full() && k.aside == 0
				got := k.take(n)
				k.told, k.inUse = 0, k.inUse+got
				for range rapid.IntRange(0, got).Draw(t, "asked") { // the rest was claimed in vain
					k.ask()
				}
				k.wants = got == 0 && !full && !k.closed
				if got > n || got > 1 && k.class() >= fresh || r.tally.used > max(r.capacity, before.used) ||
					r.tally.slow > max(r.share(2), before.slow) || r.tally.trusted > max(r.share(1), before.trusted) ||
					r.tally.untested > max(r.share(3), before.untested) {
					t.Fatalf("took %d of %d: %+v of %d", got, n, r.tally, r.capacity)
				}
			case 3, 4:
				if n := k.inUse - k.asked; n > 0 {
					n = rapid.IntRange(1, n).Draw(t, "back")
					k.inUse -= n
					k.release(n)
				} else if k.asked > 0 {
					k.inUse--
					k.failed()
				}
			case 5:
				k.leave()
				k.wants, k.told = false, 0
			case 6:
				k.setSlow(!k.slow)
				if k.full() {
					k.wants = false // it asks again when it gave its place back
				}
			case 7:
				r.resize(rapid.IntRange(1, 12).Draw(t, "resize"))
			case 8, 9:
				if k.asked > 0 {
					k.inUse--
					k.answered()
				}
			}
			check()
		}
		for _, k := range all {
			k.close()
			k.release(k.inUse - k.asked)
			for k.asked > 0 {
				k.failed()
			}
			k.inUse, k.wants = 0, false
		}
		if used, _, waiting := r.usage(); used != 0 || waiting != 0 {
			t.Fatalf("%d places and %d waiting left", used, waiting)
		}
	})
}

// asking takes places and asks the receiver with each.
func asking(s *seat, n int) int {
	got := s.take(n)
	for range got {
		s.ask()
	}
	return got
}

// TestAClaimProvesNothing: places for a claim under way are not on their way to
// the receiver when it answers.
func TestAClaimProvesNothing(t *testing.T) {
	t.Parallel()
	s := newRoom(100).seat(func() {})
	asking(s, 1)
	s.answered()
	asking(s, 1)
	s.take(8) // the claim finds nothing
	s.answered()
	if s.proven != 1 {
		t.Errorf("%d places are proven by one answer", s.proven)
	}
	s.release(8)
	if s.held != 0 || s.asked != 0 {
		t.Errorf("%d places are left, %d asked", s.held, s.asked)
	}
}

func TestRoomIsFair(t *testing.T) {
	t.Parallel()
	r := newRoom(2)
	turns := make([]int, 5)
	seats := make([]*seat, len(turns))
	var told, inUse []int
	for i := range seats {
		seats[i] = r.seat(func() { told = append(told, i) })
		seats[i].proven = 1
	}
	// Everybody always wants four places, uses what it gets and gives it back.
	ask := func(i int) {
		for range asking(seats[i], 4) {
			turns[i]++
			inUse = append(inUse, i)
		}
	}
	for i := range seats {
		ask(i)
	}
	for range 500 {
		i := inUse[0]
		inUse = inUse[1:]
		seats[i].answered()
		ask(i)
		for len(told) > 0 {
			j := told[0]
			told = told[1:]
			ask(j)
		}
	}
	for i, n := range turns {
		if n < 90 || n > 110 {
			t.Errorf("seat %d had %d of 500 turns: %v", i, n, turns)
		}
	}
}

func TestSlowSeatsHaveOnePlaceAndHalfOfTheRoom(t *testing.T) {
	t.Parallel()
	r := newRoom(8)
	var slow []*seat
	got := 0
	for range 6 {
		s := r.seat(func() {})
		s.setSlow(true)
		slow = append(slow, s)
		got += s.take(5)
	}
	fast := r.seat(func() {})
	if n := asking(fast, 8); got != 4 || n != 1 {
		t.Fatalf("slow seats have %d, the new one %d of 8", got, n)
	}
	fast.answered()
	if n := asking(fast, 8); n != 3 { // one by proof, two on trust
		t.Fatalf("who answered once has %d of 8", n)
	}
	slow[0].release(1)
	if slow[4].aside != 1 || r.tally.slow != 4 {
		t.Error("a slow place did not go to the next slow seat")
	}
	fast.release(3)
	if r.tally.slow != 4 || fast.take(8) != 3 {
		t.Error("slow seats took more than half")
	}
}

// TestWhatASeatMayHave is the table of the room's rules.
func TestWhatASeatMayHave(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		room tally
		seat seat
		want int
	}{
		{"new: one place", tally{}, seat{}, 1},
		{"new, has its place", tally{used: 1, untested: 1}, seat{held: 1}, 0},
		{"new, while what is untested has its share", tally{used: 75, slow: 50, trusted: 25, untested: 75}, seat{}, 0},
		{"slow: one place", tally{}, seat{slow: true, proven: 1}, 1},
		{"slow, while the slow have their half", tally{used: 50, slow: 50, untested: 50}, seat{slow: true}, 0},
		{"new, while the slow have their half", tally{used: 50, slow: 50, untested: 50}, seat{}, 1},
		{"answered one: one by proof, the rest on trust", tally{}, seat{proven: 1}, 26},
		{"answered one, the trust is used up", tally{used: 25, trusted: 25, untested: 25}, seat{proven: 1}, 1},
		{"answered 40 at once", tally{used: 25, trusted: 25, untested: 25}, seat{proven: 40}, 40},
		{"answered 40 at once, has 10", tally{used: 35, trusted: 25, untested: 25}, seat{proven: 40, held: 10}, 30},
		{"on trust already, some is left", tally{used: 11, trusted: 10, untested: 10}, seat{proven: 1, held: 11}, 15},
		{"answered, everything untested has its share", tally{used: 80, slow: 50, trusted: 25, untested: 75}, seat{proven: 4}, 4},
		{"answered, the room is full", tally{used: 100}, seat{proven: 4}, 0},
	} {
		r := newRoom(100)
		r.tally = c.room
		if got := r.free(&c.seat); got != c.want {
			t.Errorf("%s: %d places, want %d", c.name, got, c.want)
		}
	}
}

// TestHangingSeatsLeavePlacesForOthers: 200 channels that were well begin to
// hang at once, with as much to tell as they may have in flight.
func TestHangingSeatsLeavePlacesForOthers(t *testing.T) {
	t.Parallel()
	r := newRoom(512)
	well := func() *seat {
		s := r.seat(func() {})
		asking(s, 8)
		s.answered()
		return s
	}
	hanging, healthy := make([]*seat, 200), make([]*seat, 300)
	for i := range hanging {
		hanging[i] = well()
	}
	for i := range healthy {
		healthy[i] = well()
	}
	for _, s := range hanging {
		asking(s, 8)
	}
	for range 20 { // nothing that hangs gets more by asking again
		for _, s := range hanging {
			asking(s, 8)
		}
	}
	if r.tally.used > 200+128 {
		t.Errorf("those that hang have %d places", r.tally.used)
	}
	for i, s := range healthy {
		if asking(s, 8) == 0 {
			t.Fatalf("healthy channel %d has no place", i)
		}
		most := 0
		for range 12 { // it wants more, and gets it by answering
			for asking(s, 8-s.held) > 0 {
			}
			most = max(most, s.held)
			s.answered()
		}
		if most != 8 {
			t.Fatalf("healthy channel %d came to %d places", i, most)
		}
		for s.held > 0 {
			s.answered()
		}
		s.leave()
	}
}
