package service

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/org"
	"dispatchd/internal/signed"
)

const (
	purposeUnsubscribe = "unsubscribe"
	unsubscribePath    = "/u/unsubscribe/"
)

// Subscription is what an unsubscribe link is about.
type Subscription struct {
	Org     string
	Name    string
	Address string
	// Off says that no mail goes there any more.
	Off bool
	// Owner says who can switch it on again.
	Owner org.Owner
}

// UnsubscribeLink returns the link that ends an organisation's e-mail, for the
// address that gets it now; it has no end, since old mails are kept. Empty when
// there are no pages.
func (s *Service) UnsubscribeLink(o *org.Organisation) string {
	if s.o.Signer == nil || s.link(unsubscribePath) == "" {
		return ""
	}
	return s.link(unsubscribePath) + s.o.Signer.Sign(purposeUnsubscribe, o.ID+" "+o.Recipient(), time.Time{})
}

// Subscription reads an unsubscribe link without acting on it.
func (s *Service) Subscription(ctx context.Context, token string) (Subscription, error) {
	damaged := &Error{Code: CodeNotFound, What: "This link is not complete", Do: "Copy the whole address from the mail, or write to the technical contact of your organisation."}
	if s.o.Signer == nil {
		return Subscription{}, damaged
	}
	subject, err := s.o.Signer.Verify(purposeUnsubscribe, token, s.o.Store.Now())
	if errors.Is(err, signed.ErrMalformed) || errors.Is(err, signed.ErrExpired) {
		return Subscription{}, damaged
	} else if err != nil {
		return Subscription{}, Explain("read the link", err)
	}
	id, address, _ := strings.Cut(subject, " ")
	o, ok := s.o.Directory.Organisation(id)
	if !ok {
		return Subscription{}, &Error{Code: CodeGone, What: "This organisation is not here any more", Do: "No more mail comes. There is nothing to do."}
	}
	sub := Subscription{Org: o.ID, Name: o.Name, Address: address, Owner: o.Owner}
	if !strings.EqualFold(o.Recipient(), address) || !o.Email.Enabled {
		sub.Off = true
		return sub, nil
	}
	states, err := s.channels(ctx, []*org.Organisation{o})
	if err != nil {
		return Subscription{}, err
	}
	for _, c := range states {
		for _, h := range c.Holds {
			sub.Off = sub.Off || c.Channel == event.Email && h.Hold == event.HoldSuspend
		}
	}
	return sub, nil
}

// Unsubscribe ends an organisation's e-mail on the word of a link in one of its
// mails. Settings of the configuration file cannot be changed here, so there
// the channel is suspended instead. The technical contact is told.
func (s *Service) Unsubscribe(ctx context.Context, from, token string) (Subscription, error) {
	sub, err := s.Subscription(ctx, token)
	if err != nil || sub.Off {
		return sub, err
	}
	by := By{Who: "unsubscribe link of " + sub.Address, From: from}
	what := "E-mail is switched off. Nothing is sent any more, and what waited is cancelled. Switch it on again on the settings page."
	if sub.Owner == org.OwnedByFile {
		if err := s.hold(ctx, by, sub.Org, event.Email, event.HoldSuspend, event.Forever, "unsubscribed by "+sub.Address, "unsubscribed"); err != nil {
			return sub, err
		}
		what = "The settings of your organisation stand in the hub's configuration file, so e-mail is suspended: nothing is sent, and the news waits. " +
			"Press Resume under State of deliveries when it is to go on, or ask the operator of the hub to switch it off in the file (dispatchd org resume " + sub.Org + " --channel email resumes it)."
	} else if _, err := s.Disable(ctx, by, sub.Org, event.Email); err != nil {
		return sub, err
	}
	sub.Off = true
	if o, ok := s.o.Directory.Organisation(sub.Org); ok {
		s.tell(o, event.Email, "unsubscribed", "e-mail was stopped",
			fmt.Sprintf("Somebody who has a mail to %s used its unsubscribe link, or their mail program did.", sub.Address), what)
	}
	return sub, nil
}
