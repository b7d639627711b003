package service

import (
	"context"
	"fmt"
	"slices"
	"time"

	"dispatchd/internal/store"
)

// Job returns one job.
func (s *Service) Job(ctx context.Context, id string) (store.Job, error) {
	jobs, err := s.o.Store.Jobs(ctx)
	if err != nil {
		return store.Job{}, Explain("read the jobs", err)
	}
	for _, j := range jobs {
		if j.ID == id {
			return j, nil
		}
	}
	e := notFound("There is no job %q.", id)
	e.Do = "`dispatchd job list` shows them all; finished ones are kept for a week."
	return store.Job{}, e
}

// cancellable are the kinds of jobs that may stop halfway: what they did is
// whole, and asking again does the rest. Any other leaves something that is
// neither as before nor as asked for.
var cancellable = []string{jobReplay, jobRearm, jobLook, jobNotice}

// CancelJob stops a job; what it has done stays.
func (s *Service) CancelJob(ctx context.Context, by By, id string) (store.Job, error) {
	j, err := s.Job(ctx, id)
	if err != nil {
		return j, err
	}
	if err := mayCancel(j); err != nil {
		return j, err
	}
	s.jobs.cancel(id)
	// It may have ended, or gone on a little, before it was stopped.
	if j, err = s.Job(ctx, id); err != nil {
		return j, err
	}
	if err := mayCancel(j); err != nil {
		return j, err
	}
	j.State = store.JobCancelled
	if err := s.o.Store.SaveJob(ctx, j); err != nil {
		return j, Explain("note that the job is cancelled", err)
	}
	s.audit(by, "job cancelled", "job", id, "org", j.Org)
	return s.Job(ctx, id)
}

func mayCancel(j store.Job) error {
	switch {
	case j.State != jobRunning:
		return &Error{Code: CodeConflict, What: fmt.Sprintf("Job %s is over: %s.", j.ID, j.State)}
	case !slices.Contains(cancellable, j.Kind):
		return &Error{Code: CodeConflict, What: fmt.Sprintf("A job of kind %q has to come to its end.", j.Kind), Do: "It goes on by itself; undo it afterwards if it was not meant."}
	}
	return nil
}

// liveJob is a job that runs.
type liveJob struct {
	stop  context.CancelFunc
	ended chan struct{}
}

// cancel keeps a job from running on and waits until it does not run any more.
func (r *runner) cancel(id string) {
	r.mu.Lock()
	r.cancelled[id] = true
	delete(r.known, id)
	r.queue = slices.DeleteFunc(r.queue, func(j store.Job) bool { return j.ID == id })
	live, runs := r.live[id]
	r.mu.Unlock()
	if runs {
		live.stop()
		<-live.ended
	}
}

// CredentialTest is what ORCID said to a credential.
type CredentialTest struct {
	Name     string        `json:"name"`
	OK       bool          `json:"ok"`
	Error    string        `json:"error,omitempty"`
	Duration time.Duration `json:"duration_ns"`
}

// TestCredential asks ORCID for a token, at most once in 10 s for a credential.
func (s *Service) TestCredential(ctx context.Context, by By, name string) (CredentialTest, error) {
	if !slices.Contains(s.o.Credentials(), name) || s.o.CheckCredential == nil {
		e := notFound("There is no credential %q.", name)
		e.Do = "`dispatchd credential list` shows them all."
		return CredentialTest{}, e
	}
	if wait := s.tested.claim("credential/"+name, time.Now()); wait > 0 {
		return CredentialTest{}, &Error{Code: CodeRateLimited, What: "The credential was tested a moment ago.", Do: fmt.Sprintf("Try again in %s.", wait.Round(time.Second))}
	}
	s.audit(by, "credential tested", "credential", name)
	began := time.Now()
	err := s.o.CheckCredential(ctx, name)
	out := CredentialTest{Name: name, OK: err == nil, Duration: time.Since(began)}
	if err != nil {
		out.Error = err.Error()
	}
	return out, nil
}
