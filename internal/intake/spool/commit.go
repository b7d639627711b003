package spool

import (
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"

	"dispatchd/internal/event"
)

// maxGroup bounds a transaction: pings and items together, give or take one op.
const maxGroup = 4096

// op is one change that waits for a transaction.
type op struct {
	pings  []event.Ping
	items  []Item
	unsure int64
	done   chan error // of one place
}

func (o *op) size() int { return len(o.pings) + len(o.items) + 1 }

// commitLoop is the only writer. It takes everything that waits, commits it in
// one transaction (one fsync), and tells the callers.
func (s *Spool) commitLoop() {
	defer close(s.closed)
	for {
		var group []*op
		select {
		case o := <-s.ops:
			group = append(group, o)
		case <-s.closing:
			return
		}
		for size := group[0].size(); size < maxGroup; {
			select {
			case o := <-s.ops:
				group = append(group, o)
				size += o.size()
				continue
			default:
			}
			break
		}
		s.commitGroup(group)
	}
}

// commitGroup commits the group and answers every op. When that fails, what
// takes pings out is tried alone: on a full disk it needs no room that puts
// would take from it.
func (s *Spool) commitGroup(group []*op) {
	err := s.update(group)
	if err == nil || s.failed() != nil {
		answer(group, err)
		return
	}
	var out, in []*op
	for _, o := range group {
		if len(o.pings) == 0 {
			out = append(out, o)
		} else {
			in = append(in, o)
		}
	}
	if len(out) > 0 && len(in) > 0 {
		answer(out, s.update(out))
		answer(in, err)
		return
	}
	answer(group, err)
}

func answer(group []*op, err error) {
	for _, o := range group {
		o.done <- err
	}
}

// update is one transaction; the books are published only when it is durable.
func (s *Spool) update(group []*op) (err error) {
	if err := s.failed(); err != nil {
		return err
	}
	if slices.ContainsFunc(group, func(o *op) bool { return len(o.pings) > 0 }) {
		if err := s.missing(); err != nil {
			return fmt.Errorf("write spool %s: %w", s.path, err)
		}
	}
	defer s.guardFault(&err)()
	var stats Stats
	err = s.db.Update(func(tx *bolt.Tx) error {
		b, err := bucketsOf(tx)
		if err != nil {
			return err
		}
		if stats, err = b.loadStats(); err != nil {
			return err
		}
		for _, o := range group {
			stats.Unsure += o.unsure
			for i := range o.pings {
				if err := b.put(&o.pings[i], &stats); err != nil {
					return err
				}
			}
			for i := range o.items {
				if err := b.remove(&o.items[i], &stats); err != nil {
					return err
				}
			}
		}
		if err := b.saveStats(stats); err != nil {
			return err
		}
		stats.Oldest, err = b.oldest()
		return err
	})
	if err != nil {
		return fmt.Errorf("write spool %s: %w", s.path, err)
	}
	s.stats.Store(&stats)
	return nil
}

// put adds the ping or merges it into the one that waits for the same key.
func (b *buckets) put(p *event.Ping, st *Stats) error {
	seq, err := b.order.NextSequence()
	if err != nil {
		return err
	}
	key := encodeKey(p)
	at := p.AcceptedAt.UnixMicro()
	v := value{place: seq, sequence: seq, first: at, latest: at, caughtUp: p.CaughtUp}
	st.Received++
	if old := b.keys.Get(key); old != nil {
		was, err := decodeValue(old)
		if err != nil {
			return err
		}
		v.place, v.first = was.place, was.first
		v.latest = max(at, was.latest)
		v.caughtUp = was.caughtUp && p.CaughtUp
		st.Coalesced++
		return b.keys.Put(key, v.encode())
	}
	st.Waiting++
	if err := b.order.Put(encodePlace(v.place), key); err != nil {
		return err
	}
	return b.keys.Put(key, v.encode())
}

// remove takes a drained item out. When a newer ping came since Next, the key
// stays and moves to the newer ping's place: the older news is out, so what
// stays is as old as the newer, and one ping fewer has been coalesced.
func (b *buckets) remove(it *Item, st *Stats) error {
	key := encodeKey(&it.Ping)
	old := b.keys.Get(key)
	if old == nil {
		return nil // done before
	}
	v, err := decodeValue(old)
	if err != nil {
		return err
	}
	if it.Sequence < v.place {
		return nil // done before, and put again since
	}
	if err := b.order.Delete(encodePlace(v.place)); err != nil {
		return err
	}
	st.Drained++
	if v.sequence == it.Sequence {
		st.Waiting--
		return b.keys.Delete(key)
	}
	st.Coalesced--
	v.place, v.first = v.sequence, v.latest
	if err := b.order.Put(encodePlace(v.place), key); err != nil {
		return err
	}
	return b.keys.Put(key, v.encode())
}

// oldest returns when the first ping in the order was accepted.
func (b *buckets) oldest() (time.Time, error) {
	_, key := b.order.Cursor().First()
	if key == nil {
		return time.Time{}, nil
	}
	v, err := decodeValue(b.keys.Get(key))
	if err != nil {
		return time.Time{}, err
	}
	return time.UnixMicro(v.first), nil
}

func (b *buckets) loadStats() (Stats, error) {
	raw := b.meta.Get(statsKey)
	if len(raw) != 4*8 {
		return Stats{}, fmt.Errorf("%w: its books have %d bytes", ErrDamaged, len(raw))
	}
	n := func(i int) int64 { return int64(binary.BigEndian.Uint64(raw[8*i:])) }
	st := Stats{Received: n(0), Coalesced: n(1), Drained: n(2), Unsure: n(3)}
	st.Waiting = st.Received - st.Coalesced - st.Drained
	return st, nil
}

func (b *buckets) saveStats(st Stats) error {
	raw := make([]byte, 0, 4*8)
	for _, n := range []int64{st.Received, st.Coalesced, st.Drained, st.Unsure} {
		raw = binary.BigEndian.AppendUint64(raw, uint64(n))
	}
	return b.meta.Put(statsKey, raw)
}
