package store

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/redistest"
)

// BenchmarkFlow is everything that the store does for a delivery in the daemon,
// in batches as small as they are there: 32 pings a group commit, each for one
// or two of 100 organisations, taken from the log, looked up, enqueued, claimed
// by each organisation, looked up again and finished one by one. b.N counts
// deliveries. Processor time says more than the clock on a busy machine.
func BenchmarkFlow(b *testing.B) {
	const orgs, users, group = 100, 20_000, 32
	ctx := context.Background()
	srv := redistest.Start(b)
	s := attached(b, srv.URL())
	for o := range orgs {
		if err := s.SetChannel(ctx, fmt.Sprintf("org-%02d", o), event.Webhook, true); err != nil {
			b.Fatal(err)
		}
	}
	ids := make([]orcid.ID, users)
	gives := make([]event.Affiliation, users)
	for i := range ids {
		ids[i] = testID(b, 900_000_000_000+uint64(i))
		gives[i] = event.Affiliation{Email: "someone@uni.example", Name: "Some One"}
	}
	for at := 0; at < users; at += 500 {
		list := make([]event.User, 0, 500)
		for i := at; i < at+500; i++ {
			list = append(list, event.User{ORCID: ids[i], Affiliations: []event.Affiliation{
				{Org: fmt.Sprintf("org-%02d", i%orgs), Email: gives[i].Email, Name: gives[i].Name},
				{Org: fmt.Sprintf("org-%02d", (i+37)%orgs), Email: gives[i].Email, Name: gives[i].Name},
			}})
		}
		var wg sync.WaitGroup
		for _, u := range list {
			wg.Go(func() {
				if _, err := s.SaveUser(ctx, u, time.Time{}); err != nil {
					b.Error(err)
				}
			})
		}
		wg.Wait()
	}
	rdb := srv.Client(b)
	info := func(section string) map[string]float64 {
		text, err := rdb.Info(ctx, section).Result()
		if err != nil {
			b.Fatal(err)
		}
		out := map[string]float64{}
		for line := range strings.Lines(text) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
			value, _, _ = strings.Cut(value, ",")
			if n, err := strconv.ParseFloat(strings.TrimPrefix(value, "calls="), 64); err == nil {
				out[name] = n
			}
		}
		return out
	}
	usedByRedis := func() float64 { i := info("cpu"); return i["used_cpu_user"] + i["used_cpu_sys"] }
	ours := func() float64 {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
	}
	if err := rdb.ConfigResetStat(ctx).Err(); err != nil {
		b.Fatal(err)
	}
	aof0, redis0, ours0 := info("persistence")["aof_current_size"], usedByRedis(), ours()
	b.ReportAllocs()
	b.ResetTimer()
	rnd := rand.New(rand.NewPCG(1, 2))
	after := [Lanes]string{}
	for done := 0; done < b.N; {
		now := s.Now()
		pings := make([]event.Ping, group)
		for i := range pings {
			pings[i] = event.Ping{Credential: "main", ORCID: ids[rnd.IntN(users)], AcceptedAt: now}
		}
		if err := s.Append(ctx, pings); err != nil {
			b.Fatal(err)
		}
		due := map[event.ChannelKey]time.Time{}
		for lane := range Lanes {
			for k, at := range flowFanOut(ctx, b, s, lane, &after[lane], rnd) {
				due[k] = at
			}
		}
		var wg sync.WaitGroup
		var mu sync.Mutex
		for k := range due {
			wg.Go(func() {
				c, err := s.Claim(ctx, k.Org, k.Channel, 8, time.Minute)
				if err != nil {
					b.Error(err)
					return
				}
				who := make([]orcid.ID, len(c.Deliveries))
				for i, d := range c.Deliveries {
					who[i] = d.ORCID
				}
				if _, err := s.RecentUsers(ctx, who); err != nil {
					b.Error(err)
				}
				mu.Lock()
				done += len(c.Deliveries)
				mu.Unlock()
				for _, d := range c.Deliveries {
					wg.Go(func() {
						out := event.Outcome{Result: event.Delivered, Attempt: event.Attempt{Start: now, Status: 200, DeliveryID: d.ID(), ORCID: d.ORCID, Channel: d.Channel, Type: d.Type, Number: 1}}
						if f, err := s.Finish(ctx, d, out); err != nil || f.Stale {
							b.Errorf("finish: %+v, %v", f, err)
						}
					})
				}
			})
		}
		wg.Wait()
		if b.Failed() {
			b.FailNow()
		}
	}
	b.StopTimer()
	n := float64(b.N)
	b.ReportMetric(1e6*(usedByRedis()-redis0)/n, "redis-µs/op")
	b.ReportMetric(1e6*(ours()-ours0)/n, "go-µs/op")
	b.ReportMetric((info("persistence")["aof_current_size"]-aof0)/n, "aof-B/op")
	calls := 0.0
	for name, n := range info("commandstats") {
		calls += n
		switch name {
		case "cmdstat_evalsha":
			b.ReportMetric(n/float64(b.N), "runs/op")
		case "cmdstat_get", "cmdstat_mget":
			b.ReportMetric(n/float64(b.N), strings.TrimPrefix(name, "cmdstat_")+"/op")
		}
	}
	b.ReportMetric(calls/n, "commands/op")
}

// flowFanOut does what the fan-out does with a lane's news.
func flowFanOut(ctx context.Context, b *testing.B, s *Store, lane int, after *string, rnd *rand.Rand) map[event.ChannelKey]time.Time {
	entries, err := s.ReadLog(ctx, lane, *after, 32)
	if err != nil {
		b.Fatal(err)
	}
	if len(entries) == 0 {
		return nil
	}
	*after = entries[len(entries)-1].ID
	var ids []orcid.ID
	var at []time.Time
	var gone []Processed
	for _, e := range entries {
		for _, it := range e.Items {
			ids, at = append(ids, it.ORCID), append(at, it.At)
		}
		gone = append(gone, Processed{ID: e.ID, Pings: len(e.Items), Told: len(e.Items)})
	}
	users, err := s.LookUp(ctx, ids, at)
	if err != nil {
		b.Fatal(err)
	}
	var targets []Target
	n := 0
	for _, e := range entries {
		for _, it := range e.Items {
			for _, a := range users[n].Affiliations[:1+rnd.IntN(2)] {
				targets = append(targets, Target{Org: a.Org, Channel: event.Webhook, ORCID: it.ORCID, Type: event.Updated, At: it.At, Entry: e.ID})
			}
			n++
		}
	}
	due, err := s.Enqueue(ctx, lane, targets, 0)
	if err != nil {
		b.Fatal(err)
	}
	if err := s.RemoveEntries(ctx, lane, gone); err != nil {
		b.Fatal(err)
	}
	return due
}
