package service

import (
	"context"
	"errors"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/store"
)

// damageDo is what a person can do who finds that Redis holds what we did not
// write.
const damageDo = "somebody changed Redis by hand: put back what was there; if it is gone, rename the key away with redis-cli and restart dispatchd"

// wrongKey says which key of Redis another hand made another type; nothing when
// err is something else.
func wrongKey(err error) string {
	key := new(store.WrongType)
	if !errors.As(err, &key) {
		return ""
	}
	return "in Redis, " + key.Error()
}

// RefusedNews is the problem that Redis refuses what some entries of the intake
// log need; full says that others wait behind them.
func RefusedNews(entries int, full bool, since time.Time, err error) Problem {
	why, do := err.Error(), "mend what Redis complains of"
	if key := wrongKey(err); key != "" {
		why, do = key, damageDo
	}
	cost := "this news comes late; nothing is lost"
	if full {
		cost = "these are too many: all news that came after them waits too; nothing is lost"
	}
	return Problem{
		What: count(entries, "entry waits", "entries wait") + " in the intake log: " + why, Since: since,
		Cost: cost, Do: do + "; it is tried again every minute",
	}
}

// mendChannels enables in Redis what is enabled in the directory, and nothing
// else: where a hand took that away, news would be ignored for ever. The caller
// holds changing.
func (s *Service) mendChannels(ctx context.Context) error {
	var list []store.ChannelSwitch
	for _, o := range s.o.Directory.All() {
		for _, ch := range event.Channels {
			list = append(list, store.ChannelSwitch{ChannelKey: event.ChannelKey{Org: o.ID, Channel: ch}, Enabled: o.Enabled(ch)})
		}
	}
	changed, err := s.o.Store.SetChannels(ctx, list)
	said := s.damage
	s.damage = ""
	for _, x := range changed {
		s.log.Warn("a channel was the other way in Redis and is put right", "org", x.Org, "channel", string(x.Channel), "enabled", x.Enabled)
	}
	if errors.Is(err, event.ErrIncomplete) {
		if s.damage = err.Error(); s.damage != said {
			s.log.Error("channels cannot be read in Redis; "+damageDo, "err", err)
		}
		return nil
	}
	return Explain("compare the channels", err)
}

// mendLater is mendChannels while the daemon runs.
func (s *Service) mendLater(ctx context.Context) {
	s.changing.Lock()
	defer s.changing.Unlock()
	_ = s.mendChannels(ctx) // or a minute later
}

// mendSlots makes due what a hand in Redis took the time from: nobody else would
// ever tell of it.
func (s *Service) mendSlots(ctx context.Context) {
	mended, err := s.o.Store.MendSlots(ctx, s.everyOrganisation())
	for _, m := range mended {
		s.log.Warn("slots had lost their due time and are due now", "org", m.Org, "channel", string(m.Channel), "slots", m.Slots)
		if !m.Next.IsZero() {
			s.o.Hints.HintChannel(m.ChannelKey, m.Next)
		}
	}
	if err != nil && ctx.Err() == nil {
		s.log.Warn("slots without a due time are looked for at the next start", "err", err)
	}
}
