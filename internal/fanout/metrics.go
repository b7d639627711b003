package fanout

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	errors prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	return &metrics{
		errors: promauto.With(reg).NewCounter(prometheus.CounterOpts{
			Name: "dispatchd_fanout_errors_total",
			Help: "Passes over the intake log that failed and are repeated.",
		}),
	}
}
