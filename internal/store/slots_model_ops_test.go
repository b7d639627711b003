package store

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"pgregory.net/rapid"

	"dispatchd/internal/event"
)

func (m *slotModel) enqueue(t *rapid.T) {
	m.clock.advance(7 * time.Millisecond)
	now := m.clock.now()
	lane := rapid.IntRange(0, Lanes-1).Draw(t, "lane")
	m.seq++
	entry := fmt.Sprintf("%d-%d", now.UnixMilli(), m.seq)
	var list []Target
	for range rapid.IntRange(1, 3).Draw(t, "targets") {
		k := m.key(t)
		at := now.Add(-time.Duration(rapid.IntRange(0, 100).Draw(t, "late by")) * time.Second)
		for m.times[at.UnixMilli()] { // no two pings of a user are accepted in the same microsecond
			at = at.Add(-time.Millisecond)
		}
		m.times[at.UnixMilli()] = true
		list = append(list, Target{
			Org: k.Org, Channel: k.Channel, ORCID: rapid.SampledFrom(m.users).Draw(t, "user"), Entry: entry,
			Type: rapid.SampledFrom([]event.Type{event.Updated, event.Updated, event.Created, event.Locked}).Draw(t, "type"),
			At:   at,
		})
	}
	m.byEntry[entry], m.lanes[entry] = list, lane
	m.entries = append(m.entries, list[0])
	send := list
	if len(m.entries) > 1 && rapid.Bool().Draw(t, "with an old entry") {
		old := rapid.SampledFrom(m.entries).Draw(t, "old").Entry
		if m.lanes[old] == lane && old != entry {
			send = append(slices.Clone(send), m.byEntry[old]...)
		}
	}
	next, err := m.s.Enqueue(m.ctx, lane, send, quiet)
	must(t, err)
	w := m.read(t)
	for k, at := range next {
		if index := milliTime(w.ready[k]); at.IsZero() != index.IsZero() || at.Before(index) {
			t.Fatalf("enqueue says %+v is ready at %s, the index %d", k, at, w.ready[k])
		}
	}
	for _, x := range list {
		k := slotKey{event.ChannelKey{Org: x.Org, Channel: x.Channel}, x.ORCID}
		if !m.enabled[k.ChannelKey] {
			continue
		}
		m.seq++
		m.last[newsKey{k, x.Type}], m.touched[k] = m.seq, m.seq
		st := w.slots[k]
		if old, waiting := m.before.slots[k]; waiting && old.token == "" && w.due[k] > m.before.due[k] {
			t.Fatalf("news moved the due time of %+v from %d to %d", k, m.before.due[k], w.due[k])
		}
		retried := m.before.slots[k].attempts > 0
		if st.token == "" && (st.attempts != 0 || retried && w.due[k] > now.Add(time.Hour).UnixMilli()) {
			t.Fatalf("news did not reset %+v: %+v due %d", k, st, w.due[k])
		}
	}
}

func (m *slotModel) repeat(t *rapid.T) {
	if len(m.entries) == 0 {
		return
	}
	e := rapid.SampledFrom(m.entries).Draw(t, "entry").Entry
	_, err := m.s.Enqueue(m.ctx, m.lanes[e], m.byEntry[e], quiet)
	must(t, err)
	m.unchanged(t, "a repeated entry")
}

func (m *slotModel) unchanged(t *rapid.T, what string) {
	w := m.read(t)
	same := maps.EqualFunc(w.slots, m.before.slots, func(a, b slotState) bool { return fmt.Sprint(a) == fmt.Sprint(b) }) &&
		maps.Equal(w.due, m.before.due) && maps.Equal(w.told, m.before.told) &&
		maps.EqualFunc(w.dead, m.before.dead, func(a, b DeadLetter) bool { return fmt.Sprint(a) == fmt.Sprint(b) })
	if !same {
		t.Fatalf("%s changed something: %+v, before %+v", what, w, m.before)
	}
}

