package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"dispatchd/internal/deliver"
	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/org"
	"dispatchd/internal/redistest"
	"dispatchd/internal/sim"
)

// panicker is a sender with a mistake in it.
type panicker struct{}

func (panicker) Send(context.Context, *org.Organisation, event.Delivery, event.Affiliation) deliver.Answer {
	panic("a mistake")
}

// TestMoreAlertsFire are those of TestAlertsFire that need a trouble of their own.
func TestMoreAlertsFire(t *testing.T) {
	t.Parallel()
	t.Run("pings", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, setting{users: 10})
		w.simple("uni-a")
		d := newDrill(w)
		// Neither Redis nor the disk takes anything.
		w.redis.Kill()
		w.must(w.d.app.spool.Close())
		if a := w.ping(w.users[0]); a.status != http.StatusTooManyRequests { // ORCID comes again
			t.Fatalf("a ping that nobody keeps was answered %+v", a)
		}
		d.scrape(5)
		forged := w.url(w.users[0])
		at := strings.LastIndexByte(forged, '/') + 1
		other := map[bool]string{true: "B", false: "A"}[forged[at] == 'A']
		forged = forged[:at] + other + forged[at+1:]
		for range 4 {
			for range 1200 {
				if a, err := w.post(forged); err != nil || a.status == http.StatusNoContent {
					t.Fatalf("a forged ping was answered %+v, %v", a, err)
				}
			}
			d.scrape(5)
		}
		w.must(w.redis.Restart())
		d.fires("DispatchdPingsForged", "DispatchdPingsRefused")
	})
	t.Run("backlog", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, setting{users: 40})
		w.simple("uni-a")
		w.pingAll(1, w.users)
		w.everyoneTaken("uni-a", w.users[0])
		w.idle()
		d := newDrill(w)
		d.lower("dispatchd_intake_log_entries > 10000", "dispatchd_intake_log_entries > 10")
		// What fan-out has to write cannot be written.
		var slots string
		for _, key := range w.rdb.Keys(t.Context(), "*:uni-a:w:*").Val() {
			if name, ok := strings.CutSuffix(key, "control"); ok {
				slots = name + "slots"
			}
		}
		w.command("SET", slots, "x")
		for _, id := range w.users {
			w.ping(id)
		}
		w.eventually("the log is not emptied", func() bool { return w.metric("dispatchd_intake_log_entries") > 10 })
		d.scrape(30)
		w.command("DEL", slots)
		w.everyoneTaken("uni-a", w.users...) // nothing was lost of it
		d.fires("DispatchdIntakeLogBacklog")
	})
	t.Run("panic", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, setting{users: 3, panics: true})
		w.simple("uni-a")
		d := newDrill(w)
		w.d.app.router.SetSender(event.Webhook, panicker{})
		w.ping(w.users[0])
		w.eventually("it panicked", func() bool { return w.metric("dispatchd_panics_total", "deliver") > 0 })
		d.scrape(15)
		d.fires("DispatchdPanics")
	})
	t.Run("liveness", func(t *testing.T) {
		t.Parallel()
		w := aged(t, 20)
		// Rows that nobody here knows of.
		if _, err := w.orcid.RegisterAll(clientMain, func(id orcid.ID) string { return w.url(id) }); err != nil {
			t.Fatal(err)
		}
		d := newDrill(w)
		// It rests after a failure, for longer than a test may take.
		d.lower("dispatchd_catch_up_failures_total[1h]) > 3", "dispatchd_catch_up_failures_total[1h]) > 0")
		w.simple("uni-a")
		w.settled(len(w.users))
		_, err := w.orcid.InjectFault(sim.Fault{Operation: "search", Kind: sim.FaultStatus, Status: http.StatusInternalServerError})
		w.must(err)
		w.eventually("catch-up fails", func() bool {
			w.pass(10 * time.Minute)
			return w.metric("dispatchd_catch_up_failures_total") > 0
		})
		w.endingCertificate(10 * 24 * time.Hour)
		d.scrape(100)
		d.fires("DispatchdRegistrationDrift", "DispatchdCatchUpFails", "DispatchdCertificateEnds")
	})
	t.Run("silence", func(t *testing.T) {
		t.Parallel()
		w := aged(t, 20)
		w.simple("uni-a")
		w.settled(len(w.users))
		for range 30 { // pings are usual
			w.edit(w.users[:2]...)
			w.pass(3 * time.Minute)
		}
		w.idle() // its first scrape stands for half an hour
		d := newDrill(w)
		w.eventually("pings are overdue", func() bool { w.pass(30 * time.Minute); return w.metric("dispatchd_pings_overdue") == 1 })
		d.scrape(30)
		d.fires("DispatchdPingsOverdue")
	})
	t.Run("outage", func(t *testing.T) {
		t.Parallel()
		w := aged(t, 20)
		w.simple("uni-a")
		w.registered(clientMain, w.users...)
		w.settled(len(w.users))
		w.pass(2 * time.Hour)
		d := newDrill(w)
		w.outage(30*time.Hour, w.users[:5])
		w.eventually("registrations are at risk", func() bool { return w.metric("dispatchd_registrations", "at_risk") > 0 })
		d.scrape(13 * 60)
		d.fires("DispatchdRegistrationsAtRisk")
	})
	t.Run("process", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, setting{users: 3})
		d := newDrill(w)
		bin := filepath.Join(t.TempDir(), "dispatchd")
		if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", bin, ".").CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		for i := range 4 {
			p := startTrial(t, bin)
			if i == 3 {
				for range 600 { // of which it takes as many as it has descriptors, 128, and more when it hangs up on the first
					c, err := net.Dial("tcp", p.callback)
					w.must(err)
					defer c.Close()
				}
				w.eventually("no descriptor is left", func() bool { return fdsOf(t, p.pid) >= 128 })
			}
			d.scrapeFrom("http://"+p.admin, 3+i*5)
			p.end()
		}
		d.fires("DispatchdRestarts", "DispatchdDescriptors")
	})
}

