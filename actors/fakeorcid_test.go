package actors

import (
	"context"
	"slices"
	"sync"
	"time"

	"dispatchd/internal/orcid"
)

// fakeORCID answers PUT and DELETE and checks that one user's requests come one
// at a time.
type fakeORCID struct {
	mu       sync.Mutex
	took     time.Duration
	reply    func(op string, id orcid.ID, epoch int) (orcid.Answer, error) // nil: success
	requests []request
	flying   map[orcid.ID]bool
	overlaps int
	most     int
}

type request struct {
	op    string
	id    orcid.ID
	epoch int
	at    time.Time
}

func (f *fakeORCID) do(ctx context.Context, op string, u orcid.ID, epoch int, good orcid.Answer) (orcid.Answer, error) {
	f.mu.Lock()
	if f.flying == nil {
		f.flying = map[orcid.ID]bool{}
	}
	if f.flying[u] {
		f.overlaps++
	}
	f.flying[u] = true
	f.most = max(f.most, len(f.flying))
	f.requests = append(f.requests, request{op, u, epoch, time.Now()})
	took, reply := f.took, f.reply
	f.mu.Unlock()
	pause(ctx, took)
	f.mu.Lock()
	delete(f.flying, u)
	f.mu.Unlock()
	if ctx.Err() != nil {
		return orcid.Answer{}, ctx.Err()
	}
	if reply != nil {
		if a, err := reply(op, u, epoch); err != nil || a.Kind != orcid.Unexpected {
			return a, err
		}
	}
	return good, nil
}

func (f *fakeORCID) Put(ctx context.Context, u orcid.ID, epoch, _ int) (orcid.Answer, error) {
	return f.do(ctx, "PUT", u, epoch, orcid.Answer{Kind: orcid.Created, Status: 201})
}

func (f *fakeORCID) Delete(ctx context.Context, u orcid.ID, epoch, _ int) (orcid.Answer, error) {
	return f.do(ctx, "DELETE", u, epoch, orcid.Answer{Kind: orcid.Deleted, Status: 204})
}

func (f *fakeORCID) list() []request {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.requests)
}

func (f *fakeORCID) takes(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.took = d
}

func (f *fakeORCID) answer(reply func(op string, id orcid.ID, epoch int) (orcid.Answer, error)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reply = reply
}
