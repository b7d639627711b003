package sim

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// FaultKind is what goes wrong with a request.
type FaultKind string

// The kinds of faults.
const (
	FaultStatus       FaultKind = "status"       // answers Status with Body, by default 500 and ORCID's error 9008
	FaultHang         FaultKind = "hang"         // answers nothing until the client or the simulator gives up, or Delay passed
	FaultSlow         FaultKind = "slow"         // answers as always, Delay later
	FaultReset        FaultKind = "reset"        // resets the connection
	FaultTruncate     FaultKind = "truncate"     // promises more body than it sends
	FaultRedirect     FaultKind = "redirect"     // answers 302 (or Status) to Location
	FaultUnauthorized FaultKind = "unauthorized" // answers 401 invalid_token whatever the token
)

// Operations that a fault may be limited to; "" and "all" mean any.
const (
	opPut    = "put"
	opDelete = "delete"
	opToken  = "token"
	opRevoke = "revoke"
	opRecord = "record"
	opSearch = "search"
	opStatus = "status"
	opOther  = "other"
)

var operations = [...]string{"", "all", opPut, opDelete, opToken, opRevoke, opRecord, opSearch, opStatus, opOther}

// Fault is something that goes wrong on purpose.
type Fault struct {
	ID        int       `json:"id"`        // set by InjectFault
	Operation string    `json:"operation"` // put, delete, token, revoke, record, search, status, other; empty for all
	Kind      FaultKind `json:"kind"`
	Status    int       `json:"status,omitempty"`
	Body      string    `json:"body,omitempty"`
	// ContentType of Body; empty means text/html.
	ContentType string `json:"content_type,omitempty"`
	// RetryAfter is the header's value; empty sends none.
	RetryAfter string `json:"retry_after,omitempty"`
	Location   string `json:"location,omitempty"`
	// Delay, real time, of slow and hang.
	Delay time.Duration `json:"delay_ns,omitempty"`
	// Count is how many requests it strikes; 0 means until it is removed.
	Count int `json:"count,omitempty"`
	// Ratio is the share of requests it strikes; 0 means all.
	Ratio float64 `json:"ratio,omitempty"`
	// Applied carries the request out before the fault hides its answer, as
	// when ORCID did the work and the answer was lost on the way. A slow fault
	// does so anyway.
	Applied bool `json:"applied,omitempty"`
	// Struck is how many requests it has struck.
	Struck int `json:"struck"`
}

// faults holds what is injected.
type faults struct {
	mu      sync.Mutex
	rng     *rand.Rand
	list    []*Fault
	last    int
	changed chan struct{} // closed and replaced when a fault is removed: hanging requests look again
}

func newFaults(seed uint64) *faults {
	return &faults{rng: rand.New(rand.NewPCG(seed, 0xfa017)), changed: make(chan struct{})}
}

// InjectFault makes requests fail; of several that fit, the oldest strikes.
func (r *Registry) InjectFault(f Fault) (int, error) {
	if !slices.Contains(operations[:], f.Operation) {
		return 0, fmt.Errorf("operation must be one of %q (got %q)", operations, f.Operation)
	}
	switch f.Kind {
	case FaultStatus, FaultHang, FaultReset, FaultTruncate, FaultUnauthorized:
	case FaultSlow:
		if f.Delay <= 0 {
			return 0, errors.New("a slow fault needs a delay")
		}
	case FaultRedirect:
		if f.Location == "" {
			return 0, errors.New("a redirect fault needs a location")
		}
	default:
		return 0, fmt.Errorf("unknown kind of fault %q", f.Kind)
	}
	if f.Status != 0 && (f.Status < 200 || f.Status > 999) {
		return 0, fmt.Errorf("status must be 200 to 999 (got %d)", f.Status)
	}
	if f.Ratio < 0 || f.Ratio > 1 || f.Count < 0 || f.Delay < 0 {
		return 0, errors.New("ratio must be 0 to 1, count and delay not negative")
	}
	r.faults.mu.Lock()
	defer r.faults.mu.Unlock()
	r.faults.last++
	f.ID, f.Struck = r.faults.last, 0
	r.faults.list = append(r.faults.list, &f)
	return f.ID, nil
}

// Faults lists what is injected.
func (r *Registry) Faults() []Fault {
	r.faults.mu.Lock()
	defer r.faults.mu.Unlock()
	out := make([]Fault, len(r.faults.list))
	for i, f := range r.faults.list {
		out[i] = *f
	}
	return out
}

// ClearFault removes one fault, or all for 0, and lets hanging requests go.
func (r *Registry) ClearFault(id int) {
	f := r.faults
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list = slices.DeleteFunc(f.list, func(x *Fault) bool { return id == 0 || x.ID == id })
	close(f.changed)
	f.changed = make(chan struct{})
}

// strike returns the fault that hits a request, and what is closed when it is
// removed.
func (f *faults) strike(op string) (*Fault, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, x := range f.list {
		if x.Operation != "" && x.Operation != "all" && x.Operation != op || x.Count > 0 && x.Struck >= x.Count ||
			x.Ratio > 0 && f.rng.Float64() >= x.Ratio {
			continue
		}
		x.Struck++
		hit := *x
		return &hit, f.changed
	}
	return nil, nil
}

// serve answers as the fault has it. It returns false for a slow fault, after
// its delay: then the request is answered as always.
func (f *Fault) serve(w http.ResponseWriter, req *http.Request, gone <-chan struct{}) bool {
	switch f.Kind {
	case FaultHang:
		var over <-chan time.Time
		if f.Delay > 0 {
			t := time.NewTimer(f.Delay)
			defer t.Stop()
			over = t.C
		}
		select {
		case <-req.Context().Done():
		case <-gone:
		case <-over:
		}
		panic(http.ErrAbortHandler)
	case FaultSlow:
		t := time.NewTimer(f.Delay)
		defer t.Stop()
		select {
		case <-req.Context().Done():
			panic(http.ErrAbortHandler)
		case <-t.C:
		}
		return false
	case FaultReset:
		resetConn(w)
	case FaultTruncate:
		w.Header().Set("Content-Type", jsonUTF8)
		w.Header().Set("Content-Length", "1000")
		w.WriteHeader(f.status(http.StatusOK))
		_, _ = w.Write([]byte(`{"access_tok`))    // cut off anyway
		_ = http.NewResponseController(w).Flush() // likewise
		panic(http.ErrAbortHandler)
	case FaultRedirect:
		w.Header().Set("Location", f.Location)
		writeBody(w, f.status(http.StatusFound), "text/html", nil)
	case FaultUnauthorized:
		writeInvalidToken(w, bearerText(req))
	case FaultStatus:
		if f.RetryAfter != "" {
			w.Header().Set("Retry-After", f.RetryAfter)
		}
		if f.Status == 0 && f.Body == "" {
			errInternal().write(w, req)
			break
		}
		kind := f.ContentType
		if kind == "" {
			kind = "text/html"
		}
		status := f.status(http.StatusInternalServerError)
		if status == http.StatusNoContent || status == http.StatusNotModified {
			w.WriteHeader(status)
			break
		}
		writeBody(w, status, kind, []byte(f.Body))
	}
	return true
}

func (f *Fault) status(def int) int {
	if f.Status != 0 {
		return f.Status
	}
	return def
}

// resetConn ends the connection with a RST, or plainly where it cannot.
func resetConn(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // without it the close is a FIN, also a fault
	}
	_ = conn.Close() // broken off on purpose
}
