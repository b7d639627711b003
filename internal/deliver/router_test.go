package deliver

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/org"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

type senderFunc func(context.Context, *org.Organisation, event.Delivery, event.Affiliation) Answer

func (f senderFunc) Send(ctx context.Context, o *org.Organisation, d event.Delivery, who event.Affiliation) Answer {
	return f(ctx, o, d, who)
}

func answering(a Answer) Sender {
	return senderFunc(func(context.Context, *org.Organisation, event.Delivery, event.Affiliation) Answer { return a })
}

func newRouter(t *testing.T, s Sender, opts ...Option) *Router {
	t.Helper()
	r, err := New(map[event.Channel]Sender{event.Webhook: s}, DefaultPolicy(), func() time.Time { return t0 }, middle, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRouterDelivers(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	var got event.Delivery
	var gotWho event.Affiliation
	r := newRouter(t, senderFunc(func(_ context.Context, _ *org.Organisation, d event.Delivery, who event.Affiliation) Answer {
		got, gotWho = d, who
		return Answer{Kind: KindOK, Status: 204}
	}), WithMetrics(reg))
	who := event.Affiliation{Org: "uni-a", Email: "a@b.example"}
	d := delivery(1, time.Time{})
	o := r.Deliver(context.Background(), &org.Organisation{ID: "uni-a"}, d, who)
	if o.Result != event.Delivered || got != d || gotWho != who {
		t.Errorf("%+v, sent %+v of %+v", o, got, gotWho)
	}
	if !o.Attempt.Start.Equal(t0) {
		t.Errorf("start %s", o.Attempt.Start)
	}
	want := `
# HELP dispatchd_delivery_attempts_total Attempts to tell an organisation, by channel and by what became of them.
# TYPE dispatchd_delivery_attempts_total counter
`
	for _, ch := range []string{"email", "webhook"} {
		for _, res := range []string{"cancelled", "dead", "delivered", "released", "retry", "shadow"} {
			n := "0"
			if ch == "webhook" && res == "delivered" {
				n = "1"
			}
			want += `dispatchd_delivery_attempts_total{channel="` + ch + `",result="` + res + `"} ` + n + "\n"
		}
	}
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "dispatchd_delivery_attempts_total"); err != nil {
		t.Error(err)
	}
	if n, err := testutil.GatherAndCount(reg, "dispatchd_delivery_latency_seconds", "dispatchd_delivery_duration_seconds"); err != nil || n != 3 {
		t.Errorf("%d series, %v", n, err)
	}
	mf, _ := reg.Gather()
	for _, f := range mf {
		if f.GetName() == "dispatchd_delivery_latency_seconds" && f.Metric[0].Histogram.GetSampleSum() != 60 {
			t.Errorf("latency %v, want 60 s", f.Metric[0].Histogram.GetSampleSum())
		}
	}
}

func TestRouterRecoversPanics(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	var logged bytes.Buffer
	r := newRouter(t, senderFunc(func(context.Context, *org.Organisation, event.Delivery, event.Affiliation) Answer {
		panic("the secret is hunter2")
	}), WithMetrics(reg), WithLogger(slog.New(slog.NewTextHandler(&logged, nil))))
	d := delivery(1, time.Time{})
	o := r.Deliver(context.Background(), &org.Organisation{}, d, event.Affiliation{})
	if o.Result != event.Retry || !strings.Contains(o.Attempt.Error, d.ID()) {
		t.Errorf("%+v", o)
	}
	if s := logged.String(); strings.Contains(s, "hunter2") || !strings.Contains(s, d.ID()) || !strings.Contains(s, "router_test.go") {
		t.Errorf("log: %s", s)
	}
	if got := testutil.ToFloat64(r.metrics.panics); got != 1 {
		t.Errorf("%v panics counted", got)
	}
}

func TestRouterSharesPanicsCounter(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	shared := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "dispatchd_panics_total", Help: "Panics recovered, by component."}, []string{"component"})
	reg.MustRegister(shared)
	r := newRouter(t, answering(Answer{}), WithMetrics(reg))
	r.metrics.panics.Inc()
	if got := testutil.ToFloat64(shared.WithLabelValues("deliver")); got != 1 {
		t.Errorf("shared counter at %v", got)
	}
	if _, err := New(nil, Policy{}, nil, nil, WithMetrics(reg)); err == nil {
		t.Error("registering twice worked")
	}
}

