package service

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/secret"
	"dispatchd/internal/store"
)

// The kinds of jobs.
const (
	jobApply   = "apply"   // an organisation's switches changed: cancel, register, unregister
	jobRemove  = "remove"  // an organisation goes
	jobReplay  = "replay"  // dead letters are tried again
	jobNotice  = "notice"  // a technical contact is told by mail
	jobConfirm = "confirm" // an address is asked whether it wants notifications
	jobLink    = "link"    // a sign-in link is mailed, if the address is a technical contact's
	jobRetime  = "retime"  // waiting mail follows email.mode
)

// The states of a job.
const (
	jobRunning = "running"
	jobDone    = "done"
	jobFailed  = "failed"
)

const (
	jobBatch   = 1000
	jobKeepFor = 7 * 24 * time.Hour
	jobsAtOnce = 4 // and as many that mail

	// takeUpEvery is how often jobs that nobody runs are looked for, and how old
	// one is at least: whoever makes a job saves it before it is queued.
	takeUpEvery = time.Minute
	// damageWait is how long a job waits that needs a key which is another type.
	damageWait = time.Minute
)

func newJob(kind, orgID string, now time.Time) store.Job {
	return store.Job{ID: kind + "-" + secret.NewKey(6).Reveal(), Kind: kind, Org: orgID, State: jobRunning, Created: now, Updated: now}
}

// runner runs jobs, a few at once, and those of one organisation one by one.
type runner struct {
	mu      sync.Mutex
	queue   []store.Job
	busy    map[string]bool // by lockOf
	running map[bool]int    // by mails
	ctx     context.Context // of Run; nil before
	live    map[string]liveJob
	// known are the jobs that wait or run here, or are to go on later.
	known map[string]bool
	// cancelled are jobs that a person stopped; they are not begun again.
	cancelled map[string]bool
	wg        sync.WaitGroup
}

func (r *runner) init() {
	r.busy, r.live, r.known, r.cancelled = map[string]bool{}, map[string]liveJob{}, map[string]bool{}, map[string]bool{}
	r.running = map[bool]int{}
}

// lockOf names what a job has for itself while it runs: its organisation,
// except for mails and an erasure, which bother no organisation's others and may
// have to wait for long.
func lockOf(j store.Job) string {
	if mails(j) || j.Kind == jobErase {
		return j.ID
	}
	return j.Org
}

// mails reports whether a job does nothing but mail. Such jobs have places of
// their own: many of them and a mail server that hangs must keep no other work.
func mails(j store.Job) bool {
	return j.Kind == jobNotice || j.Kind == jobLink || j.Kind == jobConfirm
}

// Run takes up unfinished jobs and runs new ones until ctx ends; a job that is
// cut off goes on at the next start.
func (s *Service) Run(ctx context.Context) error {
	jobs, err := s.unfinished(ctx)
	if err != nil {
		return nil // ctx ended
	}
	s.mendSlots(ctx)
	s.jobs.mu.Lock()
	s.jobs.ctx = ctx
	now := s.o.Store.Now()
	var old []string
	for _, j := range jobs {
		switch {
		case j.State == jobRunning && !s.jobs.known[j.ID]:
			s.jobs.known[j.ID] = true
			s.jobs.queue = append(s.jobs.queue, j)
		case j.State != jobRunning && now.Sub(j.Updated) > jobKeepFor:
			old = append(old, j.ID)
		}
	}
	s.jobs.mu.Unlock()
	s.nextJobs()
	for _, id := range old {
		if err := s.o.Store.DeleteJob(ctx, id); err != nil && ctx.Err() == nil {
			s.log.Warn("an old job is forgotten at the next start", "job", id, "err", err)
		}
	}
	tick := time.NewTicker(takeUpEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-tick.C:
			s.takeUp(ctx)
			s.mendLater(ctx)
		}
	}
	s.jobs.wg.Wait()
	return nil
}

// takeUp begins jobs that nobody runs although they are durable: the answer that
// one was saved was lost, or whoever made it did not get further. What was asked
// for must not come as a surprise at the next start.
func (s *Service) takeUp(ctx context.Context) {
	s.jobs.mu.Lock()
	before := maps.Clone(s.jobs.known) // first: one that ends meanwhile is not begun again
	s.jobs.mu.Unlock()
	now := s.o.Store.Now()
	jobs, err := s.o.Store.Jobs(ctx)
	if err != nil {
		return // looked for again
	}
	for _, j := range jobs {
		if j.State != jobRunning || before[j.ID] || now.Sub(j.Created) < takeUpEvery {
			continue
		}
		if s.jobs.isCancelled(j.ID) {
			continue // which is about to be noted
		}
		// Saved first: it fails when another daemon has the jobs now.
		if err := s.saveCursor(ctx, &j); err != nil {
			return
		}
		s.log.Info("a job that nobody ran is taken up", "job", j.ID, "org", j.Org)
		if j.Kind == jobRemove {
			s.beginRemoval(j.Org)
		}
		s.startJob(j)
	}
}

