package main

import (
	"encoding/base64"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"dispatchd/config"
	"dispatchd/internal/cli"
	"dispatchd/internal/service"
	"dispatchd/internal/servicetest"
	"dispatchd/internal/sim"
	"dispatchd/internal/sim/receiver"
	"dispatchd/internal/sim/smtpsink"
)

// run runs one command of the command line against the daemon.
func (w *world) run(args ...string) string {
	w.t.Helper()
	var out servicetest.Log
	tokenFile := filepath.Join(filepath.Dir(w.dir), "token")
	w.must(os.WriteFile(tokenFile, []byte(w.d.token), 0o600))
	env := cli.Env{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &out, Build: cli.Build{Version: "test"}, Getenv: func(name string) string {
		return map[string]string{"DISPATCHD_ADMIN": "http://" + w.addr[1], "DISPATCHD_ADMIN_TOKEN_FILE": tokenFile}[name]
	}}
	code := cli.Run(w.t.Context(), args, env)
	return fmt.Sprintf("$ dispatchd %s\n%s(exit %d)\n", strings.Join(args, " "), out.String(), code)
}

// tellTale answers with everything that it was sent, as some receivers do.
func tellTale(code int) receiver.Behaviour {
	return func(w http.ResponseWriter, r *http.Request) int {
		w.WriteHeader(code)
		fmt.Fprintf(w, "cannot work with %v", r.Header)
		return code
	}
}

// repeatedByORCID lets ORCID refuse registrations and repeat the access token
// that it was shown: in answers of all kinds, and as it does with one that ended.
func (w *world) repeatedByORCID() {
	w.t.Helper()
	w.registered(clientMain, w.users...)
	for _, f := range []sim.Fault{
		{Kind: sim.FaultStatus, Status: http.StatusInternalServerError, Body: "no " + strings.Join(w.orcid.Tokens(clientMain), " "), Count: 2},
		{Kind: sim.FaultUnauthorized, Count: 1},
	} {
		f.Operation = "put"
		_, err := w.orcid.InjectFault(f)
		w.must(err)
	}
	w.ask("POST", "/v1/registrations/rearm", object{"all": true}, nil)
	w.eventually("ORCID repeated the access token", func() bool {
		puts := w.orcid.Counters().Requests["put"]
		return puts[http.StatusUnauthorized] == 1 && puts[http.StatusInternalServerError] == 2
	})
}

