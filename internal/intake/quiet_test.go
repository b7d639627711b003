package intake

import (
	"io"
	"strings"
	"testing"
)

// TestNoPathInTheLog sends requests that fasthttp cannot read, which its errors
// quote: the path is a secret, also at debug level.
func TestNoPathInTheLog(t *testing.T) {
	t.Parallel()
	b := setup(t)
	path := b.path(1)
	token := path[strings.LastIndexByte(path, '/')+1:]
	for _, raw := range []string{
		"POST " + path + "\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
		"POST " + path + " x HTTP/1.1\r\nHost: x\r\n\r\n",
		"POST " + path + "\r\n\r\n",
		"POST " + path + " HTTP/1.1\r\nHost : x\r\n\r\n",
		"POST " + path + " HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
		"POST " + path + " HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + path + "\r\n",
		"POST " + path + " HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("a", 2*maxHeader) + "\r\n\r\n",
	} {
		c := b.dial(t)
		c.send(t, raw)
		if _, err := io.Copy(io.Discard, c.r); err != nil && !strings.Contains(err.Error(), "reset") {
			t.Errorf("%.80q: %v", raw, err)
		}
	}
	if err := b.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	said := b.words.String()
	if !strings.Contains(said, "not readable as a request") {
		t.Errorf("nothing was logged, so this test shows nothing:\n%s", said)
	}
	if strings.Contains(said, token) || strings.Contains(said, "/hooks/") {
		t.Errorf("the log holds the path:\n%s", said)
	}
}
