package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/valyala/fasthttp"

	"dispatchd/internal/orcid"
)

// Receiver is every organisation's receiver: it notes what it was sent and
// answers 204, unless an organisation is told to hang, to fail or to be slow.
type Receiver struct {
	server *fasthttp.Server

	mu       sync.Mutex
	arrivals []Arrival
	keep     bool
	count    int
	last     time.Time
	changed  chan struct{} // closed and replaced when want is reached
	want     int
	how      map[int]Manner
	quit     chan struct{}
}

// Arrival is one POST.
type Arrival struct {
	Org, Person int
	At          int64 // UnixNano, when it was read
}

// Manner is how an organisation answers.
type Manner struct {
	Hang   bool
	Status int           // 0 means 204
	Delay  time.Duration // before the answer
}

func newReceiver() *Receiver {
	return &Receiver{changed: make(chan struct{}), how: map[int]Manner{}, quit: make(chan struct{})}
}

// Listen starts the server and returns its address.
func (r *Receiver) Listen(_ struct{}, addr *string) error {
	ln, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // loopback
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	r.server = &fasthttp.Server{Handler: r.handle, NoDefaultServerHeader: true, NoDefaultContentType: true, Concurrency: 1 << 16}
	go func() { _ = r.server.Serve(ln) }() // ends with the process
	*addr = ln.Addr().String()
	return nil
}

var orcidKey = []byte(`"orcid":"`)

func (r *Receiver) handle(ctx *fasthttp.RequestCtx) {
	at := time.Now()
	o, _ := strconv.Atoi(string(ctx.Path()[1:])) // the baselines post to /0
	who := -1
	body := ctx.PostBody()
	if i := bytes.Index(body, orcidKey); i >= 0 && len(body) >= i+len(orcidKey)+19 {
		if id, err := orcid.ParseStrict(body[i+len(orcidKey) : i+len(orcidKey)+19]); err == nil {
			if n, ok := personOf(id); ok {
				who = n
			}
		}
	}
	r.mu.Lock()
	how := r.how[o]
	if !how.Hang && how.Status < 300 {
		r.count++
		r.last = at
		if r.keep {
			r.arrivals = append(r.arrivals, Arrival{o, who, at.UnixNano()})
		}
		if r.count == r.want {
			close(r.changed)
			r.changed = make(chan struct{})
		}
	}
	quit := r.quit
	r.mu.Unlock()
	switch {
	case how.Hang:
		<-quit
	case how.Delay > 0:
		time.Sleep(how.Delay)
	}
	if how.Status == 0 {
		how.Status = fasthttp.StatusNoContent
	}
	ctx.SetStatusCode(how.Status)
}

// Behave sets how organisations answer; those not named answer 204 at once.
// What hangs is let go.
func (r *Receiver) Behave(how map[int]Manner, _ *struct{}) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.quit)
	r.quit, r.how = make(chan struct{}), how
	if r.how == nil {
		r.how = map[int]Manner{}
	}
	return nil
}

// Reset begins to count anew; keep also notes every arrival.
func (r *Receiver) Reset(keep bool, _ *struct{}) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.arrivals, r.count, r.keep = make([]Arrival, 0, 1<<16), 0, keep
	return nil
}

// Wait is what to wait for.
type Wait struct {
	Count int
	For   time.Duration
}

// Received is what has come since Reset.
type Received struct {
	Count    int
	Last     time.Time
	Arrivals []Arrival
}

var errTooFew = errors.New("fewer came in time")

// Wait returns when so many have come, or with what has come in time.
func (r *Receiver) Wait(w Wait, out *Received) error {
	r.mu.Lock()
	reached, missing := r.changed, r.count < w.Count
	r.want = w.Count
	r.mu.Unlock()
	if missing {
		select {
		case <-reached:
		case <-time.After(w.For):
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	out.Count, out.Last = r.count, r.last
	return nil
}

// Take returns every arrival since Reset.
func (r *Receiver) Take(_ struct{}, out *Received) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	out.Count, out.Last, out.Arrivals = r.count, r.last, r.arrivals
	r.arrivals = nil
	return nil
}
