package main

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"dispatchd/internal/orcid"
	"dispatchd/internal/service"
)

// heapNow is what is live on the heap, garbage apart.
func heapNow() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestThousandsWhoLeaveDoNotWaitInMemory: a sync that removes very many users
// leaves its work in Redis, as an import does. Not parallel: the heap is everybody's.
func TestThousandsWhoLeaveDoNotWaitInMemory(t *testing.T) {
	const many, stay = 20_000, 2_000
	w := newWorld(t, setting{})
	w.organisation("uni-a", nil)
	file := func(n int) string {
		var csv strings.Builder
		csv.WriteString("orcid\n")
		for i := range n {
			id, err := orcid.FromBase(uint64(15_000_000 + i))
			w.must(err)
			fmt.Fprintln(&csv, id)
		}
		return csv.String()
	}
	// Watched from aside, as often as a look takes.
	before, most, grown := heapNow(), 0, int64(0)
	stop, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		for {
			most = max(most, w.d.app.attached.system.Status().BusyUsers)
			grown = max(grown, heapNow()-before)
			select {
			case <-stop:
				return
			default:
			}
		}
	}()
	var report service.ImportReport
	w.ask("POST", "/v1/organisations/uni-a/users", file(many), &report)
	if report.Added != many {
		t.Errorf("the import: %+v", report)
	}
	var out service.SyncReport
	w.ask("POST", "/v1/organisations/uni-a/users/sync?force=true", file(stay), &out)
	if out.Removed != many-stay {
		t.Errorf("the sync: %+v", out)
	}
	close(stop)
	<-watched
	// An actor at work takes 3 KB: all of those who left would be 54 MB.
	if grown > 24<<20 {
		t.Errorf("the heap grew by %d MB", grown>>20)
	}
	if most > 500 {
		t.Errorf("%d users were worked on at once", most)
	}
	t.Logf("the heap grew by %d MB, %d users at once", grown>>20, most)
}
