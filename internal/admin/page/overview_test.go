package page

import (
	"testing"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/service"
	"dispatchd/internal/store"
)

func TestTheStateOfAnOrganisationInOneWord(t *testing.T) {
	t.Parallel()
	working := service.Channel{Channel: event.Webhook, Enabled: true}
	failing, off, paused := working, working, working
	failing.Failures = 3
	off.Enabled, off.Failures = false, 3
	paused.Failures = 3
	paused.Holds = []service.HoldView{{Hold: event.HoldPause, Since: time.Now(), Reason: "they move house"}}
	mail := service.Channel{Channel: event.Email, Enabled: true}
	for _, c := range []struct {
		want     string
		channels []service.Channel
	}{
		{"off", nil},
		{"off", []service.Channel{off}},
		{"on", []service.Channel{working}},
		{"failing", []service.Channel{failing}},
		{"failing", []service.Channel{failing, mail}},
		{"failing", []service.Channel{mail, failing}},
		{"paused", []service.Channel{paused}},
	} {
		if got := rowOf(service.View{Channels: c.channels}, store.Ratio{}).State.Text; got != c.want {
			t.Errorf("%+v: %q, want %q", c.channels, got, c.want)
		}
	}
}
