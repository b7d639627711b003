package actors

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	permitWait prometheus.Histogram
}

// newMetrics makes the metrics and, when reg is not nil, registers them.
func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{permitWait: prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "dispatchd_orcid_permit_wait_seconds",
		Help:    "How long a request to ORCID waited until the rate allowed it.",
		Buckets: []float64{0.01, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 300},
	})}
	if reg == nil {
		return m, nil
	}
	if err := reg.Register(m.permitWait); err != nil {
		return nil, fmt.Errorf("register the actors' metrics: %w", err)
	}
	return m, nil
}
