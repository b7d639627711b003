package store

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/redistest"
)

// usedMemory returns what Redis uses for the data, without its buffers.
func usedMemory(t testing.TB, s *Store) int64 {
	t.Helper()
	info := redisInfo(t, s, "memory")
	return int64(info["used_memory"] - info["mem_clients_normal"] - info["mem_aof_buffer"])
}

// redisCPU returns the seconds that Redis's main thread has worked.
func redisCPU(t testing.TB, s *Store) float64 {
	t.Helper()
	info := redisInfo(t, s, "cpu")
	return info["used_cpu_user_main_thread"] + info["used_cpu_sys_main_thread"]
}

func redisInfo(t testing.TB, s *Store, section string) map[string]float64 {
	t.Helper()
	raw, err := s.rdb.Info(context.Background(), section).Result()
	if err != nil {
		t.Fatal(err)
	}
	info := map[string]float64{}
	for line := range strings.Lines(raw) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), ":")
		if n, err := strconv.ParseFloat(v, 64); err == nil {
			info[k] = n
		}
	}
	return info
}

// importUsers is an import of many users in batches of a thousand by two
// workers, as a job does it, and then the outcome of their registrations.
func importUsers(t testing.TB, s *Store, ids []orcid.ID, personal, registered bool) {
	t.Helper()
	ctx := context.Background()
	batches := make(chan []orcid.ID)
	var done sync.WaitGroup
	for range 2 {
		done.Go(func() {
			for part := range batches {
				list := affiliated(part, time.Unix(1_795_000_000, 0))
				for i, id := range part {
					if a := &list[i].Affiliation; personal {
						a.Email, a.EPPN = fmt.Sprintf("given.family%d@university.example", id.Base()%1000), fmt.Sprintf("gfam%03d@university.example", id.Base()%1000)
						a.Name = "Given Middle Family"
					}
				}
				if _, err := s.AffiliateAll(ctx, "university", list, time.Time{}); err != nil {
					t.Error(err)
					continue
				}
				if registered {
					register(t, s, part)
				}
			}
		})
	}
	for part := range slices.Chunk(ids, 1000) {
		batches <- part
	}
	close(batches)
	done.Wait()
}

// register gives every user a live registration and a ping.
func register(t testing.TB, s *Store, ids []orcid.ID) {
	ctx, at := context.Background(), time.Unix(1_795_000_000, 0)
	users, err := s.LookUp(ctx, ids, slices.Repeat([]time.Time{at}, len(ids)))
	if err != nil {
		t.Error(err)
		return
	}
	list := make([]*saving, len(users))
	for i, u := range users {
		v := &saving{id: u.ORCID, version: u.Version, work: "-", states: stateChanges(nil, []event.Registration{{State: event.RegAlive}})}
		u.Registrations = []event.Registration{{Credential: "main", State: event.RegAlive, Epoch: 1, Base: 1, Changed: at}}
		if v.record, err = s.encodeUser(ctx, u); err != nil {
			t.Error(err)
			return
		}
		list[i] = v
	}
	if err := s.saveUsers(ctx, s.scripts.userSave, list); err != nil {
		t.Error(err)
	}
}

// DESIGN §5: user, member index, registration and latest ping ≤ 50 B without
// personal data, ≤ 180 B with.
func TestIdleUsersStayWithinTheirMemory(t *testing.T) {
	t.Parallel()
	for name, limit := range map[string]float64{"bare": 50, "personal": 180} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := attached(t, redistest.Start(t).URL())
			const warm, n = 500, 30_000                      // buffers of clients are some 75 kB more or less
			importUsers(t, s, sequence(t, warm), true, true) // scripts, alone and bundled, and numbers
			before := usedMemory(t, s)
			importUsers(t, s, sequence(t, n+warm)[warm:], name == "personal", true)
			per := float64(usedMemory(t, s)-before) / n
			t.Logf("%.1f B per user", per)
			if per > limit || per < 20 {
				t.Errorf("%.1f B per user, want at most %.0f", per, limit)
			}
		})
	}
}

// BenchmarkUserMemory: bytes of Redis per user at sizes between two doublings
// of the buckets; b.N does not matter.
func BenchmarkUserMemory(b *testing.B) {
	for _, personal := range []bool{false, true} {
		for _, n := range []int{200_000, 300_000, 380_000, 1_000_000} {
			b.Run(fmt.Sprintf("personal=%v/users=%d", personal, n), func(b *testing.B) {
				s := attached(b, redistest.Start(b).URL())
				importUsers(b, s, sequence(b, 1), true, true)
				before := usedMemory(b, s)
				importUsers(b, s, sequence(b, n+1)[1:], personal, true)
				for b.Loop() {
					runtime.Gosched()
				}
				b.ReportMetric(float64(usedMemory(b, s)-before)/float64(n), "B/user")
			})
		}
	}
}

// BenchmarkImport: one operation is one user of an import of many.
func BenchmarkImport(b *testing.B) {
	for _, personal := range []bool{false, true} {
		b.Run(fmt.Sprintf("personal=%v", personal), func(b *testing.B) {
			s := attached(b, redistest.Start(b).URL())
			ids := sequence(b, b.N)
			before := redisCPU(b, s)
			b.ResetTimer()
			importUsers(b, s, ids, personal, false)
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "users/s")
			// What a busy machine does not change: Redis has one core for this.
			b.ReportMetric((redisCPU(b, s)-before)/float64(b.N)*1e6, "redis-µs/op")
		})
	}
}

// BenchmarkLookUp: one operation is one user of a fan-out batch, out of 200,000.
func BenchmarkLookUp(b *testing.B) {
	s := attached(b, redistest.Start(b).URL())
	ids := sequence(b, 200_000)
	importUsers(b, s, ids, false, true)
	for _, batch := range []int{1, 256, 1024} {
		b.Run(fmt.Sprintf("batch=%d", batch), func(b *testing.B) {
			ctx, at := context.Background(), slices.Repeat([]time.Time{s.Now().Add(time.Duration(batch) * time.Hour)}, batch)
			before := redisCPU(b, s)
			for i := 0; i < b.N; i += batch {
				from := (i * 7919) % (len(ids) - batch)
				if _, err := s.LookUp(ctx, ids[from:from+batch], at); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "users/s")
			b.ReportMetric((redisCPU(b, s)-before)/float64(b.N)*1e6, "redis-µs/op")
		})
	}
}

// BenchmarkSaveUser: one operation is one outcome of a registration.
func BenchmarkSaveUser(b *testing.B) {
	s := attached(b, redistest.Start(b).URL())
	ids := sequence(b, 1000)
	importUsers(b, s, ids, false, false)
	ctx := context.Background()
	users, err := s.Users(ctx, ids)
	if err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	for i := range b.N {
		u := users[i%len(users)]
		u.Registrations = []event.Registration{{Credential: "main", State: event.RegAlive, Epoch: i}}
		if u.Version, err = s.SaveUser(ctx, *u, time.Time{}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkDueUsers: one operation is one poll with 100,000 users due.
func BenchmarkDueUsers(b *testing.B) {
	s := attached(b, redistest.Start(b).URL())
	ctx, now := context.Background(), s.Now()
	for part := range slices.Chunk(sequence(b, 100_000), 10_000) {
		if err := s.SetWork(ctx, part, now); err != nil {
			b.Fatal(err)
		}
	}
	b.ResetTimer()
	for range b.N {
		if ids, _, err := s.DueUsers(ctx, now, 100); err != nil || len(ids) != 100 {
			b.Fatal(len(ids), err)
		}
	}
}
