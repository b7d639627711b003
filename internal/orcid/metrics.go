package orcid

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics counts requests to ORCID. One serves the clients of all credentials.
type Metrics struct {
	requests *prometheus.CounterVec
}

// statusLabels are all values of the label status; what is not listed counts as
// its class or as "other".
var statusLabels = [...]string{
	"200", "201", "204", "3xx", "400", "401", "403", "404", "409", "429", "5xx", "other", "timeout", "network",
}

// NewMetrics makes and registers the metrics.
func NewMetrics(reg prometheus.Registerer) *Metrics { return newMetrics(reg) }

func newMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{requests: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "dispatchd_orcid_requests_total",
		Help: "Requests sent to ORCID, by operation and by HTTP status (or timeout, network).",
	}, []string{"operation", "status"})}
	for _, op := range ops {
		for _, status := range statusLabels {
			m.requests.WithLabelValues(op.String(), status)
		}
	}
	if reg != nil {
		reg.MustRegister(m.requests)
	}
	return m
}

// answered counts an answer; a nil Metrics counts nothing.
func (m *Metrics) answered(op Op, status int) {
	if m != nil {
		m.requests.WithLabelValues(op.String(), statusLabel(status)).Inc()
	}
}

// failed counts a request without an answer.
func (m *Metrics) failed(op Op, timeout bool) {
	if m == nil {
		return
	}
	label := "network"
	if timeout {
		label = "timeout"
	}
	m.requests.WithLabelValues(op.String(), label).Inc()
}

func statusLabel(status int) string {
	switch {
	case status >= 300 && status < 400:
		return "3xx"
	case status >= 500 && status < 600:
		return "5xx"
	}
	text := strconv.Itoa(status)
	for _, known := range statusLabels {
		if known == text {
			return known
		}
	}
	return "other"
}
