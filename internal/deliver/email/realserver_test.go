package email

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"dispatchd/internal/deliver"
	"dispatchd/internal/event"
	"dispatchd/internal/redistest"
)

// msmtpd starts a mail server that is not ours (Debian's msmtp-mta) and returns
// its port and the folder where each mail lands in a file.
func msmtpd(t *testing.T, more ...string) (port int, dir string) {
	t.Helper()
	path, err := exec.LookPath("msmtpd")
	if err != nil {
		const words = "the mail server msmtpd is missing: apt-get install msmtp-mta (make deps does)"
		if os.Getenv("CI") == "" {
			t.Skip(words) // it would take the place of another mail server of this machine
		}
		t.Fatal(words)
	}
	_, text, _ := strings.Cut(redistest.FreeAddresses(t, 1)[0], ":")
	if port, err = strconv.Atoi(text); err != nil {
		t.Fatal(err)
	}
	dir = t.TempDir()
	take := filepath.Join(dir, "take")
	script := "#!/bin/sh\nf=$(mktemp " + dir + "/part.XXXXXX) && { echo \"$*\"; cat; } > $f && mv $f $f.mail\n"
	if err := os.WriteFile(take, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, append([]string{"--interface=127.0.0.1", fmt.Sprintf("--port=%d", port), "--command=" + take + " %F --"}, more...)...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for deadline := time.Now().Add(time.Minute); ; {
		c, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", fmt.Sprint(port)))
		if err == nil {
			c.Close()
			return port, dir
		}
		if time.Now().After(deadline) {
			t.Fatalf("msmtpd does not answer: %v", err)
		}
	}
}

func realSender(t *testing.T, port int, change func(*Options)) *Sender {
	t.Helper()
	o := Options{
		Host: "127.0.0.1", Port: port, TLS: "none", From: "ORCID Hub <no-reply@hub.example>", UserAgent: "dispatchd/test",
		Helo: "hub.example", Now: func() time.Time { return t0 }, Timeout: 20 * time.Second,
	}
	if change != nil {
		change(&o)
	}
	return newSender(t, o)
}

// TestARealMailServer: mails arrive whole at a server that we did not write. It
// does not know RSET and hangs up at it, which costs a connection and no mail.
func TestARealMailServer(t *testing.T) {
	t.Parallel()
	port, dir := msmtpd(t)
	s := realSender(t, port, nil)
	who := event.Affiliation{Org: "uni-a", Name: "Āroha <b>Ngata</b>\r\nBcc: victim@x.example"}
	for range 3 {
		if a := s.Send(context.Background(), newOrg(), newDelivery(t), who); a.Kind != deliver.KindOK {
			t.Fatalf("%+v", a)
		}
	}
	d, list := digestOf(t, 1200)
	if a := s.SendDigest(context.Background(), newOrg(), d, list); a.Kind != deliver.KindOK {
		t.Fatalf("%+v", a)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.mail"))
	if err != nil || len(files) != 4 {
		t.Fatalf("%d mails arrived, %v", len(files), err)
	}
	tables := 0
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		args, data, _ := bytes.Cut(raw, []byte("\n"))
		if string(args) != "no-reply@hub.example -- library@uni-a.example it@uni-a.example" {
			t.Errorf("envelope %q", args)
		}
		head, body := parts(t, data)
		if head.Get("Bcc") != "" || head.Get("Auto-Submitted") != "auto-generated" {
			t.Errorf("headers %v", head)
		}
		if table := body["text/csv"]; table != "" {
			tables++
			if n := strings.Count(table, "\n"); n != 1201 {
				t.Errorf("the table has %d lines", n)
			}
			continue
		}
		if !strings.Contains(body["text/plain"], "User Āroha <b>Ngata</b> Bcc: victim@x.example (0000-0002-1825-0097") ||
			!strings.Contains(body["text/html"], "Āroha &lt;b&gt;Ngata&lt;/b&gt; Bcc") {
			t.Errorf("%v", body)
		}
	}
	if tables != 1 {
		t.Errorf("%d tables", tables)
	}
}

func TestARealMailServerWithALogin(t *testing.T) {
	t.Parallel()
	port, dir := msmtpd(t, "--auth=hub,echo hunter2")
	good := realSender(t, port, func(o *Options) { o.Username, o.Password = "hub", "hunter2" })
	if a := send(t, good); a.Kind != deliver.KindOK {
		t.Fatalf("%+v %s", a, a.Words())
	}
	bad := realSender(t, port, func(o *Options) { o.Username, o.Password = "hub", "wrong-secret" })
	if a := send(t, bad); a.Kind == deliver.KindOK || a.Kind == deliver.KindRefused || strings.Contains(a.Words()+a.Excerpt, "wrong-secret") {
		t.Errorf("%+v %s", a, a.Words())
	}
	if files, _ := filepath.Glob(filepath.Join(dir, "*.mail")); len(files) != 1 {
		t.Errorf("%d mails", len(files))
	}
}
