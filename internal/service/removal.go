package service

import (
	"context"
	"fmt"

	"dispatchd/internal/event"
	"dispatchd/internal/org"
	"dispatchd/internal/store"
)

// RemoveOrganisation removes an organisation with everything it has. Its users
// stay for other organisations.
func (s *Service) RemoveOrganisation(ctx context.Context, by By, id string) error {
	s.changing.Lock()
	defer s.changing.Unlock()
	old, err := s.get(id)
	if err != nil {
		return err
	}
	if s.notRemoving(id) != nil {
		return nil // asked for before
	}
	// One that left the file belongs to nobody else any more.
	if !isSuspended(old, vanished) {
		if _, err := s.changeable(id); err != nil {
			return err
		}
	}
	job := newJob(jobRemove, id, s.o.Store.Now())
	if err := s.o.Store.SaveJob(ctx, job); err != nil {
		return Explain("note the job", err)
	}
	// From here on it goes, whatever fails: the job disables it first. Nothing
	// new is opened meanwhile.
	s.removing.Store(id, true)
	s.o.Directory.Put(off(old))
	s.audit(by, "organisation is being removed", "org", id)
	s.startJob(job)
	return nil
}

// off is the organisation with every channel disabled.
func off(o *org.Organisation) org.Organisation {
	c := clone(o)
	c.Webhook.Enabled, c.Email.Enabled, c.Channels = false, false, nil
	return c
}

// notRemoving refuses to change an organisation that is being removed: what was
// made now would go with it.
func (s *Service) notRemoving(id string) error {
	if _, going := s.removing.Load(id); !going {
		return nil
	}
	return &Error{
		Code: CodeConflict, What: fmt.Sprintf("Organisation %q is being removed.", id),
		Do: "Try again when it is gone; `dispatchd org list` shows it until then.",
	}
}

// beginRemoval is what RemoveOrganisation does before its job is queued.
func (s *Service) beginRemoval(id string) {
	s.changing.Lock()
	defer s.changing.Unlock()
	if o, ok := s.o.Directory.Organisation(id); ok {
		s.removing.Store(id, true)
		s.o.Directory.Put(off(o))
	}
}

// removeJob removes an organisation step by step; the organisation's record
// goes last.
func (s *Service) removeJob(ctx context.Context, j *store.Job) error {
	o, ok := s.o.Directory.Organisation(j.Org)
	if !ok {
		return nil // done before
	}
	// Whoever has found the organisation there adds its user first; nobody does
	// from here on, and so nobody is left behind.
	s.leaving.Lock()
	s.removing.Store(j.Org, true)
	s.leaving.Unlock()
	gone := off(o)
	s.o.Directory.Put(gone)
	if err := s.o.Store.SaveOrganisation(ctx, gone); err != nil {
		return fmt.Errorf("disable the organisation: %w", err)
	}
	if err := s.switchChannels(ctx, &gone); err != nil {
		return err
	}
	for _, ch := range event.Channels {
		for more := true; more; {
			var err error
			if _, more, err = s.o.Store.CancelSlots(ctx, j.Org, ch, jobBatch); err != nil {
				return fmt.Errorf("cancel slots: %w", err)
			}
		}
		for more := true; more; {
			var err error
			if _, more, err = s.o.Store.Purge(ctx, j.Org, ch, store.Selection{}, jobBatch); err != nil {
				return fmt.Errorf("purge dead letters: %w", err)
			}
		}
	}
	for cursor := ""; ; {
		ids, next, err := s.o.Store.Members(ctx, j.Org, cursor, jobBatch)
		if err != nil {
			return fmt.Errorf("list users: %w", err)
		}
		if _, err := s.o.Store.UnaffiliateAll(ctx, j.Org, ids, s.o.Store.Now()); err != nil {
			return fmt.Errorf("remove users: %w", err)
		}
		j.Done += int64(len(ids))
		if next == "" {
			break
		}
		cursor = next
		if err := s.saveCursor(ctx, j); err != nil {
			return err
		}
	}
	if err := s.o.Store.DropMembers(ctx, j.Org); err != nil {
		return fmt.Errorf("drop the member index: %w", err)
	}
	if err := s.o.Store.DropOrganisation(ctx, j.Org); err != nil {
		return fmt.Errorf("drop the slots: %w", err)
	}
	if err := s.o.Store.ForgetMail(ctx, j.Org); err != nil {
		return fmt.Errorf("drop the months: %w", err)
	}
	if err := s.o.Store.DeleteOrganisation(ctx, j.Org); err != nil {
		return fmt.Errorf("delete the organisation: %w", err)
	}
	s.o.Directory.Remove(j.Org)
	// Callbacks of its own that nobody can remove end with it.
	if err := s.o.Store.WakeGuests(ctx); err != nil {
		return fmt.Errorf("look at callbacks: %w", err)
	}
	return nil
}

// removed ends a removal, and makes the organisation anew if the configuration
// file has it again.
func (s *Service) removed(ctx context.Context, id string) {
	s.changing.Lock()
	defer s.changing.Unlock()
	s.endRemovals(ctx, id)
	s.removing.Delete(id)
	o, again := s.again[id]
	if !again {
		return
	}
	delete(s.again, id)
	old, ok := s.o.Directory.Organisation(id)
	if !ok {
		old = nil
	}
	if err := s.change(ctx, By{Who: "file", From: "removal"}, old, o); err != nil {
		s.log.Error("an organisation of the configuration file could not be made again; reload", "org", id, "err", err)
	}
}

// endRemovals ends other removals of an organisation that is gone: one whose
// answer was lost must not take what is made anew by that name.
func (s *Service) endRemovals(ctx context.Context, id string) {
	jobs, err := s.o.Store.Jobs(ctx)
	for _, j := range jobs {
		if j.Kind != jobRemove || j.Org != id || j.State != jobRunning {
			continue
		}
		s.jobs.cancel(j.ID) // it waits at most: this one has the organisation
		j.State = jobDone
		if err == nil {
			err = s.o.Store.SaveJob(ctx, j)
		}
	}
	if err != nil && ctx.Err() == nil {
		s.log.Error("another removal of the organisation may still be noted; see `dispatchd job list` before it is made anew", "org", id, "err", err)
	}
}
