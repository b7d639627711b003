package sim

import (
	"fmt"
	"math"
	"math/rand/v2"
	"time"
)

// traffic is the background of changes that researchers make by themselves.
type traffic struct {
	perDay float64
	zipf   *rand.Zipf // picks whose record changes; nil for all alike
}

// Activity is Traffic's setting.
type Activity struct {
	// ChangesPerDay is how many changes a virtual day has, over all records,
	// at random times; 0 means none.
	ChangesPerDay float64 `json:"changes_per_day"`
	// Zipf, when above 1, makes few records change often and most hardly ever
	// (the s of a Zipf distribution); 0 means all alike.
	Zipf float64 `json:"zipf"`
}

// Traffic sets the background of changes; they are made by Run or Advance.
func (r *Registry) Traffic(a Activity) error {
	if a.ChangesPerDay < 0 || math.IsInf(a.ChangesPerDay, 0) || math.IsNaN(a.ChangesPerDay) {
		return fmt.Errorf("changes_per_day must not be negative (got %v)", a.ChangesPerDay)
	}
	if a.Zipf != 0 && !(a.Zipf > 1) {
		return fmt.Errorf("zipf must be above 1, or 0 (got %v)", a.Zipf)
	}
	r.mu.Lock()
	r.traffic = traffic{perDay: a.ChangesPerDay}
	if a.Zipf > 1 && len(r.all) > 0 {
		r.traffic.zipf = rand.NewZipf(r.rng, a.Zipf, 1, uint64(len(r.all)-1))
	}
	r.nextDue.traffic = time.Time{}
	if a.ChangesPerDay > 0 {
		r.nextDue.traffic = r.clock.now().Add(r.traffic.gap(r.rng))
	}
	r.mu.Unlock()
	r.clock.wake()
	return nil
}

// gap draws the time to the next change.
func (t traffic) gap(rng *rand.Rand) time.Duration {
	return time.Duration(rng.ExpFloat64() / t.perDay * float64(24*time.Hour))
}

// trafficOnce makes every change that came due, each at its own time; one pass
// makes at most 10,000, so that it does not keep the lock.
func (r *Registry) trafficOnce() {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.clock.now()
	for range 10_000 {
		due := r.nextDue.traffic
		if due.IsZero() || due.After(now) {
			return
		}
		r.nextDue.traffic = due.Add(r.traffic.gap(r.rng))
		if len(r.all) == 0 {
			continue
		}
		i := r.rng.IntN(len(r.all))
		if r.traffic.zipf != nil {
			i = int(r.traffic.zipf.Uint64())
		}
		op := [...]Op{Edit, Edit, Edit, Add, Order, Visibility}[r.rng.IntN(6)]
		section := activitySections[r.rng.IntN(len(activitySections))]
		if _, err := r.change(r.all[i], stampOf(due), op, Item{Section: section}); err != nil {
			panic(err) // no operation drawn here can fail
		}
	}
}
