package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// do sends a request to the admin listener, as an operator's program would, and
// decodes the answer into out unless that is nil.
func (r *rig) do(ctx context.Context, method, path, contentType string, body io.Reader, out any) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+r.admin+path, body)
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	if strings.HasPrefix(path, "/v1/") || strings.HasPrefix(path, "/debug/") {
		req.Header.Set("Authorization", "Bearer "+r.token)
	}
	res, err := r.http.Do(req)
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	if res.StatusCode/100 != 2 {
		return fmt.Errorf("%s %s: status %d: %s", method, path, res.StatusCode, bytes.TrimSpace(raw))
	}
	switch out := out.(type) {
	case nil:
		return nil
	case *[]byte:
		*out = raw
		return nil
	default:
		if err := json.Unmarshal(raw, out); err != nil {
			return fmt.Errorf("%s %s: %w", method, path, err)
		}
		return nil
	}
}

// readToken reads the admin token that the daemon made.
func (r *rig) readToken() error {
	raw, err := os.ReadFile(filepath.Join(r.dir, "data", "admin.token"))
	if err != nil {
		return fmt.Errorf("read the admin token: %w", err)
	}
	r.token = strings.TrimSpace(string(raw))
	return nil
}

func (r *rig) get(ctx context.Context, path string, out any) error {
	return r.do(ctx, http.MethodGet, path, "", nil, out)
}

func (r *rig) put(ctx context.Context, path string, in any) error {
	raw, err := json.Marshal(in)
	if err != nil {
		return err
	}
	return r.do(ctx, http.MethodPut, path, "application/json", bytes.NewReader(raw), nil)
}

// putOrganisation makes organisation o; concurrency 0 is the daemon's default.
func (r *rig) putOrganisation(ctx context.Context, o, concurrency int) error {
	settings := map[string]any{
		"name": "Organisation " + orgName(o), "technical_contact": "it@" + orgName(o) + ".example",
		"webhook": map[string]any{"enabled": true, "url": fmt.Sprintf("http://%s/%d", r.b.receiverAddr, r.firstPath+o)},
	}
	if concurrency > 0 {
		settings["concurrency"] = concurrency
	}
	return r.put(ctx, "/v1/organisations/"+orgName(o), settings)
}

// makers is how many organisations are made at once.
const makers = 4

// each does something for every organisation, some at once.
func (r *rig) each(do func(o int) error) error {
	var next atomic.Int64
	var wg sync.WaitGroup
	errs := make([]error, makers)
	for w := range errs {
		wg.Go(func() {
			for errs[w] == nil {
				o := int(next.Add(1)) - 1
				if o >= r.people.Orgs {
					return
				}
				errs[w] = do(o)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// makeOrganisations makes the organisations and imports their users.
func (r *rig) makeOrganisations(ctx context.Context, concurrency int) error {
	if err := r.each(func(o int) error { return r.putOrganisation(ctx, o, concurrency) }); err != nil {
		return err
	}
	if r.people.Users == 0 {
		return nil
	}
	var total atomic.Int64
	if err := r.each(func(o int) error {
		n, err := r.importUsers(ctx, o, strings.NewReader(r.people.csv(o)), false)
		total.Add(int64(n))
		return err
	}); err != nil {
		return err
	}
	if want := r.people.targets(0, r.people.Users); int(total.Load()) != want {
		return fmt.Errorf("%d affiliations were imported into %s, want %d", total.Load(), r.name, want)
	}
	return nil
}

// importUsers imports a list and returns how many were good.
func (r *rig) importUsers(ctx context.Context, o int, csv io.Reader, announce bool) (int, error) {
	path := "/v1/organisations/" + orgName(o) + "/users"
	if announce {
		path += "?announce=1"
	}
	var report struct{ Added, Known, Bad int }
	if err := r.do(ctx, http.MethodPost, path, "text/csv", csv, &report); err != nil {
		return 0, err
	}
	if report.Bad > 0 {
		return 0, fmt.Errorf("import into %s: %d bad lines", orgName(o), report.Bad)
	}
	return report.Added + report.Known, nil
}

func (r *rig) act(ctx context.Context, o int, verb string) error {
	return r.do(ctx, http.MethodPost, "/v1/organisations/"+orgName(o)+"/"+verb, "", nil, nil)
}

// books is what the daemon's ledger says.
type books struct {
	Accepted   int64 `json:"accepted"`
	Announced  int64 `json:"announced"`
	Targets    int64 `json:"targets"`
	Created    int64 `json:"created"`
	Opened     int64 `json:"opened"`
	Coalesced  int64 `json:"coalesced"`
	Delivered  int64 `json:"delivered"`
	Pending    int64 `json:"pending"`
	LogEntries int64 `json:"log_entries"`
}

func (r *rig) ledger(ctx context.Context) (books, error) {
	var l books
	err := r.get(ctx, "/v1/ledger", &l)
	return l, err
}

// errBacklog says that a run does not count.
var errBacklog = errors.New("the backlog was not empty in time")

// settled waits until ok says that the books are so, and returns when they
// were.
func (r *rig) settled(ctx context.Context, within time.Duration, ok func(books) bool) (time.Time, error) {
	var at time.Time
	var last books
	err := poll(ctx, within, 5*time.Millisecond, func() error {
		asked := time.Now()
		l, err := r.ledger(ctx)
		if err != nil {
			return err
		}
		at, last = asked, l
		if !ok(l) {
			return errBacklog
		}
		return nil
	})
	if errors.Is(err, errBacklog) {
		err = fmt.Errorf("%w (%+v)", err, last)
	}
	return at, err
}

// keys reads the callback keys that the daemon made.
func (r *rig) keys() ([]string, error) {
	raw, err := os.ReadFile(filepath.Join(r.dir, "data", "callback.key"))
	if err != nil {
		return nil, fmt.Errorf("read the callback keys: %w", err)
	}
	return strings.Fields(string(raw)), nil
}

// usage is what the daemon and its Redis have used.
type usage struct{ daemon, redis time.Duration }

func (r *rig) usage() (usage, error) {
	d, err := r.process().cpu()
	if err != nil {
		return usage{}, err
	}
	s, err := r.redis.process().cpu()
	return usage{d, s}, err
}

func (u usage) since(before usage) usage {
	return usage{u.daemon - before.daemon, u.redis - before.redis}
}

func (u usage) sum() time.Duration { return u.daemon + u.redis }
