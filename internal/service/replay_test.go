package service

import (
	"context"
	"strings"
	"testing"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/store"
)

// die makes dead letters of one organisation's webhook.
func (b *testBundle) die(t *testing.T, orgID string, ids ...orcid.ID) {
	t.Helper()
	ctx := context.Background()
	var targets []store.Target
	for _, id := range ids {
		targets = append(targets, store.Target{Org: orgID, Channel: event.Webhook, ORCID: id, Type: event.Updated, At: b.store.Now().Add(-time.Second), Entry: "1-" + id.String()[15:18]})
	}
	if _, err := b.store.Enqueue(ctx, 0, targets, 0); err != nil {
		t.Fatal(err)
	}
	claims, err := b.store.Claim(ctx, orgID, event.Webhook, len(ids), time.Minute)
	if err != nil || len(claims.Deliveries) != len(ids) {
		t.Fatalf("claimed %d of %d: %v", len(claims.Deliveries), len(ids), err)
	}
	for _, d := range claims.Deliveries {
		if _, err := b.store.Finish(ctx, d, event.Outcome{Result: event.Dead}); err != nil {
			t.Fatal(err)
		}
	}
}

func researchers(t *testing.T, n int) []orcid.ID {
	t.Helper()
	ids := make([]orcid.ID, n)
	for i := range ids {
		var err error
		if ids[i], err = orcid.FromBase(uint64(900_000_000_001 + 10*i)); err != nil {
			t.Fatal(err)
		}
	}
	return ids
}

// A receiver that goes on refusing must not keep a replay going for ever.
func TestAReplayLeavesWhatDiesDuringIt(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx := context.Background()
	if _, _, err := b.svc.PutOrganisation(ctx, tester, "uni-a", uniA()); err != nil {
		t.Fatal(err)
	}
	b.runJobs(t)
	ids := researchers(t, 3)
	b.die(t, "uni-a", ids[:2]...)
	j, err := b.svc.Replay(ctx, tester, "uni-a", store.Selection{})
	if err != nil {
		t.Fatal(err)
	}
	for asked := b.store.Now().UnixMilli(); b.store.Now().UnixMilli() <= asked; {
		b.store.Now() // dead letters know the millisecond
	}
	b.die(t, "uni-a", ids[2])
	b.runJobs(t) // fails when a job fails: the e-mail channel is not enabled, and does not matter
	page, err := b.svc.DeadLetters(ctx, "uni-a", event.Webhook, "", 10)
	if err != nil || len(page.DeadLetters) != 1 || page.DeadLetters[0].ORCID != ids[2] {
		t.Errorf("dead letters left: %+v %v", page.DeadLetters, err)
	}
	jobs, err := b.svc.Jobs(ctx)
	if err != nil || jobs[0].ID != j.ID || jobs[0].Done != 2 {
		t.Errorf("the jobs: %+v %v", jobs, err)
	}
}

func TestAReplayToNobodyFails(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx := context.Background()
	if _, _, err := b.svc.PutOrganisation(ctx, tester, "uni-a", uniA()); err != nil {
		t.Fatal(err)
	}
	if _, err := b.svc.Disable(ctx, tester, "uni-a", ""); err != nil {
		t.Fatal(err)
	}
	j := newJob(jobReplay, "uni-a", b.store.Now())
	if err := b.svc.replayJob(ctx, &j); err == nil || !strings.Contains(err.Error(), "not enabled") {
		t.Errorf("a replay to an organisation that is disabled: %v", err)
	}
}
