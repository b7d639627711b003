package sim

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"dispatchd/internal/orcid"
)

// controlRoutes are the routes below /_sim/, documented in doc.go.
func (r *Registry) controlRoutes() http.Handler {
	mux := http.NewServeMux()
	for pattern, f := range map[string]func(*http.Request) (any, error){
		"GET /_sim/{$}":                      func(*http.Request) (any, error) { return node{"routes": controlHelp()}, nil },
		"GET /_sim/clock":                    func(*http.Request) (any, error) { return r.clockState(), nil },
		"POST /_sim/clock":                   r.postClock,
		"GET /_sim/counters":                 func(*http.Request) (any, error) { return r.Counters(), nil },
		"GET /_sim/ledger":                   r.getLedger,
		"GET /_sim/webhooks":                 r.getWebhooks,
		"POST /_sim/webhooks/register-all":   r.postRegisterAll,
		"POST /_sim/webhooks/enable":         r.postEnable,
		"GET /_sim/profiles":                 r.getProfiles,
		"POST /_sim/profiles":                r.postProfiles,
		"GET /_sim/profiles/{id}":            r.getProfile,
		"POST /_sim/profiles/{id}/change":    r.postChange,
		"POST /_sim/profiles/{id}/{verb}":    r.postState,
		"POST /_sim/change":                  r.postChangeRandom,
		"POST /_sim/traffic":                 r.postTraffic,
		"POST /_sim/reindex":                 r.postReindex,
		"POST /_sim/index":                   func(*http.Request) (any, error) { r.IndexOnce(); return node{}, nil },
		"POST /_sim/send":                    func(req *http.Request) (any, error) { r.SendOnce(req.Context()); return node{}, nil },
		"POST /_sim/sender":                  r.postSender,
		"GET /_sim/clients":                  func(*http.Request) (any, error) { return r.Clients(), nil },
		"POST /_sim/clients":                 r.postClients,
		"POST /_sim/clients/{client}/{verb}": r.postClient,
		"GET /_sim/faults":                   func(*http.Request) (any, error) { return r.Faults(), nil },
		"POST /_sim/faults":                  r.postFault,
		"DELETE /_sim/faults":                func(*http.Request) (any, error) { r.ClearFault(0); return node{}, nil },
		"DELETE /_sim/faults/{fault}":        r.deleteFault,
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, req *http.Request) { control(w, req, f) })
	}
	return mux
}

// control runs one route and answers JSON: 200, 404 for what does not exist,
// 400 for what cannot be done.
func control(w http.ResponseWriter, req *http.Request, f func(*http.Request) (any, error)) {
	req.Body = http.MaxBytesReader(w, req.Body, 16<<20)
	v, err := f(req)
	status := http.StatusOK
	if err != nil {
		status, v = http.StatusBadRequest, node{"error": err.Error()}
		if errors.Is(err, ErrUnknown) {
			status = http.StatusNotFound
		}
	}
	writeBody(w, status, "application/json", jsonBytes(v))
}

// decode reads a JSON body, which may be left out; unknown keys are errors.
func decode(req *http.Request, v any) error {
	d := json.NewDecoder(req.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read the body: %w", err)
	}
	return nil
}

func pathID(req *http.Request) (orcid.ID, error) {
	id, err := orcid.Parse(req.PathValue("id"))
	if err != nil {
		return id, fmt.Errorf("read the iD: %w", err)
	}
	return id, nil
}

// intParam reads a number from the query string.
func intParam(req *http.Request, name string, def int) (int, error) {
	s := req.URL.Query().Get(name)
	if s == "" {
		return def, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%s must be a number, 0 or above (got %q)", name, s)
	}
	return n, nil
}

// duration reads a duration; an empty text is none.
func duration(name, text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%s must be a duration like 90s or 24h (got %q)", name, text)
	}
	return d, nil
}

func (r *Registry) clockState() node {
	return node{"now": r.Now(), "speed": r.clock.getSpeed(), "manual": r.opts.Manual}
}

func (r *Registry) postClock(req *http.Request) (any, error) {
	var in struct {
		Advance, Shift string
		Set            time.Time
		Speed          float64
	}
	if err := decode(req, &in); err != nil {
		return nil, err
	}
	if in.Speed != 0 {
		if err := r.SetSpeed(in.Speed); err != nil {
			return nil, err
		}
	}
	shift, err := duration("shift", in.Shift)
	if err != nil {
		return nil, err
	}
	advance, err := duration("advance", in.Advance)
	if err != nil {
		return nil, err
	}
	r.Shift(shift)
	r.AdvanceContext(req.Context(), advance)
	if !in.Set.IsZero() {
		d := in.Set.Sub(r.Now())
		if d < 0 {
			return nil, fmt.Errorf("the clock does not go back (it is %s)", r.Now().Format(time.RFC3339))
		}
		r.AdvanceContext(req.Context(), d)
	}
	return r.clockState(), nil
}

func (r *Registry) getLedger(req *http.Request) (any, error) {
	after, err := intParam(req, "after", 0)
	if err != nil {
		return nil, err
	}
	limit, err := intParam(req, "limit", 1000)
	if err != nil {
		return nil, err
	}
	v := req.URL.Query()
	var base uint64
	if s := v.Get("orcid"); s != "" {
		id, err := orcid.Parse(s)
		if err != nil {
			return nil, fmt.Errorf("read the iD: %w", err)
		}
		base = id.Base()
	}
	kind := Kind(v.Get("kind"))
	entries, next := r.ledger.after(int64(after), limit, func(e Entry) bool {
		return (kind == "" || e.Kind == kind) && (base == 0 || e.base == base)
	})
	if entries == nil {
		entries = []Entry{}
	}
	return node{"entries": entries, "next": next}, nil
}

func (r *Registry) getWebhooks(req *http.Request) (any, error) {
	v := req.URL.Query()
	var list []Webhook
	if s := v.Get("orcid"); s != "" {
		id, err := orcid.Parse(s)
		if err != nil {
			return nil, fmt.Errorf("read the iD: %w", err)
		}
		if list, err = r.WebhooksOf(id); err != nil {
			return nil, err
		}
	} else {
		list = r.Webhooks()
	}
	skip, err := intParam(req, "skip", 0)
	if err != nil {
		return nil, err
	}
	limit, err := intParam(req, "limit", 1000)
	if err != nil {
		return nil, err
	}
	clientID, dead := v.Get("client"), v.Get("dead") != ""
	out, found := []Webhook{}, 0
	for _, h := range list {
		if clientID != "" && h.Client != clientID || dead && !h.Dead {
			continue
		}
		if found++; found > skip && len(out) < limit {
			out = append(out, h)
		}
	}
	return node{"webhooks": out, "found": found}, nil
}

func (r *Registry) postRegisterAll(req *http.Request) (any, error) {
	var in struct{ Client, URL string }
	if err := decode(req, &in); err != nil {
		return nil, err
	}
	if in.URL == "" {
		return nil, errors.New("url must not be empty; {orcid} in it stands for the iD")
	}
	n, err := r.RegisterAll(in.Client, func(id orcid.ID) string { return strings.ReplaceAll(in.URL, "{orcid}", id.String()) })
	return node{"registered": n}, err
}

func (r *Registry) postEnable(req *http.Request) (any, error) {
	var in struct {
		ORCID   orcid.ID
		URI     string
		Enabled bool
	}
	if err := decode(req, &in); err != nil {
		return nil, err
	}
	return node{}, r.EnableWebhook(in.ORCID, in.URI, in.Enabled)
}
