package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"
)

// goal is one line of the table of goals.
type goal struct {
	Measure string `json:"measure"`
	// AtLeast and AtMost are the limits; one of them is set.
	AtLeast float64 `json:"at_least,omitempty"`
	AtMost  float64 `json:"at_most,omitempty"`
	Unit    string  `json:"unit,omitempty"`
	Value   spread  `json:"value"`
	Reached bool    `json:"reached"`
	Note    string  `json:"note,omitempty"`
}

// figure is a number behind the goals.
type figure struct {
	Part  string `json:"part"`
	Name  string `json:"name"`
	Unit  string `json:"unit"`
	Value spread `json:"value"`
}

type part struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
}

// failure is a measurement that could not be made.
type failure struct {
	Name string `json:"name"`
	Why  string `json:"why"`
}

// section is text that explains: where the time goes.
type section struct {
	Title string `json:"title"`
	Text  string `json:"text"`
}

// report is everything that was found.
type report struct {
	Quick    bool              `json:"quick,omitempty"`
	Started  time.Time         `json:"started"`
	Took     float64           `json:"took_seconds"`
	Machine  machine           `json:"machine"`
	Versions map[string]string `json:"versions"`
	Load     string            `json:"load_before"`
	Goals    []goal            `json:"goals"`
	Figures  []figure          `json:"figures"`
	Failures []failure         `json:"failures,omitempty"`
	Sections []section         `json:"sections,omitempty"`
	Curve    []load            `json:"curve,omitempty"`
	Capacity float64           `json:"capacity_pings_per_second,omitempty"`
	Parts    []part            `json:"parts"`
}

func newReport(quick bool) *report { return &report{Quick: quick, Started: time.Now()} }

// describe notes the machine and the versions.
func (r *report) describe(ctx context.Context, root string) {
	r.Machine = thisMachine(runtime.NumCPU())
	if raw, err := os.ReadFile("/proc/loadavg"); err == nil {
		r.Load = strings.TrimSpace(string(raw))
	}
	r.Versions = map[string]string{"go": runtime.Version()}
	for name, args := range map[string][]string{
		"redis":     {"redis-server", "--version"},
		"dispatchd": {"git", "-C", root, "describe", "--tags", "--always", "--dirty"},
	} {
		out, err := exec.CommandContext(ctx, args[0], args[1:]...).Output() //nolint:gosec // our own arguments
		if err == nil {
			r.Versions[name] = strings.TrimSpace(string(out))
		}
	}
}

func (r *report) failed(name string, err error) {
	r.Failures = append(r.Failures, failure{name, err.Error()})
}

// note adds a figure.
func (r *report) note(part, name, unit string, rounds ...float64) {
	r.Figures = append(r.Figures, figure{part, name, unit, spreadOf(rounds...)})
}

// atLeast adds a goal that the median of the rounds must not be below.
func (r *report) atLeast(measure string, limit float64, unit, note string, rounds ...float64) {
	s := spreadOf(rounds...)
	r.Goals = append(r.Goals, goal{Measure: measure, AtLeast: limit, Unit: unit, Value: s, Reached: len(s.Rounds) > 0 && s.Median >= limit, Note: note})
}

// atMost adds a goal that the median of the rounds must not be above.
func (r *report) atMost(measure string, limit float64, unit, note string, rounds ...float64) {
	s := spreadOf(rounds...)
	r.Goals = append(r.Goals, goal{Measure: measure, AtMost: limit, Unit: unit, Value: s, Reached: len(s.Rounds) > 0 && s.Median <= limit, Note: note})
}

func (g goal) limit() string {
	if g.AtLeast > 0 {
		return "≥ " + withUnit(number(g.AtLeast), g.Unit)
	}
	return "≤ " + withUnit(number(g.AtMost), g.Unit)
}

func (g goal) verdict() string {
	if g.Reached {
		return "reached"
	}
	return "MISSED"
}

func withUnit(n, unit string) string {
	if unit == "" {
		return n
	}
	return n + " " + unit
}

// number writes three significant digits, and thousands in full.
func number(v float64) string {
	switch a := max(v, -v); {
	case a >= 10_000:
		return grouped(int64(v + 0.5))
	case a >= 100:
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	case a >= 1:
		return fmt.Sprintf("%.2f", v)
	default:
		return fmt.Sprintf("%.3f", v)
	}
}

func grouped(n int64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func (s spread) String() string {
	switch {
	case len(s.Rounds) == 0:
		return "–"
	case len(s.Rounds) == 1:
		return number(s.Median)
	}
	return fmt.Sprintf("%s (%s–%s)", number(s.Median), number(s.Min), number(s.Max))
}

// print writes the tables for a terminal.
func (r *report) print(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "\nMEASURE\tGOAL\tMEDIAN (MIN–MAX)\t")
	for _, g := range r.Goals {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", g.Measure, g.limit(), withUnit(g.Value.String(), g.Unit), g.verdict())
	}
	fmt.Fprintln(t, "\nFIGURE\t\tMEDIAN (MIN–MAX)\t")
	for _, f := range r.Figures {
		fmt.Fprintf(t, "%s: %s\t\t%s\t\n", f.Part, f.Name, withUnit(f.Value.String(), f.Unit))
	}
	_ = t.Flush() // a terminal that went away
	for _, f := range r.Failures {
		fmt.Fprintf(w, "\nNOT MEASURED %s: %s\n", f.Name, f.Why)
	}
	for _, s := range r.Sections {
		fmt.Fprintf(w, "\n%s\n%s\n", s.Title, s.Text)
	}
	for _, x := range r.Parts {
		fmt.Fprintf(w, "%s %.0f s, ", x.Name, x.Seconds)
	}
	fmt.Fprintf(w, "in all %s\n", time.Duration(r.Took*float64(time.Second)).Round(time.Second))
}

