package service

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/store"
)

const (
	jobRearm = "rearm" // registrations are made anew
	jobLook  = "sync"  // every user's registrations are compared with what is wanted
)

// factPaused is set while registrations are paused.
const factPaused = "registrations-paused"

// Registrar is what changes at ORCID's side of registrations.
type Registrar interface {
	// AcceptKeys gives up callback keys that nobody knows any more and reports
	// whether any was missed: then everybody is to be registered anew.
	AcceptKeys(ctx context.Context) (bool, error)
	// Rearm plans a new registration of the user with a credential and reports
	// whether there was one to replace.
	Rearm(ctx context.Context, id orcid.ID, credential string) (bool, error)
	// PauseRegistrations stops or resumes every request that (un)registers.
	PauseRegistrations(paused bool)
}

// RearmSelection says whose registrations are made anew; one of the three.
type RearmSelection struct {
	All   bool
	Org   string
	ORCID orcid.ID
}

// Rearm makes registrations anew, which ends ORCID's silence when it gave up on
// them: those of one researcher at once, others as a job at the pace of a sweep.
// All also gives up callback keys that are lost.
func (s *Service) Rearm(ctx context.Context, by By, sel RearmSelection) (store.Job, error) {
	if s.o.Registrar == nil {
		return store.Job{}, &Error{Code: CodeUnavailable, What: "Registrations cannot be changed here."}
	}
	chosen := 0
	for _, yes := range []bool{sel.All, sel.Org != "", !sel.ORCID.IsZero()} {
		if yes {
			chosen++
		}
	}
	if chosen != 1 {
		return store.Job{}, invalid("It is not clear whose registrations are meant.", fmt.Errorf("name one of all, org or orcid"))
	}
	kind := jobRearm
	switch {
	case sel.Org != "":
		if _, err := s.get(sel.Org); err != nil {
			return store.Job{}, err
		}
	case sel.All:
		lost, err := s.o.Registrar.AcceptKeys(ctx)
		if err != nil {
			return store.Job{}, Explain("give up the lost callback keys", err)
		}
		if lost {
			kind = jobLook // every URL is another one now: that makes them new
		}
	default:
		return s.rearmOne(ctx, by, sel.ORCID)
	}
	s.audit(by, "registrations made anew", "org", sel.Org, "all", sel.All)
	return s.sweep(ctx, kind, sel.Org)
}

// SyncRegistrations compares every registration with what is wanted.
func (s *Service) SyncRegistrations(ctx context.Context, by By) (store.Job, error) {
	s.audit(by, "registrations compared")
	return s.sweep(ctx, jobLook, "")
}

func (s *Service) sweep(ctx context.Context, kind, orgID string) (store.Job, error) {
	j := newJob(kind, orgID, s.o.Store.Now())
	if err := s.o.Store.SaveJob(ctx, j); err != nil {
		return store.Job{}, Explain("note the job", err)
	}
	s.startJob(j)
	return j, nil
}

func (s *Service) rearmOne(ctx context.Context, by By, id orcid.ID) (store.Job, error) {
	u, err := s.o.Store.User(ctx, id)
	if err != nil {
		return store.Job{}, Explain("read the user", err)
	}
	if u == nil {
		return store.Job{}, notFound("Nothing is known of %s.", id)
	}
	j := newJob(jobRearm, "", s.o.Store.Now())
	j.State, j.Total = jobDone, 1
	for _, credential := range credentialsOf(u) {
		done, err := s.o.Registrar.Rearm(ctx, id, credential)
		if err != nil {
			return store.Job{}, Explain("make the registration anew", err)
		}
		if done {
			j.Done = 1
		}
	}
	s.audit(by, "registrations made anew", "orcid", id)
	s.o.Hints.HintUser(id, true)
	return j, nil
}

// credentialsOf lists the credentials with which the user has a registration of
// ours.
func credentialsOf(u *event.User) []string {
	var out []string
	for _, r := range u.Registrations {
		if !slices.Contains(out, r.Credential) && !event.IsHub(r.Credential) {
			out = append(out, r.Credential)
		}
	}
	return out
}

// behind is the cursor after the last user of an organisation.
const behind = "!"

// sweepJob goes through the users of one organisation, or of all; its cursor is
// the organisation and where in it.
func (s *Service) sweepJob(ctx context.Context, j *store.Job) error {
	at, cursor, _ := strings.Cut(j.Cursor, " ")
	for _, o := range s.o.Directory.All() {
		if j.Org != "" && o.ID != j.Org || o.ID < at || o.ID == at && cursor == behind {
			continue
		}
		if o.ID != at {
			cursor = ""
		}
		for at = o.ID; cursor != behind; {
			ids, next, err := s.o.Store.Members(ctx, o.ID, cursor, jobBatch)
			if err != nil {
				return fmt.Errorf("list users: %w", err)
			}
			if err := s.sweepUsers(ctx, j, o.ID, o.Credential, ids); err != nil {
				return err
			}
			if cursor = next; next == "" {
				cursor = behind
			}
			j.Cursor = o.ID + " " + cursor
			if err := s.saveCursor(ctx, j); err != nil {
				return err
			}
		}
	}
	return nil
}

// sweepUsers asks for a look at the users, or plans new registrations for those
// that have none since the job began: a step may run twice.
func (s *Service) sweepUsers(ctx context.Context, j *store.Job, orgID, credential string, ids []orcid.ID) error {
	if j.Kind == jobLook {
		j.Done += int64(len(ids))
		if err := s.o.Store.SetWork(ctx, ids, s.o.Store.Now()); err != nil {
			return fmt.Errorf("mark users: %w", err)
		}
		return nil
	}
	users, damaged, err := s.o.Store.ReadableUsers(ctx, ids)
	if err != nil {
		return fmt.Errorf("read users: %w", err)
	}
	j.Failed += int64(len(damaged))
	for _, u := range users {
		if u == nil || madeSince(u, credential, j) {
			continue
		}
		done, err := s.o.Registrar.Rearm(ctx, u.ORCID, credential)
		if err != nil {
			return fmt.Errorf("make the registration of %s for %s anew: %w", u.ORCID, orgID, err)
		}
		if done {
			j.Done++
		}
	}
	return nil
}

// madeSince reports whether the newest registration is younger than the job:
// this step was done before, or for another organisation.
func madeSince(u *event.User, credential string, j *store.Job) bool {
	top := event.Registration{Epoch: -1}
	for _, r := range u.Registrations {
		if r.Credential == credential && r.Epoch > top.Epoch {
			top = r
		}
	}
	return top.Epoch >= 0 && !top.Changed.Before(j.Created.Truncate(time.Second)) && top.State != event.RegRefused
}

// PauseRegistrations stops (or resumes) registering and unregistering, also
// over restarts. Pings and deliveries go on.
func (s *Service) PauseRegistrations(ctx context.Context, by By, paused bool) error {
	if s.o.Registrar == nil {
		return &Error{Code: CodeUnavailable, What: "Registrations cannot be changed here."}
	}
	value, what := "", "registrations resumed"
	if paused {
		value, what = "1", "registrations paused"
	}
	if err := s.o.Store.SetFact(ctx, factPaused, value); err != nil {
		return Explain("note the pause", err)
	}
	s.o.Registrar.PauseRegistrations(paused)
	s.audit(by, what)
	return nil
}

// RegistrationsPaused reports what PauseRegistrations noted.
func (s *Service) RegistrationsPaused(ctx context.Context) (bool, error) {
	v, err := s.o.Store.Fact(ctx, factPaused)
	return v != "", err
}