func (m *slotModel) claim(t *rapid.T) {
	k, n := m.key(t), rapid.IntRange(1, 4).Draw(t, "room")
	now := m.clock.now()
	c, err := m.s.Claim(m.ctx, k.Org, k.Channel, n, lease)
	must(t, err)
	held := m.before.holds[k] > now.UnixMilli()
	if (held || !m.enabled[k]) && len(c.Deliveries) > 0 || len(c.Deliveries) > n {
		t.Fatalf("claimed %d of %d (held %v, enabled %v)", len(c.Deliveries), n, held, m.enabled[k])
	}
	w := m.read(t)
	if !c.Next.Equal(milliTime(w.ready[k])) || held != !c.HeldUntil.IsZero() {
		t.Fatalf("claim says next %s, held until %s; the index %d", c.Next, c.HeldUntil, w.ready[k])
	}
	if want, has := m.readyAt(w, k); has != (w.ready[k] != 0) || has && want != w.ready[k] {
		t.Fatalf("a claim of %+v leaves it ready at %d, not %d (%v)", k, w.ready[k], want, has)
	}
	for _, d := range c.Deliveries {
		m.seq++
		at := slotKey{k, d.ORCID}
		nk := newsKey{at, d.Type}
		if old, flying := m.current[at]; flying && old.d.LeaseEnd.After(now) {
			t.Fatalf("%+v is in flight twice", at)
		}
		st := w.slots[at]
		urgent := slices.IndexFunc(st.types, func(x event.Type) bool { return x == event.Created })
		if st.token != d.Token || st.generation != d.Generation || !slices.Contains(st.generations, d.Generation) ||
			(urgent >= 0) != (d.Type == event.Created) || !d.LeaseEnd.Equal(milliTime(w.due[at])) || d.Attempt != st.attempts+1 {
			t.Fatalf("claimed %+v of %+v", d, st)
		}
		for _, old := range m.claims {
			if old.d.Token == d.Token || old.d.ID() == d.ID() && m.last[nk] > old.seq {
				t.Fatalf("%+v has the token or id of %+v", d, old)
			}
		}
		m.current[at] = claimed{d, m.seq}
		m.claims = append(m.claims, m.current[at])
	}
	if len(c.Deliveries) < n && !held && m.enabled[k] && w.ready[k] != 0 && w.ready[k] <= now.UnixMilli() {
		t.Fatalf("claimed %d of %d although more was due", len(c.Deliveries), n)
	}
}

// endLeases is what the next process does first. Whose claims it ends may still
// be finished late, as after any end of a lease.
func (m *slotModel) endLeases(t *rapid.T) {
	n, err := m.s.EndLeases(m.ctx)
	must(t, err)
	now, want := m.clock.now().UnixMilli(), 0
	w := m.read(t)
	for k, st := range m.before.slots {
		due := m.before.due[k]
		if st.token != "" && due > now && m.before.crashes[k] == 0 && m.enabled[k.ChannelKey] && m.before.ready[k.ChannelKey] <= now+longestLease.Milliseconds() {
			due = now
			want++
			delete(m.current, k)
		}
		if w.due[k] != due || fmt.Sprint(w.slots[k]) != fmt.Sprint(st) {
			t.Fatalf("ending leases made %+v due %d of %+v due %d, want due %d", w.slots[k], w.due[k], st, m.before.due[k], due)
		}
	}
	if n != want || len(w.slots) != len(m.before.slots) {
		t.Fatalf("ended %d leases, want %d", n, want)
	}
}

