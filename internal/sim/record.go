package sim

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"dispatchd/internal/orcid"
)

// node is a piece of ORCID's JSON.
type node = map[string]any

// parts are the resources below /v3.0/{iD}/ that are simulated.
var parts = [...]string{"record", "person", "activities", "works", "summary"}

// serveRecord is GET /v3.0/{iD}/{part}. The order of the checks is ORCID's:
// client, iD, deprecated, unclaimed, locked, deactivated. Only JSON is made.
func (r *Registry) serveRecord(w http.ResponseWriter, req *http.Request, t *token, text, part string) {
	if !slices.Contains(parts[:], part) {
		errNotFound().write(w, req)
		return
	}
	if !acceptsJSON(req) {
		e := newError(406, 9001, "406 Not Acceptable: The simulator makes JSON only.", "Not acceptable.", "")
		writeBody(w, e.Status, "", jsonBytes(e))
		return
	}
	body, failure := r.read(req, t, text, part)
	if failure != nil {
		failure.write(w, req)
		return
	}
	writeBody(w, http.StatusOK, jsonUTF8, jsonBytes(body))
}

// acceptsJSON is true when Accept names JSON; XML is ORCID's default.
func acceptsJSON(req *http.Request) bool { return wantsJSON(req) }

func (r *Registry) read(req *http.Request, t *token, text, part string) (node, *apiError) {
	id, err := orcid.ParseStrict(text)
	r.mu.Lock()
	defer r.mu.Unlock()
	if t.client.deactivated != 0 {
		return nil, errClientLocked()
	}
	p := r.profiles[id.Base()]
	if err != nil || p == nil {
		return nil, errNotFound()
	}
	if failure := r.stateError(p, req); failure != nil {
		return nil, failure
	}
	if req.Method != http.MethodGet {
		return nil, newError(405, 9008, "405 Method Not Allowed: The simulator's records are changed below /_sim/.", "Method not allowed.", "")
	}
	if t.user != 0 && t.user != p.base {
		return nil, errUnauthorized("Access token is for a different record")
	}
	if !t.has(scopeReadPublic) && t.user == 0 {
		return nil, errScope()
	}
	v := p.visible(t.user == p.base && t.user != 0)
	switch part {
	case "person":
		return v.person(), nil
	case "activities":
		return v.activities(), nil
	case "works":
		return v.activity("works"), nil
	case "summary":
		return v.summary(), nil
	}
	return v.record(), nil
}

// stateError is OrcidSecurityManagerImpl.checkProfile.
func (r *Registry) stateError(p *profile, req *http.Request) *apiError {
	switch {
	case p.rec != nil && p.rec.primary != 0:
		primary, err := orcid.FromBase(p.rec.primary)
		if err != nil {
			return errInternal()
		}
		return errDeprecated(req.Method, p.id(), primary, strings.Replace(absolute(req), p.id().String(), primary.String(), 1))
	case p.unclaimed && r.now() < p.created.plus(unclaimedFor):
		return errUnclaimed()
	case p.locked:
		return errLocked(p.id())
	case p.rec != nil && p.rec.deactivated != 0:
		return errDeactivated(p.id())
	}
	return nil
}

// view is a record as one token sees it.
type view struct {
	p     *profile
	items []Item
	path  string // /{iD}
}

// visible returns the view of the person, or of the public.
func (p *profile) visible(own bool) view {
	v := view{p: p, path: "/" + p.id().String()}
	if p.rec != nil {
		for _, it := range p.rec.items {
			if own || it.Visibility == Public {
				v.items = append(v.items, it)
			}
		}
	}
	return v
}

func (v view) of(section string) []Item {
	var out []Item
	for _, it := range v.items {
		if it.Section == section {
			out = append(out, it)
		}
	}
	return out
}

// date is ORCID's {"value": milliseconds}, or null.
func date(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return node{"value": t.UnixMilli()}
}

// latest is the greatest last-modified of items: what is deleted or hidden
// does not raise it.
func latest(items []Item) any {
	var at time.Time
	for _, it := range items {
		if it.Modified.After(at) {
			at = it.Modified
		}
	}
	return date(at)
}

func identifier(id orcid.ID) node {
	return node{"uri": "https://orcid.org/" + id.String(), "path": id.String(), "host": "orcid.org"}
}

func (v view) record() node {
	var deactivated any
	if v.p.rec != nil {
		deactivated = date(v.p.rec.deactivated.time())
	}
	locale := "en"
	if it := v.of(sectionLocale); len(it) > 0 {
		locale = it[0].Title
	}
	return node{
		"orcid-identifier": identifier(v.p.id()),
		"preferences":      node{"locale": locale},
		"history": node{
			"creation-method": "DIRECT", "completion-date": nil, "submission-date": date(v.p.created.time()),
			"last-modified-date": date(v.p.modified.time()), "claimed": !v.p.unclaimed, "source": nil,
			"deactivation-date": deactivated, "verified-email": true, "verified-primary-email": true,
		},
		"person":             v.person(),
		"activities-summary": v.activities(),
		"path":               v.path,
	}
}

