package config

import (
	"testing"
	"time"
)

func TestParseDuration(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{
		"15s": 15 * time.Second, "24h": day, "90d": 90 * day, "1d12h": 36 * time.Hour, "1h30m": 90 * time.Minute,
		"0": 0, "0s": 0, "0d": 0, "-5s": -5 * time.Second, "-1d": -day, "+2m": 2 * time.Minute, "1.5h": 90 * time.Minute,
	} {
		if got, err := ParseDuration(text); err != nil || got != want {
			t.Errorf("%q: %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "15", "s", "d", "-", "--1s", "+-1s", "1d-1h", "1.5d", "1h2d", "1 h", "90D", "1w", "106752d", "106751d24h", "9999999999d", "9223372036854775808ns"} {
		if got, err := ParseDuration(text); err == nil {
			t.Errorf("%q was read as %v", text, got)
		}
	}
}

func TestFormatDuration(t *testing.T) {
	t.Parallel()
	for want, d := range map[string]time.Duration{
		"0s": 0, "15s": 15 * time.Second, "1m": time.Minute, "24h": day, "2d": 2 * day, "90d": 90 * day,
		"36h": 36 * time.Hour, "1h30m": 90 * time.Minute, "1m30s": 90 * time.Second, "-5s": -5 * time.Second, "10m": 10 * time.Minute, "1h0m10s": time.Hour + 10*time.Second,
	} {
		if got := FormatDuration(d); got != want {
			t.Errorf("%d is written %q, want %q", d, got, want)
		}
	}
}

func FuzzDuration(f *testing.F) {
	f.Add(int64(0), "90d")
	f.Add(int64(-1), "-106751d23h")
	f.Add(int64(90*day), "1d1d")
	f.Fuzz(func(t *testing.T, n int64, text string) {
		if back, err := ParseDuration(FormatDuration(time.Duration(n))); n > -1<<63 && (err != nil || back != time.Duration(n)) {
			t.Errorf("%d is written %q and read as %d, %v", n, FormatDuration(time.Duration(n)), back, err)
		}
		if d, err := ParseDuration(text); err == nil {
			if back, err := ParseDuration(FormatDuration(d)); err != nil || back != d {
				t.Errorf("%q → %v → %v, %v", text, d, back, err)
			}
		}
	})
}
