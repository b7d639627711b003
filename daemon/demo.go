package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"dispatchd/config"
	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/org"
	"dispatchd/internal/service"
	"dispatchd/internal/sim"
	"dispatchd/internal/sim/receiver"
	"dispatchd/internal/sim/smtpsink"
)

// demoOptions are the flags of `dispatchd demo`.
type demoOptions struct {
	For   time.Duration // 0 means until interrupted
	Users int           // default 500
	Speed float64       // virtual seconds per second at the simulated ORCID; default 60
	Out   io.Writer
	// Terminal redraws one screen instead of printing lines.
	Terminal bool
}

// The demo's clock runs faster than the real one, so ORCID's allowed rate and
// the daemon's waits are scaled with it.
const (
	demoRate  = 100 // registrations a second
	demoQuiet = 500 * time.Millisecond
	demoDrain = 12 * time.Second // what may still be under way gets this long at the end
)

// demoWorld is everything around the daemon: simulated, but on real sockets.
type demoWorld struct {
	orcid     *sim.Registry
	orcidURL  string
	receivers map[string]*receiver.Receiver
	mail      *smtpsink.Sink
	stop      stopStack
}

func startDemoWorld(ctx context.Context, log *slog.Logger, o demoOptions) (_ *demoWorld, err error) {
	w := &demoWorld{receivers: map[string]*receiver.Receiver{}, stop: stopStack{log: log}}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.stop.run(ctx))
		}
	}()
	w.orcid, err = sim.New(sim.Options{
		Speed: o.Speed, RateLimit: -1, Seed: 1, LedgerSize: 10_000,
		Clients: []sim.Client{{ID: "APP-DEMO000000000000", Secret: "demo-secret"}},
	})
	if err != nil {
		return nil, err
	}
	ln, err := listen("127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	w.orcidURL = "http://" + ln.Addr().String()
	simCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() { done <- sim.Serve(simCtx, ln, w.orcid) }()
	w.stop.push("simulated ORCID", func(context.Context) error {
		cancel()
		return <-done
	})
	for name, behaviour := range map[string]receiver.Behaviour{
		"uni-healthy": receiver.OK(),
		"uni-slow":    receiver.Slow(400*time.Millisecond, receiver.OK()),
		"uni-flaky":   receiver.Fail(0.5, 7, receiver.Status(http.StatusInternalServerError, "database is on holiday"), receiver.OK()),
	} {
		r, err := receiver.Start(receiver.Options{Behaviour: behaviour, Keep: -1})
		if err != nil {
			return nil, err
		}
		w.receivers[name] = r
		w.stop.push("receiver "+name, func(context.Context) error {
			r.Close()
			return nil
		})
	}
	w.mail, err = smtpsink.Start(smtpsink.Options{Keep: 100})
	if err != nil {
		return nil, err
	}
	w.stop.push("SMTP sink", func(context.Context) error {
		w.mail.Close()
		return nil
	})
	return w, nil
}

