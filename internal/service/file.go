package service

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"dispatchd/internal/event"
	"dispatchd/internal/org"
)

// vanished is the reason of the suspension of an organisation that is not in
// the configuration file any more.
const vanished = "it vanished from the configuration file"

// before stands between that and why the channel was suspended already, which
// holds again when the organisation is back.
const before = "; suspended before that: "

// ApplyFile makes the organisations of the configuration file so, and says what
// changed. Everything is checked before anything is changed. An organisation
// that vanished from the file is suspended, never removed; one that comes back
// goes on.
func (s *Service) ApplyFile(ctx context.Context, by By, list []org.Organisation) ([]string, error) {
	s.changing.Lock()
	defer s.changing.Unlock()
	next := make([]org.Organisation, len(list))
	inFile, named := map[string]bool{}, map[string]bool{}
	for i, o := range list {
		o.Owner = org.OwnedByFile
		inFile[o.ID] = true
		if o.Webhook.SigningSecret.IsSet() {
			named[o.ID] = true
		}
		if old, ok := s.o.Directory.Organisation(o.ID); ok {
			keepUnsaid(&o, old)
		}
		if err := s.validate(&o); err != nil {
			return nil, err
		}
		next[i] = o
	}
	s.named = named
	var changes []string
	s.again = map[string]org.Organisation{}
	for i := range next {
		o := next[i]
		if s.notRemoving(o.ID) != nil {
			s.again[o.ID] = o
			changes = append(changes, o.ID+": is being removed; it is made again when that is done")
			continue
		}
		old, exists := s.o.Directory.Organisation(o.ID)
		o.Suspensions = nil
		if exists {
			o.Suspensions = old.Suspensions
			if err := s.endVanished(ctx, by, &o, &changes); err != nil {
				return changes, err
			}
		} else {
			old = nil
		}
		if err := s.change(ctx, by, old, o); err != nil {
			return changes, err
		}
		switch keys := Changed(old, &o); {
		case !exists:
			changes = append(changes, o.ID+": added")
		case len(keys) > 0:
			changes = append(changes, o.ID+": "+strings.Join(keys, ", ")+" changed; nothing removed")
		}
	}
	for _, o := range s.o.Directory.All() {
		if o.Owner != org.OwnedByFile || inFile[o.ID] || isSuspended(o, vanished) || s.notRemoving(o.ID) != nil {
			continue
		}
		gone := clone(o)
		for _, ch := range event.Channels {
			gone.Suspensions = append(gone.Suspensions, org.Suspension{Channel: ch, Reason: vanished, Since: s.o.Store.Now()})
		}
		// The holds last: one that nothing tells of would stay when the
		// organisation is back in the file.
		if err := s.o.Store.SaveOrganisation(ctx, gone); err != nil {
			return changes, Explain("save the organisation", err)
		}
		s.o.Directory.Put(gone)
		for _, ch := range event.Channels {
			reason := vanished
			if was, err := s.suspended(ctx, o.ID, ch); err != nil {
				return changes, err
			} else if was != "" {
				reason += before + was
			}
			if _, err := s.o.Store.SetHold(ctx, o.ID, ch, event.HoldSuspend, event.Forever, reason); err != nil {
				return changes, Explain("suspend an organisation", err)
			}
		}
		s.audit(by, "suspended", "org", o.ID, "reason", vanished)
		changes = append(changes, fmt.Sprintf("%s: %s and is suspended; nothing removed (`dispatchd org remove %s` would)", o.ID, vanished, o.ID))
	}
	return changes, nil
}

// keepUnsaid keeps the secrets that the file does not name. When it names another
// signing secret, the one before signs too until the next change.
func keepUnsaid(o, old *org.Organisation) {
	w, was := &o.Webhook, old.Webhook
	if !w.SigningSecret.IsSet() {
		w.SigningSecret = was.SigningSecret
	}
	w.OldSigningSecret = was.OldSigningSecret
	if w.SigningSecret != was.SigningSecret {
		w.OldSigningSecret = was.SigningSecret
	}
	// Redis has only its hash: that of the same secret is no change.
	if !o.API.ClientSecret.IsSet() || sameClient(old.API, o.API) {
		o.API.ClientSecret = old.API.ClientSecret
	}
}

func isSuspended(o *org.Organisation, reason string) bool {
	return slices.ContainsFunc(o.Suspensions, func(x org.Suspension) bool { return x.Reason == reason })
}

// suspended returns why a channel is suspended; empty when it is not.
func (s *Service) suspended(ctx context.Context, id string, ch event.Channel) (string, error) {
	states, err := s.o.Store.Channels(ctx, []event.ChannelKey{{Org: id, Channel: ch}})
	if err != nil {
		return "", Explain("look at the suspensions", err)
	}
	return states[0].Holds[event.HoldSuspend].Reason, nil
}

// endVanished lets an organisation that is back in the file go on.
func (s *Service) endVanished(ctx context.Context, by By, o *org.Organisation, changes *[]string) error {
	if !isSuspended(o, vanished) {
		return nil
	}
	kept, how := o.Suspensions[:0:0], "goes on"
	for _, x := range o.Suspensions {
		if x.Reason != vanished {
			kept = append(kept, x)
			continue
		}
		was, err := s.suspended(ctx, o.ID, x.Channel)
		if err != nil {
			return err
		}
		rest, ours := strings.CutPrefix(was, vanished)
		if was != "" && was != vanished {
			how = "still suspended"
		}
		if !ours {
			continue // resumed by a person, or suspended by the receiver since
		}
		until := timeZero
		if rest = strings.TrimPrefix(rest, before); rest != "" {
			until = event.Forever
		}
		next, err := s.o.Store.SetHold(ctx, o.ID, x.Channel, event.HoldSuspend, until, rest)
		if err != nil {
			return Explain("end a suspension", err)
		}
		if !next.IsZero() {
			s.o.Hints.HintChannel(event.ChannelKey{Org: o.ID, Channel: x.Channel}, next)
		}
	}
	o.Suspensions = kept
	s.audit(by, "suspension ended", "org", o.ID)
	*changes = append(*changes, o.ID+": back in the file, "+how)
	return nil
}
