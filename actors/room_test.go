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
		sum := func() (held, slow int) {
			for _, k := range all {
				held += k.held
				if k.slow {
					slow += k.held
				}
			}
			return held, slow
		}
		check := func() {
			held, slow := sum()
			if held != r.used || slow != r.slowUsed {
				t.Fatalf("used %d/%d, seats hold %d/%d", r.used, r.slowUsed, held, slow)
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
			switch rapid.IntRange(0, 7).Draw(t, "what") {
			case 0, 1, 2:
				n := rapid.IntRange(1, 5).Draw(t, "n")
				if k.slow {
					n = 1
				}
				before := r.used
				full := k.full() && k.aside == 0
				got := k.take(n)
				k.told, k.inUse = 0, k.inUse+got
				k.wants = got == 0 && !full && !k.closed
				if got > n || r.used > max(r.capacity, before) {
					t.Fatalf("took %d of %d", got, n)
				}
			case 3, 4:
				if k.inUse > 0 {
					n := rapid.IntRange(1, k.inUse).Draw(t, "back")
					k.inUse -= n
					k.release(n)
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
			}
			check()
		}
		for _, k := range all {
			k.close()
			k.release(k.inUse)
			k.inUse, k.wants = 0, false
		}
		if used, _, waiting := r.usage(); used != 0 || waiting != 0 {
			t.Fatalf("%d places and %d waiting left", used, waiting)
		}
	})
}

func TestRoomIsFair(t *testing.T) {
	t.Parallel()
	r := newRoom(2)
	turns := make([]int, 5)
	seats := make([]*seat, len(turns))
	var told, inUse []int
	for i := range seats {
		seats[i] = r.seat(func() { told = append(told, i) })
	}
	// Everybody always wants four places, uses what it gets and gives it back.
	ask := func(i int) {
		for range seats[i].take(4) {
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
		seats[i].release(1)
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
	if n := fast.take(8); got != 4 || n != 4 {
		t.Fatalf("slow seats have %d, the fast one %d of 8", got, n)
	}
	slow[0].release(1)
	if slow[4].aside != 1 || r.slowUsed != 4 {
		t.Error("a slow place did not go to the next slow seat")
	}
	fast.release(4)
	if r.slowUsed != 4 || fast.take(8) != 4 {
		t.Error("slow seats took more than half")
	}
}