func TestRouterWithoutSender(t *testing.T) {
	t.Parallel()
	r := newRouter(t, answering(Answer{Kind: KindOK}))
	d := delivery(1, time.Time{})
	d.Channel = event.Email
	if o := r.Deliver(context.Background(), &org.Organisation{}, d, event.Affiliation{}); o.Result != event.Retry || !strings.Contains(o.Attempt.Error, "email") {
		t.Errorf("%+v", o)
	}
	r.SetSender(event.Email, answering(Answer{Kind: KindOK}))
	if o := r.Deliver(context.Background(), &org.Organisation{}, d, event.Affiliation{}); o.Result != event.Delivered {
		t.Errorf("%+v", o)
	}
}

func TestRouterLease(t *testing.T) {
	t.Parallel()
	r := newRouter(t, answering(Answer{Kind: KindOK}))
	d := delivery(1, time.Time{})
	for left, want := range map[time.Duration]event.Result{
		time.Minute: event.Delivered, 15 * time.Second: event.Delivered, 15*time.Second - 1: event.Released, -time.Hour: event.Released,
	} {
		d.LeaseEnd = t0.Add(left)
		if o := r.Deliver(context.Background(), &org.Organisation{}, d, event.Affiliation{}); o.Result != want {
			t.Errorf("%s left: %s, want %s", left, o.Result, want)
		}
	}
}

func TestRouterReload(t *testing.T) {
	t.Parallel()
	r := newRouter(t, answering(answered(500)))
	bad := DefaultPolicy()
	bad.Retry = []time.Duration{0}
	if r.SetPolicy(bad) == nil {
		t.Error("a wait of 0 was taken")
	}
	bad = DefaultPolicy()
	bad.Jitter = 1.5
	if r.SetPolicy(bad) == nil {
		t.Error("a jitter of 1.5 was taken")
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 100 {
				if err := r.SetPolicy(Policy{Retry: []time.Duration{time.Hour}}); err != nil {
					t.Error(err)
				}
				r.SetSender(event.Webhook, answering(answered(500)))
				r.Deliver(context.Background(), &org.Organisation{}, delivery(1, time.Time{}), event.Affiliation{})
			}
		})
	}
	wg.Wait()
	if o := r.Deliver(context.Background(), &org.Organisation{}, delivery(1, time.Time{}), event.Affiliation{}); o.RetryAt.Sub(t0) != time.Hour {
		t.Errorf("retry in %s", o.RetryAt.Sub(t0))
	}
}

type previewer struct{ Sender }

func (previewer) Preview(*org.Organisation, event.Delivery, event.Affiliation) string {
	return strings.Repeat("ā", ExcerptBytes) // two bytes each: the cut is inside one
}

func TestShadowSendsNothing(t *testing.T) {
	t.Parallel()
	sends := senderFunc(func(context.Context, *org.Organisation, event.Delivery, event.Affiliation) Answer {
		t.Error("sent")
		return Answer{Kind: KindOK}
	})
	d := delivery(1, time.Time{})
	o := newRouter(t, Shadow(previewer{sends})).Deliver(context.Background(), &org.Organisation{}, d, event.Affiliation{})
	if o.Result != event.Delivered || o.Attempt.Result != event.Shadow || o.Attempt.Error != "" || o.Reached {
		t.Errorf("%+v", o)
	}
	if e := o.Attempt.Excerpt; len(e) > ExcerptBytes || len(e) < ExcerptBytes-5 || !strings.HasSuffix(e, "ā…") {
		t.Errorf("%d bytes are kept: …%q", len(e), e[max(0, len(e)-8):])
	}
	if o := newRouter(t, Shadow(sends)).Deliver(context.Background(), &org.Organisation{}, d, event.Affiliation{}); o.Attempt.Excerpt != "" || o.Result != event.Delivered {
		t.Errorf("without a preview: %+v", o)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if o := newRouter(t, Shadow(sends)).Deliver(ctx, &org.Organisation{}, d, event.Affiliation{}); o.Result != event.Released {
		t.Errorf("while stopping: %+v", o)
	}
}
