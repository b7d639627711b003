package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
)

// The record of a user is as small as it can be without a dictionary:
//
//	last ping    4 bytes, seconds since 1970, big-endian; 0 is none
//	head         1 byte: 001 and the number of affiliations (31: 31 + a uvarint);
//	             010 in front when one of them is muted
//	affiliation  uvarint organisation<<2 | announce<<1 | personal; in the form
//	             010 organisation<<3 | muted<<2 | announce<<1 | personal
//	             4 bytes affiliated at, seconds
//	             if personal: e-mail, eppn, name, each a uvarint length and bytes
//	registration uvarint credential<<4 | troubled<<3 | state
//	             uvarint epoch, uvarint base, 4 bytes changed at, seconds
//	             if troubled: uvarint tries, uvarint status, 4 bytes retry at
//
// Registrations go on to the end. Scripts look at the first four bytes only;
// everything after them is also the version that SaveUser compares: a record
// that changed and changed back is the same record.
const (
	pingBytes     = 4
	codecHead     = 0x20
	codecHeadMute = 0x40
	codecHeadMask = 0xe0
	manyCount     = 31

	// maxPersonal bounds one field of personal data, in bytes.
	maxPersonal = 512
	maxRecord   = 64 << 10
)

// ErrDamaged says that a stored record is not what this package writes.
var ErrDamaged = event.ErrDamaged

// unreadable reports whether a record was read and not understood; any other
// error says nothing about the record.
func unreadable(err error) bool { return errors.Is(err, ErrDamaged) }

// appendPing appends the bytes of the latest ping.
func appendPing(b []byte, at time.Time) []byte {
	if at.IsZero() {
		return append(b, 0, 0, 0, 0)
	}
	return binary.BigEndian.AppendUint32(b, uint32(min(max(at.Unix(), 0), math.MaxUint32)))
}

func appendSeconds(b []byte, what string, at time.Time) ([]byte, error) {
	if at.IsZero() {
		return append(b, 0, 0, 0, 0), nil
	}
	if s := at.Unix(); s <= 0 || s > math.MaxUint32 {
		return nil, fmt.Errorf("%s %s cannot be stored", what, at.UTC().Format(time.RFC3339))
	}
	return binary.BigEndian.AppendUint32(b, uint32(at.Unix())), nil
}

// encodeUser makes the record of u without its latest ping; it is empty when
// there is nothing to keep. Every name must be in the tables.
func encodeUser(u *event.User, orgs, creds *numberTable) ([]byte, error) {
	if len(u.Affiliations) == 0 && len(u.Registrations) == 0 {
		return nil, nil
	}
	b := make([]byte, 0, 96)
	form, shift := byte(codecHead), 2
	if slices.ContainsFunc(u.Affiliations, func(a event.Affiliation) bool { return a.Muted }) {
		form, shift = codecHeadMute, 3
	}
	if n := len(u.Affiliations); n < manyCount {
		b = append(b, form|byte(n))
	} else {
		b = append(b, form|manyCount)
		b = binary.AppendUvarint(b, uint64(n-manyCount))
	}
	for i := range u.Affiliations {
		a := &u.Affiliations[i]
		for j := range i {
			if u.Affiliations[j].Org == a.Org {
				return nil, fmt.Errorf("%s is affiliated twice", a.Org)
			}
		}
		n, ok := orgs.number[a.Org]
		if !ok {
			return nil, fmt.Errorf("organisation %q has no number", a.Org)
		}
		head := uint64(n) << shift
		if a.Muted {
			head |= 4
		}
		if a.Announce {
			head |= 2
		}
		personal := a.Email != "" || a.EPPN != "" || a.Name != ""
		if personal {
			head |= 1
		}
		b = binary.AppendUvarint(b, head)
		var err error
		if b, err = appendSeconds(b, "time of the affiliation", a.AffiliatedAt); err != nil {
			return nil, err
		}
		if !personal {
			continue
		}
		for _, p := range [...]struct{ what, text string }{{"e-mail address", a.Email}, {"eppn", a.EPPN}, {"name", a.Name}} {
			if len(p.text) > maxPersonal {
				return nil, fmt.Errorf("%s has %d bytes, at most %d can be stored", p.what, len(p.text), maxPersonal)
			}
			b = binary.AppendUvarint(b, uint64(len(p.text)))
			b = append(b, p.text...)
		}
	}
	for i := range u.Registrations {
		var err error
		if b, err = appendRegistration(b, u.Registrations[:i], &u.Registrations[i], creds); err != nil {
			return nil, err
		}
	}
	if len(b) > maxRecord {
		return nil, fmt.Errorf("the record has %d bytes, at most %d can be stored", len(b), maxRecord)
	}
	return b, nil
}

func appendRegistration(b []byte, before []event.Registration, r *event.Registration, creds *numberTable) ([]byte, error) {
	for i := range before {
		if before[i].Credential == r.Credential && before[i].Epoch == r.Epoch {
			return nil, fmt.Errorf("registration %s/%d stands twice", r.Credential, r.Epoch)
		}
	}
	n, ok := creds.number[r.Credential]
	if !ok {
		return nil, fmt.Errorf("credential %q has no number", r.Credential)
	}
	if r.State > event.RegRefused || r.Epoch < 0 || r.Base < 0 || r.Tries < 0 || r.Status < 0 {
		return nil, fmt.Errorf("registration %s/%d cannot be stored", r.Credential, r.Epoch)
	}
	head := uint64(n)<<4 | uint64(r.State)
	troubled := r.Tries != 0 || r.Status != 0 || !r.RetryAt.IsZero()
	if troubled {
		head |= 8
	}
	b = binary.AppendUvarint(b, head)
	b = binary.AppendUvarint(b, uint64(r.Epoch))
	b = binary.AppendUvarint(b, uint64(r.Base))
	b, err := appendSeconds(b, "time of the registration's change", r.Changed)
	if err != nil || !troubled {
		return b, err
	}
	b = binary.AppendUvarint(b, uint64(r.Tries))
	b = binary.AppendUvarint(b, uint64(r.Status))
	return appendSeconds(b, "time of the registration's retry", r.RetryAt)
}