func (m *slotModel) finish(t *rapid.T) {
	if len(m.claims) == 0 {
		return
	}
	from := m.claims[max(0, len(m.claims)-6):]
	if rapid.IntRange(0, 2).Draw(t, "mostly in flight") > 0 {
		from = slices.DeleteFunc(slices.Clone(from), func(c claimed) bool {
			return m.current[slotKey{event.ChannelKey{Org: c.d.Org, Channel: c.d.Channel}, c.d.ORCID}] != c
		})
	}
	if len(from) == 0 {
		return
	}
	c := rapid.SampledFrom(from).Draw(t, "claim")
	o := event.Outcome{
		Result:  rapid.SampledFrom([]event.Result{event.Delivered, event.Delivered, event.Delivered, event.Dead, event.Dead, event.Retry, event.Cancelled, event.Released}).Draw(t, "result"),
		RetryAt: m.clock.now().Add(time.Duration(rapid.IntRange(0, 7200).Draw(t, "retry in")) * time.Second),
		Attempt: event.Attempt{Start: m.clock.now(), Status: 500, Error: "no"},
	}
	k := slotKey{event.ChannelKey{Org: c.d.Org, Channel: c.d.Channel}, c.d.ORCID}
	nk := newsKey{k, c.d.Type}
	st, is := m.before.slots[k]
	mine := is && st.token == c.d.Token
	f, err := m.s.Finish(m.ctx, c.d, o)
	must(t, err)
	w := m.read(t)
	if _, there := w.slots[k]; (there || !f.Next.IsZero()) && mine && !f.Next.Equal(milliTime(w.ready[k.ChannelKey])) {
		t.Fatalf("finish says next %s, the index %d", f.Next, w.ready[k.ChannelKey])
	}
	if !mine {
		match := slices.Contains(st.generations, c.d.Generation) || m.deadGeneration(t, k, c.d)
		if f.Stale == (o.Result == event.Delivered && match) {
			t.Fatalf("finish %s of %+v is stale: %v; slot %+v", o.Result, c.d, f.Stale, st)
		}
		if f.Stale {
			m.unchanged(t, "a stale finish")
			return
		}
	} else if f.Stale {
		t.Fatalf("the current claim is stale: %+v, slot %+v", c.d, st)
	}
	news := m.touched[k] > c.seq
	if o.Result == event.Delivered {
		m.told[nk] = max(m.told[nk], c.seq)
	}
	if !mine {
		return
	}
	delete(m.current, k)
	after, still := w.slots[k]
	if m.before.told[k] {
		return
	}
	now := m.clock.now()
	switch o.Result {
	case event.Cancelled:
		if news != still {
			t.Fatalf("cancelled with news %v: slot is there %v", news, still)
		}
		if !news {
			m.end(k, st.types)
		}
	case event.Retry:
		due, attempts := asMillis(o.RetryAt), st.attempts+1
		if news {
			due, attempts = min(due, now.Add(time.Hour).UnixMilli()), 0
		}
		if after.attempts != attempts || w.due[k] != due || after.token != "" {
			t.Fatalf("retry (news %v): %+v due %d, want %d attempts and %d", news, after, w.due[k], attempts, due)
		}
	case event.Released:
		if after.attempts != st.attempts && !news || w.due[k] > asMillis(o.RetryAt) || after.token != "" {
			t.Fatalf("released: %+v due %d", after, w.due[k])
		}
	case event.Dead:
		renewed := m.last[nk] > c.seq
		if here := slices.Contains(after.types, c.d.Type); here != renewed {
			t.Fatalf("dead with news %v: still pending %v", renewed, here)
		}
	case event.Delivered:
		if still && (after.token != "" || after.attempts != 0) {
			t.Fatalf("requeued as %+v", after)
		}
	}
}

// deadGeneration reports whether the dead letter of k was claimed as d.
func (m *slotModel) deadGeneration(t *rapid.T, k slotKey, d event.Delivery) bool {
	if !slices.Contains(m.before.dead[k].Types, d.Type) {
		return false
	}
	// Generations are not shown in dead letters: no news since means the same.
	for _, c := range m.claims {
		if c.d == d {
			return m.last[newsKey{k, d.Type}] <= c.seq
		}
	}
	t.Fatalf("%+v was never claimed", d)
	return false
}

// end notes that what is known of these types needs no telling any more.
func (m *slotModel) end(k slotKey, types []event.Type) {
	for _, typ := range types {
		m.told[newsKey{k, typ}] = m.last[newsKey{k, typ}]
	}
}

func (m *slotModel) hold(t *rapid.T) {
	k, h := m.key(t), rapid.SampledFrom(event.Holds[:]).Draw(t, "hold")
	var until time.Time
	if rapid.Bool().Draw(t, "set") {
		until = m.clock.now().Add(time.Duration(rapid.IntRange(-10, 300).Draw(t, "seconds")) * time.Second)
	}
	next, err := m.s.SetHold(m.ctx, k.Org, k.Channel, h, until, "because")
	must(t, err)
	if w := m.read(t); !next.Equal(milliTime(w.ready[k])) {
		t.Fatalf("hold says next %s, the index %d", next, w.ready[k])
	}
}

func (m *slotModel) enable(t *rapid.T) {
	k, on := m.key(t), rapid.IntRange(0, 4).Draw(t, "off at 0") > 0
	must(t, m.s.SetChannel(m.ctx, k.Org, k.Channel, on))
	m.enabled[k] = on
}

func (m *slotModel) selection(t *rapid.T) (event.ChannelKey, Selection, int) {
	var sel Selection
	if rapid.Bool().Draw(t, "one user") {
		sel.ORCID = rapid.SampledFrom(m.users).Draw(t, "user")
	}
	if rapid.Bool().Draw(t, "since") {
		sel.Since = m.clock.now().Add(-time.Duration(rapid.IntRange(0, 300).Draw(t, "ago")) * time.Second)
	}
	return m.key(t), sel, rapid.IntRange(1, 3).Draw(t, "at most")
}

