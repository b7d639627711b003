// Command asynq-worker is a baseline of the bench: an asynq worker whose tasks
// post the body that dispatchd would. It has a module of its own, so that the
// daemon does not depend on asynq.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
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
	mode := flag.String("mode", "", "fill the queue, or work it off")
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
	}
	return errors.New("-mode must be fill or work")
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
	rest, ok := strings.CutPrefix(url, "http://")
	if !ok {
		return errors.New("-url must begin with http://")
	}
	host, _, _ := strings.Cut(rest, "/")
	client := &fasthttp.HostClient{Addr: host, MaxConns: workers}
	var count atomic.Int64
	done := make(chan struct{})
	server := asynq.NewServer(redis, asynq.Config{Concurrency: workers, LogLevel: asynq.FatalLevel})
	began := time.Now()
	err := server.Start(asynq.HandlerFunc(func(_ context.Context, t *asynq.Task) error {
		req, resp := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
		defer fasthttp.ReleaseRequest(req)
		defer fasthttp.ReleaseResponse(resp)
		req.SetRequestURI(url)
		req.Header.SetMethod(fasthttp.MethodPost)
		req.Header.SetContentType("application/json")
		req.SetBodyRaw(t.Payload())
		if err := client.DoTimeout(req, resp, 15*time.Second); err != nil {
			return err
		}
		if resp.StatusCode() != fasthttp.StatusNoContent {
			return fmt.Errorf("status %d", resp.StatusCode())
		}
		if count.Add(1) == int64(tasks) {
			close(done)
		}
		return nil
	}))
	if err != nil {
		return err
	}
	<-done
	took := time.Since(began)
	server.Shutdown()
	return json.NewEncoder(os.Stdout).Encode(map[string]any{"tasks": tasks, "seconds": took.Seconds()})
}
