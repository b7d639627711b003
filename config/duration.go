package config

import (
	"errors"
	"math"
	"strconv"
	"strings"
	"time"
)

const day = 24 * time.Hour

var errDuration = errors.New(`must be a duration such as "15s", "24h" or "90d"`)

// ParseDuration reads what time.ParseDuration does and, before it, whole days:
// "90d", "1d12h". A number without a unit is an error, except 0.
func ParseDuration(text string) (time.Duration, error) {
	s, negative := text, false
	if rest, ok := strings.CutPrefix(s, "-"); ok {
		s, negative = rest, true
	} else {
		s = strings.TrimPrefix(s, "+")
	}
	if s == "" || s[0] == '-' || s[0] == '+' {
		return 0, errDuration
	}
	var total time.Duration
	if days, rest, ok := strings.Cut(s, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 32)
		if err != nil || n > uint64(math.MaxInt64/day) {
			return 0, errDuration
		}
		total, s = time.Duration(n)*day, rest
	}
	if s != "" {
		if s[0] == '-' || s[0] == '+' {
			return 0, errDuration
		}
		d, err := time.ParseDuration(s)
		if err != nil || d > math.MaxInt64-total {
			return 0, errDuration
		}
		total += d
	}
	if negative {
		total = -total
	}
	return total, nil
}

// FormatDuration writes d as a person would: "15s", "24h", "90d", "1m30s".
// ParseDuration reads it back.
func FormatDuration(d time.Duration) string {
	if d >= 2*day && d%day == 0 {
		return strconv.FormatInt(int64(d/day), 10) + "d"
	}
	s := d.String()
	if rest, ok := strings.CutSuffix(s, "m0s"); ok {
		s = rest + "m"
	}
	if rest, ok := strings.CutSuffix(s, "h0m"); ok {
		s = rest + "h"
	}
	return s
}
