package event

import (
	"testing"

	"dispatchd/internal/orcid"
)

func TestDeliveryIDIsStableOverRetriesOnly(t *testing.T) {
	t.Parallel()
	id, err := orcid.Parse("0000-0002-1825-0097")
	if err != nil {
		t.Fatal(err)
	}
	d := Delivery{Org: "uni-a", Channel: Webhook, ORCID: id, Type: Updated, Generation: 7, Attempt: 1, Token: "a"}
	retry := d
	retry.Attempt, retry.Token = 2, "b"
	if d.ID() != retry.ID() {
		t.Error("a retry has another webhook-id")
	}
	for name, change := range map[string]func(*Delivery){
		"generation": func(d *Delivery) { d.Generation++ },
		"type":       func(d *Delivery) { d.Type = Created },
		"org":        func(d *Delivery) { d.Org = "uni-b" },
		"channel":    func(d *Delivery) { d.Channel = Email },
	} {
		other := d
		change(&other)
		if other.ID() == d.ID() {
			t.Errorf("another %s has the same webhook-id", name)
		}
	}
}
