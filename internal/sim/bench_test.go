package sim

import (
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"dispatchd/internal/orcid"
)

// BenchmarkSendOnce measures pings over loopback to a receiver that does as
// little as can be: the ceiling of what a benchmark can ask of the simulator.
func BenchmarkSendOnce(b *testing.B) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf := make([]byte, 4096)
				for {
					n, err := c.Read(buf)
					if err != nil {
						return
					}
					if strings.HasSuffix(string(buf[:n]), "\r\n\r\n") {
						_, _ = io.WriteString(c, "HTTP/1.1 204 No Content\r\n\r\n")
					}
				}
			}()
		}
	}()
	r, err := New(Options{Manual: true, Threads: 64, BatchSize: 1 << 30, LedgerSize: 1000})
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	r.AddProfiles(b.N)
	if _, err := r.RegisterAll(DefaultClient().ID, func(id orcid.ID) string { return "http://" + ln.Addr().String() + "/" + id.String() }); err != nil {
		b.Fatal(err)
	}
	r.Shift(time.Second)
	r.MassReindex(0, true)
	r.IndexOnce()
	b.ResetTimer()
	r.SendOnce(b.Context())
	b.StopTimer()
	if got := r.Counters().Posts[204]; got != int64(b.N) {
		b.Fatalf("%d pings, want %d", got, b.N)
	}
}

// BenchmarkPass measures an idle and a small pass over a large registry: it
// must not depend on the number of webhooks.
func BenchmarkPass(b *testing.B) {
	for _, n := range []int{1_000, 1_000_000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			r, err := New(Options{Manual: true})
			if err != nil {
				b.Fatal(err)
			}
			r.AddProfiles(n)
			if _, err := r.RegisterAll(DefaultClient().ID, func(id orcid.ID) string { return "http://127.0.0.1:1/" + id.String() }); err != nil {
				b.Fatal(err)
			}
			r.PauseSender(false)
			for b.Loop() {
				r.Shift(time.Hour)
				r.ChangeRandom(10)
				r.IndexOnce()
				n := &run{r: r}
				batch := n.fetch()
				if len(batch) < 10 {
					b.Fatalf("%d ready", len(batch))
				}
				for _, h := range batch {
					r.mu.Lock()
					r.mark(h, true, 204, r.write())
					r.mu.Unlock()
				}
				n.release(batch)
			}
		})
	}
}
