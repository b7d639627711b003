package actors

import (
	"context"
	"time"

	"dispatchd/internal/event"
)

const (
	effectFirst = 200 * time.Millisecond
	effectMax   = 5 * time.Second
	effectTries = 20
)

// effect is a change of a channel's state that is written, or a notice that is
// given, in the order in which it was decided.
type effect struct {
	name string
	// write returns when the channel is to be asked again; nil for a notice.
	write  func(ctx context.Context, s Slots, key event.ChannelKey) (time.Time, error)
	notice func()
}

func breakerEffect(b event.Breaker, e breakerEffects) effect {
	return effect{name: "breaker", write: func(ctx context.Context, s Slots, key event.ChannelKey) (time.Time, error) {
		return s.SetBreaker(ctx, key.Org, key.Channel, b, e.holdUntil)
	}}
}

func holdEffect(h event.Hold, until time.Time, reason string) effect {
	return effect{name: string(h), write: func(ctx context.Context, s Slots, key event.ChannelKey) (time.Time, error) {
		return s.SetHold(ctx, key.Org, key.Channel, h, until, reason)
	}}
}

func noticeEffect(f func()) effect { return effect{name: "notice", notice: f} }

// effect queues one and starts it when it is the first. Each is a flight: who
// was suspended by the last outcome before a stop is told of it, too.
func (a *orgActor) effect(ch *channel, e effect) {
	a.sys.flights.add(1)
	ch.effects = append(ch.effects, e)
	if len(ch.effects) == 1 {
		a.runEffect(ch)
	}
}

func (a *orgActor) runEffect(ch *channel) {
	e, key, self := ch.effects[0], ch.key, a.self
	m := effectDone{run: a.run, channel: ch.index}
	a.sys.spawnGo(func() {
		if e.notice != nil {
			e.notice()
			return
		}
		// s.io: what was decided while the daemon stops is still written.
		for failures := 1; ; failures++ {
			ctx, cancel := context.WithTimeout(a.sys.io, callTimeout)
			next, err := e.write(ctx, a.sys.opt.Slots, key)
			cancel()
			if err == nil {
				m.next = next
				return
			}
			if failures == effectTries || a.ctx.Err() != nil || a.sys.opt.Guard.Err() != nil {
				a.sys.log.Warn("the state of a channel could not be written", "org", key.Org, "channel", string(key.Channel), "what", e.name, "err", err)
				return
			}
			pause(a.ctx, backoff(effectFirst, effectMax, failures))
		}
	}, func(bool) { a.sys.send(self, m) })
}

func (a *orgActor) effectDone(m effectDone) {
	defer a.sys.flights.end()
	if m.run != a.run {
		return
	}
	ch := a.channels[m.channel]
	ch.effects = ch.effects[1:]
	// The hold that was just written is in next; what was due before asks Redis.
	if !m.next.IsZero() && !ch.claiming {
		ch.due = m.next
	}
	if len(ch.effects) > 0 {
		a.runEffect(ch)
	} else {
		ch.effects = nil
	}
	a.pump(ch)
	a.settle()
}