// No secret is in the log, in a metric, in an answer or on a terminal, also
// when the other side repeats what it was given.
func TestNothingSecretIsShown(t *testing.T) {
	t.Parallel()
	const apikey, smtpPassword, header, unquoted = "apikey-9f27d1c0", "smtp-p4ssw0rd-55aa", "header-value-31cc", "unquoted9secret7text"
	mail, smtp := mailServer(t, smtpsink.Options{Username: "hub", Password: smtpPassword})
	w := newWorld(t, setting{users: 6, more: smtp, later: true, delivery: []string{`retry = ["50ms","50ms","50ms"]`}})
	_, err := w.orcid.InjectFault(sim.Fault{Operation: "token", Kind: sim.FaultStatus, Status: http.StatusInternalServerError, Body: "the secret " + secretMain + " is too good", Count: 1})
	w.must(err)
	mail.Refuse(smtpsink.Refusal{Stage: smtpsink.AtAuth, Code: 535, Text: "the password " + smtpPassword + " is wrong", Count: 2})
	w.start()
	w.organisation("uni-a", object{
		"webhook": object{"enabled": true, "url": w.recv.URL() + "/uni-a", "apikey": apikey, "headers": object{"X-Key": header}},
		"email":   object{"enabled": true, "mode": "each"},
		"api":     object{"client_id": "uni-a", "client_secret": "hub-api-s3cret-771"},
	})
	w.recv.Behave(receiver.Script(tellTale(500), tellTale(400), tellTale(400), tellTale(400), receiver.OK()))
	w.affiliate("uni-a", w.users...)
	w.pingAll(len(w.users), w.users)
	w.eventually("ORCID was asked for a token twice", func() bool { return w.orcid.Counters().Requests["token"][http.StatusInternalServerError] == 1 })
	w.eventually("webhooks are sent", func() bool { return len(w.taken("uni-a")) > 0 })
	equally(w, "mails", len(w.users), mail.Count)
	w.ask("POST", "/v1/organisations/uni-a/test", object{}, nil)
	w.repeatedByORCID()

	secrets := map[string]string{
		"the apikey": apikey, "a header's value": header, "the SMTP password": smtpPassword, "the client secret": secretMain,
		"the other client secret": secretOther, "the admin token": w.d.token, "the Hub API secret": "hub-api-s3cret-771", "an unquoted secret": unquoted,
	}
	c, err := config.Load(w.configPath())
	w.must(err)
	_, err = config.EnsureKeys(c)
	w.must(err)
	secrets["the master key"], secrets["the callback key"] = c.MasterKey.Reveal(), c.CallbackKeys[0].Reveal()
	shown, err := w.d.app.service.Secrets(t.Context(), service.By{Who: "test"}, "uni-a")
	w.must(err)
	secrets["the signing secret"] = shown["signing_secret"].Reveal()
	for _, id := range w.users {
		u := w.url(id)
		secrets["the callback token of "+id.String()] = u[strings.LastIndexByte(u, '/')+1:]
	}

	// Everything that can be asked.
	for _, path := range []string{
		"/metrics", "/healthz", "/readyz", "/v1/status", "/v1/ledger", "/v1/credentials", "/v1/jobs", "/v1/registrations", "/v1/log-level",
		"/v1/organisations", "/v1/organisations/uni-a", "/v1/organisations/uni-a/users", "/v1/organisations/uni-a/attempts",
		"/v1/organisations/uni-a/attempts?channel=email", "/v1/organisations/uni-a/dead-letters", "/v1/users/" + w.users[0].String(),
	} {
		if status, raw := w.raw("GET", path, nil); status != http.StatusOK {
			t.Errorf("GET %s answered %d %s", path, status, raw)
		}
	}
	var terminal strings.Builder
	for _, line := range []string{
		"status", "ledger", "health", "org list", "org show uni-a", "org set uni-a name=B", "user list uni-a", "user show " + w.users[0].String(),
		"delivery log uni-a", "delivery list uni-a --dead", "credential list", "credential show main", "job list", "reload", "org test uni-a", "status --json",
	} {
		terminal.WriteString(w.run(strings.Fields(line)...))
	}
	terminal.WriteString(c.Show())
	// Mistakes in the file that holds them.
	good, err := os.ReadFile(w.configPath())
	w.must(err)
	for _, bad := range []string{
		strings.Replace(string(good), `client_secret = "`+secretMain+`"`, "client_secret = "+unquoted, 1),
		strings.Replace(string(good), `client_secret = "`+secretMain+`"`, "client_secert = \""+secretMain+"\"", 1),
		strings.Replace(string(good), `password = "`+smtpPassword+`"`, "password = [\""+smtpPassword+"\"]", 1),
	} {
		w.must(os.WriteFile(w.configPath(), []byte(bad), 0o600))
		terminal.WriteString(w.run("reload"))
	}
	w.must(os.WriteFile(w.configPath(), good, 0o600))
	if status := w.api("POST", "/v1/reload", nil, nil); status != http.StatusOK {
		t.Errorf("the reload was answered %d", status)
	}
	pages, more := w.faces(mail, "uni-a", "hub-api-s3cret-771")
	maps.Copy(secrets, more)
	operator, more := w.operatorFaces("uni-a")
	maps.Copy(secrets, more)
	w.raw("GET", "/metrics", nil)
	w.idle()
	for _, client := range []string{clientMain, clientOther} {
		for i, token := range w.orcid.Tokens(client) {
			secrets[fmt.Sprintf("access token %d of %s", i+1, client)] = token
		}
	}
	if secrets["access token 1 of "+clientMain] == "" {
		t.Error("ORCID gave no access token")
	}
	// Mails hold the links that they are for, and nothing else.
	var mails strings.Builder
	for _, m := range mail.Mails() {
		mails.WriteString(strings.ReplaceAll(string(m.Data), secrets["the unsubscribe link"], "(the link)"))
	}

	for _, seen := range []string{"Sign out", "Stop these e-mails?", "No more e-mail", "(the sign-in link)", "(the access token of the API)"} {
		if !strings.Contains(pages, seen) {
			t.Errorf("the test sees no page with %q:\n%s", seen, pages)
		}
	}
	for _, seen := range []string{"Sign out", "Pause registering", "This is not the admin token", "cannot work with", "(the operator's sign-in link)", w.users[0].String()} {
		if !strings.Contains(operator, seen) {
			t.Errorf("the test sees no operator's page with %q:\n%s", seen, operator)
		}
	}
	if !strings.Contains(mails.String(), "uni-a") {
		t.Errorf("the test sees no mail:\n%s", mails.String())
	}
	if !strings.Contains(terminal.String(), "uni-a") || !strings.Contains(w.answers.String(), "cannot work with") {
		t.Errorf("the test sees nothing:\n%s", terminal.String())
	}
	for where, text := range map[string]string{"the log": w.log.String(), "an answer": w.answers.String(), "the terminal": terminal.String(), "a page": pages, "the operator's page": operator, "a mail": mails.String()} {
		for name, value := range secrets {
			for _, form := range []string{value, base64.StdEncoding.EncodeToString([]byte(value)), strings.TrimPrefix(value, "whsec_")} {
				if i := strings.Index(text, form); i >= 0 {
					t.Errorf("%s holds %s: …%s…", where, name, text[max(0, i-200):min(len(text), i+60)])
					break
				}
			}
		}
	}
	leaks := slices.DeleteFunc(w.recv.Requests(), func(r receiver.Request) bool {
		return r.Header.Get("Apikey") == apikey && r.Header.Get("X-Key") == header
	})
	if len(leaks) > 0 {
		t.Errorf("the receiver was not given what it is to be given: %v", leaks[0].Header)
	}
}