// unfinished reads the jobs, again and again until Redis answers or ctx ends:
// without them nothing that an operator asks for would ever be finished.
func (s *Service) unfinished(ctx context.Context) ([]store.Job, error) {
	for wait := 250 * time.Millisecond; ; wait = min(2*wait, 10*time.Second) {
		jobs, err := s.o.Store.Jobs(ctx)
		if err == nil || ctx.Err() != nil {
			return jobs, err
		}
		s.log.Warn("jobs wait: they cannot be read", "err", err)
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(wait):
		}
	}
}

func (r *runner) isCancelled(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.cancelled[id]
}

// startJob queues a job that is already durable.
func (s *Service) startJob(j store.Job) {
	s.jobs.mu.Lock()
	if !s.jobs.cancelled[j.ID] {
		s.jobs.known[j.ID] = true
		s.jobs.queue = append(s.jobs.queue, j)
	}
	s.jobs.mu.Unlock()
	s.nextJobs()
}

// nextJobs starts what may run now.
func (s *Service) nextJobs() {
	r := &s.jobs
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ctx == nil || r.ctx.Err() != nil {
		return
	}
	for i := 0; i < len(r.queue); {
		j := r.queue[i]
		if r.running[mails(j)] == jobsAtOnce || r.busy[lockOf(j)] {
			i++
			continue
		}
		r.queue = slices.Delete(r.queue, i, i+1)
		r.busy[lockOf(j)] = true
		r.running[mails(j)]++
		life := r.ctx
		ctx, stop := context.WithCancel(life)
		live := liveJob{stop, make(chan struct{})}
		r.live[j.ID] = live
		r.wg.Go(func() {
			s.runJob(ctx, life, j)
			stop()
			r.mu.Lock()
			r.running[mails(j)]--
			delete(r.busy, lockOf(j))
			delete(r.live, j.ID)
			r.mu.Unlock()
			close(live.ended)
			s.nextJobs()
		})
	}
}

// runJob repeats a job's steps until it is done, fails for good, or ctx ends. A
// job that is to go on later does so within life.
func (s *Service) runJob(ctx, life context.Context, j store.Job) {
	wait, waited := 250*time.Millisecond, 0
	waits := func(doing string, err error) { // said once, then counted
		if waited++; waited == 1 {
			s.log.Warn("a job waits for redis", "job", j.ID, "doing", doing, "err", err)
		}
	}
	defer func() {
		if waited > 0 && ctx.Err() == nil {
			s.log.Info("a job that waited went on", "job", j.ID, "failures", waited)
		}
	}()
	for {
		err := s.stepJob(ctx, &j)
		if ctx.Err() != nil {
			return
		}
		var own *Error
		var later *errLater
		var key *store.WrongType
		switch {
		case err == nil:
			j.State, j.Error = jobDone, ""
		case errors.As(err, &key):
			// Somebody has to mend Redis; others have the place meanwhile.
			if why := key.Error(); j.Error != why {
				j.Error = why
				s.log.Error("a job waits: "+damageDo, "job", j.ID, "kind", j.Kind, "org", j.Org, "err", err)
			}
			if err := s.saveCursor(ctx, &j); err != nil {
				s.log.Warn("why a job waits could not be noted", "job", j.ID, "err", err)
			}
			s.jobLater(life, j, damageWait)
			return
		case errors.As(err, &later):
			if j.Failed == 1 {
				s.log.Warn("a job is tried again later", "job", j.ID, "org", j.Org, "wait", later.wait, "err", later.err)
			}
			if err := s.saveCursor(ctx, &j); err != nil {
				s.log.Warn("how often a job was tried could not be noted", "job", j.ID, "err", err)
			}
			s.jobLater(life, j, later.wait)
			return
		case errors.As(err, &own) && own.Code == CodeUnavailable || errors.Is(err, store.ErrAway) || errors.Is(err, store.ErrForgot):
			waits("its next step", err)
			select {
			case <-ctx.Done():
				return
			case <-time.After(wait):
			}
			wait = min(2*wait, 10*time.Second)
			continue
		default:
			j.State, j.Error = jobFailed, err.Error()
			s.log.Error("a job failed", "job", j.ID, "kind", j.Kind, "org", j.Org, "err", err)
		}
		j.Updated = s.o.Store.Now()
		for err := s.noteEnd(ctx, j); err != nil; err = s.noteEnd(ctx, j) {
			waits("noting its end", err)
			select {
			case <-ctx.Done():
				return // it runs again
			case <-time.After(wait):
			}
			wait = min(2*wait, 10*time.Second)
		}
		if j.Kind == jobRemove {
			s.removed(ctx, j.Org)
		}
		s.jobs.mu.Lock()
		delete(s.jobs.known, j.ID)
		s.jobs.mu.Unlock()
		return
	}
}

