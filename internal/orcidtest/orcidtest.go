// Package orcidtest starts a fake ORCID that was written apart from ours, in
// Python, with rules and books of its own: what it counted says more than what
// our simulator, which shares our understanding, would.
package orcidtest

import (
	"bufio"
	"bytes"
	"context"
	_ "embed" // orcid.py
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

//go:embed orcid.py
var source []byte

// Server is a running fake.
type Server struct {
	URL string

	t    testing.TB
	http *http.Client
}

// Row is a webhook that somebody registered.
type Row struct {
	ORCID  string `json:"orcid"`
	URI    string `json:"uri"`
	Client string `json:"client"`
}

// State is what came to the fake and what it made of it.
type State struct {
	Rows []Row `json:"rows"`
	// Counts says how often an operation (put, delete, get, token) was answered
	// with a status, as "put 201".
	Counts map[string]int `json:"counts"`
	// Repeated are PUTs of a row that was there, or had been tried before.
	Repeated int `json:"repeated"`
	// Repeats says of each of them which request the first PUT of its row was, as
	// Requests counts them.
	Repeats []int `json:"repeats"`
	// Requests is how many came to the API, tokens apart.
	Requests int `json:"requests"`
	// Peak is the most requests that came in any one second, tokens apart.
	Peak int `json:"peak"`
	// Foreign are the iDs of DELETEs by a client that does not own the row.
	Foreign []string `json:"foreign"`
}

// Start runs the fake with these clients (id and secret) until the test ends.
// Without python3 the test is skipped, in CI it fails.
func Start(t testing.TB, clients map[string]string) *Server {
	t.Helper()
	python, err := exec.LookPath("python3")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("python3 is missing: the fake ORCID of the tests is written in it")
		}
		t.Skip("python3 is missing")
	}
	script := filepath.Join(t.TempDir(), "orcid.py")
	if err := os.WriteFile(script, source, 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{script}
	for id, secret := range clients {
		args = append(args, id+":"+secret)
	}
	cmd := exec.CommandContext(context.Background(), python, args...) //nolint:gosec // what LookPath found, with our own script
	in, err := cmd.StdinPipe()                                        // closing it ends the fake, also when this process dies
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var trouble bytes.Buffer
	cmd.Stderr = &trouble
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the fake ORCID: %v\n%s", err, trouble.Bytes())
		}
	})
	port, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the fake ORCID did not start: %v\n%s", err, trouble.Bytes())
	}
	s := &Server{URL: "http://127.0.0.1:" + strings.TrimSpace(port), t: t, http: &http.Client{
		Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true},
	}}
	return s
}

// State asks the fake what came.
func (s *Server) State() State {
	s.t.Helper()
	var st State
	s.ask(http.MethodGet, "/_state", nil, &st)
	return st
}

// Deactivate makes ORCID refuse these clients, and take all others again.
func (s *Server) Deactivate(clients ...string) { s.post("/_off", append([]string{}, clients...)) }

// Refusal is an answer of the token endpoint: an error of OAuth.
type Refusal struct {
	Status int
	Error  string
	Text   string
}

// RefuseTokens makes the token endpoint refuse these clients, and serve all others
// again.
func (s *Server) RefuseTokens(clients map[string]Refusal) {
	body := map[string][]any{}
	for id, r := range clients {
		body[id] = []any{r.Status, r.Error, r.Text}
	}
	s.post("/_refuse", body)
}

// Fail makes every request of these operations be answered with a status.
func (s *Server) Fail(operations map[string]int) { s.post("/_fail", operations) }

func (s *Server) post(path string, body any) {
	s.t.Helper()
	raw, err := json.Marshal(body)
	if err != nil {
		s.t.Fatal(err)
	}
	s.ask(http.MethodPost, path, raw, &struct{}{})
}

// ask makes one request to the fake's own paths.
func (s *Server) ask(method, path string, body []byte, out any) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), method, s.URL+path, bytes.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	res, err := s.http.Do(req)
	if err != nil {
		s.t.Fatalf("ask the fake ORCID: %v", err)
	}
	defer res.Body.Close()
	if err := json.NewDecoder(res.Body).Decode(out); err != nil || res.StatusCode != http.StatusOK {
		s.t.Fatalf("the fake ORCID answered %s %d: %v", path, res.StatusCode, err)
	}
}
