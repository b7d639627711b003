package webhook

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/valyala/fasthttp"

	"dispatchd/internal/deliver"
	"dispatchd/internal/event"
)

// The benchmarks post to a fasthttp receiver in the same process, 16 at a time,
// and report the CPU time of both sides together. Ours also composes and signs;
// the two others, the baselines of the same run, post a ready request.

func cpuTime() time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

func benchmark(b *testing.B, post func() error) {
	b.Helper()
	b.SetParallelism(8)
	b.ReportAllocs()
	b.ResetTimer()
	before := cpuTime()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := post(); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64((cpuTime()-before).Microseconds())/float64(b.N), "cpu-µs/op")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "POST/s")
}

func benchReceiver(b *testing.B) string {
	b.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	srv := &fasthttp.Server{Handler: func(c *fasthttp.RequestCtx) { c.SetStatusCode(fasthttp.StatusNoContent) }, MaxIdleWorkerDuration: 50 * time.Millisecond, NoDefaultDate: true}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ln) }()
	b.Cleanup(func() { _ = srv.Shutdown(); <-done })
	return ln.Addr().String()
}

func BenchmarkSend(b *testing.B) {
	s := newSender(b, Options{})
	o, d := newOrg("http://"+benchReceiver(b)+"/orcid"), newDelivery(b)
	who := event.Affiliation{Org: "uni-a", Email: "j@uni-a.example", Name: "Josiah Carberry"}
	ctx := background()
	benchmark(b, func() error {
		if a := s.Send(ctx, o, d, who); a.Kind != deliver.KindOK {
			return a.Err
		}
		return nil
	})
}

// BenchmarkCompose is the message alone: its body, its head and the signature.
func BenchmarkCompose(b *testing.B) {
	s := newSender(b, Options{})
	o, d := newOrg("https://hooks.uni-a.example/orcid"), newDelivery(b)
	who := event.Affiliation{Org: "uni-a", Email: "j@uni-a.example", Name: "Josiah Carberry"}
	t, err := s.targets.parse(o.Webhook.URL)
	if err != nil {
		b.Fatal(err)
	}
	var head, body []byte
	now := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		id := d.ID()
		body = s.appendBody(body[:0], o, id, d, who, now)
		if head, err = s.appendHead(head[:0], t, o, id, d, body, now); err != nil {
			b.Fatal(err)
		}
	}
	if !bytes.Contains(head, []byte("webhook-signature: v1,")) {
		b.Fatalf("not signed: %q", head)
	}
}

func BenchmarkNetHTTP(b *testing.B) {
	url := "http://" + benchReceiver(b) + "/orcid"
	tr := &http.Transport{MaxIdleConnsPerHost: 256, MaxConnsPerHost: 256, DisableCompression: true}
	defer tr.CloseIdleConnections()
	c := &http.Client{Transport: tr, Timeout: 10 * time.Second}
	body := bytes.Repeat([]byte("x"), 250)
	benchmark(b, func() error {
		req, err := http.NewRequestWithContext(background(), http.MethodPost, url, bytes.NewReader(body))
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("webhook-id", "msg_AAAAAAAAAAAAAAAAAAAAAAAA")
		req.Header.Set("webhook-timestamp", "1795399532")
		req.Header.Set("webhook-signature", "v1,AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")
		resp, err := c.Do(req)
		if err != nil {
			return err
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		return resp.Body.Close()
	})
}

func BenchmarkHostClient(b *testing.B) {
	addr := benchReceiver(b)
	c := &fasthttp.HostClient{
		Addr: addr, MaxConns: 256, MaxIdleConnDuration: 200 * time.Millisecond, // its cleaner sleeps that long after the end
		Dial: func(addr string) (net.Conn, error) { return net.Dial("tcp", addr) }, // its own leaves a goroutine for ever
	}
	defer c.CloseIdleConnections()
	body := bytes.Repeat([]byte("x"), 250)
	benchmark(b, func() error {
		req, resp := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
		defer fasthttp.ReleaseRequest(req)
		defer fasthttp.ReleaseResponse(resp)
		req.SetRequestURI("http://" + addr + "/orcid")
		req.Header.SetMethod(fasthttp.MethodPost)
		req.SetBodyRaw(body)
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("webhook-id", "msg_AAAAAAAAAAAAAAAAAAAAAAAA")
		req.Header.Set("webhook-timestamp", "1795399532")
		req.Header.Set("webhook-signature", "v1,AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")
		return c.DoTimeout(req, resp, 10*time.Second)
	})
}
