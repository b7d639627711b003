package deliver

import (
	"net/http"
	"strings"
	"time"
)

// retryAfterLimit is the longest wish that is told apart from longer ones.
const retryAfterLimit = 10 * 365 * day

// ParseRetryAfter reads a Retry-After header: whole seconds or an HTTP date.
// A date that is past asks for no wait; a wish of more than ten years counts as
// ten. What is neither a number nor a date asks nothing: false.
func ParseRetryAfter(header string, now time.Time) (time.Duration, bool) {
	s := strings.Trim(header, " \t")
	if s == "" || len(s) > 128 {
		return 0, false
	}
	if strings.Trim(s, "0123456789") == "" {
		var seconds int64
		for _, c := range []byte(s) {
			seconds = seconds*10 + int64(c-'0')
			if seconds > int64(retryAfterLimit/time.Second) {
				return retryAfterLimit, true
			}
		}
		return time.Duration(seconds) * time.Second, true
	}
	t, err := http.ParseTime(s)
	if err != nil {
		return 0, false
	}
	return min(max(t.Sub(now), 0), retryAfterLimit), true
}
