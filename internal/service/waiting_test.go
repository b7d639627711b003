package service

import (
	"context"
	"slices"
	"strconv"
	"testing"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/store"
)

func TestWhyDeliveriesWait(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 26, 14, 0, 0, 0, time.UTC)
	in := func(d time.Duration) time.Time { return now.Add(d) }
	later := func(base uint64, d time.Duration, attempts int) store.WaitingSlot {
		return store.WaitingSlot{ORCID: testORCID(t, base), Due: in(d), Attempts: attempts}
	}
	failed := func(base uint64, status int, why string) event.Attempt {
		return event.Attempt{ORCID: testORCID(t, base), Result: event.Retry, Status: status, Error: why}
	}
	good := event.Attempt{ORCID: testORCID(t, 1), Result: event.Delivered, Status: 204}
	full := store.Waiting{}
	for i := range store.WaitingSeen {
		full.Later = append(full.Later, later(uint64(100+i), time.Minute, 0))
	}
	for name, c := range map[string]struct {
		ch       Channel
		w        store.Waiting
		attempts []event.Attempt
		digest   bool
		want     []string
	}{
		"new": {
			Channel{Waiting: 2},
			store.Waiting{Later: []store.WaitingSlot{later(1, time.Minute, 0), later(2, 2*time.Minute, 0)}},
			nil, false,
			[]string{"2 are new and sent shortly, the next at 14:01: several changes at once make one notification."},
		},
		"one new": {
			Channel{Waiting: 1},
			store.Waiting{Later: []store.WaitingSlot{later(1, time.Minute, 0)}},
			nil, false,
			[]string{"1 is new and sent shortly, at 14:01: several changes at once make one notification."},
		},
		"for the daily mail": {
			Channel{Waiting: 1},
			store.Waiting{Later: []store.WaitingSlot{later(1, 18*time.Hour, 0)}},
			nil, true,
			[]string{"1 waits for the next mail, at 08:00."},
		},
		"after failures, the commonest first": {
			Channel{Waiting: 4},
			store.Waiting{Later: []store.WaitingSlot{later(1, time.Minute, 1), later(2, 5*time.Minute, 3), later(3, 6*time.Minute, 1), later(4, 7*time.Minute, 2)}},
			[]event.Attempt{good, failed(1, 0, "no answer within 15s"), failed(2, 503, "the receiver answered 503 Service Unavailable"), failed(3, 503, "the receiver answered 503 Service Unavailable"), failed(2, 500, "older")},
			false,
			[]string{
				"2 are tried again, the next at 14:05, since the receiver answered 503 Service Unavailable.",
				"1 is tried again, at 14:07, since an earlier attempt failed.",
				"1 is tried again, at 14:01, since the last attempt failed: no answer within 15s.",
			},
		},
		"a slow receiver": {Channel{Waiting: 512, InFlight: 8}, store.Waiting{Due: 512}, nil, false, []string{"512 wait for the receiver to finish the 8 under way."}},
		"due":             {Channel{Waiting: 1}, store.Waiting{Due: 1}, nil, false, []string{"1 is sent now."}},
		"held longest": {
			Channel{Waiting: 3, Holds: []HoldView{{Hold: event.HoldBreaker, Until: in(time.Minute)}, {Hold: event.HoldRetryAfter, Until: in(time.Hour)}}},
			store.Waiting{Due: 1, Later: []store.WaitingSlot{later(1, time.Minute, 0), later(2, time.Minute, 1)}},
			[]event.Attempt{failed(2, 429, "the receiver answered 429 Too Many Requests")},
			false,
			[]string{"3 wait: the receiver asked to wait until 15:00.", "1 is tried again, at 14:01, since the receiver answered 429 Too Many Requests."},
		},
		"paused": {
			Channel{Waiting: 1, Holds: []HoldView{{Hold: event.HoldPause}, {Hold: event.HoldBreaker, Until: in(time.Hour)}}},
			store.Waiting{Due: 1},
			nil, false,
			[]string{"1 waits: somebody has paused the deliveries."},
		},
		"stopped": {
			Channel{Waiting: 2, Holds: []HoldView{{Hold: event.HoldSuspend}}},
			store.Waiting{Due: 2},
			nil, false,
			[]string{"2 wait: the deliveries were stopped, until somebody resumes them."},
		},
		"enough mails for an hour": {
			Channel{Waiting: 2, Holds: []HoldView{{Hold: event.HoldRate, Until: in(time.Hour)}}},
			store.Waiting{Due: 2},
			nil, false,
			[]string{"2 wait: as many mails were sent as are wanted in an hour; it goes on at 15:00."},
		},
		"a mail being sent": {
			Channel{Waiting: 2, Holds: []HoldView{{Hold: event.HoldDigest, Until: in(time.Hour)}}},
			store.Waiting{Due: 2},
			nil, true,
			[]string{"2 wait: a mail about several researchers is being sent."},
		},
		"more than are looked at": {
			Channel{Waiting: store.WaitingSeen + 7},
			full, nil, false,
			[]string{"1000 are new and sent shortly, the next at 14:01: several changes at once make one notification.", "7 more wait behind these."},
		},
	} {
		var got []string
		for _, w := range explainWaits(c.ch, c.w, c.attempts, c.digest) {
			got = append(got, w.Words(strconv.Itoa, func(at time.Time) string { return at.Format("15:04") }))
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s:\n%q\nwant\n%q", name, got, c.want)
		}
	}
}

func TestAStartMakesSlotsDueThatLostTheirTime(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.uniA(t)
	b.slot(t, person(t, 7))
	ctx, rdb := context.Background(), b.redis.Client(t)
	keys, err := rdb.Keys(ctx, "*:o:uni-a:*due*").Result()
	if err != nil || len(keys) != 1 {
		t.Fatal(keys, err)
	}
	if err := rdb.Del(ctx, keys...).Err(); err != nil {
		t.Fatal(err)
	}
	b.runJobs(t)
	if l, err := b.svc.Ledger(ctx); err != nil || !l.Balanced {
		t.Errorf("the books: %q, %v", l.Differences, err)
	}
	if c, err := b.store.Claim(ctx, "uni-a", event.Webhook, 1, time.Minute); err != nil || len(c.Deliveries) != 1 {
		t.Errorf("claimed %+v, %v, want the slot", c, err)
	}
}
