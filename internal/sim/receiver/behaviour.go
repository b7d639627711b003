package receiver

import (
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"
)

// Behaviour answers one request, whose body has been read. It returns the
// status that it answered, or 0 when it answered none.
type Behaviour func(w http.ResponseWriter, r *http.Request) int

// OK answers 204.
func OK() Behaviour { return Status(http.StatusNoContent, "") }

// Status answers with a status and a text body.
func Status(code int, body string) Behaviour {
	return func(w http.ResponseWriter, _ *http.Request) int {
		if body != "" {
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		}
		w.WriteHeader(code)
		if body != "" {
			_, _ = io.WriteString(w, body) //nolint:gosec // the body is the test's own, and plain text
		}
		return code
	}
}

// Gone answers 410.
func Gone() Behaviour { return Status(http.StatusGone, "gone") }

// RetryAfter answers with a status and a Retry-After header, given as it is to
// stand there (seconds or a date).
func RetryAfter(code int, value string) Behaviour {
	answer := Status(code, "later")
	return func(w http.ResponseWriter, r *http.Request) int {
		w.Header().Set("Retry-After", value)
		return answer(w, r)
	}
}

// Redirect answers with a status (307, 302 …) and a Location.
func Redirect(code int, to string) Behaviour {
	return func(w http.ResponseWriter, _ *http.Request) int {
		w.Header().Set("Location", to)
		w.WriteHeader(code)
		return code
	}
}

// Slow waits before it does as next does.
func Slow(d time.Duration, next Behaviour) Behaviour {
	return func(w http.ResponseWriter, r *http.Request) int {
		if !wait(r, d) {
			return 0
		}
		return next(w, r)
	}
}

// Fail does as bad does for a share of the requests and as good otherwise; the
// choice is the same for the same seed and order of requests.
func Fail(ratio float64, seed uint64, bad, good Behaviour) Behaviour {
	var n atomic.Uint64
	return func(w http.ResponseWriter, r *http.Request) int {
		if rand.New(rand.NewPCG(seed, n.Add(1))).Float64() < ratio {
			return bad(w, r)
		}
		return good(w, r)
	}
}

// Script does as each of the steps does, one request a step, and from then on
// as the last.
func Script(steps ...Behaviour) Behaviour {
	var n atomic.Int64
	return func(w http.ResponseWriter, r *http.Request) int {
		i := min(int(n.Add(1)), len(steps)) - 1
		if i < 0 {
			return OK()(w, r)
		}
		return steps[i](w, r)
	}
}

// Hang answers nothing until the client or the receiver gives up.
func Hang() Behaviour {
	return func(_ http.ResponseWriter, r *http.Request) int {
		<-r.Context().Done()
		panic(http.ErrAbortHandler)
	}
}

// Gate answers as next does once open is closed; until then it hangs.
func Gate(open <-chan struct{}, next Behaviour) Behaviour {
	return func(w http.ResponseWriter, r *http.Request) int {
		select {
		case <-open:
			return next(w, r)
		case <-r.Context().Done():
			panic(http.ErrAbortHandler)
		}
	}
}

// HangBody sends the headers of a 200 with a body to come, and never that.
func HangBody() Behaviour {
	return func(w http.ResponseWriter, r *http.Request) int {
		w.Header().Set("Content-Length", "10")
		w.WriteHeader(http.StatusOK)
		flush(w, "abc")
		<-r.Context().Done()
		panic(http.ErrAbortHandler)
	}
}

// Drip sends a body without end, one byte an interval.
func Drip(interval time.Duration) Behaviour {
	return func(w http.ResponseWriter, r *http.Request) int {
		w.WriteHeader(http.StatusOK)
		for flush(w, "."); wait(r, interval); flush(w, ".") {
		}
		panic(http.ErrAbortHandler)
	}
}

// Flood answers with a status and a body of so many bytes, as fast as it goes.
func Flood(code int, size int64) Behaviour {
	return func(w http.ResponseWriter, _ *http.Request) int {
		w.WriteHeader(code)
		block := make([]byte, 32<<10)
		for i := range block {
			block[i] = 'x'
		}
		for size > 0 {
			n, err := w.Write(block[:min(size, int64(len(block)))])
			if err != nil {
				return code
			}
			size -= int64(n)
		}
		return code
	}
}

// Truncate promises more body than it sends.
func Truncate() Behaviour {
	return func(w http.ResponseWriter, _ *http.Request) int {
		w.Header().Set("Content-Length", "1000")
		w.WriteHeader(http.StatusOK)
		flush(w, "cut")
		panic(http.ErrAbortHandler)
	}
}

// Reset ends the connection with a RST instead of an answer.
func Reset() Behaviour {
	return func(w http.ResponseWriter, _ *http.Request) int {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // without it the close is a FIN, also a failure
		}
		_ = conn.Close() // broken off on purpose
		return 0
	}
}

// wait returns false when the client went away first.
func wait(r *http.Request, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-r.Context().Done():
		return false
	}
}

// flush sends a piece of body at once.
func flush(w http.ResponseWriter, s string) {
	_, _ = w.Write([]byte(s))                 // whoever is gone misses it
	_ = http.NewResponseController(w).Flush() // likewise
}
