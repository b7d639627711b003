package main

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"dispatchd/actors"
	"dispatchd/internal/event"
)

var (
	registrationsDesc = prometheus.NewDesc("dispatchd_registrations",
		"Registrations at ORCID, by state: wanted (by an enabled organisation, at the last count), alive (ORCID confirmed them), "+
			"registering, at_risk (changed in a long outage, no ping since), dead (ORCID gave up, or a person asked: made anew), refused, removing. "+
			"Kind own: pings come to us; callback: to a URL of an organisation's own, so that nobody here sees whether ORCID gave up.",
		[]string{"kind", "state"}, nil)
	missingDesc = prometheus.NewDesc("dispatchd_registrations_missing",
		"Registrations that were wanted and not alive at the last count.", nil, nil)
	workDesc = prometheus.NewDesc("dispatchd_registration_work",
		"Researchers whose registrations are to be looked at by now: what a sweep has left.", nil, nil)
	rateDesc = prometheus.NewDesc("dispatchd_orcid_rate",
		"Requests a second to ORCID that are allowed now; lower than orcid.rate after ORCID asked for fewer.", nil, nil)
	credentialsDesc = prometheus.NewDesc("dispatchd_credentials",
		"ORCID credentials by state; one that is refused registers nobody until a person acts.", []string{"state"}, nil)
)

// registrationCollector reads how registrations stand when it is scraped. What
// is not known within a second is left out rather than invented.
type registrationCollector struct{ a *app }

// Describe implements prometheus.Collector.
func (registrationCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{registrationsDesc, missingDesc, workDesc, rateDesc, credentialsDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c registrationCollector) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	if states, err := c.a.store.RegistrationTotals(ctx); err == nil {
		for state, name := range map[event.RegState]string{
			event.RegAlive: "alive", event.RegPutting: "registering", event.RegNone: "dead",
			event.RegRefused: "refused", event.RegDeleting: "removing",
		} {
			gauge(registrationsDesc, float64(states[state]), "own", name)
		}
	}
	if states, err := c.a.store.GuestTotals(ctx); err == nil {
		for name, n := range map[string]int64{
			"alive": states[event.RegAlive], "registering": states[event.RegNone] + states[event.RegPutting],
			"refused": states[event.RegRefused], "removing": states[event.RegDeleting],
		} {
			gauge(registrationsDesc, float64(n), "callback", name)
		}
	}
	if n, err := c.a.store.CountChecks(ctx, event.CheckAtRisk); err == nil {
		gauge(registrationsDesc, float64(n), "own", "at_risk")
	}
	if n := c.a.watch.Counted(); !n.At.IsZero() {
		gauge(registrationsDesc, float64(n.Wanted), "own", "wanted")
		gauge(missingDesc, float64(n.Missing))
	}
	if n, err := c.a.store.RegistrationWork(ctx); err == nil {
		gauge(workDesc, float64(n))
	}
	system := c.a.hints.system.Load()
	if system == nil {
		return
	}
	st, by := system.Status(), map[string]int{}
	gauge(rateDesc, st.Rate)
	for _, cred := range st.Credentials {
		by[cred.State]++
	}
	for _, state := range []string{actors.StateOK, actors.StateRefused, actors.StatePaused} {
		gauge(credentialsDesc, float64(by[state]), state)
	}
}
