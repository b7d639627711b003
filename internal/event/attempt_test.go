package event

import (
	"encoding/json"
	"testing"
	"time"

	"dispatchd/internal/orcid"
)

// TestAnAttemptAsJSON: by hand as by the encoder.
func TestAnAttemptAsJSON(t *testing.T) {
	t.Parallel()
	id, err := orcid.Parse("0000-0002-1825-0097")
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 11, 26, 17, 0, 0, 120_000, time.UTC)
	for _, a := range []Attempt{
		{DeliveryID: "msg_x", ORCID: id, Channel: Webhook, Type: Updated, Number: 1, Start: at, Duration: 1500, Status: 204, Result: Delivered},
		{ORCID: id, Channel: Email, Type: Created, Number: 11, Start: at.In(time.FixedZone("", 3600)), Error: "it said \"<ö>\"\n& no", Result: Dead},
		{Start: at, Error: "\xff", Result: Retry},
	} {
		want, err := json.Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		if got := a.AppendJSON(nil, a.Result); string(got) != string(want) {
			t.Errorf("%s\nwant %s", got, want)
		}
	}
}
