package fanout

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	errors                             prometheus.Counter
	unknown, notWanted, noOrganisation prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	unwanted := promauto.With(reg).NewCounterVec(prometheus.CounterOpts{
		Name: "dispatchd_pings_unwanted_total",
		Help: "Pings that nobody is told of, by why: nothing is known of the researcher, no organisation of the credential has them, " +
			"or none that is enabled. The row at ORCID is removed when our record has it.",
	}, []string{"reason"})
	return &metrics{
		unknown: unwanted.WithLabelValues("unknown"), notWanted: unwanted.WithLabelValues("not_wanted"),
		noOrganisation: unwanted.WithLabelValues("no_organisation"),
		errors: promauto.With(reg).NewCounter(prometheus.CounterOpts{
			Name: "dispatchd_fanout_errors_total",
			Help: "Passes over the intake log that failed and are repeated.",
		}),
	}
}
