package look

import (
	"html/template"
	"reflect"
	"strconv"
	"time"
)

// words are the functions of every template.
var words = template.FuncMap{"num": num, "count": Count, "span": Span, "ago": Ago, "when": When, "asset": asset}

// num is Num for any integer of a template.
func num(v reflect.Value) string { return Num(v.Int()) }

// Num writes a number with commas: 2,310.
func Num[N ~int | ~int64](n N) string {
	s := strconv.FormatInt(int64(n), 10)
	sign := ""
	if n < 0 {
		sign, s = "-", s[1:]
	}
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return sign + s
}

// Count says how many of something there are: "1 user", "2,310 users".
func Count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return Num(n) + " " + many
}

// Span says roughly how long something takes: "5 s", "2 min", "3 h", "4 days".
func Span(d time.Duration) string {
	switch {
	case d < time.Second:
		return "less than 1 s"
	case d < 90*time.Second:
		return strconv.Itoa(int(d.Round(time.Second)/time.Second)) + " s"
	case d < 90*time.Minute:
		return strconv.Itoa(int(d.Round(time.Minute)/time.Minute)) + " min"
	case d < 36*time.Hour:
		return strconv.Itoa(int(d.Round(time.Hour)/time.Hour)) + " h"
	}
	return strconv.Itoa(int(d.Round(24*time.Hour)/(24*time.Hour))) + " days"
}

// Ago says how long ago t was, or in how long it will be, seen from now.
func Ago(t, now time.Time) string {
	switch d := now.Sub(t); {
	case t.IsZero():
		return "never"
	case d < -time.Second:
		return "in " + Span(-d)
	case d < time.Second:
		return "just now"
	default:
		return Span(d) + " ago"
	}
}

// When writes a moment in a time zone: "26 Nov 2026, 17:04 NZDT"; nil means UTC.
func When(t time.Time, zone *time.Location) string {
	if t.IsZero() {
		return "never"
	}
	if zone == nil {
		zone = time.UTC
	}
	return t.In(zone).Format("2 Jan 2006, 15:04 MST")
}
