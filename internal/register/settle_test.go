package register

import (
	"slices"
	"testing"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"

	"github.com/google/go-cmp/cmp"
)

func TestSettle(t *testing.T) {
	t.Parallel()
	put := Step{Kind: Put, Credential: "a", Epoch: 2, Base: 3}
	again := put
	again.From = putting
	del := Step{Kind: Delete, Credential: "a", Epoch: 2, Base: 3, From: living}
	redel := del
	redel.From = leaving
	other := row("b", 1, 1, living, 0)
	for name, tt := range map[string]struct {
		step    Step
		answer  orcid.Answer
		state   event.RegState // of the row after it; gone when there is none
		gone    bool
		outcome Outcome
		drift   Drift
		tries   int
		least   time.Duration // RetryAt is between least and most
		most    time.Duration
	}{
		"created":                    {step: put, answer: orcid.Answer{Kind: orcid.Created, Status: 201}, state: living},
		"created after a crash":      {step: again, answer: orcid.Answer{Kind: orcid.Created, Status: 201}, state: living, drift: RowMadeLate},
		"exists at the first PUT":    {step: put, answer: orcid.Answer{Kind: orcid.Exists, Status: 204}, state: living, drift: RowExisted},
		"exists after a crash":       {step: again, answer: orcid.Answer{Kind: orcid.Exists, Status: 204}, state: living},
		"unknown iD":                 {step: put, answer: orcid.Answer{Kind: orcid.NoSuchRecord, Status: 404}, state: refusal, outcome: Refused},
		"bad URI":                    {step: put, answer: orcid.Answer{Kind: orcid.BadURI, Status: 400}, state: refusal, outcome: Refused},
		"PUT unauthorized":           {step: put, answer: orcid.Answer{Kind: orcid.Unauthorized, Status: 401}, state: putting, outcome: CredentialTrouble},
		"PUT without scope":          {step: put, answer: orcid.Answer{Kind: orcid.NoScope, Status: 403}, state: putting, outcome: CredentialTrouble},
		"PUT with a locked client":   {step: put, answer: orcid.Answer{Kind: orcid.ClientLocked, Status: 409}, state: putting, outcome: CredentialTrouble},
		"PUT with a bad credential":  {step: put, answer: orcid.Answer{Kind: orcid.BadCredential}, state: putting, outcome: CredentialTrouble},
		"PUT limited":                {step: put, answer: orcid.Answer{Kind: orcid.RateLimited, Status: 429}, state: putting, outcome: RetryAt, tries: 1, least: 30 * time.Second, most: 37 * time.Second},
		"PUT limited for long":       {step: put, answer: orcid.Answer{Kind: orcid.RateLimited, Status: 429, RetryAfter: 5 * time.Hour}, state: putting, outcome: RetryAt, tries: 1, least: 5 * time.Hour, most: 5*time.Hour + time.Second},
		"PUT limited for a second":   {step: put, answer: orcid.Answer{Kind: orcid.RateLimited, Status: 429, RetryAfter: time.Second}, state: putting, outcome: RetryAt, tries: 1, least: 30 * time.Second, most: 37 * time.Second},
		"PUT unavailable":            {step: put, answer: orcid.Answer{Kind: orcid.Unavailable, Status: 503}, state: putting, outcome: RetryAt, tries: 1, least: 30 * time.Second, most: 37 * time.Second},
		"PUT unreachable":            {step: put, answer: orcid.Answer{Kind: orcid.Unreachable}, state: putting, outcome: RetryAt, tries: 1, least: 30 * time.Second, most: 37 * time.Second},
		"PUT redirected":             {step: put, answer: orcid.Answer{Kind: orcid.Redirected, Status: 302}, state: putting, outcome: RetryAt, tries: 1, least: time.Hour, most: 73 * time.Minute},
		"PUT in conflict":            {step: put, answer: orcid.Answer{Kind: orcid.Conflict, Status: 409}, state: putting, outcome: RetryAt, tries: 1, least: time.Hour, most: 73 * time.Minute},
		"PUT unexpected":             {step: put, answer: orcid.Answer{Kind: orcid.Unexpected, Status: 418}, state: putting, outcome: RetryAt, tries: 1, least: time.Hour, most: 73 * time.Minute},
		"PUT answered as a DELETE":   {step: put, answer: orcid.Answer{Kind: orcid.Deleted, Status: 204}, state: putting, outcome: RetryAt, tries: 1, least: time.Hour, most: 73 * time.Minute},
		"PUT cancelled":              {step: put, answer: orcid.Answer{Kind: orcid.Cancelled}, state: putting, outcome: RetryAt},
		"deleted":                    {step: del, answer: orcid.Answer{Kind: orcid.Deleted, Status: 204}, gone: true},
		"no such row":                {step: del, answer: orcid.Answer{Kind: orcid.NoSuchWebhook, Status: 404}, gone: true, drift: RowMissing},
		"no such row, after a crash": {step: redel, answer: orcid.Answer{Kind: orcid.NoSuchWebhook, Status: 404}, gone: true},
		"not ours":                   {step: del, answer: orcid.Answer{Kind: orcid.NotOurs, Status: 403}, gone: true, drift: RowForeign},
		"no such record":             {step: del, answer: orcid.Answer{Kind: orcid.NoSuchRecord, Status: 404}, gone: true},
		"cannot be deleted":          {step: del, answer: orcid.Answer{Kind: orcid.Abandoned}, gone: true},
		"DELETE unauthorized":        {step: del, answer: orcid.Answer{Kind: orcid.Unauthorized, Status: 401}, state: leaving, outcome: CredentialTrouble},
		"DELETE unavailable":         {step: del, answer: orcid.Answer{Kind: orcid.Unavailable, Status: 502}, state: leaving, outcome: RetryAt, tries: 1, least: 30 * time.Second, most: 37 * time.Second},
		"DELETE with a bad URI":      {step: del, answer: orcid.Answer{Kind: orcid.BadURI, Status: 400}, state: leaving, outcome: RetryAt, tries: 1, least: time.Hour, most: 73 * time.Minute},
		"DELETE answered as a PUT":   {step: del, answer: orcid.Answer{Kind: orcid.Created, Status: 201}, state: leaving, outcome: RetryAt, tries: 1, least: time.Hour, most: 73 * time.Minute},
	} {
		state := putting
		if tt.step.Kind == Delete {
			state = leaving
		}
		rows := []event.Registration{row("a", 2, 3, state, -time.Hour), other}
		before := slices.Clone(rows)
		tt.answer.Detail = "words"
		got, v := Settle(testUser(rows...), tt.step, tt.answer, t0)
		if v.Outcome != tt.outcome || v.Drift != tt.drift || v.Kind != tt.answer.Kind || v.Detail != "words" {
			t.Errorf("%s: verdict %+v", name, v)
		}
		if d := cmp.Diff(before, rows); d != "" {
			t.Errorf("%s changed its argument:\n%s", name, d)
		}
		if tt.gone {
			if d := cmp.Diff([]event.Registration{other}, got.Registrations); d != "" {
				t.Errorf("%s: (-want +got)\n%s", name, d)
			}
			continue
		}
		r := got.Registrations[0]
		if r.State != tt.state || r.Tries != tt.tries || len(got.Registrations) != 2 {
			t.Errorf("%s: row %+v", name, r)
		}
		if entered := r.State != state; entered != r.Changed.Equal(t0) {
			t.Errorf("%s: changed at %s", name, r.Changed)
		}
		switch {
		case tt.least != 0:
			if wait := r.RetryAt.Sub(t0); wait < tt.least || wait > tt.most || !v.At.Equal(r.RetryAt) || r.Status != tt.answer.Status {
				t.Errorf("%s: retry after %s, verdict %s, status %d", name, wait, v.At, r.Status)
			}
		case !r.RetryAt.IsZero():
			t.Errorf("%s: retry at %s", name, r.RetryAt)
		}
	}
}

