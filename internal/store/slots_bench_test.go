package store

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/redistest"
)

// BenchmarkSlots measures news through a queue of 100 organisations on a real
// redis-server: b.N targets are enqueued in entries of 256, claimed 8 at a time
// by one goroutine an organisation, and finished. It also reports what a pending
// slot costs in Redis.
func BenchmarkSlots(b *testing.B) {
	const orgs = 100
	ctx, clock := context.Background(), newFakeClock()
	srv := redistest.Start(b)
	s := attached(b, srv.URL(), func(o *Options) { o.Now = clock.now })
	for o := range orgs {
		if err := s.SetChannel(ctx, fmt.Sprintf("org-%02d", o), event.Webhook, true); err != nil {
			b.Fatal(err)
		}
	}
	rdb := srv.Client(b)
	info := func(name string) float64 {
		all, err := rdb.Info(ctx, "memory", "cpu").Result()
		if err != nil {
			b.Fatal(err)
		}
		_, rest, _ := strings.Cut(all, name+":")
		text, _, _ := strings.Cut(rest, "\r")
		n, err := strconv.ParseFloat(text, 64)
		if err != nil {
			b.Fatal(err)
		}
		return n
	}
	// Redis's own processor time tells more than the clock on a busy machine.
	cpu := func() float64 { return info("used_cpu_user") + info("used_cpu_sys") }
	before, cpu0 := info("used_memory"), cpu()
	b.ResetTimer()
	began := time.Now()
	var batch []Target
	for i := range b.N {
		batch = append(batch, Target{
			Org: fmt.Sprintf("org-%02d", i%orgs), Channel: event.Webhook, ORCID: testID(b, 900_000_000_000+uint64(i/orgs)),
			Type: event.Updated, At: begin.Add(time.Duration(i) * time.Microsecond), Entry: strconv.Itoa(1+i/1024) + "-0",
		})
		if len(batch) == 1024 || i == b.N-1 {
			if _, err := s.Enqueue(ctx, 0, batch, quiet); err != nil {
				b.Fatal(err)
			}
			batch = batch[:0]
		}
	}
	enqueued := time.Since(began)
	grown, cpu1 := info("used_memory")-before, cpu()
	clock.advance(24 * time.Hour)
	claimed := make([][]event.Delivery, orgs)
	each := func(do func(o int, org string) error) time.Duration {
		from, errs := time.Now(), make(chan error, orgs)
		for o := range orgs {
			go func() { errs <- do(o, fmt.Sprintf("org-%02d", o)) }()
		}
		for range orgs {
			if err := <-errs; err != nil {
				b.Fatal(err)
			}
		}
		return time.Since(from)
	}
	claiming := each(func(o int, org string) error {
		for {
			c, err := s.Claim(ctx, org, event.Webhook, 8, time.Hour)
			if err != nil || len(c.Deliveries) == 0 {
				return err
			}
			claimed[o] = append(claimed[o], c.Deliveries...)
		}
	})
	cpu2 := cpu()
	finishing := each(func(o int, _ string) error {
		const together = 8
		errs := make(chan error, together)
		for part := range together {
			go func() {
				for i := part; i < len(claimed[o]); i += together {
					out := event.Outcome{Result: event.Delivered, Attempt: event.Attempt{Start: begin, Status: 200, DeliveryID: claimed[o][i].ID()}}
					if f, err := s.Finish(ctx, claimed[o][i], out); err != nil || f.Stale {
						errs <- fmt.Errorf("finish: %+v, %w", f, err)
						return
					}
				}
				errs <- nil
			}()
		}
		for range together {
			if err := <-errs; err != nil {
				return err
			}
		}
		return nil
	})
	b.ReportMetric(float64(b.N)/enqueued.Seconds(), "enqueued/s")
	b.ReportMetric(float64(b.N)/claiming.Seconds(), "claimed/s")
	b.ReportMetric(float64(b.N)/finishing.Seconds(), "finished/s")
	b.ReportMetric(1e6*(cpu1-cpu0)/float64(b.N), "redis-µs/enqueue")
	b.ReportMetric(1e6*(cpu2-cpu1)/float64(b.N), "redis-µs/claim")
	b.ReportMetric(1e6*(cpu()-cpu2)/float64(b.N), "redis-µs/finish")
	b.ReportMetric(grown/float64(b.N), "B/slot")
	pending, _, err := s.SlotTotals(ctx)
	if err != nil || pending != 0 {
		b.Fatalf("%d are left, %v", pending, err)
	}
}

// BenchmarkChannels measures the state of 500 organisations' both channels.
func BenchmarkChannels(b *testing.B) {
	ctx, s := context.Background(), attached(b, redistest.Start(b).URL())
	var keys []event.ChannelKey
	for o := range 500 {
		for _, ch := range event.Channels {
			k := event.ChannelKey{Org: fmt.Sprintf("org-%03d", o), Channel: ch}
			keys = append(keys, k)
			if err := s.SetChannel(ctx, k.Org, ch, true); err != nil {
				b.Fatal(err)
			}
			if _, err := s.Enqueue(ctx, 0, []Target{{Org: k.Org, Channel: ch, ORCID: testID(b, 7), Type: event.Updated, At: begin, Entry: strconv.Itoa(len(keys)) + "-0"}}, quiet); err != nil {
				b.Fatal(err)
			}
		}
	}
	for b.Loop() {
		if _, err := s.Channels(ctx, keys); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkReady measures one poll of all ready indexes.
func BenchmarkReady(b *testing.B) {
	ctx, s := context.Background(), attached(b, redistest.Start(b).URL())
	for b.Loop() {
		if _, _, err := s.Ready(ctx, begin, 100); err != nil {
			b.Fatal(err)
		}
	}
}
