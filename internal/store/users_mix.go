package store

import (
	"fmt"
	"strconv"

	"dispatchd/internal/orcid"
)

// A user is stored under a mixed number: a permutation of the fifty bits that
// a base of fifteen digits needs. Its bits serve as a hash as they are, also
// inside a script, and no sequence of iDs (they are handed out in blocks)
// crowds one partition or one bucket. The permutation is part of the schema.
const (
	mixBits = 50
	mixMask = 1<<mixBits - 1

	mixA, unmixA = 0x2545f4914f6cd, 0x0e4cf7247e605 // odd, and inverse modulo 2^50
	mixB, unmixB = 0x1d8e4e27c47d1, 0x1a8ca96137131

	// mixedFieldBytes holds the 44 bits below the partition's six.
	mixedFieldBytes = 6
)

func mix(base uint64) uint64 {
	x := base
	x ^= x >> 25
	x = x * mixA & mixMask
	x ^= x >> 25
	x = x * mixB & mixMask
	return x ^ x>>25
}

func unmix(x uint64) uint64 {
	x ^= x >> 25 // its own inverse: 25 is half of the bits
	x = x * unmixB & mixMask
	x ^= x >> 25
	x = x * unmixA & mixMask
	return x ^ x>>25
}

// mixedField is a user inside the hashes and sets of its partition: 44 bits,
// big-endian.
func mixedField(id orcid.ID) string {
	x := mix(id.Base())
	return string([]byte{byte(x >> 40 & 0xf), byte(x >> 32), byte(x >> 24), byte(x >> 16), byte(x >> 8), byte(x)})
}

// userOfMixedField undoes mixedField.
func userOfMixedField(p int, field string) (orcid.ID, error) {
	if len(field) != mixedFieldBytes || field[0] > 0xf {
		return orcid.ID{}, fmt.Errorf("user field %x of partition %d is damaged", field, p)
	}
	x := uint64(p)
	x = x<<4 | uint64(field[0])
	for i := 1; i < mixedFieldBytes; i++ {
		x = x<<8 | uint64(field[i])
	}
	return orcid.FromBase(unmix(x))
}

// memberNumber is a user inside the member index of an organisation: the mixed
// number in decimal, which Redis keeps as an integer.
func memberNumber(id orcid.ID) string { return strconv.FormatUint(mix(id.Base()), 10) }

// userOfMember undoes memberNumber.
func userOfMember(x uint64) (orcid.ID, error) {
	if x > mixMask {
		return orcid.ID{}, fmt.Errorf("member %d is damaged", x)
	}
	return orcid.FromBase(unmix(x))
}
