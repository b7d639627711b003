package service

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"time"

	"dispatchd/internal/orcid"
	"dispatchd/internal/store"
)

// jobErase removes every trace of a researcher. While it runs it names the iD,
// because ORCID is to be asked about it; afterwards it does not.
const jobErase = "erase"

// eraseWait is between two looks at what is on its way: soon at first, seldom
// when ORCID takes its time.
func eraseWait(passes int) time.Duration {
	return min(time.Second*time.Duration(1+passes/10), time.Minute)
}

// The names of a job's counts, in the order people see them.
var erasedNames = []string{"affiliations", "registrations", "callbacks", "slots", "dead_letters", "attempts", "summaries", "checks", "damaged_records"}

// Erasure is what an erasure has removed so far, and what is left to wait for.
type Erasure struct {
	Job     store.Job      `json:"job"`
	Removed map[string]int `json:"removed"`
	// Waiting says what the job waits for; empty when it is done.
	Waiting string `json:"waiting,omitempty"`
	// AgesOut lists what no erasure reaches.
	AgesOut []string `json:"ages_out"`
}

// EraseUser removes every trace of a researcher: affiliations, what waits and
// what died, attempts, checks, and at ORCID every registration by the credential
// that holds it. It is a job that goes on over restarts until ORCID has
// confirmed. From this moment on nobody can add the researcher: a keyed hash of
// the iD stays on the suppression list. Asking again joins the job under way.
func (s *Service) EraseUser(ctx context.Context, by By, id orcid.ID) (Erasure, error) {
	s.leaving.Lock()
	defer s.leaving.Unlock()
	ctx = context.WithoutCancel(ctx) // not halfway
	jobs, err := s.o.Store.Jobs(ctx)
	if err != nil {
		return Erasure{}, Explain("read the jobs", err)
	}
	for _, j := range jobs {
		if j.Kind == jobErase && j.State == jobRunning && j.Args["orcid"] == id.String() {
			return erasure(j), nil
		}
	}
	j := newJob(jobErase, "", s.o.Store.Now())
	j.Args = map[string]string{"orcid": id.String()}
	if err := s.o.Store.SaveJob(ctx, j); err != nil {
		return Erasure{}, Explain("note the job", err)
	}
	s.audit(by, "user erased", "orcid", id, "job", j.ID)
	begun := erasure(j)
	begun.Job.Args = maps.Clone(j.Args) // the job writes into its own
	// The job does this too, and goes on also when it cannot be done now.
	defer s.startJob(j)
	if err := s.o.Store.Suppress(ctx, id, true); err != nil {
		return Erasure{}, Explain("put the user on the suppression list", err)
	}
	return begun, nil
}

// Erasure returns how far an erasure is.
func (s *Service) Erasure(ctx context.Context, jobID string) (Erasure, error) {
	jobs, err := s.o.Store.Jobs(ctx)
	if err != nil {
		return Erasure{}, Explain("read the jobs", err)
	}
	for _, j := range jobs {
		if j.ID == jobID && j.Kind == jobErase {
			return erasure(j), nil
		}
	}
	return Erasure{}, notFound("There is no erasure %q.", jobID)
}

func erasure(j store.Job) Erasure {
	e := Erasure{Job: j, Removed: map[string]int{}, AgesOut: AgesOut()}
	for _, name := range erasedNames {
		if n, err := strconv.Atoi(j.Args[name]); err == nil { // missing is none
			e.Removed[name] = n
		}
	}
	if j.State == jobRunning {
		if e.Waiting = j.Args["waiting"]; e.Waiting == "" {
			e.Waiting = "its turn"
		}
	}
	return e
}

// Unsuppress takes a researcher off the suppression list, so that they can be
// added again.
func (s *Service) Unsuppress(ctx context.Context, by By, id orcid.ID) error {
	lifted, err := s.o.Store.Unsuppress(ctx, id)
	switch {
	case errors.Is(err, store.ErrConflict):
		return &Error{
			Code: CodeConflict, What: "The researcher is being erased right now.",
			Do: "Wait until `dispatchd user erase` is done; `dispatchd job list` shows how far it is.",
		}
	case err != nil:
		return Explain("take the user off the suppression list", err)
	case !lifted:
		return notFound("%s is not on the suppression list.", id)
	}
	s.audit(by, "user taken off the suppression list", "orcid", id)
	return nil
}

// eraseJob makes one pass; every pass removes whatever it finds. The last is one
// at whose beginning nothing was on its way any more: ORCID had confirmed, and
// the spool, the intake log and attempts under way had ended since.
func (s *Service) eraseJob(ctx context.Context, j *store.Job) error {
	id, err := orcid.Parse(j.Args["orcid"])
	if err != nil {
		return fmt.Errorf("read the job's orcid: %w", err)
	}
	waiting, err := s.onItsWay(ctx, j, id)
	if err != nil {
		return err
	}
	if err := s.eraseTraces(ctx, j, id); err != nil {
		return err
	}
	if waiting == "" {
		if err := s.o.Store.Suppress(ctx, id, false); err != nil {
			return fmt.Errorf("note that the user is erased: %w", err)
		}
		for _, name := range []string{"orcid", "waiting", "confirmed", "lease", "passes"} {
			delete(j.Args, name)
		}
		return nil
	}
	erased(j, "passes", 1)
	passes, _ := strconv.Atoi(j.Args["passes"]) // just written
	j.Args["waiting"] = waiting
	if err := s.saveCursor(ctx, j); err != nil {
		return err
	}
	return &errLater{fmt.Errorf("erase a user: waits for %s", waiting), eraseWait(passes)}
}

