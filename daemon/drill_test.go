package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"dispatchd/internal/secret"
	"dispatchd/internal/sim"
	"dispatchd/internal/sim/receiver"
)

// drill evaluates the shipped alert rules over what the running daemon's
// /metrics said. Each scrape stands for as many minutes as it is told.
type drill struct {
	w       *world
	minutes int
	samples map[string][]string // series → its value of each minute so far
	lowered [][2]string         // thresholds that a test does not reach
}

// lower replaces a piece of the rules.
func (d *drill) lower(from, to string) { d.lowered = append(d.lowered, [2]string{from, to}) }

func newDrill(w *world) *drill {
	d := &drill{w: w, samples: map[string][]string{}}
	d.scrape(30)
	return d
}

// scrape asks /metrics; that stays the same for the next minutes.
func (d *drill) scrape(minutes int) {
	d.w.t.Helper()
	status, raw := d.w.raw("GET", "/metrics", nil)
	if status != http.StatusOK {
		d.w.t.Fatalf("/metrics answered %d", status)
	}
	d.read(raw, minutes)
}

// scrapeFrom is scrape of another daemon, with the patience of Prometheus.
func (d *drill) scrapeFrom(url string, minutes int) {
	d.w.t.Helper()
	ctx, cancel := context.WithTimeout(d.w.t.Context(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/metrics", nil)
	d.w.must(err)
	res, err := d.w.http.Do(req)
	d.w.must(err)
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	d.w.must(err)
	d.read(raw, minutes)
}

func (d *drill) read(raw []byte, minutes int) {
	now := map[string]string{`up{job="dispatchd",instance="a"}`: "1"}
	for line := range strings.Lines(string(raw)) {
		i := strings.LastIndexByte(line, ' ')
		name, value := line[:max(i, 0)], strings.TrimSpace(line[i+1:])
		if strings.HasPrefix(line, "#") || !strings.HasPrefix(line, "dispatchd_") && !strings.HasPrefix(line, "process_") || strings.Contains(name, "_bucket{") || value == "NaN" {
			continue
		}
		name, labels, _ := strings.Cut(strings.TrimSuffix(name, "}"), "{")
		if labels != "" {
			labels += ","
		}
		// promtool's clock begins at 0.
		if at, err := strconv.ParseFloat(value, 64); err == nil && at > 0 && strings.HasSuffix(name, "_expiry_timestamp_seconds") {
			value = strconv.FormatFloat(at-float64(time.Now().Unix())+float64(60*d.minutes), 'f', 0, 64)
		}
		now[name+"{"+labels+`job="dispatchd",instance="a"}`] = value
	}
	d.add(now, minutes)
}

// gone is what Prometheus notes of a daemon that does not answer.
func (d *drill) gone(minutes int) {
	d.add(map[string]string{`up{job="dispatchd",instance="a"}`: "0"}, minutes)
}

func (d *drill) add(now map[string]string, minutes int) {
	for name := range now {
		if d.samples[name] == nil {
			d.samples[name] = slices.Repeat([]string{"_"}, d.minutes)
		}
	}
	for name := range d.samples {
		value, ok := now[name]
		if !ok {
			value = "_"
		}
		d.samples[name] = append(d.samples[name], slices.Repeat([]string{value}, minutes)...)
	}
	d.minutes += minutes
}

// fires runs the rules: of a daemon that is well none may fire, afterwards each
// of these must, at least once.
func (d *drill) fires(alerts ...string) {
	d.w.t.Helper()
	promtool := tool(d.w.t, "promtool")
	text := readFile(d.w.t, filepath.Join("dist", "alerts.yml"))
	for _, l := range d.lowered {
		if !strings.Contains(text, l[0]) {
			d.w.t.Fatalf("no rule has %q", l[0])
		}
		text = strings.Replace(text, l[0], l[1], 1)
	}
	rules := filepath.Join(d.w.t.TempDir(), "alerts.yml")
	d.w.must(os.WriteFile(rules, []byte(text), 0o600))
	var b strings.Builder
	fmt.Fprintf(&b, "rule_files: [%s]\nevaluation_interval: 1m\ntests:\n  - interval: 1m\n    input_series:\n", rules)
	for _, name := range slices.Sorted(maps.Keys(d.samples)) {
		fmt.Fprintf(&b, "      - series: '%s'\n        values: '%s'\n", name, strings.Join(d.samples[name], " "))
	}
	fmt.Fprintf(&b, "    promql_expr_test:\n      - eval_time: 29m\n        expr: ALERTS{alertstate=\"firing\"}\n        exp_samples: []\n")
	fmt.Fprintf(&b, "      - eval_time: %dm\n        expr: group by (alertname) (count_over_time(ALERTS{alertstate=\"firing\",alertname=~\"%s\"}[%dm]))\n        exp_samples:\n",
		d.minutes-1, strings.Join(alerts, "|"), d.minutes)
	for _, a := range alerts {
		fmt.Fprintf(&b, "          - {labels: '{alertname=\"%s\"}', value: 1}\n", a)
	}
	path := filepath.Join(d.w.t.TempDir(), "drill.yml")
	d.w.must(os.WriteFile(path, []byte(b.String()), 0o600))
	if out, err := exec.Command(promtool, "test", "rules", path).CombinedOutput(); err != nil {
		d.w.t.Errorf("%v\n%s", err, out)
	}
}

// TestAlertsFire: the metrics of a daemon that really is in trouble set off the
// alerts, and those of a daemon that is well set off none.
func TestAlertsFire(t *testing.T) {
	t.Parallel()
	t.Run("deliveries", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, setting{users: 30, delivery: []string{`retry = ["50ms","50ms","50ms","5h"]`}})
		for _, id := range []string{"uni-late", "uni-gone", "uni-dead"} {
			w.organisation(id, nil)
			w.affiliate(id, w.users...)
		}
		w.recv.BehaveFor("/uni-late", receiver.Status(http.StatusInternalServerError, "broken"))
		w.recv.BehaveFor("/uni-gone", receiver.Gone())
		w.recv.BehaveFor("/uni-dead", receiver.Status(http.StatusBadRequest, "never"))
		d := newDrill(w)
		w.pingAll(len(w.users), w.users)
		w.eventually("dead letters and a suspended channel", func() bool {
			return w.metric("dispatchd_dead_letters") >= 20 && w.held("uni-gone", "suspend") && w.metric("dispatchd_delivery_attempts_total") > 100
		})
		// Until the wait is long: a try after the clock's jump would trip the breaker,
		// and news that is held is not late.
		equally(w, "attempts of what is late", 4*len(w.users), func() int { return len(w.told("uni-late")) })
		// Until their outcomes are written: the lease of one that is not would have
		// ended after the jump, and it would be tried again.
		w.eventually("nothing is on its way", func() bool { return w.channel("uni-late").InFlight == 0 })
		w.skip(2 * time.Hour)
		good, err := os.ReadFile(w.configPath())
		w.must(err)
		w.writeConfig("colour = \"red\"\n")
		if status, _, _ := w.reload(); status != http.StatusUnprocessableEntity {
			t.Errorf("a bad file was answered %d", status)
		}
		w.must(os.WriteFile(w.configPath(), good, 0o600))
		ledger := w.rdb.Keys(t.Context(), "{p*}ledger").Val()
		if len(ledger) == 0 {
			ledger = w.rdb.Keys(t.Context(), "{p*ledger").Val()
		}
		w.command("HINCRBY", ledger[0], "opened", 7)
		w.eventually("the ledger shows it", func() bool { return w.metric("dispatchd_ledger_difference") > 0 })
		d.scrape(120)
		w.command("HINCRBY", ledger[0], "opened", -7)
		d.fires("DispatchdNobodyIsTold", "DispatchdNewsLate", "DispatchdDeliveriesFail", "DispatchdDeadLettersGrow", "DispatchdChannelSuspended",
			"DispatchdReloadFailed", "DispatchdLedgerUnbalanced")
	})
	t.Run("redis", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, setting{users: 10})
		w.simple("uni-a")
		d := newDrill(w)
		w.redis.Kill()
		for range 3 {
			w.pingAll(len(w.users), w.users)
			d.scrape(5)
		}
		d.scrape(30)
		w.must(w.redis.Restart())
		w.eventually("the spool is drained", func() bool { return w.metric("dispatchd_spool_pings") == 0 })
		w.balanced()
		w.stop()
		d.gone(10)
		d.fires("DispatchdSpoolInUse", "DispatchdRedisErrors", "DispatchdDown")
	})
	t.Run("orcid", func(t *testing.T) {
		t.Parallel()
		w := aged(t, 8)
		w.simple("uni-a")
		w.registered(clientMain, w.users...)
		w.settled(8)
		d := newDrill(w)
		w.outage(8*time.Hour, w.users[:1])
		d.scrape(10)
		w.must(w.orcid.RotateSecret(sim.Client{ID: clientMain, Secret: secret.Text("another-s3cret-41ab")}))
		_, err := w.orcid.RevokeTokens(clientMain)
		w.must(err)
		w.affiliate("uni-a", w.orcid.AddProfiles(3)...)
		w.pass(time.Hour)
		w.eventually("the credential is refused", func() bool { return w.metric("dispatchd_credentials", "refused") == 1 })
		w.eventually("registrations are missing", func() bool { w.pass(time.Minute); return w.metric("dispatchd_registrations_missing") == 3 })
		c := *w.d.app.config.Load()
		c.PublicURL = "http://127.0.0.1:1"
		w.d.app.config.Store(&c)
		if err := w.d.app.prober.Probe(t.Context()); err == nil {
			t.Error("nobody listens there, and the probe says that it worked")
		}
		d.scrape(300)
		d.fires("DispatchdFailureBudget", "DispatchdCredentialRefused", "DispatchdRegistrationsMissing", "DispatchdUnreachable")
	})
}
