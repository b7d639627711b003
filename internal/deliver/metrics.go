package deliver

import (
	"errors"
	"fmt"
	"time"

	"dispatchd/internal/event"

	"github.com/prometheus/client_golang/prometheus"
)

type channelMetrics struct {
	attempts map[event.Result]prometheus.Counter
	duration prometheus.Observer
}

type metrics struct {
	channels map[event.Channel]channelMetrics
	latency  prometheus.Observer
	panics   prometheus.Counter
}

// newMetrics registers the metrics of deliveries. The counter of panics is
// shared by all components: whoever comes first registers it.
func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	attempts := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "dispatchd_delivery_attempts_total",
		Help: "Attempts to tell an organisation, by channel and by what became of them.",
	}, []string{"channel", "result"})
	duration := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "dispatchd_delivery_duration_seconds",
		Help:    "How long an attempt took.",
		Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 15, 30, 60},
	}, []string{"channel"})
	latency := prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "dispatchd_delivery_latency_seconds",
		Help:    "From the latest accepted ping to its delivery, the quiet period included.",
		Buckets: []float64{.01, .05, .1, .5, 1, 5, 15, 30, 60, 75, 90, 120, 300, 900, 3600, 4 * 3600, 24 * 3600, 72 * 3600},
	})
	panics := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "dispatchd_panics_total",
		Help: "Panics recovered, by component.",
	}, []string{"component"})
	for _, c := range []prometheus.Collector{attempts, duration, latency} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("register delivery metrics: %w", err)
		}
	}
	if err := reg.Register(panics); err != nil {
		var there prometheus.AlreadyRegisteredError
		if !errors.As(err, &there) {
			return nil, fmt.Errorf("register delivery metrics: %w", err)
		}
		vec, ok := there.ExistingCollector.(*prometheus.CounterVec)
		if !ok {
			return nil, fmt.Errorf("register delivery metrics: %w", err)
		}
		panics = vec
	}
	m := &metrics{channels: map[event.Channel]channelMetrics{}, latency: latency, panics: panics.WithLabelValues("deliver")}
	for _, ch := range event.Channels {
		cm := channelMetrics{attempts: map[event.Result]prometheus.Counter{}, duration: duration.WithLabelValues(string(ch))}
		for _, r := range []event.Result{event.Delivered, event.Retry, event.Dead, event.Cancelled, event.Released, event.Shadow} {
			cm.attempts[r] = attempts.WithLabelValues(string(ch), string(r))
		}
		m.channels[ch] = cm
	}
	return m, nil
}

func (m *metrics) observe(d event.Delivery, o event.Outcome, now time.Time) {
	ch, ok := m.channels[d.Channel]
	if !ok {
		return
	}
	if o.Attempt.Result == event.Shadow {
		ch.attempts[event.Shadow].Inc()
		return // neither a duration nor a latency of anything
	}
	ch.attempts[o.Result].Inc()
	ch.duration.Observe(o.Attempt.Duration.Seconds())
	if o.Result == event.Delivered && !d.LatestAt.IsZero() {
		m.latency.Observe(max(now.Sub(d.LatestAt), 0).Seconds())
	}
}
