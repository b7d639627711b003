package chaos

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// client talks to the admin listener as an operator's program would.
type client struct {
	base    string // http://host:port
	dataDir string
	token   string
	http    *http.Client
}

func newClient(addr, dataDir string) *client {
	return &client{base: "http://" + addr, dataDir: dataDir, http: &http.Client{
		Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Minute, // an import may be long
	}}
}

// statusError is an answer that was not a success.
type statusError struct {
	status int
	body   string
}

func (e *statusError) Error() string { return fmt.Sprintf("status %d: %s", e.status, e.body) }

// do sends one request and decodes the answer into out, unless that is nil.
func (c *client) do(method, path, contentType string, body, out any) error {
	var r io.Reader
	switch b := body.(type) {
	case nil:
	case io.Reader:
		r = b
	default:
		raw, err := json.Marshal(b)
		if err != nil {
			return err
		}
		r, contentType = bytes.NewReader(raw), "application/json"
	}
	req, err := http.NewRequest(method, c.base+path, r)
	if err != nil {
		return err
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	if strings.HasPrefix(path, "/v1/") {
		if c.token == "" {
			raw, err := os.ReadFile(filepath.Join(c.dataDir, "admin.token"))
			if err != nil {
				return err
			}
			c.token = strings.TrimSpace(string(raw))
		}
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	if res.StatusCode/100 != 2 {
		return fmt.Errorf("%s %s: %w", method, path, &statusError{res.StatusCode, string(raw)})
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	return nil
}

func (c *client) get(path string, out any) error { return c.do(http.MethodGet, path, "", nil, out) }

// channel is what the admin API says about one channel.
type channel struct {
	Channel  string `json:"channel"`
	Enabled  bool   `json:"enabled"`
	Waiting  int    `json:"waiting"`
	InFlight int    `json:"in_flight"`
	Dead     int    `json:"dead_letters"`
	Holds    []struct {
		Hold string `json:"hold"`
	} `json:"holds"`
}

// organisation returns the webhook channel of an organisation.
func (c *client) organisation(id string) (channel, error) {
	var v struct {
		Channels []channel `json:"channels"`
	}
	if err := c.get("/v1/organisations/"+id, &v); err != nil {
		return channel{}, err
	}
	for _, ch := range v.Channels {
		if ch.Channel == "webhook" {
			return ch, nil
		}
	}
	return channel{}, fmt.Errorf("organisation %s shows no webhook channel", id)
}

// books is the part of GET /v1/ledger that is checked.
type ledger struct {
	Balanced    bool     `json:"balanced"`
	Differences []string `json:"differences"`
	Accepted    int64    `json:"accepted"`
	Pending     int64    `json:"pending"`
	Delivered   int64    `json:"delivered"`
	LogEntries  int64    `json:"log_entries"`
	Spool       struct {
		Waiting   int64 `json:"waiting"`
		Received  int64 `json:"received"`
		Coalesced int64 `json:"coalesced"`
	} `json:"spool"`
}

func (c *client) ledger() (ledger, error) {
	var l ledger
	err := c.get("/v1/ledger", &l)
	return l, err
}

// problems returns what GET /v1/status complains about.
func (c *client) problems() ([]string, error) {
	var st struct {
		Problems []struct {
			What string `json:"what"`
		} `json:"problems"`
	}
	if err := c.get("/v1/status", &st); err != nil {
		return nil, err
	}
	out := make([]string, len(st.Problems))
	for i, p := range st.Problems {
		out[i] = p.What
	}
	return out, nil
}

// ready reports whether every check of /readyz is fine.
func (c *client) ready() error {
	var r struct {
		Checks []struct {
			Name   string `json:"name"`
			OK     bool   `json:"ok"`
			Detail string `json:"detail"`
		} `json:"checks"`
	}
	if err := c.get("/readyz", &r); err != nil {
		return err
	}
	if len(r.Checks) == 0 {
		return fmt.Errorf("/readyz lists no check")
	}
	for _, k := range r.Checks {
		if !k.OK {
			return fmt.Errorf("%s: %s", k.Name, k.Detail)
		}
	}
	return nil
}

// metrics returns every sample of /metrics by its name with labels.
func (c *client) metrics() (map[string]float64, error) {
	res, err := c.http.Get(c.base + "/metrics")
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	out := map[string]float64{}
	sc := bufio.NewScanner(res.Body)
	for sc.Scan() {
		line := sc.Text()
		i := strings.LastIndexByte(line, ' ')
		if i < 0 || line[0] == '#' {
			continue
		}
		v, err := strconv.ParseFloat(line[i+1:], 64)
		if err != nil {
			return nil, fmt.Errorf("metric %q: %w", line, err)
		}
		out[line[:i]] = v
	}
	return out, sc.Err()
}
