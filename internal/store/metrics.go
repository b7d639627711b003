package store

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	duration *prometheus.HistogramVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	return &metrics{
		duration: promauto.With(reg).NewHistogramVec(prometheus.HistogramOpts{
			Name:    "dispatchd_redis_duration_seconds",
			Help:    "Time of one round trip to Redis, by the first call in it and its result (ok, away, forgot, error).",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5},
		}, []string{"call", "result"}),
	}
}

func (m *metrics) observe(call string, took time.Duration, err error) {
	result := "error"
	switch {
	case err == nil:
		result = "ok"
	case errors.Is(err, ErrAway):
		result = "away"
	case errors.Is(err, ErrForgot), errors.Is(err, ErrFenced):
		result = "forgot"
	}
	m.duration.WithLabelValues(call, result).Observe(took.Seconds())
}
