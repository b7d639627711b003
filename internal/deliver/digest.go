package deliver

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/org"
)

// DigestSender tries to tell an organisation of many researchers at once; who
// has one affiliation for each item of the digest. The rules of Sender hold.
type DigestSender interface {
	SendDigest(ctx context.Context, o *org.Organisation, d event.Digest, who []event.Affiliation) Answer
}

// maxDigestCrashes is how often in a row an attempt may end unheard of, as for
// a slot.
const maxDigestCrashes = 5

// DeliverDigest makes one attempt to send a digest and says what it means. It
// returns within the channel's timeout and never panics.
func (r *Router) DeliverDigest(ctx context.Context, o *org.Organisation, d event.Digest, who []event.Affiliation) event.Outcome {
	start := r.now()
	st := r.state.Load()
	like := event.Delivery{Org: d.Org, Channel: event.Email, Type: event.Updated, Attempt: d.Attempt, FirstAttemptAt: d.FirstAttemptAt}
	if d.Crashes >= maxDigestCrashes {
		out := Decide(st.policy, like, Failure(KindRefused, fmt.Sprintf("crashed %d times", d.Crashes)), start, r.rnd)
		return labelled(out, d, len(who))
	}
	var a Answer
	if p := st.policy; p.Timeout > 0 && !d.LeaseEnd.IsZero() && start.Add(p.Timeout).After(d.LeaseEnd) {
		a = Failure(KindCancelled, "too little time was left in the lease")
	} else {
		a = r.sendDigest(ctx, st.senders[event.Email], o, d, who)
	}
	now := r.now()
	if a.Start.IsZero() {
		a.Start, a.Duration = start, now.Sub(start)
	}
	out := labelled(Decide(r.state.Load().policy, like, a, now, r.rnd), d, len(who))
	like.LatestAt = time.Time{} // news in a digest waits because it is wanted so
	r.metrics.observe(like, out, now)
	return out
}

// labelled names the digest in the attempt, since there is no one researcher.
func labelled(o event.Outcome, d event.Digest, users int) event.Outcome {
	o.Attempt.DeliveryID, o.Attempt.Users = d.ID, users
	return o
}

func (r *Router) sendDigest(ctx context.Context, s Sender, o *org.Organisation, d event.Digest, who []event.Affiliation) (a Answer) {
	ds, ok := s.(DigestSender)
	if !ok {
		return Failure(KindSettings, "the daemon is not set up for digests")
	}
	defer func() {
		if v := recover(); v != nil {
			r.metrics.panics.Inc()
			r.log.Error("sender panicked", "org", d.Org, "delivery_id", d.ID, "attempt", d.Attempt,
				"err", fmt.Sprintf("panic of type %T", v), "stack", string(debug.Stack()))
			a = Failure(KindPanic, "internal error; the log has it under "+d.ID)
		}
	}()
	return ds.SendDigest(ctx, o, d, who)
}