// item is what every summary has.
func (v view) item(it Item, path string) node {
	return node{
		"put-code": it.PutCode, "created-date": date(it.Created), "last-modified-date": date(it.Modified),
		"visibility": it.Visibility, "display-index": displayIndex(it), "path": v.path + "/" + path + "/" + strconv.FormatInt(it.PutCode, 10),
		"source": node{
			"source-orcid": identifier(v.p.id()), "source-client-id": nil,
			"source-name": node{"value": "Simulated Researcher"},
		},
	}
}

// displayIndex is a number for the person's sections and a string for works,
// as ORCID has it.
func displayIndex(it Item) any {
	if slices.Contains(personSections[:], it.Section) {
		return it.DisplayIndex
	}
	return strconv.Itoa(it.DisplayIndex)
}

func (v view) person() node {
	out := node{"path": v.path + "/person"}
	var all []Item
	for _, s := range personSections {
		items := v.of(s)
		all = append(all, items...)
		key, list := s, strings.TrimSuffix(s, "s")
		if s == "addresses" {
			list = "address"
		}
		switch s {
		case "name":
			out[key] = v.name(items)
		case "biography":
			out[key] = nil
			if len(items) > 0 {
				out[key] = node{
					"created-date": date(items[0].Created), "last-modified-date": date(items[0].Modified),
					"content": items[0].Title, "visibility": items[0].Visibility, "path": v.path + "/biography",
				}
			}
		default:
			path := map[string]string{"emails": "email", "addresses": "address"}[s]
			if path == "" {
				path = s
			}
			nodes := make([]node, len(items))
			for i, it := range items {
				nodes[i] = v.item(it, path)
				nodes[i]["content"] = it.Title
			}
			out[key] = node{"last-modified-date": latest(items), list: nodes, "path": v.path + "/" + path}
		}
	}
	out["last-modified-date"] = latest(all)
	return out
}

// name is the name node; every record has one.
func (v view) name(items []Item) node {
	given, family := "Given", "Name "+v.p.id().String()[15:]
	created, modified, visibility := v.p.created.time(), v.p.created.time(), Public
	if len(items) > 0 {
		given, created, modified, visibility = items[0].Title, items[0].Created, items[0].Modified, items[0].Visibility
	}
	return node{
		"created-date": date(created), "last-modified-date": date(modified), "given-names": node{"value": given},
		"family-name": node{"value": family}, "credit-name": nil, "source": nil, "visibility": visibility, "path": v.p.id().String(),
	}
}

func (v view) activities() node {
	out := node{"path": v.path + "/activities"}
	var all []Item
	for _, s := range activitySections {
		out[s] = v.activity(s)
		all = append(all, v.of(s)...)
	}
	out["last-modified-date"] = latest(all)
	return out
}

// activity is one section: items in groups, wrapped as each kind is wrapped.
func (v view) activity(section string) node {
	items := v.of(section)
	one := strings.TrimSuffix(section, "s")
	groups := make([]node, len(items))
	for i, it := range items {
		s := v.item(it, one)
		title := node{"title": node{"value": it.Title}}
		group := node{"last-modified-date": date(it.Modified), "external-ids": node{"external-id": []any{}}}
		switch section {
		case "works", "fundings", "research-resources":
			s["title"] = title
			group[one+"-summary"] = []node{s}
		case "peer-reviews":
			s["review-type"] = "review"
			group["peer-review-group"] = []node{{
				"last-modified-date": date(it.Modified), "external-ids": node{"external-id": []any{}}, "peer-review-summary": []node{s},
			}}
		default:
			s["role-title"] = it.Title
			group["summaries"] = []node{{one + "-summary": s}}
		}
		groups[i] = group
	}
	key := "group"
	if !slices.Contains([]string{"works", "fundings", "research-resources", "peer-reviews"}, section) {
		key = "affiliation-group"
	}
	return node{"last-modified-date": latest(items), key: groups, "path": v.path + "/" + section}
}

// summary is the member API's short form: dates and counts.
func (v view) summary() node {
	out := node{
		"orcid-identifier": identifier(v.p.id()), "created-date": date(v.p.created.time()),
		"last-modified-date": date(v.p.modified.time()),
	}
	for _, s := range activitySections {
		out[s] = node{"count": len(v.of(s))}
	}
	return out
}
