package service

import (
	"slices"
	"testing"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/org"
)

// TestASuspensionOutlastsVanishingFromTheFile: of what the receiver suspended
// the contact has been told, so that being back in the file must not end it.
func TestASuspensionOutlastsVanishingFromTheFile(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx, by := t.Context(), By{Who: "file"}
	file := []org.Organisation{{
		ID: "uni-f", Name: "F", Credential: "main", Email: org.Email{Mode: org.Each},
		Webhook: org.Webhook{Enabled: true, URL: "https://f.example/1", Payload: org.PayloadStandard},
	}}
	apply := func(list []org.Organisation, want string) {
		t.Helper()
		if got, err := b.svc.ApplyFile(ctx, by, list); err != nil || len(got) != 1 || want != "" && got[0] != want {
			t.Fatalf("%q, %v", got, err)
		}
	}
	suspend := func(reason string) {
		t.Helper()
		if _, err := b.store.SetHold(ctx, "uni-f", event.Webhook, event.HoldSuspend, event.Forever, reason); err != nil {
			t.Fatal(err)
		}
	}
	holds := func() (out []string) {
		t.Helper()
		v, err := b.svc.Organisation(ctx, "uni-f")
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range v.Channels {
			for _, h := range c.Holds {
				out = append(out, string(c.Channel)+": "+h.Reason)
			}
		}
		return out
	}
	apply(file, "uni-f: added")
	suspend("410 Gone")
	apply(nil, "")
	if got := holds(); !slices.Equal(got, []string{"webhook: " + vanished + before + "410 Gone", "email: " + vanished}) {
		t.Errorf("vanished: %q", got)
	}
	apply(file, "uni-f: back in the file, still suspended")
	if got := holds(); !slices.Equal(got, []string{"webhook: 410 Gone"}) {
		t.Errorf("back: %q", got)
	}
	// What a person resumes meanwhile is over; what the receiver refuses meanwhile is not.
	apply(nil, "")
	if err := b.svc.Resume(ctx, tester, "uni-f", ""); err != nil {
		t.Fatal(err)
	}
	apply(file, "uni-f: back in the file, goes on")
	if got := holds(); len(got) != 0 {
		t.Errorf("resumed: %q", got)
	}
	apply(nil, "")
	suspend("410 Gone again")
	apply(file, "uni-f: back in the file, still suspended")
	if got := holds(); !slices.Equal(got, []string{"webhook: 410 Gone again"}) {
		t.Errorf("refused meanwhile: %q", got)
	}
}

func TestTheBreakerHoldsSinceItsFirstHold(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.uniA(t)
	now := b.store.Now()
	since := now.Add(-3 * time.Hour).Truncate(time.Second).UTC()
	state := event.Breaker{Failures: 24, Trips: 12, FirstFailure: since.Add(-time.Minute), HeldSince: since}
	if _, err := b.store.SetBreaker(t.Context(), "uni-a", event.Webhook, state, now.Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	v, err := b.svc.Organisation(t.Context(), "uni-a")
	if err != nil || len(v.Channels[0].Holds) != 1 || !v.Channels[0].Holds[0].Since.Equal(since) {
		t.Errorf("%+v, %v; want since %s", v.Channels, err, since)
	}
}
