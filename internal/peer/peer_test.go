package peer

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestOf(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ remote, forwarded, want string }{
		{"127.0.0.1:1", "", "127.0.0.1"},
		{"127.0.0.1:1", "6.6.6.6, 198.51.100.7", "198.51.100.7"}, // only what the proxy itself added
		{"127.0.0.1:1", "rubbish", "127.0.0.1"},
		{"203.0.113.5:1", "198.51.100.7", "203.0.113.5"}, // nobody of ours said so
		{"10.0.0.1:1", "2001:db8:1:2:3::4", "2001:db8:1:2::/64"},
		{"[2001:db8::1]:1", "", "2001:db8::/64"},
		{"[::ffff:127.0.0.1]:1", "198.51.100.7", "198.51.100.7"},
		{"@", "", "unknown"},
	} {
		r := httptest.NewRequestWithContext(context.Background(), http.MethodGet, "/", nil)
		r.RemoteAddr = c.remote
		if c.forwarded != "" {
			r.Header.Set("X-Forwarded-For", c.forwarded)
		}
		if got := Of(r); got != c.want {
			t.Errorf("%s for %q: %s, want %s", c.remote, c.forwarded, got, c.want)
		}
	}
}
