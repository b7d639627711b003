package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"dispatchd/internal/callback"
	"dispatchd/internal/secret"
)

// Sender plays ORCID's part towards the callback listener: bare POSTs without
// body on kept connections, one at a time on each.
type Sender struct {
	requests [][]byte // by researcher
}

// Prepare says for whom requests are to be made.
type Prepare struct {
	// Keys are the lines of the daemon's callback.key; empty makes the paths of
	// a server that does not look at them.
	Keys     []string
	Host     string // host:port
	ClientID string
	Users    int
}

// Prepare makes the requests once, so that making them costs nothing in the
// runs.
func (s *Sender) Prepare(p Prepare, _ *struct{}) error {
	if len(p.Keys) == 0 {
		p.Keys = []string{"a key that nobody will ever verify"}
	}
	texts := make([]secret.Text, len(p.Keys))
	for i, k := range p.Keys {
		texts[i] = secret.Text(k)
	}
	keys, err := callback.NewKeys(texts)
	if err != nil {
		return fmt.Errorf("prepare pings: %w", err)
	}
	base := "http://" + p.Host
	s.requests = make([][]byte, p.Users)
	for n := range s.requests {
		u, err := keys.URL(base, p.ClientID, person(n), 1, "")
		if err != nil {
			return fmt.Errorf("prepare pings: %w", err)
		}
		s.requests[n] = fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: Apache-HttpClient/4.5\r\nContent-Length: 0\r\n\r\n",
			strings.TrimPrefix(u, base), p.Host)
	}
	return nil
}

// Pings is one run.
type Pings struct {
	Addr string
	// From is the first researcher; each ping is for the next one, all over
	// again after the last.
	From  int
	Conns int
	// Rate is pings a second, sent when they are due whether earlier ones were
	// answered or not (as far as there are connections; the wait counts). 0
	// sends as fast as answers come.
	Rate float64
	// For ends the run after that time, Count after so many pings; 0 is no end.
	For   time.Duration
	Count int
	// Keep asks for when each ping was due.
	Keep bool
}

// Pinged is what became of a run.
type Pinged struct {
	Start                   time.Time
	Sent, Accepted, Refused int
	Elapsed                 time.Duration // until the last answer
	Latency                 []int64       // ns, from when the ping was due (Rate) or sent
	Due                     []int64       // Keep: UnixNano of each ping, by its number
	LateP99                 time.Duration // how late pings were handed to a connection
}

// Run sends the pings.
func (s *Sender) Run(p Pings, out *Pinged) error {
	if len(s.requests) == 0 {
		return errors.New("sender: Prepare first")
	}
	if p.For == 0 && p.Count == 0 {
		return errors.New("sender: neither For nor Count")
	}
	r := &pingRun{s: s, p: p, stopAt: p.For, limit: p.Count}
	if r.limit == 0 {
		r.limit = 1 << 40
		if p.Rate > 0 {
			r.limit = int(p.For.Seconds() * p.Rate)
		}
	}
	if r.stopAt == 0 {
		r.stopAt = time.Hour
	}
	return r.run(out)
}

type pingRun struct {
	s      *Sender
	p      Pings
	stopAt time.Duration
	limit  int
	start  time.Time
	next   atomic.Int64
	late   latencies
}

type pingWorker struct {
	conn              net.Conn
	buf               []byte
	latency           []int64
	accepted, refused int
	err               error
}

type duePing struct {
	i   int
	due int64 // ns after the start
}

func (r *pingRun) run(out *Pinged) error {
	workers := make([]*pingWorker, r.p.Conns)
	for i := range workers {
		c, err := net.Dial("tcp", r.p.Addr) //nolint:noctx // loopback, and the process ends with its parent
		if err != nil {
			return fmt.Errorf("connect: %w", err)
		}
		defer c.Close()
		workers[i] = &pingWorker{conn: c, buf: make([]byte, 4096)}
	}
	r.start = time.Now()
	var wg sync.WaitGroup
	if r.p.Rate > 0 {
		queue := make(chan duePing, 1<<16) // what waits here is late, and is counted so
		for _, w := range workers {
			wg.Go(func() { r.openLoop(w, queue) })
		}
		pace(r.start, r.p.Rate, r.limit, func(i int, due int64) bool {
			r.late = append(r.late, int64(time.Since(r.start))-due)
			queue <- duePing{i, due}
			return false
		})
		close(queue)
	} else {
		for _, w := range workers {
			wg.Go(func() { r.closedLoop(w) })
		}
	}
	wg.Wait()
	out.Start, out.Elapsed = r.start, time.Since(r.start)
	for _, w := range workers {
		if w.err != nil {
			return fmt.Errorf("ping: %w", w.err)
		}
		out.Accepted += w.accepted
		out.Refused += w.refused
		out.Latency = append(out.Latency, w.latency...)
	}
	out.Sent = out.Accepted + out.Refused
	out.LateP99 = r.late.percentile(0.99)
	if r.p.Keep && r.p.Rate > 0 {
		out.Due = make([]int64, out.Sent)
		for i := range out.Due {
			out.Due[i] = r.start.UnixNano() + intended(i, r.p.Rate)
		}
	}
	return nil
}

func (r *pingRun) openLoop(w *pingWorker, queue <-chan duePing) {
	for d := range queue {
		if w.err == nil {
			r.ping(w, d.i, d.due)
		}
	}
}

func (r *pingRun) closedLoop(w *pingWorker) {
	for w.err == nil {
		sent := time.Since(r.start)
		if sent >= r.stopAt {
			return
		}
		i := int(r.next.Add(1)) - 1
		if i >= r.limit {
			return
		}
		r.ping(w, i, int64(sent))
	}
}

var endOfHead = []byte("\r\n\r\n")

// ping sends one ping and reads the answer, which has no body.
func (r *pingRun) ping(w *pingWorker, i int, due int64) {
	if _, w.err = w.conn.Write(r.s.requests[(r.p.From+i)%len(r.s.requests)]); w.err != nil {
		return
	}
	n := 0
	for n < 4 || !bytes.Equal(w.buf[n-4:n], endOfHead) {
		if n == len(w.buf) {
			w.err = errors.New("the answer does not end")
			return
		}
		got, err := w.conn.Read(w.buf[n:])
		if err != nil {
			w.err = err
			return
		}
		n += got
	}
	w.latency = append(w.latency, int64(time.Since(r.start))-due)
	if bytes.HasPrefix(w.buf[:n], []byte("HTTP/1.1 204 ")) {
		w.accepted++
	} else {
		w.refused++
		w.err = fmt.Errorf("answered %q", bytes.TrimSpace(w.buf[:n]))
	}
}