// endingCertificate puts a server with a certificate that ends after d at
// public_url, and lets the daemon look.
func (w *world) endingCertificate(d time.Duration) {
	w.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	w.must(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(d), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	w.must(err)
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MinVersion: tls.VersionTLS12})
	w.must(err)
	server := &http.Server{Handler: http.NotFoundHandler(), ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0)}
	done := make(chan error, 1)
	go func() { done <- server.Serve(ln) }()
	defer func() {
		_ = server.Close()
		<-done
	}()
	c := *w.d.app.config.Load()
	c.PublicURL = "https://" + ln.Addr().String()
	w.d.app.config.Store(&c)
	_ = w.d.app.prober.Probe(w.t.Context()) // nobody signed it: that it ends is known all the same
	if w.metric("dispatchd_callback_certificate_expiry_timestamp_seconds") == 0 {
		w.t.Error("the probe did not see when the certificate ends")
	}
}

// trial is a daemon as a process of its own, which may have few descriptors.
type trial struct {
	callback, admin string
	pid             int
	end             func()
}

func startTrial(t *testing.T, bin string) trial {
	t.Helper()
	dir := t.TempDir()
	addr := redistest.FreeAddresses(t, 3)
	text := fmt.Sprintf("public_url = \"https://hub.example.edu\"\ndata_dir = %q\n[listen]\ncallback = %q\nadmin = %q\nweb = %q\n[redis]\nurl = \"embedded\"\n[orcid]\nenvironment = \"sandbox\"\n", dir, addr[0], addr[1], addr[2])
	path := filepath.Join(dir, "config.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", `ulimit -n 128; exec "$0" serve --config "$1"`, bin, path)
	out, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := false
	p := trial{callback: addr[0], admin: addr[1], pid: cmd.Process.Pid, end: func() {
		if ended {
			return
		}
		ended = true
		_ = cmd.Process.Signal(syscall.SIGTERM) // gone already is fine
		_ = cmd.Wait()                          // a second matters not
		out.Close()
	}}
	t.Cleanup(p.end)
	client := &http.Client{Timeout: patience}
	defer client.CloseIdleConnections()
	for limit := time.Now().Add(patience); ; {
		res, err := client.Get("http://" + p.admin + "/readyz")
		if err == nil {
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return p
			}
		}
		if time.Now().After(limit) {
			t.Fatalf("the daemon is not ready: %v", err)
		}
		<-time.After(pollEvery)
	}
}

func fdsOf(t *testing.T, pid int) int {
	t.Helper()
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}
