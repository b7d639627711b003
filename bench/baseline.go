package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/valyala/fasthttp"
)

// BareServer is a fasthttp server that answers 204 and does nothing else.
type BareServer struct{}

// Listen starts it and returns its address.
func (*BareServer) Listen(_ struct{}, addr *string) error {
	ln, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // loopback
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	s := &fasthttp.Server{
		Handler:               func(ctx *fasthttp.RequestCtx) { ctx.SetStatusCode(fasthttp.StatusNoContent) },
		NoDefaultServerHeader: true, NoDefaultContentType: true,
	}
	go func() { _ = s.Serve(ln) }() // ends with the process
	*addr = ln.Addr().String()
	return nil
}

// sampleBody is what the daemon posts, to the byte count.
const sampleBody = `{"id":"18kQmZcTq0F7","orcid":"0000-0001-5000-0007","url":"https://sandbox.orcid.org/0000-0001-5000-0007","type":"UPDATED",` +
	`"updated-at":"2026-11-23T02:05:32+00:00","email":"given.family123@org12.example","name":"Given Middle Family"}`

// Poster posts the same body over and over from a number of workers.
type Poster struct{}

// Posts is one run of a Poster.
type Posts struct {
	Kind    string // "fasthttp" or "net/http"
	URL     string
	Workers int
	For     time.Duration
}

// Posted is what it did.
type Posted struct {
	Count   int64
	Elapsed time.Duration
}

// Run posts.
func (*Poster) Run(p Posts, out *Posted) error {
	var post func() error
	switch p.Kind {
	case "fasthttp":
		c := &fasthttp.HostClient{Addr: p.URL[len("http://"):][:bytes.IndexByte([]byte(p.URL[len("http://"):]), '/')], MaxConns: p.Workers}
		defer c.CloseIdleConnections()
		post = func() error {
			req, resp := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
			defer fasthttp.ReleaseRequest(req)
			defer fasthttp.ReleaseResponse(resp)
			req.SetRequestURI(p.URL)
			req.Header.SetMethod(fasthttp.MethodPost)
			req.Header.SetContentType("application/json")
			req.SetBodyString(sampleBody)
			return c.Do(req, resp)
		}
	case "net/http":
		t := &http.Transport{MaxIdleConnsPerHost: p.Workers, DisableCompression: true}
		defer t.CloseIdleConnections()
		c := &http.Client{Transport: t, Timeout: 10 * time.Second}
		post = func() error {
			req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, p.URL, bytes.NewReader([]byte(sampleBody)))
			if err != nil {
				return err
			}
			req.Header.Set("Content-Type", "application/json")
			res, err := c.Do(req)
			if err != nil {
				return err
			}
			defer res.Body.Close()
			_, err = io.Copy(io.Discard, res.Body)
			return err
		}
	default:
		return fmt.Errorf("no client %q", p.Kind)
	}
	began := time.Now()
	var count atomic.Int64
	errs := make([]error, p.Workers)
	var wg sync.WaitGroup
	for w := range p.Workers {
		wg.Go(func() {
			for time.Since(began) < p.For {
				if errs[w] = post(); errs[w] != nil {
					return
				}
				count.Add(1)
			}
		})
	}
	wg.Wait()
	out.Count, out.Elapsed = count.Load(), time.Since(began)
	for _, err := range errs {
		if err != nil {
			return fmt.Errorf("post with %s: %w", p.Kind, err)
		}
	}
	return nil
}

// Pipeliner writes to Redis what a delivery has to write at the least, as plain
// commands in pipelines: the ping into a stream; the slot, its due time and the
// claim; the outcome. It looks nothing up and decides nothing.
type Pipeliner struct{}

// Pipelined is one run of a Pipeliner.
type Pipelined struct {
	Addr    string
	Workers int
	Batch   int // deliveries a pipeline
	For     time.Duration
}

// Run writes.
func (*Pipeliner) Run(p Pipelined, out *Posted) error {
	rdb := redis.NewClient(&redis.Options{Addr: p.Addr, MaxRetries: -1, PoolSize: p.Workers, DisableIdentity: true})
	defer rdb.Close()
	began := time.Now()
	var count atomic.Int64
	errs := make([]error, p.Workers)
	var wg sync.WaitGroup
	for w := range p.Workers {
		wg.Go(func() {
			for i := 0; time.Since(began) < p.For && errs[w] == nil; i++ {
				errs[w] = pipeline(context.Background(), rdb, w, i, p.Batch)
				count.Add(int64(p.Batch))
			}
		})
	}
	wg.Wait()
	out.Count, out.Elapsed = count.Load(), time.Since(began)
	for _, err := range errs {
		if err != nil {
			return fmt.Errorf("write plain commands: %w", err)
		}
	}
	return nil
}

func pipeline(ctx context.Context, rdb *redis.Client, worker, round, batch int) error {
	pipe := rdb.Pipeline()
	org := strconv.Itoa(round % 100)
	slots, due := "plain:slots:"+org, "plain:due:"+org
	for i := range batch {
		field := strconv.Itoa(((worker<<20+round)*batch+i)%100_000 + firstBase)
		now := time.Now().UnixMilli()
		pipe.XAdd(ctx, &redis.XAddArgs{Stream: "plain:log", MaxLen: 10_000, Approx: true, Values: []any{"d", field}})
		pipe.HSet(ctx, slots, field, "1795000000000000;U")
		pipe.ZAdd(ctx, due, redis.Z{Score: float64(now), Member: field})
		pipe.HSet(ctx, slots, field, "1795000000000000;U;;;;;;token;U;")
		pipe.ZAdd(ctx, due, redis.Z{Score: float64(now + 60_000), Member: field})
		pipe.HDel(ctx, slots, field)
		pipe.ZRem(ctx, due, field)
	}
	_, err := pipe.Exec(ctx)
	return err
}
