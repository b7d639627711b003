package intake

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"testing"

	"github.com/valyala/fasthttp"

	"dispatchd/internal/event"
	"dispatchd/internal/intake/spool"
)

func newReader(c net.Conn) *bufio.Reader { return bufio.NewReader(c) }

// noLog costs nothing, so that what is left is ours.
type noLog struct{}

func (noLog) Append(context.Context, []event.Ping) error { return nil }

// BenchmarkHandler is verify, group commit and answer, without sockets.
func BenchmarkHandler(b *testing.B) {
	s := setup(b, func(o *Options) { o.Log = noLog{} })
	for name, path := range map[string]string{"accepted": s.path(1), "forged": s.path(1)[:len(s.path(1))-1] + "A"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				var ctx fasthttp.RequestCtx
				var req fasthttp.Request
				req.Header.SetMethod(http.MethodPost)
				req.SetRequestURI(path)
				ctx.Init(&req, nil, nil)
				for pb.Next() {
					s.handle(&ctx)
				}
			})
		})
	}
}

// BenchmarkSockets adds the loopback: connections that ping one after the other.
func BenchmarkSockets(b *testing.B) {
	s := setup(b, func(o *Options) { o.Log = noLog{} })
	raw := []byte(rawPing(s.path(1)))
	b.ReportAllocs()
	b.SetParallelism(16)
	b.RunParallel(func(pb *testing.PB) {
		c, err := net.Dial("tcp", s.addr)
		if err != nil {
			b.Error(err)
			return
		}
		defer c.Close()
		r := newReader(c)
		for pb.Next() {
			if _, err := c.Write(raw); err != nil {
				b.Error(err)
				return
			}
			for end := false; !end; {
				line, err := r.ReadSlice('\n')
				if err != nil && err != io.EOF {
					b.Error(err)
					return
				}
				end = len(line) <= 2
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "pings/s")
}

// BenchmarkSpooled is the same while Redis is away: every ping is on the disk.
func BenchmarkSpooled(b *testing.B) {
	sp, err := spool.Open(filepath.Join(b.TempDir(), "bench.db"), spool.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = sp.Close() })
	s := setup(b, func(o *Options) {
		o.Spool = sp
		o.Guard = func() error { return io.ErrClosedPipe }
	})
	paths := make([]string, 10_000)
	for i := range paths {
		paths[i] = s.path(i)
	}
	b.SetParallelism(256)
	b.RunParallel(func(pb *testing.PB) {
		var ctx fasthttp.RequestCtx
		var req fasthttp.Request
		req.Header.SetMethod(http.MethodPost)
		ctx.Init(&req, nil, nil)
		for i := 0; pb.Next(); i++ {
			ctx.Request.SetRequestURI(paths[i%len(paths)])
			s.handle(&ctx)
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "pings/s")
}
