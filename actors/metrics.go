package actors

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"dispatchd/internal/register"
)

type metrics struct {
	permitWait prometheus.Histogram
	drift      *prometheus.CounterVec
}

// newMetrics makes the metrics and, when reg is not nil, registers them.
func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{permitWait: prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "dispatchd_orcid_permit_wait_seconds",
		Help:    "How long a request to ORCID waited until the rate allowed it.",
		Buckets: []float64{0.01, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 300},
	}), drift: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "dispatchd_registration_drift_total",
		Help: "Answers of ORCID that show its rows to differ from our record, by how; each has been mended by the request itself.",
	}, []string{"kind"})}
	for _, d := range register.Drifts {
		m.drift.WithLabelValues(string(d))
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.permitWait, m.drift} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("register the actors' metrics: %w", err)
		}
	}
	return m, nil
}