// demoConfig is a configuration as serve would read it.
func demoConfig(w *demoWorld, dir, callback, web string) (*config.Config, error) {
	c := config.Default()
	c.PublicURL, c.WebURL, c.DataDir = "http://"+callback, "http://"+web, dir
	c.Redis.URL = "embedded"
	c.ORCID = config.ORCID{
		Environment: "sandbox", APIURL: w.orcidURL, TokenURL: w.orcidURL + "/oauth/token", SiteURL: "https://sandbox.orcid.org",
		CatchUp: 24 * time.Hour, Rate: demoRate,
		Credentials: map[string]config.Credential{"main": {ClientID: "APP-DEMO000000000000", ClientSecret: "demo-secret"}},
	}
	c.Delivery.QuietPeriod = demoQuiet
	c.Delivery.Retry = []time.Duration{500 * time.Millisecond, time.Second, time.Second, 2 * time.Second, 2 * time.Second, 4 * time.Second, 4 * time.Second, 4 * time.Second}
	c.Delivery.AllowPrivate = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	c.SMTP = config.SMTP{Host: "127.0.0.1", Port: w.mail.Port(), TLS: "none", From: "ORCID Hub <no-reply@hub.example>"}
	for _, name := range []string{"uni-healthy", "uni-slow", "uni-flaky"} {
		c.Organisations = append(c.Organisations, org.Organisation{
			ID: name, Name: "University " + strings.ToUpper(name[4:5]) + name[5:], Credential: "main", TechnicalContact: "it@" + name + ".example",
			Webhook: org.Webhook{Enabled: true, URL: w.receivers[name].URL() + "/orcid", Payload: org.PayloadStandard},
			Owner:   org.OwnedByFile,
		})
	}
	c.Organisations = append(c.Organisations, org.Organisation{
		ID: "institute-mail", Name: "Institute without integration", Credential: "main", TechnicalContact: "library@institute.example",
		Email: org.Email{Enabled: true, Mode: org.Each, MaxPerHour: 10_000}, Owner: org.OwnedByFile,
	})
	_, err := config.EnsureKeys(c)
	return c, err
}

// demo runs the daemon as serve does, inside a simulated world.
func demo(ctx context.Context, o demoOptions, log *slog.Logger, level *slog.LevelVar) (err error) {
	dir, err := os.MkdirTemp("", "dispatchd-demo-")
	if err != nil {
		return fmt.Errorf("make a directory for the demo: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	w, err := startDemoWorld(ctx, log, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.stop.run(context.WithoutCancel(ctx))) }()
	callback, err := listen("127.0.0.1:0")
	if err != nil {
		return err
	}
	adminLn, err := listen("127.0.0.1:0")
	if err != nil {
		return err
	}
	webLn, err := listen("127.0.0.1:0")
	if err != nil {
		return err
	}
	c, err := demoConfig(w, dir, callback.Addr().String(), webLn.Addr().String())
	if err != nil {
		return err
	}
	a, err := newApp(ctx, options{Config: c, Version: version, Logger: log, Level: level, Callback: callback, Web: webLn, Admin: adminLn})
	if err != nil {
		return err
	}
	appCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() { done <- a.run(appCtx) }()
	defer func() {
		cancel()
		err = errors.Join(err, <-done)
	}()
	d := &demoRun{o: o, app: a, world: w, began: time.Now()}
	if err := d.waitAttached(ctx); err != nil {
		return err
	}
	link, _, err := a.service.OrgLink(ctx, service.By{Who: "demo"}, "uni-flaky")
	if err != nil {
		return err
	}
	d.header(callback.Addr(), adminLn.Addr(), dir, link)
	if err := d.play(ctx); err != nil {
		return err
	}
	return d.finish(context.WithoutCancel(ctx))
}

// demoRun is one run of the demo.
type demoRun struct {
	o     demoOptions
	app   *app
	world *demoWorld
	began time.Time
	lines int // of the last screen
}

func (d *demoRun) waitAttached(ctx context.Context) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !d.app.attached.isStarted() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-d.app.failed:
			return err
		case <-tick.C:
		}
	}
	return nil
}

func (d *demoRun) header(callback, admin net.Addr, dir, link string) {
	fmt.Fprintf(d.o.Out, `dispatchd demo: the daemon as in production, around it a simulated world (ORCID at %gx speed)

  callback listener  http://%s/hooks/…     ORCID's pings
  admin listener     http://%s             metrics, health, /v1
  its token          %s
  simulated ORCID    %s/_sim/
  organisations      uni-healthy answers at once, uni-slow takes 400 ms,
                     uni-flaky fails half the time, institute-mail gets e-mail
  pages of uni-flaky (the link signs in once, for 15 minutes)
  %s

`, d.o.Speed, callback, admin, dir+"/admin.token", d.world.orcidURL, link)
}