// onItsWay says what may still bring news of the user; empty when nothing can.
func (s *Service) onItsWay(ctx context.Context, j *store.Job, id orcid.ID) (string, error) {
	guests, err := s.o.Store.Guests(ctx, id)
	if err != nil {
		return "", err
	}
	if len(guests) > 0 {
		delete(j.Args, "confirmed")
		return fmt.Sprintf("ORCID to confirm that %s gone", count(len(guests), "callback is", "callbacks are")), nil
	}
	u, err := s.o.Store.User(ctx, id)
	if err != nil && !errors.Is(err, store.ErrDamaged) {
		return "", fmt.Errorf("read the user: %w", err)
	}
	now := s.o.Store.Now()
	if u != nil || err != nil {
		delete(j.Args, "confirmed")
		if u != nil && len(u.Affiliations) == 0 {
			return fmt.Sprintf("ORCID to confirm that %s gone", count(len(u.Registrations), "registration is", "registrations are")), nil
		}
		return "the record to go", nil
	}
	// Pings that came before ORCID had confirmed are processed after this.
	confirmed, err := time.Parse(time.RFC3339Nano, j.Args["confirmed"])
	if err != nil {
		confirmed = now
		j.Args["confirmed"] = now.Format(time.RFC3339Nano)
	}
	if lease, err := time.Parse(time.RFC3339Nano, j.Args["lease"]); err == nil && !now.After(lease) {
		return "an attempt on its way to end", nil
	}
	if f := s.o.Probe.Spool; f != nil {
		if sp := f(); sp.Waiting > 0 && !sp.Oldest.After(confirmed) {
			return "the spool to drain", nil
		}
	}
	oldest, err := s.o.Store.OldestEntry(ctx)
	if err != nil {
		return "", err
	}
	if !oldest.IsZero() && !oldest.After(confirmed) {
		return "the intake log to be processed", nil
	}
	return "", nil
}

// eraseTraces removes what there is of the user now, and counts it.
func (s *Service) eraseTraces(ctx context.Context, j *store.Job, id orcid.ID) error {
	st := s.o.Store
	// Nobody may join meanwhile who looked at the list before.
	s.leaving.Lock()
	defer s.leaving.Unlock()
	if err := st.Suppress(ctx, id, true); err != nil {
		return fmt.Errorf("put the user on the suppression list: %w", err)
	}
	guests, err := st.Guests(ctx, id)
	if err != nil {
		return err
	}
	for _, g := range guests {
		if !g.Damaged {
			continue
		}
		// Whose it is at ORCID nobody knows any more.
		if _, err := st.SaveGuest(ctx, g, time.Time{}); err != nil {
			return err
		}
		erased(j, "damaged_records", 1)
		s.log.Warn("a damaged callback of an organisation was erased; ORCID may still have it", "job", j.ID)
	}
	ended, err := st.EndGuests(ctx, "", []orcid.ID{id})
	if err != nil {
		return err
	}
	erased(j, "callbacks", ended)
	u, err := st.User(ctx, id)
	switch {
	case errors.Is(err, store.ErrDamaged):
		dropped, err := st.DropDamaged(ctx, id)
		if err != nil {
			return err
		}
		if dropped {
			erased(j, "damaged_records", 1)
		}
	case err != nil:
		return fmt.Errorf("read the user: %w", err)
	case u != nil:
		if j.Args["registrations"] == "" {
			erased(j, "registrations", len(u.Registrations))
		}
		for _, a := range u.Affiliations {
			gone, err := st.Unaffiliate(ctx, id, a.Org, st.Now())
			if err != nil {
				return fmt.Errorf("end an affiliation: %w", err)
			}
			if gone {
				erased(j, "affiliations", 1)
			}
		}
	}
	orgs := s.everyOrganisation()
	if err := st.EraseMember(ctx, orgs, id); err != nil {
		return err
	}
	traces, err := st.EraseTraces(ctx, orgs, id)
	if err != nil {
		return err
	}
	erased(j, "slots", traces.Slots)
	erased(j, "dead_letters", traces.DeadLetters)
	erased(j, "attempts", traces.Attempts)
	if !traces.Lease.IsZero() {
		j.Args["lease"] = traces.Lease.Format(time.RFC3339Nano)
	}
	watched, err := st.EraseWatched(ctx, id)
	if err != nil {
		return err
	}
	erased(j, "checks", len(watched))
	for _, o := range orgs {
		n, err := st.EraseFromMonths(ctx, o, id)
		if err != nil {
			return err
		}
		erased(j, "summaries", n)
	}
	parked, err := st.ErasePark(ctx, id)
	if err != nil {
		return err
	}
	erased(j, "slots", parked)
	if err := s.forgetInJobs(ctx, j.ID, id); err != nil {
		return err
	}
	s.o.Hints.HintUser(id, true)
	return nil
}

// forgetInJobs removes finished jobs that name the user.
func (s *Service) forgetInJobs(ctx context.Context, own string, id orcid.ID) error {
	jobs, err := s.o.Store.Jobs(ctx)
	if err != nil {
		return fmt.Errorf("read the jobs: %w", err)
	}
	for _, j := range jobs {
		if j.ID != own && j.State != jobRunning && j.Args["orcid"] == id.String() {
			if err := s.o.Store.DeleteJob(ctx, j.ID); err != nil {
				return err
			}
		}
	}
	return nil
}

// erased adds to one of a job's counts.
func erased(j *store.Job, name string, n int) {
	was, err := strconv.Atoi(j.Args[name])
	if err != nil {
		was = 0 // not counted yet
	}
	j.Args[name] = strconv.Itoa(was + n)
}