// goneDead are the dead letters that an operation took, after checking how many.
func (m *slotModel) goneDead(t *rapid.T, w slotWorld, k event.ChannelKey, sel Selection, n, most int, more bool) []slotKey {
	var gone []slotKey
	matching := 0
	for at, d := range m.before.dead {
		if at.ChannelKey != k || !sel.ORCID.IsZero() && sel.ORCID != at.user || d.DiedAt.Before(sel.Since.Truncate(time.Millisecond)) {
			continue
		}
		matching++
		if _, still := w.dead[at]; !still {
			gone = append(gone, at)
		}
	}
	if n != len(gone) || n != min(matching, most) || more != (matching > n) || len(m.before.dead)-len(w.dead) != n {
		t.Fatalf("took %d of %d matching (at most %d), more %v; %d are gone", n, matching, most, more, len(gone))
	}
	return gone
}

func (m *slotModel) replay(t *rapid.T) {
	k, sel, most := m.selection(t)
	n, more, err := m.s.Replay(m.ctx, k.Org, k.Channel, sel, most)
	if !m.enabled[k] {
		if err == nil {
			t.Fatal("replayed to a disabled channel")
		}
		return
	}
	must(t, err)
	w := m.read(t)
	for _, at := range m.goneDead(t, w, k, sel, n, most, more) {
		m.seq++
		m.touched[at] = m.seq
		if w.slots[at].token == "" && w.due[at] > m.clock.now().UnixMilli() {
			t.Fatalf("replayed %+v is due %d", at, w.due[at])
		}
	}
}

func (m *slotModel) purge(t *rapid.T) {
	k, sel, most := m.selection(t)
	n, more, err := m.s.Purge(m.ctx, k.Org, k.Channel, sel, most)
	must(t, err)
	w := m.read(t)
	for _, at := range m.goneDead(t, w, k, sel, n, most, more) {
		m.end(at, m.before.dead[at].Types)
	}
}

// cancelled ends what an operation took of the slots and dead letters that
// which names, and returns how many that were.
func (m *slotModel) cancelled(w slotWorld, which func(slotKey) bool) int {
	n := 0
	for at, st := range m.before.slots {
		if _, still := w.slots[at]; which(at) && !still {
			m.end(at, st.types)
			delete(m.current, at)
			n++
		}
	}
	for at, d := range m.before.dead {
		if _, still := w.dead[at]; which(at) && !still {
			m.end(at, d.Types)
			n++
		}
	}
	return n
}

func (m *slotModel) cancel(t *rapid.T) {
	k, most := m.key(t), rapid.IntRange(1, 3).Draw(t, "at most")
	n, more, err := m.s.CancelSlots(m.ctx, k.Org, k.Channel, most)
	must(t, err)
	w := m.read(t)
	left := 0
	for at := range w.slots {
		if at.ChannelKey == k {
			left++
		}
	}
	gone := m.cancelled(w, func(at slotKey) bool { return at.ChannelKey == k })
	if n != gone || more != (left > 0) || more && n != most {
		t.Fatalf("cancelled %d, %d gone, %d left, more %v", n, gone, left, more)
	}
}

func (m *slotModel) leave(t *rapid.T) {
	org, user := m.key(t).Org, rapid.SampledFrom(m.users).Draw(t, "user")
	n, err := m.s.CancelUser(m.ctx, org, user)
	must(t, err)
	w := m.read(t)
	mine := func(at slotKey) bool { return at.Org == org && at.user == user }
	if gone := m.cancelled(w, mine); gone != n {
		t.Fatalf("cancelled %d, %d gone", n, gone)
	}
	for at := range w.slots {
		if mine(at) {
			t.Fatalf("%+v is left", at)
		}
	}
}

func (m *slotModel) drop(t *rapid.T) {
	org := m.key(t).Org
	must(t, m.s.DropOrganisation(m.ctx, org))
	m.cancelled(m.read(t), func(at slotKey) bool { return at.Org == org })
	for _, ch := range event.Channels {
		if k := (event.ChannelKey{Org: org, Channel: ch}); m.enabled[k] {
			must(t, m.s.SetChannel(m.ctx, org, ch, true))
		}
	}
}

func (m *slotModel) advance(t *rapid.T) {
	m.clock.advance(time.Duration(rapid.SampledFrom([]int{1, 20, 60, 61, 120, 7200}).Draw(t, "seconds"))*time.Second + time.Microsecond)
}