// addUsers affiliates the researchers: everybody with one organisation, every
// third with a second one, so that pings fan out.
func (d *demoRun) addUsers(ctx context.Context) error {
	ids := d.world.orcid.AddProfiles(d.o.Users)
	orgs := []string{"uni-healthy", "uni-slow", "uni-flaky", "institute-mail"}
	lists := map[string][]orcid.ID{}
	for i, id := range ids {
		lists[orgs[i%4]] = append(lists[orgs[i%4]], id)
		if i%3 == 0 {
			lists[orgs[(i+1)%4]] = append(lists[orgs[(i+1)%4]], id)
		}
	}
	for _, name := range orgs {
		var csv strings.Builder
		csv.WriteString("orcid,email,name\n")
		for i, id := range lists[name] {
			fmt.Fprintf(&csv, "%s,researcher%d@%s.example,Researcher %d\n", id, i, name, i)
		}
		report, err := d.app.service.Import(ctx, service.By{Who: "demo"}, name, strings.NewReader(csv.String()), service.CSV, false, nil)
		if err != nil {
			return fmt.Errorf("import the users of %s: %w", name, err)
		}
		if report.Bad > 0 {
			return fmt.Errorf("import the users of %s: %v", name, report.BadLines)
		}
	}
	return nil
}

// play adds the users and lets them edit until the time is up.
func (d *demoRun) play(ctx context.Context) error {
	added := make(chan error, 1)
	go func() {
		err := d.addUsers(ctx)
		if err == nil {
			// About five changes a second of real time.
			err = d.world.orcid.Traffic(sim.Activity{ChangesPerDay: 5 * 86_400 / d.o.Speed})
		}
		added <- err
	}()
	every := 2 * time.Second
	if d.o.Terminal {
		every = 250 * time.Millisecond
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	var end <-chan time.Time
	if d.o.For > 0 {
		end = time.After(d.o.For)
	}
	adding := true
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-d.app.failed:
			return err
		case err := <-added:
			if err != nil && ctx.Err() == nil {
				return err
			}
			adding = false
		case <-end:
			if adding {
				return errors.New("the time was over before every user was added; try a longer --for or fewer --users")
			}
			return nil
		case <-tick.C:
			if err := d.show(ctx); err != nil {
				return err
			}
		}
	}
}

