package intake

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	accepted, spooled, refused, forged, notFound, method, malformed, unknownCredential prometheus.Counter
	unauthenticated, limited                                                           prometheus.Counter // of the Hub's callbacks
	duration                                                                           prometheus.Histogram
	panics                                                                             prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	pings := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "dispatchd_pings_received_total",
		Help: "Requests at the callback listener, by what became of them: accepted and spooled are answered 204 and safe, " +
			"unknown_credential is answered 204 and dropped, refused is answered 429; at the Hub's old callbacks, which anybody can guess, " +
			"unauthenticated is answered 204 and safe, limited is answered 429.",
	}, []string{"result"})
	duration := prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "dispatchd_ping_duration_seconds",
		Help:    "From the read request to its answer, the durable write included.",
		Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
	})
	panics := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "dispatchd_panics_total",
		Help: "Panics recovered, by component.",
	}, []string{"component"})
	if reg != nil {
		for _, c := range []prometheus.Collector{pings, duration} {
			if err := reg.Register(c); err != nil {
				return nil, fmt.Errorf("register intake metrics: %w", err)
			}
		}
		if err := reg.Register(panics); err != nil {
			// Every component counts in the same vector; the first one made it.
			var there prometheus.AlreadyRegisteredError
			if !errors.As(err, &there) {
				return nil, fmt.Errorf("register intake metrics: %w", err)
			}
			vec, ok := there.ExistingCollector.(*prometheus.CounterVec)
			if !ok {
				return nil, fmt.Errorf("register intake metrics: %w", err)
			}
			panics = vec
		}
	}
	return &metrics{
		accepted:          pings.WithLabelValues("accepted"),
		spooled:           pings.WithLabelValues("spooled"),
		refused:           pings.WithLabelValues("refused"),
		forged:            pings.WithLabelValues("forged"),
		notFound:          pings.WithLabelValues("not_found"),
		method:            pings.WithLabelValues("method"),
		malformed:         pings.WithLabelValues("malformed"),
		unknownCredential: pings.WithLabelValues("unknown_credential"),
		unauthenticated:   pings.WithLabelValues("unauthenticated"),
		limited:           pings.WithLabelValues("limited"),
		duration:          duration,
		panics:            panics.WithLabelValues("intake"),
	}, nil
}
