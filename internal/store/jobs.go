package store

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

// The states of a job.
const (
	JobRunning   = "running"
	JobDone      = "done"
	JobFailed    = "failed"
	JobCancelled = "cancelled"
)

// Job is long work that goes on after a restart from its cursor. Its steps may
// run twice. It holds no secret.
type Job struct {
	ID     string `json:"id"`
	Kind   string `json:"kind"`
	Org    string `json:"org,omitempty"`
	Cursor string `json:"cursor,omitempty"` // opaque to the store; empty at the beginning
	// Done, Total and Failed count items; Total is 0 when it is not known.
	Done    int64             `json:"done"`
	Total   int64             `json:"total"`
	Failed  int64             `json:"failed"`
	State   string            `json:"state"`           // JobRunning and so on
	Error   string            `json:"error,omitempty"` // words for people; of the last failure
	Created time.Time         `json:"created"`         // zero means when it is first saved
	Updated time.Time         `json:"updated"`         // set by SaveJob
	Args    map[string]string `json:"args,omitempty"`
}

// SaveJob writes a job as it stands. A daemon that was taken over gets
// ErrFenced, so that it cannot move a cursor back.
func (s *Store) SaveJob(ctx context.Context, j Job) error {
	if j.ID == "" {
		return errors.New("save a job: it has no id")
	}
	switch j.State {
	case JobRunning, JobDone, JobFailed, JobCancelled:
	default:
		return fmt.Errorf("save job %s: unknown state %q", j.ID, j.State)
	}
	j.Updated = s.Now().UTC()
	if j.Created.IsZero() {
		j.Created = j.Updated
	}
	raw, err := json.Marshal(j)
	if err != nil {
		return fmt.Errorf("save job %s: %w", j.ID, err)
	}
	if err := s.do(ctx, s.hashCall(s.scripts.hashSet, s.keys.jobs(), j.ID, raw)); err != nil {
		return fmt.Errorf("save job %s: %w", j.ID, err)
	}
	return nil
}

// Jobs returns every job, oldest first. The caller deletes finished ones that
// are older than it wants to show.
func (s *Store) Jobs(ctx context.Context) ([]Job, error) {
	raws, err := s.hashAll(ctx, s.keys.jobs())
	if err != nil {
		return nil, fmt.Errorf("list jobs: %w", err)
	}
	out := make([]Job, 0, len(raws))
	for id, raw := range raws {
		var j Job
		if err := json.Unmarshal([]byte(raw), &j); err != nil {
			return nil, fmt.Errorf("read job %s: %w", id, err)
		}
		out = append(out, j)
	}
	slices.SortFunc(out, func(a, b Job) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID))
	})
	return out, nil
}

// DeleteJob forgets a job; one that is not there is no error.
func (s *Store) DeleteJob(ctx context.Context, id string) error {
	if err := s.do(ctx, s.hashCall(s.scripts.hashDelete, s.keys.jobs(), id)); err != nil {
		return fmt.Errorf("delete job %s: %w", id, err)
	}
	return nil
}

// SetFact notes a small fact about the installation, for example that
// registrations are paused; an empty value forgets it.
func (s *Store) SetFact(ctx context.Context, name, value string) error {
	c := s.hashCall(s.scripts.hashSet, s.keys.facts(), name, value)
	if value == "" {
		c = s.hashCall(s.scripts.hashDelete, s.keys.facts(), name)
	}
	if err := s.do(ctx, c); err != nil {
		return fmt.Errorf("note fact %s: %w", name, err)
	}
	return nil
}

// Fact returns what SetFact noted; empty when it did not.
func (s *Store) Fact(ctx context.Context, name string) (string, error) {
	v, err := s.hashGet(ctx, s.keys.facts(), name)
	if err != nil {
		return "", fmt.Errorf("read fact %s: %w", name, err)
	}
	return v, nil
}
