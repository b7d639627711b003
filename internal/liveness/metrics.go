package liveness

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// The results of looking at a user whose record changed.
const (
	resultTold       = "told"      // no ping told of it: the intake log does now
	resultPinged     = "pinged"    // a ping had told of it
	resultUnderWay   = "under_way" // so new that its ping may still come: looked at again
	resultRegistered = "registered"
)

type metrics struct {
	rounds   *prometheus.CounterVec
	changes  *prometheus.CounterVec
	rearmed  *prometheus.CounterVec
	calls    prometheus.Counter
	failures prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	vec := func(name, help, label string, values ...string) *prometheus.CounterVec {
		v := f.NewCounterVec(prometheus.CounterOpts{Name: "dispatchd_" + name, Help: help}, []string{label})
		for _, value := range values {
			v.WithLabelValues(value)
		}
		return v
	}
	return &metrics{
		rounds: vec("catch_up_rounds_total", "Rounds of catch-up that were finished, by why they were made.", "reason", whyTimer, whyOutage),
		changes: vec("catch_up_changes_total",
			"Users of ours found by ORCID's search to have changed, by what followed: told of it now, a ping had come, "+
				"a ping may still come, found around a new registration.", "result", resultTold, resultPinged, resultUnderWay, resultRegistered),
		rearmed: vec("registrations_rearmed_total", "Registrations made anew because ORCID may have given up on them, by why.",
			"reason", reasonAtRisk, reasonSilent, reasonAsked),
		calls: f.NewCounter(prometheus.CounterOpts{
			Name: "dispatchd_catch_up_requests_total", Help: "Requests to ORCID made by catch-up.",
		}),
		failures: f.NewCounter(prometheus.CounterOpts{
			Name: "dispatchd_catch_up_failures_total", Help: "Failed attempts at a round of catch-up or at its checks.",
		}),
	}
}