// write writes REPORT.md and report.json, and the plot when there is one.
func (r *report) write(dir, plot string) error {
	raw, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "report.json"), append(raw, '\n'), 0o644); err != nil { //nolint:gosec // it is published
		return fmt.Errorf("write the report: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "REPORT.md"), []byte(r.markdown()), 0o644); err != nil { //nolint:gosec // it is published
		return fmt.Errorf("write the report: %w", err)
	}
	if len(r.Curve) == 0 {
		return nil
	}
	what := fmt.Sprintf("%d cores shared by load generator, receivers, daemon and Redis; %s", r.Machine.Cores, r.Started.UTC().Format("2006-01-02"))
	if err := os.WriteFile(plot, []byte(svg(r.Curve, r.Capacity, what)), 0o644); err != nil { //nolint:gosec // it is published
		return fmt.Errorf("draw the curve: %w", err)
	}
	return nil
}

// markdown is REPORT.md.
func (r *report) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, `# What dispatchd does on this machine

Written by `+"`make bench`"+` (%s, %.0f s); the same figures as data are in report.json. Goals are those of the project, judged by the
median of the rounds; each round ran beside its baseline. Everything shares the cores: load generator, receivers, daemon, Redis.

| | |
|---|---|
| processor | %s, %d cores |
| memory | %s |
| kernel | %s |
| load before | %s |
`, r.Started.UTC().Format("2006-01-02 15:04 UTC"), r.Took, r.Machine.CPU, r.Machine.Cores, r.Machine.Memory, r.Machine.Kernel, r.Load)
	for _, name := range []string{"dispatchd", "go", "redis"} {
		fmt.Fprintf(&b, "| %s | %s |\n", name, r.Versions[name])
	}
	b.WriteString("\n## Goals\n\n| measure | goal | median (min–max) | | |\n|---|---|---|---|---|\n")
	for _, g := range r.Goals {
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", g.Measure, g.limit(), withUnit(g.Value.String(), g.Unit), g.verdict(), g.Note)
	}
	for _, f := range r.Failures {
		fmt.Fprintf(&b, "| %s | | not measured: %s | MISSED | |\n", f.Name, strings.ReplaceAll(f.Why, "\n", " "))
	}
	b.WriteString("\n## Figures\n\n| part | figure | median (min–max) |\n|---|---|---|\n")
	for _, f := range r.Figures {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", f.Part, f.Name, withUnit(f.Value.String(), f.Unit))
	}
	for _, s := range r.Sections {
		fmt.Fprintf(&b, "\n## %s\n\n```\n%s\n```\n", s.Title, strings.TrimRight(s.Text, "\n"))
	}
	b.WriteString(method)
	return b.String()
}

// method says how it is measured.
const method = `
## How it is measured

- The daemon is the built binary, with its defaults except ` + "`quiet_period = \"0s\"`" + `, loopback receivers allowed, and ORCID out of reach
  (no registrations meanwhile; the sweep has the simulated ORCID with ORCID's rate limit). Redis: AOF everysec unless "always" is said.
- Usual workload: 100,000 researchers, 100 organisations, 1.5 organisations each, another researcher for every ping.
- The sender is Go with raw connections (64), one request at a time on each. At a rate it is open-loop: latency counts from when a ping
  was due, not from when it was sent (coordinated omission), and times come from clock_nanosleep on a thread of its own.
- A run at full rate counts only if every outcome was in Redis at most 2 s after its last ping; the rate is deliveries by the time from
  the first ping to the last outcome.
- "Log only" pings are for researchers whom nobody has: the reader of the log still reads and looks each one up.
- "CPU-s" are user + system time of the daemon and Redis from /proc/PID/stat; RSS is VmRSS, its peak VmHWM.
- asynq's worker does the POST with fasthttp, 64 at once; its queue is filled before its time begins, so the filling is not counted.
  "From ping to outcome" counts all that dispatchd's rate does: a fasthttp listener queues 1.5 tasks a ping before it answers 204, the
  worker signs, asynq keeps what became of each task; it looks nobody up, joins nothing and keeps no books.
- Plain Redis commands: XADD, then HSET and ZADD twice, HDEL and ZREM for each delivery, 100 deliveries a pipeline, two connections.
- Idle CPU is measured over a minute or more beside other measurements, which costs it some warmth of caches.
- The curve is one run at each rate, after a burst that found what the daemon keeps up with.
- Isolation: timeout 5 s; the untroubled and the troubled daemon take turns of 3 s, the other one is stopped meanwhile (SIGSTOP).
- In a comparison of p99 a round is two turns of each, and its percentile is of both together.
- Stuck slots: two daemons with the same 1.1 million researchers, one of which has the slots. Both begin with an append-only file that was
  just rewritten; what a rewrite costs while it lasts is told apart.
- Redis is set up as the package's (rewrites of the append-only file from 256 MB on).
`
