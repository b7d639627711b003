package liveness

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"dispatchd/internal/sim/selfsigned"
)

const probePath = "/hooks/dispatchd-probe/0000-0000-0000-001X/0/s3cretTokenOfTheProbe"

func answering(status int, header, value string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost || r.URL.Path != probePath {
			w.WriteHeader(http.StatusTeapot)
			return
		}
		if header != "" {
			w.Header().Set(header, value)
		}
		w.WriteHeader(status)
	}
}

func tlsServer(t *testing.T, h http.Handler) (*httptest.Server, *selfsigned.Certificate) {
	t.Helper()
	cert, err := selfsigned.New("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(h)
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{cert.TLS}, MinVersion: tls.VersionTLS12}
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return srv, cert
}

func TestTheProbeMeetsWhatORCIDWouldMeet(t *testing.T) {
	t.Parallel()
	ok := answering(http.StatusNoContent, "X-Ours", "ok")
	for name, c := range map[string]struct {
		handler http.Handler
		change  func(o *ProbeOptions, url *string)
		want    string // part of the error; empty when all is well
		expires bool
	}{
		"all is well":          {ok, nil, "", true},
		"a redirecting proxy":  {answering(http.StatusMovedPermanently, "Location", "https://www.hub.example/hooks/secret"), nil, "a redirect to https://www.hub.example; ORCID follows none", true},
		"a proxy without us":   {answering(http.StatusBadGateway, "", ""), nil, "answers 502 instead of 204", true},
		"somebody else's 204":  {answering(http.StatusNoContent, "", ""), nil, "not this dispatchd", true},
		"an expired chain":     {ok, func(o *ProbeOptions, _ *string) { o.now = func() time.Time { return time.Now().Add(48 * time.Hour) } }, "not trust the certificate", true},
		"an unknown authority": {ok, func(o *ProbeOptions, _ *string) { o.Roots = nil }, "not trust the certificate", true},
		"the wrong name":       {ok, func(_ *ProbeOptions, u *string) { *u = strings.Replace(*u, "127.0.0.1", "localhost", 1) }, "not trust the certificate", true},
		"nobody listens":       {ok, func(_ *ProbeOptions, u *string) { *u = "https://127.0.0.1:1" + probePath }, "cannot be connected to", false},
		"no such name":         {ok, func(_ *ProbeOptions, u *string) { *u = "https://no-such-host.invalid" + probePath }, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv, cert := tlsServer(t, c.handler)
			target := srv.URL + probePath
			reg := prometheus.NewRegistry()
			o := ProbeOptions{
				URL: func() (string, error) { return target, nil }, Header: "X-Ours", Logger: slog.New(slog.DiscardHandler),
				Roots: cert.Pool, Registerer: reg,
			}
			if c.change != nil {
				c.change(&o, &target)
			}
			p, err := NewProber(o)
			if err != nil {
				t.Fatal(err)
			}
			err = p.Probe(t.Context())
			fails := c.want != "" || name == "no such name"
			if (err != nil) != fails || err != nil && (!strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "s3cret")) {
				t.Errorf("the probe says %v, want %q and no secret", err, c.want)
			}
			st := p.State()
			if (st.Err != nil) != fails || st.Since.IsZero() == fails || st.At.IsZero() {
				t.Errorf("the state is %+v", st)
			}
			if want := cert.TLS.Leaf.NotAfter; c.expires && !st.Expires.Equal(want) || !c.expires && !st.Expires.IsZero() {
				t.Errorf("the certificate ends %s, want %s", st.Expires, want)
			}
			if up := testutil.ToFloat64(p.up); up != map[bool]float64{false: 1, true: 0}[fails] {
				t.Errorf("dispatchd_self_probe_up is %v", up)
			}
		})
	}
}

func TestRecoveryOfTheProbeIsNoted(t *testing.T) {
	t.Parallel()
	status := http.StatusServiceUnavailable
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answering(status, "X-Ours", "ok")(w, r)
	}))
	t.Cleanup(srv.Close)
	p, err := NewProber(ProbeOptions{
		URL: func() (string, error) { return srv.URL + probePath, nil }, Header: "X-Ours", Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	if p.Probe(t.Context()) == nil || p.State().Since.IsZero() {
		t.Fatal("a 503 is no trouble")
	}
	status = http.StatusNoContent
	if err := p.Probe(t.Context()); err != nil || p.State().Err != nil || !p.State().Since.IsZero() || !p.State().Expires.IsZero() {
		t.Fatalf("it stays in trouble: %v, %+v", err, p.State())
	}
}

func TestProbesKeepTheirTimes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var at []time.Duration
		began := time.Now()
		stop := make(chan struct{})
		p, err := NewProber(ProbeOptions{URL: func() (string, error) {
			if at = append(at, time.Since(began)); len(at) == 3 {
				close(stop)
			}
			return ":", nil // fails before anything is dialled
		}, Header: "X-Ours", Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		go func() { p.Run(ctx); close(done) }()
		<-stop
		cancel()
		<-done
		want := []time.Duration{time.Minute, 6 * time.Minute, 11 * time.Minute}
		for i := range want {
			if at[i] != want[i] {
				t.Errorf("probe %d after %s, want %s", i+1, at[i], want[i])
			}
		}
	})
}