// decodeUser undoes encodeUser with the latest ping in front. It wraps
// ErrDamaged when the bytes are not a record, and errNoName when a number
// stands for no name in these tables.
func decodeUser(id orcid.ID, raw string, orgs, creds *numberTable) (*event.User, error) {
	if len(raw) <= pingBytes {
		return nil, fmt.Errorf("%w: %d bytes", ErrDamaged, len(raw))
	}
	u := &event.User{ORCID: id, Version: raw[pingBytes:]}
	d := decoder{rest: raw}
	u.LastPing = d.seconds()
	head := d.byte()
	shift := 2
	switch head & codecHeadMask {
	case codecHead:
	case codecHeadMute:
		shift = 3
	default:
		return nil, fmt.Errorf("%w: unknown form 0x%02x", ErrDamaged, head)
	}
	count := uint64(head &^ codecHeadMask)
	if count == manyCount {
		count += d.uvarint(maxRecord)
	}
	if count > 0 && d.err == nil {
		u.Affiliations = make([]event.Affiliation, 0, min(count, 64))
	}
	for i := uint64(0); i < count && d.err == nil; i++ {
		u.Affiliations = append(u.Affiliations, d.affiliation(orgs, shift))
	}
	for d.rest != "" && d.err == nil {
		u.Registrations = append(u.Registrations, d.registration(creds))
	}
	if d.err == nil && count == 0 && len(u.Registrations) == 0 {
		d.fail("it is empty")
	}
	if d.err != nil {
		return nil, d.err
	}
	return u, nil
}

// decoder reads a record and remembers the first thing wrong with it; after
// that it reads zeroes.
type decoder struct {
	rest string
	err  error
}

func (d *decoder) fail(why string) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: %s", ErrDamaged, why)
	}
	d.rest = ""
}

func (d *decoder) take(n uint64) string {
	if n > uint64(len(d.rest)) {
		d.fail("it ends too early")
		return ""
	}
	s := d.rest[:n]
	d.rest = d.rest[n:]
	return s
}

func (d *decoder) byte() byte {
	if s := d.take(1); s != "" {
		return s[0]
	}
	return 0
}

func (d *decoder) seconds() time.Time {
	s := d.take(4)
	if s == "" || s == "\x00\x00\x00\x00" {
		return time.Time{}
	}
	return time.Unix(int64(s[0])<<24|int64(s[1])<<16|int64(s[2])<<8|int64(s[3]), 0).UTC()
}

func (d *decoder) uvarint(limit uint64) uint64 {
	var x uint64
	for shift := 0; ; shift += 7 {
		c := d.byte()
		if d.err != nil {
			return 0
		}
		if shift > 56 || shift > 0 && c == 0 {
			d.fail("a number has a wrong form")
			return 0
		}
		x |= uint64(c&0x7f) << shift
		if c < 0x80 {
			break
		}
	}
	if x > limit {
		d.fail("a number is too large")
		return 0
	}
	return x
}

// name resolves a number. One that cannot be resolved is an error of its own:
// the table may be older than the record.
func (d *decoder) name(what string, t *numberTable, n uint64) string {
	if d.err != nil {
		return ""
	}
	name, ok := t.name(n)
	if !ok {
		d.fail("")
		d.err = fmt.Errorf("%s number %d: %w", what, n, errNoName)
	}
	return name
}

// affiliation reads one whose organisation's number begins at the bit shift.
func (d *decoder) affiliation(orgs *numberTable, shift int) event.Affiliation {
	head := d.uvarint(math.MaxUint32 << shift)
	a := event.Affiliation{
		Org: d.name("organisation", orgs, head>>shift), AffiliatedAt: d.seconds(), Announce: head&2 != 0,
		Muted: shift == 3 && head&4 != 0,
	}
	if head&1 != 0 {
		a.Email = d.take(d.uvarint(maxPersonal))
		a.EPPN = d.take(d.uvarint(maxPersonal))
		a.Name = d.take(d.uvarint(maxPersonal))
		if a.Email == "" && a.EPPN == "" && a.Name == "" {
			d.fail("personal data is announced but missing")
		}
	}
	return a
}

func (d *decoder) registration(creds *numberTable) event.Registration {
	head := d.uvarint(math.MaxUint32 << 4)
	r := event.Registration{Credential: d.name("credential", creds, head>>4), State: event.RegState(head & 7)}
	if r.State > event.RegRefused {
		d.fail("unknown state of a registration")
	}
	r.Epoch = int(d.uvarint(math.MaxInt32))
	r.Base = int(d.uvarint(math.MaxInt32))
	r.Changed = d.seconds()
	if head&8 != 0 {
		r.Tries = int(d.uvarint(math.MaxInt32))
		r.Status = int(d.uvarint(math.MaxInt32))
		r.RetryAt = d.seconds()
	}
	return r
}
