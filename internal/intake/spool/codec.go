package spool

import (
	"encoding/binary"
	"fmt"
	"time"

	bolt "go.etcd.io/bbolt"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
)

// maxCredential is the longest credential name, in bytes.
const maxCredential = 255

// The buckets and what they hold:
//
//	meta   "format" → "1"; "books" → received, coalesced, drained, unsure
//	keys   base of the iD (8 bytes), credential → value
//	order  place (8 bytes) → key; its sequence numbers the pings
var (
	metaBucket  = []byte("meta")
	keysBucket  = []byte("keys")
	orderBucket = []byte("order")
	formatKey   = []byte("format")
	statsKey    = []byte("books")
	format      = []byte("1")
)

type buckets struct{ meta, keys, order *bolt.Bucket }

func bucketsOf(tx *bolt.Tx) (*buckets, error) {
	b := &buckets{tx.Bucket(metaBucket), tx.Bucket(keysBucket), tx.Bucket(orderBucket)}
	if b.meta == nil || b.keys == nil || b.order == nil {
		return nil, fmt.Errorf("%w: a bucket is missing", ErrDamaged)
	}
	b.order.FillPercent = 0.9 // places only grow
	return b, nil
}

// value is what waits for one key.
type value struct {
	place    uint64 // where it stands in the order: the sequence of its oldest ping
	sequence uint64 // of its latest ping
	first    int64  // accepted-at of its oldest ping, µs
	latest   int64  // accepted-at of its latest ping, µs
	caughtUp bool   // every one of its pings was caught up
}

const valueLen = 4*8 + 1

func (v value) encode() []byte {
	b := make([]byte, 0, valueLen)
	b = binary.BigEndian.AppendUint64(b, v.place)
	b = binary.BigEndian.AppendUint64(b, v.sequence)
	b = binary.BigEndian.AppendUint64(b, uint64(v.first))
	b = binary.BigEndian.AppendUint64(b, uint64(v.latest))
	if v.caughtUp {
		return append(b, 1)
	}
	return append(b, 0)
}

func decodeValue(b []byte) (value, error) {
	if len(b) != valueLen || b[valueLen-1] > 1 {
		return value{}, fmt.Errorf("%w: a value has %d bytes", ErrDamaged, len(b))
	}
	v := value{
		place:    binary.BigEndian.Uint64(b),
		sequence: binary.BigEndian.Uint64(b[8:]),
		first:    int64(binary.BigEndian.Uint64(b[16:])),
		latest:   int64(binary.BigEndian.Uint64(b[24:])),
		caughtUp: b[32] == 1,
	}
	if v.place > v.sequence || v.place == 0 {
		return value{}, fmt.Errorf("%w: a value's place %d is after its sequence %d", ErrDamaged, v.place, v.sequence)
	}
	return v, nil
}

func encodePlace(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func encodeKey(p *event.Ping) []byte {
	b := make([]byte, 0, 8+len(p.Credential))
	b = binary.BigEndian.AppendUint64(b, p.ORCID.Base())
	return append(b, p.Credential...)
}

func decodeKey(key []byte) (id orcid.ID, credential string, err error) {
	if len(key) <= 8 || len(key) > 8+maxCredential {
		return id, "", fmt.Errorf("%w: a key has %d bytes", ErrDamaged, len(key))
	}
	if id, err = orcid.FromBase(binary.BigEndian.Uint64(key)); err != nil {
		return id, "", fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return id, string(key[8:]), nil
}

func decodeItem(key, val []byte) (Item, error) {
	id, credential, err := decodeKey(key)
	if err != nil {
		return Item{}, err
	}
	v, err := decodeValue(val)
	if err != nil {
		return Item{}, err
	}
	return Item{
		Ping:     event.Ping{Credential: credential, ORCID: id, AcceptedAt: time.UnixMicro(v.latest), CaughtUp: v.caughtUp},
		Sequence: v.sequence,
	}, nil
}
