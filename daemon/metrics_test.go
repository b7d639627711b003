package main

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"dispatchd/internal/service"
)

// Every metric that DESIGN §6 names is there from the start, with its labels
// and no label that grows with organisations or users.
func TestEveryPromisedMetricIsThere(t *testing.T) {
	t.Parallel()
	promised := map[string]string{
		"pings_received_total": "result", "ping_duration_seconds": "", "intake_log_entries": "", "spool_pings": "", "slots_pending": "",
		"slot_oldest_age_seconds": "", "delivery_attempts_total": "channel result", "delivery_duration_seconds": "channel",
		"delivery_latency_seconds": "", "dead_letters": "", "channels_held": "reason", "registrations": "kind state",
		"orcid_requests_total": "operation status", "orcid_permit_wait_seconds": "", "redis_duration_seconds": "call result",
		"ledger_total": "what", "ledger_difference": "", "panics_total": "component", "config_last_reload_successful": "", "build_info": "goversion revision version",
	}
	w := newWorld(t, setting{users: 5, look: 10 * time.Millisecond})
	w.simple("uni-a")
	w.pingAll(5, w.users)
	w.everyoneTaken("uni-a", w.users...)
	w.registered(clientMain, w.users...)
	w.noted("uni-a")
	families, err := w.d.app.reg.Gather()
	w.eventually("Redis answers in the second that a scrape gives it", func() bool {
		w.must(err)
		for _, f := range families {
			if f.GetName() == "dispatchd_ledger_difference" {
				return true
			}
		}
		families, err = w.d.app.reg.Gather()
		return false
	})
	for _, f := range families {
		name, ours := strings.CutPrefix(f.GetName(), "dispatchd_")
		if !ours {
			continue
		}
		labels := map[string]bool{}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = true
				if v := l.GetValue(); v == "uni-a" || strings.HasPrefix(v, "0009-") {
					t.Errorf("%s has the label %s=%s", f.GetName(), l.GetName(), v)
				}
			}
		}
		got := strings.Join(slices.Sorted(maps.Keys(labels)), " ")
		if want, listed := promised[name]; listed && got != want {
			t.Errorf("%s has the labels %q, want %q", f.GetName(), got, want)
		}
		if f.GetHelp() == "" {
			t.Errorf("%s has no help", f.GetName())
		}
		delete(promised, name)
	}
	for name := range promised {
		t.Errorf("dispatchd_%s is missing", name)
	}
	for name, want := range map[string]float64{
		"dispatchd_pings_received_total": 5, "dispatchd_delivery_attempts_total": 5, "dispatchd_ledger_difference": 0,
	} {
		if got := w.metric(name); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	if got := w.metric("dispatchd_ledger_total", "delivered"); got != 5 {
		t.Errorf("the ledger's metric has %v delivered, want 5", got)
	}
	for _, state := range []string{"wanted", "alive"} {
		equally(w, "registrations that are "+state, 5, func() float64 { return w.metric("dispatchd_registrations", state) })
	}
	if _, raw := w.raw("GET", "/metrics", nil); !strings.Contains(string(raw), `dispatchd_pings_received_total{result="accepted"} 5`) {
		t.Errorf("/metrics says:\n%.2000s", raw)
	}
}

// Every part that counts its panics is there before its first one: an increase
// from nothing to 1 is none for Prometheus, and the alert would not fire.
func TestEveryPartThatMayPanicIsThereBefore(t *testing.T) {
	t.Parallel()
	counts := regexp.MustCompile(`(?:Panics|panicked)\("([a-z]+)"\)`)
	found := 0
	for _, dir := range []string{".", "../actors", "../internal"} {
		err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			if err != nil || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
				return err
			}
			text, err := os.ReadFile(path)
			for _, m := range counts.FindAllStringSubmatch(string(text), -1) {
				found++
				if !slices.Contains(components[:], m[1]) {
					t.Errorf("%s: the part %q is not in the metric from the start", path, m[1])
				}
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if found < 10 {
		t.Errorf("only %d places count panics", found)
	}
}

// A person who disables an organisation for good has acted: what once suspended
// it must not be alerted for ever.
func TestADisabledChannelIsNotHeld(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setting{users: 1})
	w.simple("uni-a")
	by, svc := service.By{Who: "test"}, w.d.app.service
	w.must(svc.Pause(t.Context(), by, "uni-a", "", "gone"))
	held := func() float64 { return w.metric("dispatchd_channels_held", "pause") }
	equally(w, "channels held while the webhook is enabled and e-mail is not", 1, held)
	_, err := svc.Disable(t.Context(), by, "uni-a", "")
	w.must(err)
	equally(w, "channels held while both are disabled", 0, held)
}
