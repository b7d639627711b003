package spool

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// register adds the size of the spool, read when it is scraped.
func register(reg prometheus.Registerer, s *Spool) error {
	if reg == nil {
		return nil
	}
	err := reg.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "dispatchd_spool_pings",
		Help: "Pings that wait on the local disk for Redis.",
	}, func() float64 { return float64(s.Len()) }))
	if err != nil {
		return fmt.Errorf("register spool metrics: %w", err)
	}
	return nil
}

// metrics are the Drainer's.
type metrics struct{ panics prometheus.Counter }

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	panics := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "dispatchd_panics_total",
		Help: "Panics recovered, by component.",
	}, []string{"component"})
	if reg != nil {
		if err := reg.Register(panics); err != nil {
			// Every component counts in the same vector; the first one made it.
			var there prometheus.AlreadyRegisteredError
			if !errors.As(err, &there) {
				return nil, fmt.Errorf("register drainer metrics: %w", err)
			}
			vec, ok := there.ExistingCollector.(*prometheus.CounterVec)
			if !ok {
				return nil, fmt.Errorf("register drainer metrics: %w", err)
			}
			panics = vec
		}
	}
	return &metrics{panics: panics.WithLabelValues("spool")}, nil
}