func TestAnswersToForgottenStepsChangeNothing(t *testing.T) {
	t.Parallel()
	put := Step{Kind: Put, Credential: "a", Epoch: 2, Base: 3}
	del := Step{Kind: Delete, Credential: "a", Epoch: 2, Base: 3}
	for name, tt := range map[string]struct {
		rows   []event.Registration
		step   Step
		kind   orcid.Kind
		wanted Outcome
	}{
		"PUT of an erased row":     {nil, put, orcid.Created, Done},
		"PUT of a leaving row":     {[]event.Registration{row("a", 2, 3, leaving, 0)}, put, orcid.Created, Done},
		"PUT of another epoch":     {[]event.Registration{row("a", 3, 3, putting, 0)}, put, orcid.Created, Done},
		"PUT failed, living":       {[]event.Registration{row("a", 2, 3, living, 0)}, put, orcid.Unavailable, RetryAt},
		"DELETE of a row put anew": {[]event.Registration{row("a", 2, 3, putting, 0)}, del, orcid.Deleted, Done},
		"trouble all the same":     {nil, put, orcid.Unauthorized, CredentialTrouble},
	} {
		got, v := Settle(testUser(tt.rows...), tt.step, orcid.Answer{Kind: tt.kind}, t0)
		if d := cmp.Diff(len(tt.rows), len(got.Registrations)); d != "" || len(tt.rows) > 0 && got.Registrations[0] != tt.rows[0] || v.Outcome != tt.wanted {
			t.Errorf("%s: %+v, %+v", name, got.Registrations, v)
		}
		if v.Outcome == RetryAt && !v.At.Equal(t0) {
			t.Errorf("%s: retry at %s", name, v.At)
		}
	}
}

