// Command asynq-worker is a baseline of the bench: asynq doing what dispatchd
// does, as far as asynq does it. It has a module of its own, so that the daemon
// does not depend on asynq.
package main

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hibiken/asynq"
	"github.com/valyala/fasthttp"
)

const task = "webhook"

const body = `{"id":"18kQmZcTq0F7","orcid":"0000-0001-5000-0007","url":"https://sandbox.orcid.org/0000-0001-5000-0007","type":"UPDATED",` +
	`"updated-at":"2026-11-23T02:05:32+00:00","email":"given.family123@org12.example","name":"Given Middle Family"}`

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "asynq-worker:", err)
		os.Exit(1)
	}
}

func run() error {
	mode := flag.String("mode", "", "fill the queue, work it off, or all: take pings, queue and work")
	addr := flag.String("redis", "", "host:port")
	url := flag.String("url", "", "where to post")
	tasks := flag.Int("tasks", 10_000, "how many")
	workers := flag.Int("workers", 64, "how many at once")
	flag.Parse()
	redis := asynq.RedisClientOpt{Addr: *addr, PoolSize: 2 * *workers}
	switch *mode {
	case "fill":
		return fill(redis, *tasks)
	case "work":
		return work(redis, *url, *tasks, *workers)
	case "all":
		return all(redis, *url, *tasks, *workers)
	}
	return errors.New("-mode must be fill, work or all")
}

func fill(redis asynq.RedisClientOpt, tasks int) error {
	c := asynq.NewClient(redis)
	defer c.Close()
	const fillers = 32
	errs := make([]error, fillers)
	var next atomic.Int64
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			for errs[i] == nil && next.Add(1) <= int64(tasks) {
				_, errs[i] = c.Enqueue(asynq.NewTask(task, []byte(body)))
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// work posts every task and prints how long that took, from the start of the
// worker to the last answer.
func work(redis asynq.RedisClientOpt, url string, tasks, workers int) error {
	p, err := newPoster(url, workers, nil)
	if err != nil {
		return err
	}
	began := time.Now()
	server, done, err := p.serve(redis, tasks, workers)
	if err != nil {
		return err
	}
	<-done
	took := time.Since(began)
	server.Shutdown()
	return json.NewEncoder(os.Stdout).Encode(map[string]any{"tasks": tasks, "seconds": took.Seconds()})
}

// all takes pings, queues one task or two for each before it answers 204, and
// posts them signed; asynq keeps what became of each. It prints where it
// listens, and when the last task was done as asynq's books have it.
func all(redis asynq.RedisClientOpt, url string, tasks, workers int) error {
	p, err := newPoster(url, workers, []byte("a secret of thirty-two bytes or so"))
	if err != nil {
		return err
	}
	client := asynq.NewClient(redis)
	defer client.Close()
	server, done, err := p.serve(redis, tasks, workers)
	if err != nil {
		return err
	}
	defer server.Shutdown()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	var pings atomic.Int64
	intake := &fasthttp.Server{NoDefaultServerHeader: true, NoDefaultContentType: true, Handler: func(ctx *fasthttp.RequestCtx) {
		ctx.SetStatusCode(fasthttp.StatusNoContent)
		for range 1 + pings.Add(1)%2 {
			if _, err := client.Enqueue(asynq.NewTask(task, []byte(body)), asynq.Retention(time.Hour)); err != nil {
				ctx.SetStatusCode(fasthttp.StatusTooManyRequests)
			}
		}
	}}
	go func() { _ = intake.Serve(ln) }() // ends with the process
	out := json.NewEncoder(os.Stdout)
	if err := out.Encode(map[string]any{"listen": ln.Addr().String()}); err != nil {
		return err
	}
	<-done
	books := asynq.NewInspector(redis)
	defer books.Close()
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	for range look.C {
		q, err := books.GetQueueInfo("default")
		if err != nil {
			return err
		}
		if q.Completed >= tasks {
			break
		}
	}
	return out.Encode(map[string]any{"tasks": tasks, "ended": time.Now()})
}

// poster posts the body of a task, signed when it has a secret.
type poster struct {
	url    string
	client *fasthttp.HostClient
	secret []byte
}

func newPoster(url string, conns int, secret []byte) (*poster, error) {
	rest, ok := strings.CutPrefix(url, "http://")
	if !ok {
		return nil, errors.New("-url must begin with http://")
	}
	host, _, _ := strings.Cut(rest, "/")
	return &poster{url, &fasthttp.HostClient{Addr: host, MaxConns: conns}, secret}, nil
}

// serve starts a worker; the channel is closed when so many tasks were posted.
func (p *poster) serve(redis asynq.RedisClientOpt, tasks, workers int) (*asynq.Server, <-chan struct{}, error) {
	var count atomic.Int64
	done := make(chan struct{})
	server := asynq.NewServer(redis, asynq.Config{Concurrency: workers, LogLevel: asynq.FatalLevel})
	err := server.Start(asynq.HandlerFunc(func(ctx context.Context, t *asynq.Task) error {
		if err := p.post(ctx, t); err != nil {
			return err
		}
		if count.Add(1) == int64(tasks) {
			close(done)
		}
		return nil
	}))
	return server, done, err
}

func (p *poster) post(ctx context.Context, t *asynq.Task) error {
	req, resp := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
	defer fasthttp.ReleaseRequest(req)
	defer fasthttp.ReleaseResponse(resp)
	req.SetRequestURI(p.url)
	req.Header.SetMethod(fasthttp.MethodPost)
	req.Header.SetContentType("application/json")
	req.SetBodyRaw(t.Payload())
	if p.secret != nil {
		id, _ := asynq.GetTaskID(ctx)
		at := strconv.FormatInt(time.Now().Unix(), 10)
		mac := hmac.New(sha256.New, p.secret)
		mac.Write([]byte(id + "." + at + "."))
		mac.Write(t.Payload())
		req.Header.Set("webhook-id", id)
		req.Header.Set("webhook-timestamp", at)
		req.Header.Set("webhook-signature", "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	}
	if err := p.client.DoTimeout(req, resp, 15*time.Second); err != nil {
		return err
	}
	if resp.StatusCode() != fasthttp.StatusNoContent {
		return fmt.Errorf("status %d", resp.StatusCode())
	}
	return nil
}
