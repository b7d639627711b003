package page

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/look"
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
	both, limited, sending := paused, mail, mail
	both.Holds = append(both.Holds[:1:1], service.HoldView{Hold: event.HoldBreaker})
	limited.Holds = []service.HoldView{{Hold: event.HoldRate}}
	sending.Holds = []service.HoldView{{Hold: event.HoldDigest}}
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
		{"paused", []service.Channel{both}},
		{"paused", []service.Channel{paused, limited}},
		{"waits", []service.Channel{working, limited}},
		{"on", []service.Channel{working, sending}},
		{"damaged", []service.Channel{{Unread: true}, paused}},
	} {
		if got := rowOf(service.View{Channels: c.channels}, store.Ratio{}).State.Text; got != c.want {
			t.Errorf("%+v: %q, want %q", c.channels, got, c.want)
		}
	}
}

// A further channel is called what its operator calls it.
func TestEveryChannelHasItsOwnName(t *testing.T) {
	t.Parallel()
	pages, err := parse()
	if err != nil {
		t.Fatal(err)
	}
	for ch, want := range map[event.Channel]string{event.Webhook: "Webhook", event.Email: "E-mail", "chat": "chat"} {
		d := organisationData{Channels: []channelData{{Channel: service.Channel{Channel: ch}}}}
		rec := httptest.NewRecorder()
		if err := pages.Render(rec, http.StatusOK, "organisation", look.Page{Title: "A", Data: d}); err != nil {
			t.Fatal(err)
		}
		if title := `<h2 id="channel-` + string(ch) + `">` + want + `</h2>`; !strings.Contains(rec.Body.String(), title) {
			t.Errorf("the channel %q is not called %q:\n%s", ch, want, rec.Body.String())
		}
	}
}
