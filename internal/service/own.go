package service

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"dispatchd/internal/org"
	"dispatchd/internal/signed"
	"dispatchd/internal/store"
)

// What an organisation changes itself differs in one thing from what an operator
// changes: another notification address is used only when whoever reads mails
// there has said yes. Otherwise any organisation could have us mail anybody.
const (
	confirmLife = 7 * 24 * time.Hour
	// Within confirmWindow one organisation, and one address, gets so many mails.
	confirmWindow    = time.Hour
	confirmByOrg     = 10
	confirmByAddress = 5

	purposeConfirm = "confirm-address"
	confirmPath    = "/confirm/"
)

// SaveOwn changes settings on the word of the organisation itself. A new
// notification address is kept as pending and asked by mail; until it says yes
// mails go where they went before.
func (s *Service) SaveOwn(ctx context.Context, by By, id string, in Settings) (View, error) {
	if in.ID != nil || in.Name != nil || in.Credential != nil || in.TechnicalContact != nil || in.Concurrency != nil || in.API != nil {
		return View{}, invalid("Only the operator can change this.", errors.New("id, name, credential, technical_contact, concurrency and api are the operator's"))
	}
	s.changing.Lock()
	defer s.changing.Unlock()
	old, err := s.changeable(id)
	if err != nil {
		return View{}, err
	}
	next := clone(old)
	var address *string
	if in.Email != nil {
		own := *in.Email
		address, own.Address = own.Address, nil
		in.Email = &own
	}
	in.apply(&next)
	ask := ""
	if address != nil {
		switch a := strings.TrimSpace(*address); {
		case a == "", strings.EqualFold(a, old.TechnicalContact):
			next.Email.Address, next.Email.Pending = "", ""
		case a == old.Email.Address:
			next.Email.Pending = ""
		default:
			next.Email.Pending = a
			if a != old.Email.Pending {
				ask = a
			}
		}
	}
	if err := s.validate(&next); err != nil {
		return View{}, err
	}
	if ask != "" {
		if err := s.mayAsk(ctx, id, ask); err != nil {
			return View{}, err
		}
	}
	var said []any
	if ask != "" {
		said = []any{"asks", ask}
	}
	if err := s.change(ctx, by, old, next, said...); err != nil {
		return View{}, err
	}
	if ask != "" {
		if err := s.askAddress(ctx, id, ask); err != nil {
			return View{}, err
		}
	}
	s.counted.forget(id)
	return s.Organisation(ctx, id)
}

// AskAgain mails the pending notification address once more.
func (s *Service) AskAgain(ctx context.Context, by By, id string) error {
	o, err := s.changeable(id)
	if err != nil {
		return err
	}
	if o.Email.Pending == "" {
		return &Error{Code: CodeConflict, What: "No address waits for its confirmation."}
	}
	if err := s.mayAsk(ctx, id, o.Email.Pending); err != nil {
		return err
	}
	s.audit(by, "address is asked to confirm", "org", id, "address", o.Email.Pending)
	return s.askAddress(ctx, id, o.Email.Pending)
}

func (s *Service) mayAsk(ctx context.Context, id, address string) error {
	if err := s.limit(ctx, "confirmations of "+id, confirmWindow, confirmByOrg); err != nil {
		return err
	}
	return s.limit(ctx, "confirmations to "+strings.ToLower(address), confirmWindow, confirmByAddress)
}

func (s *Service) askAddress(ctx context.Context, id, address string) error {
	j := newJob(jobConfirm, id, s.o.Store.Now())
	j.Args = map[string]string{"to": address}
	if err := s.o.Store.SaveJob(ctx, j); err != nil {
		return Explain("note the job", err)
	}
	s.startJob(j)
	return nil
}

// confirmJob mails the link; like a sign-in link it is not kept in the job.
func (s *Service) confirmJob(ctx context.Context, j *store.Job) error {
	o, ok := s.o.Directory.Organisation(j.Org)
	if !ok || o.Email.Pending != j.Args["to"] || s.o.Signer == nil {
		return nil // another one was entered meanwhile
	}
	until := j.Created.Add(confirmLife)
	return s.mailJob(ctx, j, until, Letter{
		To: o.Email.Pending, Subject: "Confirm: ORCID notifications for " + o.Name,
		Paragraphs: []string{
			o.Name + " asks to send notifications about changes of its researchers' ORCID records to this address.",
			"If that is right, open this page and press the button there, before " + until.In(o.Zone()).Format("2 January 2006") + ".",
		},
		Link: s.link(confirmPath) + s.o.Signer.Sign(purposeConfirm, o.ID+" "+o.Email.Pending, until), LinkText: "Confirm this address",
		Small: []string{"If you do not know what this is about, do nothing: no further mail will come."},
		ID:    j.ID,
	})
}

// Confirmation is what a confirmation link asks.
type Confirmation struct {
	Org, Name, Address string
	Done               bool // it has been confirmed already
}

// LookAtConfirmation says what a confirmation link asks, and changes nothing.
func (s *Service) LookAtConfirmation(token string) (Confirmation, error) {
	subject, err := s.o.Signer.Verify(purposeConfirm, token, s.o.Store.Now())
	switch {
	case errors.Is(err, signed.ErrExpired):
		return Confirmation{}, &Error{Code: CodeGone, What: "This link has expired.", Do: "Whoever entered the address can have a new one mailed."}
	case err != nil:
		return Confirmation{}, &Error{Code: CodeNotFound, What: "This link is not complete.", Do: "Copy all of it from the mail into the address bar."}
	}
	id, address, _ := strings.Cut(subject, " ")
	o, ok := s.o.Directory.Organisation(id)
	if !ok || o.Owner == org.OwnedByFile || o.Email.Pending != address && o.Email.Address != address {
		return Confirmation{}, &Error{Code: CodeGone, What: "This address is not asked for any more.", Do: "Nothing is sent to it, and there is nothing to do."}
	}
	return Confirmation{Org: id, Name: o.Name, Address: address, Done: o.Email.Pending != address}, nil
}

// ConfirmAddress makes a pending notification address the one that is used. Done
// twice it is the same.
func (s *Service) ConfirmAddress(ctx context.Context, by By, token string) (Confirmation, error) {
	s.changing.Lock()
	defer s.changing.Unlock()
	c, err := s.LookAtConfirmation(token)
	if err != nil || c.Done {
		return c, err
	}
	old, err := s.changeable(c.Org)
	if err != nil {
		return c, err
	}
	next := clone(old)
	next.Email.Address, next.Email.Pending = c.Address, ""
	by.Who = c.Address
	if err := s.change(ctx, by, old, next, "confirmed", c.Address); err != nil {
		return c, err
	}
	c.Done = true
	return c, nil
}

// checkPending adds to the problems of the settings what Validate does not know.
func checkPending(o *org.Organisation) []org.Problem {
	if o.Email.Pending == "" {
		return nil
	}
	probe := org.Organisation{ID: o.ID, Name: "x", Email: org.Email{Address: o.Email.Pending}}
	var bad *org.Invalid
	if errors.As(probe.Validate(), &bad) {
		return bad.Problems
	}
	if len(o.Email.Pending) > maxPerson {
		return []org.Problem{{Key: "email.address", Why: fmt.Sprintf("must have at most %d bytes", maxPerson)}}
	}
	return nil
}
