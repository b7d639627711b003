package main

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"dispatchd/internal/event"
	"dispatchd/internal/service"
	"dispatchd/internal/store"
)

// components are the parts that recover their own panics.
var components = [...]string{"intake", "spool", "fanout", "guest", "actors", "deliver", "service", "admin", "web", "hubapi", "hub", "monthly", "liveness", "daemon"}

// processMetrics are the metrics of the process as a whole.
type processMetrics struct {
	panics *prometheus.CounterVec
	reload prometheus.Gauge // 1: the last load succeeded
	loaded prometheus.Gauge // when the last one that succeeded did
}

func newProcessMetrics(reg *prometheus.Registry, version string) *processMetrics {
	m := &processMetrics{
		panics: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "dispatchd_panics_total",
			Help: "Panics recovered, by component.",
		}, []string{"component"}),
		reload: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "dispatchd_config_last_reload_successful",
			Help: "Whether the last load of the configuration succeeded (1) or the one before stayed (0).",
		}),
	}
	m.loaded = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "dispatchd_config_last_reload_success_timestamp_seconds",
		Help: "When the configuration was last loaded with success.",
	})
	made := thisBuild()
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "dispatchd_build_info",
		Help:        "Always 1; its labels say what runs.",
		ConstLabels: prometheus.Labels{"version": version, "revision": made.Commit, "goversion": made.Go},
	})
	build.Set(1)
	m.reloaded(true)
	for _, c := range components {
		m.panics.WithLabelValues(c)
	}
	reg.MustRegister(
		m.panics, m.reload, m.loaded, build,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return m
}

// reloaded notes how a load of the configuration ended.
func (m *processMetrics) reloaded(ok bool) {
	if !ok {
		m.reload.Set(0)
		return
	}
	m.reload.Set(1)
	m.loaded.SetToCurrentTime()
}

func (m *processMetrics) panicked(component string) { m.panics.WithLabelValues(component).Inc() }

// stateCollector reads the sizes of the queues when it is scraped. A value
// that Redis does not give within a second is left out rather than invented.
type stateCollector struct {
	store *store.Store
	svc   *service.Service

	log, pending, oldest, dead, held, users, ledger, difference *prometheus.Desc
}

func newStateCollector(st *store.Store, svc *service.Service) *stateCollector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("dispatchd_"+name, help, labels, nil)
	}
	return &stateCollector{
		store: st, svc: svc,
		log:        desc("intake_log_entries", "Entries (group commits) in the intake log."),
		pending:    desc("slots_pending", "Deliveries waiting or under way."),
		oldest:     desc("slot_oldest_age_seconds", "Age of the oldest news that waits, over all organisations that are not held."),
		dead:       desc("dead_letters", "Dead letters kept."),
		held:       desc("channels_held", "Channels of organisations that wait, by reason.", "reason"),
		users:      desc("users", "Researchers known."),
		ledger:     desc("ledger_total", "News, and what became of it, by the ledger; it goes on over restarts.", "what"),
		difference: desc("ledger_difference", "Equations of the ledger that do not hold; 0 when the books balance."),
	}
}

// Describe implements prometheus.Collector.
func (c *stateCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.log, c.pending, c.oldest, c.dead, c.held, c.users, c.ledger, c.difference} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *stateCollector) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	if n, err := c.store.LogLength(ctx); err == nil {
		gauge(c.log, float64(n))
	}
	if pending, dead, err := c.store.SlotTotals(ctx); err == nil {
		gauge(c.pending, float64(pending))
		gauge(c.dead, float64(dead))
	}
	if n, err := c.store.UserTotals(ctx); err == nil {
		gauge(c.users, float64(n))
	}
	if list, err := c.svc.Organisations(ctx); err == nil {
		held := map[event.Hold]int{}
		now, oldest := c.store.Now(), time.Duration(0)
		for _, o := range list {
			for _, chn := range o.Channels {
				if !chn.Enabled {
					continue // holds stay when a channel is disabled, and nothing waits for them
				}
				for _, h := range chn.Holds {
					held[h.Hold]++
				}
				if len(chn.Holds) == 0 && !chn.Oldest.IsZero() {
					oldest = max(oldest, now.Sub(chn.Oldest))
				}
			}
		}
		for _, h := range event.Holds {
			gauge(c.held, float64(held[h]), string(h))
		}
		gauge(c.oldest, oldest.Seconds())
	}
	if l, err := c.svc.Ledger(ctx); err == nil {
		gauge(c.difference, float64(len(l.Differences)))
		for what, n := range map[string]int64{
			"opened": l.Opened, "coalesced": l.Coalesced, "requeued": l.Requeued, "replayed": l.Replayed, "delivered": l.Delivered,
			"superseded": l.Superseded, "cancelled": l.Cancelled, "purged": l.Purged, "dropped": l.Dropped, "died": l.Died,
		} {
			out <- prometheus.MustNewConstMetric(c.ledger, prometheus.CounterValue, float64(n), what)
		}
	}
}