// finish lets what is under way end, and holds the books against the truth.
func (d *demoRun) finish(ctx context.Context) error {
	if err := d.world.orcid.Traffic(sim.Activity{}); err != nil {
		return err
	}
	d.world.orcid.PauseSender(true)
	fmt.Fprintln(d.o.Out, "\nresearchers stop editing; waiting for deliveries that are under way")
	deadline := time.Now().Add(demoDrain)
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for time.Now().Before(deadline) {
		<-tick.C
		st := d.app.service.Status(ctx)
		if st.Pending == 0 && st.Log == 0 && st.Spool.Waiting == 0 {
			break
		}
	}
	l, err := d.app.service.Ledger(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintln(d.o.Out)
	printLedger(d.o.Out, l)
	if !l.Balanced {
		return errors.New("the books do not balance")
	}
	return nil
}

// sample is what the live view shows.
type sample struct {
	pings, refused int64
	alive, users   int64
	channels       []sampleChannel
	log, pending   int64
	problems       []string
}

type sampleChannel struct {
	org       string
	channel   event.Channel
	waiting   int
	inFlight  int
	dead      int
	delivered int
	note      string
}

func (d *demoRun) sample(ctx context.Context) sample {
	st := d.app.service.Status(ctx)
	c := d.world.orcid.Counters()
	s := sample{users: st.Users, alive: st.Registrations[event.RegAlive.String()], log: st.Log, pending: st.Pending}
	for status, n := range c.Posts {
		s.pings += n
		if status != http.StatusNoContent {
			s.refused += n
		}
	}
	for _, o := range st.Channels {
		for _, ch := range o.Channels {
			if !ch.Enabled {
				continue
			}
			row := sampleChannel{org: o.ID, channel: ch.Channel, waiting: ch.Waiting, inFlight: ch.InFlight, dead: ch.Dead}
			if ch.Channel == event.Email {
				row.delivered = d.world.mail.Count()
			} else {
				row.delivered = d.world.receivers[o.ID].Count()
			}
			for _, h := range ch.Holds {
				row.note = "held: " + string(h.Hold)
			}
			s.channels = append(s.channels, row)
		}
	}
	for _, p := range st.Problems {
		if !strings.Contains(p.What, "trial") {
			s.problems = append(s.problems, p.What)
		}
	}
	return s
}

// show draws the live view, or prints one plain line.
func (d *demoRun) show(ctx context.Context) error {
	s := d.sample(ctx)
	if !d.o.Terminal {
		var b strings.Builder
		fmt.Fprintf(&b, "%5s  registered %d/%d  pings %d  refused %d  waiting %d ", time.Since(d.began).Round(time.Second), s.alive, s.users, s.pings, s.refused, s.pending)
		for _, c := range s.channels {
			fmt.Fprintf(&b, " %s %d", c.org, c.delivered)
		}
		_, err := fmt.Fprintln(d.o.Out, b.String())
		return err
	}
	var b strings.Builder
	if d.lines > 0 {
		fmt.Fprintf(&b, "\x1b[%dA\x1b[J", d.lines)
	}
	body := d.screen(s)
	b.WriteString(body)
	d.lines = strings.Count(body, "\n")
	_, err := io.WriteString(d.o.Out, b.String())
	return err
}

func (d *demoRun) screen(s sample) string {
	var b strings.Builder
	fmt.Fprintf(&b, "registrations  %s %d/%d\n", bar(s.alive, s.users, 40), s.alive, s.users)
	fmt.Fprintf(&b, "pings          %-8d refused %-6d in the log %-6d running %s\n\n", s.pings, s.refused, s.log, time.Since(d.began).Round(time.Second))
	fmt.Fprintf(&b, "%-16s %-8s %8s %8s %8s %6s\n", "ORGANISATION", "CHANNEL", "SENT", "WAITING", "UNDERWAY", "DEAD")
	for _, c := range s.channels {
		fmt.Fprintf(&b, "%-16s %-8s %8d %8d %8d %6d  %s\n", c.org, c.channel, c.delivered, c.waiting, c.inFlight, c.dead, c.note)
	}
	for _, p := range s.problems[:min(3, len(s.problems))] {
		fmt.Fprintf(&b, "! %s\n", p)
	}
	return b.String()
}

// bar draws progress.
func bar(done, total int64, width int) string {
	filled := 0
	if total > 0 {
		filled = int(done * int64(width) / total)
	}
	filled = max(0, min(filled, width))
	return "[" + strings.Repeat("#", filled) + strings.Repeat(".", width-filled) + "]"
}

// printLedger prints both sides of the books.
func printLedger(out io.Writer, l service.LedgerReport) {
	row := func(name string, n int64) { fmt.Fprintf(out, "  %-34s %10s\n", name, strconv.FormatInt(n, 10)) }
	fmt.Fprintln(out, "LEDGER")
	row("pings accepted", l.Accepted)
	row("  processed", l.Processed)
	row("  still in the intake log", l.LogPings)
	row("pings with somebody to tell", l.Told)
	row("slots opened", l.Opened)
	row("  delivered", l.Delivered)
	row("  superseded, cancelled, purged, dropped", l.Superseded+l.Cancelled+l.Purged+l.Dropped)
	row("  dead letters", l.Dead)
	row("  pending", l.Pending)
	row("coalesced (news joined waiting news)", l.Coalesced)
	if l.Balanced {
		fmt.Fprintln(out, "the books balance")
		return
	}
	for _, diff := range l.Differences {
		fmt.Fprintln(out, "! "+diff)
	}
}
