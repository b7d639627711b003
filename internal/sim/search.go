package sim

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"dispatchd/internal/orcid"
)

const (
	// maxRows is the most that one page of a search may have.
	maxRows = 1000
	// maxClauses is Solr's maxBooleanClauses.
	maxClauses = 1024
)

// found returns the last_modified that search knows at a time.
func (p *profile) found(now stamp, lag time.Duration) stamp {
	if now < p.lastIndexed.plus(lag) {
		return p.searchBefore
	}
	return p.search
}

// query is what a search asks for.
type query struct {
	ids      []orcid.ID // nil asks for all
	listed   bool       // an orcid: clause was there
	from, to stamp      // bounds of last_modified, both included
}

var errQuery = errors.New("the simulator does not know this search")

// clauseRE takes one clause off the front of a query: a field and a word, a
// quoted word, a list, or a range.
var clauseRE = regexp.MustCompile(`^\s*(orcid|profile-last-modified-date|\*)\s*:\s*(\*|"[^"]*"|\([^)]*\)|[\[{][^\]}]*[\]}]|[^\s()]+)\s*`)

// parseQuery understands clauses joined by AND: orcid:X, orcid:(A B C) with or
// without OR, profile-last-modified-date:[A TO B] with NOW and *, and *:*.
func parseQuery(q *query, text string, now stamp) error {
	rest := strings.TrimSpace(text)
	for first := true; rest != ""; first = false {
		if !first {
			after, ok := strings.CutPrefix(rest, "AND ")
			if !ok {
				return errQuery
			}
			rest = after
		}
		rest = strings.TrimSpace(rest)
		m := clauseRE.FindStringSubmatch(rest)
		if m == nil {
			return errQuery
		}
		rest = rest[len(m[0]):]
		var err error
		switch {
		case m[1] == "*" && m[2] == "*":
		case m[1] == "orcid":
			err = q.addIDs(m[2])
		case m[1] == "profile-last-modified-date":
			err = q.addRange(m[2], now)
		default:
			err = errQuery
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// addIDs narrows the query to a list of iDs.
func (q *query) addIDs(text string) error {
	if text == "*" {
		return nil
	}
	words := strings.Fields(strings.Trim(text, `()`))
	var ids []orcid.ID
	clauses := 0
	for _, w := range words {
		if w == "OR" {
			continue
		}
		clauses++
		if id, err := orcid.ParseStrict(strings.Trim(w, `"`)); err == nil {
			ids = append(ids, id) // what is no iD is simply not found
		}
	}
	if clauses > maxClauses {
		return fmt.Errorf("too many boolean clauses: %w", errQuery)
	}
	if q.listed {
		ids = slices.DeleteFunc(ids, func(id orcid.ID) bool { return !slices.Contains(q.ids, id) })
	}
	q.ids, q.listed = ids, true
	return nil
}

// addRange narrows the query to [A TO B]; a brace leaves the bound itself out.
func (q *query) addRange(text string, now stamp) error {
	if text == "*" {
		return nil
	}
	words := strings.Fields(strings.Trim(text, "[]{}"))
	if len(words) != 3 || words[1] != "TO" || !strings.ContainsAny(text[:1], "[{") {
		return errQuery
	}
	from, err := bound(words[0], 0, now)
	if err != nil {
		return err
	}
	to, err := bound(words[2], 1<<62, now)
	if err != nil {
		return err
	}
	if text[0] == '{' {
		from += 1000 // Solr keeps milliseconds
	}
	if text[len(text)-1] == '}' {
		to -= 1000
	}
	q.from, q.to = max(q.from, from), min(q.to, to)
	return nil
}

// bound reads a time, NOW or *.
func bound(s string, open, now stamp) (stamp, error) {
	switch s {
	case "*":
		return open, nil
	case "NOW":
		return now, nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil || !strings.HasSuffix(s, "Z") {
		return 0, fmt.Errorf("time %q: %w", s, errQuery) // Solr takes UTC only
	}
	return stampOf(t), nil
}

// searchAnswer is ORCID's; a search without result has a null list.
type searchAnswer struct {
	Result []searchHit `json:"result"`
	Found  int         `json:"num-found"`
}

type searchHit struct {
	ID searchID `json:"orcid-identifier"`
}

type searchID struct {
	URI  string `json:"uri"`
	Path string `json:"path"`
	Host string `json:"host"`
}

// serveSearch is GET /v3.0/search: iDs only, as the index knows them.
func (r *Registry) serveSearch(w http.ResponseWriter, req *http.Request, t *token) {
	if !acceptsJSON(req) {
		e := newError(406, 9001, "406 Not Acceptable: The simulator makes JSON only.", "Not acceptable.", "")
		writeBody(w, e.Status, "", jsonBytes(e))
		return
	}
	v := req.URL.Query()
	start, okStart := number(v, "start", 0, 1<<31)
	rows, okRows := number(v, "rows", maxRows, maxRows)
	q, err := r.query(v)
	switch {
	case r.clientLocked(t):
		errClientLocked().write(w, req)
	case !t.has(scopeReadPublic):
		errScope().write(w, req)
	case !okStart:
		errBadRequest("'start' parameter should be an integer, 0 or above").write(w, req)
	case !okRows:
		errBadRequest("'rows' parameter should be an integer between 0 and 1000").write(w, req)
	case err != nil:
		errInternal().write(w, req)
	default:
		writeBody(w, http.StatusOK, jsonUTF8, jsonBytes(r.search(q, v.Get("sort"), start, rows)))
	}
}

func (r *Registry) clientLocked(t *token) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return t.client.deactivated != 0
}

// query reads q and every fq.
func (r *Registry) query(v url.Values) (query, error) {
	q := query{to: 1 << 62}
	now := r.now()
	if strings.TrimSpace(v.Get("q")) == "" {
		return q, errQuery
	}
	for _, text := range append([]string{v.Get("q")}, v["fq"]...) {
		if err := parseQuery(&q, text, now); err != nil {
			return q, err
		}
	}
	return q, nil
}

// number reads a parameter between 0 and top.
func number(v url.Values, name string, def, top int) (int, bool) {
	s := v.Get(name)
	if s == "" {
		return def, true
	}
	n, err := strconv.Atoi(s)
	return n, err == nil && n >= 0 && n <= top
}

// match is a hit with what it is sorted by.
type match struct {
	p  *profile
	at stamp
}

// search runs a query over the index. Without an order asked for, the order is
// that of the records' making.
func (r *Registry) search(q query, order string, start, rows int) searchAnswer {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	var hits []match
	test := func(p *profile) {
		at := p.found(now, r.opts.SearchLag)
		// Solr keeps milliseconds, so the bounds are compared in them.
		if at.millis() >= q.from.millis() && at.millis() <= q.to.millis() {
			hits = append(hits, match{p, at})
		}
	}
	if q.listed {
		seen := make(map[orcid.ID]bool, len(q.ids))
		for _, id := range q.ids {
			if p := r.profiles[id.Base()]; p != nil && !seen[id] {
				seen[id] = true
				test(p)
			}
		}
	} else {
		for _, p := range r.all {
			test(p)
		}
	}
	if field, dir, _ := strings.Cut(order, " "); field == "profile-last-modified-date" {
		slices.SortStableFunc(hits, func(a, b match) int {
			if dir == "desc" {
				a, b = b, a
			}
			return int(min(max(a.at-b.at, -1), 1))
		})
	}
	out := searchAnswer{Found: len(hits)}
	start = min(start, len(hits))
	for _, h := range hits[start:min(len(hits), start+rows)] {
		s := h.p.id().String()
		out.Result = append(out.Result, searchHit{searchID{"https://orcid.org/" + s, s, "orcid.org"}})
	}
	return out
}