// noteEnd keeps a job that has ended, for whoever lists jobs; one that mailed a
// link goes at once: addresses that strangers typed are nobody's business.
func (s *Service) noteEnd(ctx context.Context, j store.Job) error {
	if j.Kind == jobLink {
		return s.o.Store.DeleteJob(ctx, j.ID)
	}
	return s.o.Store.SaveJob(ctx, j)
}

// jobLater queues a job again after a while, without keeping a place.
func (s *Service) jobLater(ctx context.Context, j store.Job, wait time.Duration) {
	s.jobs.wg.Go(func() {
		t := time.NewTimer(wait)
		defer t.Stop()
		select {
		case <-ctx.Done():
		case <-t.C:
			s.startJob(j)
		}
	})
}

func (s *Service) stepJob(ctx context.Context, j *store.Job) (err error) {
	defer func() {
		if p := recover(); p != nil {
			s.o.Panics("service")
			err = fmt.Errorf("job %s panicked: %v", j.ID, p)
		}
	}()
	switch j.Kind {
	case jobApply:
		return s.applyJob(ctx, j)
	case jobRemove:
		return s.removeJob(ctx, j)
	case jobReplay:
		return s.replayJob(ctx, j)
	case jobNotice:
		return s.noticeJob(ctx, j)
	case jobRetime:
		return s.retimeJob(ctx, j)
	case jobErase:
		return s.eraseJob(ctx, j)
	case jobConfirm:
		return s.confirmJob(ctx, j)
	case jobLink:
		return s.linkJob(ctx, j)
	case jobRearm, jobLook:
		return s.sweepJob(ctx, j)
	}
	return fmt.Errorf("unknown kind of job %q", j.Kind)
}

// saveCursor notes how far a job is.
func (s *Service) saveCursor(ctx context.Context, j *store.Job) error {
	j.Updated = s.o.Store.Now()
	return s.o.Store.SaveJob(ctx, *j)
}

// applyJob makes slots and registrations follow an organisation's switches.
func (s *Service) applyJob(ctx context.Context, j *store.Job) error {
	if there, err := s.switchSaved(ctx, j.Org); err != nil || !there {
		return err
	}
	for _, ch := range event.Channels {
		for more := true; more; {
			var err error
			if more, err = s.cancelDisabled(ctx, j.Org, ch); err != nil {
				return fmt.Errorf("cancel slots: %w", err)
			}
		}
	}
	total, err := s.o.Store.MemberCount(ctx, j.Org)
	if err != nil {
		return fmt.Errorf("count users: %w", err)
	}
	j.Total = int64(total)
	for {
		ids, next, err := s.o.Store.Members(ctx, j.Org, j.Cursor, jobBatch)
		if err != nil {
			return fmt.Errorf("list users: %w", err)
		}
		if err := s.o.Store.SetWork(ctx, ids, s.o.Store.Now()); err != nil {
			return fmt.Errorf("mark users: %w", err)
		}
		j.Done += int64(len(ids))
		j.Cursor = next
		if next == "" {
			return nil
		}
		if err := s.saveCursor(ctx, j); err != nil {
			return err
		}
	}
}

// switchSaved makes partitions and directory follow what is saved of the
// organisation, and reports whether there is one. It reads, switches and tells
// in one with regard to changes, or it could undo one that came meanwhile.
func (s *Service) switchSaved(ctx context.Context, id string) (bool, error) {
	s.changing.Lock()
	defer s.changing.Unlock()
	saved, err := s.o.Store.Organisation(ctx, id)
	if err != nil {
		return false, fmt.Errorf("read the organisation: %w", err)
	}
	if _, going := s.removing.Load(id); saved == nil || going {
		return false, nil
	}
	if err := s.switchChannels(ctx, saved); err != nil {
		return false, err
	}
	if o, ok := s.o.Directory.Organisation(id); !ok || needsSweep(o, saved) {
		s.o.Directory.Put(*saved)
	}
	return true, nil
}

// cancelDisabled cancels one batch of slots if the channel is disabled, and
// reports whether more are left. A channel that was enabled again meanwhile
// keeps what came since.
func (s *Service) cancelDisabled(ctx context.Context, id string, ch event.Channel) (more bool, err error) {
	s.changing.Lock()
	defer s.changing.Unlock()
	if o, ok := s.o.Directory.Organisation(id); !ok || o.Enabled(ch) {
		return false, nil
	}
	_, more, err = s.o.Store.CancelSlots(ctx, id, ch, jobBatch)
	if err == nil && !more && ch == event.Email {
		err = s.o.Store.DropDigest(ctx, id)
	}
	return more, err
}

// Jobs returns every job, newest first.
func (s *Service) Jobs(ctx context.Context) ([]store.Job, error) {
	jobs, err := s.o.Store.Jobs(ctx)
	if err != nil {
		return nil, Explain("read the jobs", err)
	}
	slices.SortFunc(jobs, func(a, b store.Job) int { return b.Created.Compare(a.Created) })
	return jobs, nil
}