func TestBackoffDoublesToItsLimitWithTheSameJitterEachTime(t *testing.T) {
	t.Parallel()
	s := Step{Credential: "a", Epoch: 1}
	id := testUser().ORCID
	for _, tt := range []struct {
		effect effect
		waits  []time.Duration
	}{
		{retry, []time.Duration{30 * time.Second, time.Minute, 2 * time.Minute, 4 * time.Minute, 8 * time.Minute, 16 * time.Minute, 32 * time.Minute, time.Hour, time.Hour}},
		{retrySlowly, []time.Duration{time.Hour, 2 * time.Hour, 4 * time.Hour, 8 * time.Hour, 16 * time.Hour, 24 * time.Hour, 24 * time.Hour}},
	} {
		for i, want := range tt.waits {
			got := backoff(id, s, i+1, tt.effect)
			if got < want || got > want+want/jitterPart || got != backoff(id, s, i+1, tt.effect) {
				t.Errorf("try %d: %s, want %s and up to a fifth more", i+1, got, want)
			}
		}
	}
	if got := backoff(id, s, maxTries, retry); got < time.Hour || got > 72*time.Minute {
		t.Errorf("after %d tries: %s", maxTries, got)
	}
	// Users who failed together spread out.
	seen := map[time.Duration]bool{}
	for base := range uint64(100) {
		other, err := orcid.FromBase(900_000_000_000 + base)
		if err != nil {
			t.Fatal(err)
		}
		seen[backoff(other, s, 1, retry).Truncate(100*time.Millisecond)] = true
	}
	if len(seen) < 30 {
		t.Errorf("100 users come back at %d different times", len(seen))
	}
}

func TestTriesStayBounded(t *testing.T) {
	t.Parallel()
	u := testUser(row("a", 1, 1, putting, 0))
	u.Registrations[0].Tries = maxTries
	u, v := Settle(u, Step{Kind: Put, Credential: "a", Epoch: 1, Base: 1}, orcid.Answer{Kind: orcid.Unreachable}, t0)
	if u.Registrations[0].Tries != maxTries || v.At.Sub(t0) < time.Hour {
		t.Errorf("got %+v, %+v", u.Registrations[0], v)
	}
}

func TestWordsAreDistinct(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, w := range []string{
		Put.String(), Delete.String(), Kind(9).String(),
		Done.String(), RetryAt.String(), CredentialTrouble.String(), Refused.String(), Outcome(9).String(),
	} {
		if w == "" || seen[w] {
			t.Errorf("%q is used twice or empty", w)
		}
		seen[w] = true
	}
}
