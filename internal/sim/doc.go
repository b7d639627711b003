// Package sim is a simulated ORCID registry: a real HTTP server for the token
// endpoint, webhook registration, record and search, with ORCID's indexer and
// webhook sender on a virtual clock. Tests, the demo and the benchmark use it
// as ORCID; it promises what ORCID.md says, to the status code and the byte.
//
// # The API of ORCID
//
//	POST   /oauth/token, /oauth/revoke
//	PUT    /{iD}/webhook/{encoded uri}
//	DELETE /{iD}/webhook/{encoded uri}
//	GET    /v3.0/{iD}/record|person|activities|works|summary   (JSON only)
//	GET    /v3.0/search?q=&fq=&sort=&start=&rows=              (JSON only)
//	GET    /v3.0/status
//
// # The control API
//
// Below /_sim/, JSON both ways, without authorization or rate limit. Durations
// are texts like "90s", times are RFC 3339 and virtual. Bodies and their keys
// may be left out. An error is {"error": text} with 400, or 404 for what does
// not exist.
//
//	GET    /_sim/                             this list
//	GET    /_sim/clock                        now, speed, manual
//	POST   /_sim/clock                        {"advance"} runs what comes due (manual clock), {"shift"} does not, {"set"}, {"speed"}
//	GET    /_sim/counters                     exact counts of requests, posts, changes, limits, rows (see Counters)
//	GET    /_sim/ledger                       ?after= &limit=1000 &kind=change|post|put|delete|token|revoke &orcid= → {"entries", "next"}
//	GET    /_sim/webhooks                     ?orcid= &client= &dead=1 &skip= &limit=1000 → {"webhooks", "found"}
//	POST   /_sim/webhooks/register-all        {"client", "url"}: rows without HTTP; {orcid} in url stands for the iD
//	POST   /_sim/webhooks/enable              {"orcid", "uri", "enabled"}
//	GET    /_sim/profiles                     ?skip= &limit=1000 → {"profiles"}
//	POST   /_sim/profiles                     {"count": n} and/or {"orcid": [iDs]} → {"orcid": [iDs]}
//	GET    /_sim/profiles/{iD}                the truth, also what is not public
//	POST   /_sim/profiles/{iD}/change         {"section": "works", "op": "edit", "put_code", "title", "visibility"} → {"put_code"}
//	POST   /_sim/profiles/{iD}/{verb}         lock, unlock, deactivate, reactivate, deprecate {"primary"}, claim, unclaim, touch, grant-token
//	POST   /_sim/change                       {"count": n} random records at once → {"orcid": [iDs]}
//	POST   /_sim/traffic                      {"changes_per_day", "zipf"}
//	POST   /_sim/reindex                      {"count": n or 0 for all, "bump": true} → {"count"}
//	POST   /_sim/index, /_sim/send            one pass of the indexer, one run of the sender, now
//	POST   /_sim/sender                       {"paused", "threads", "replica_lag"}
//	GET    /_sim/clients
//	POST   /_sim/clients                      {"id", "secret", "scopes", "public"}
//	POST   /_sim/clients/{id}/{verb}          deactivate, reactivate, webhooks-off, webhooks-on, revoke-tokens, token {"scopes", "orcid"}, secret {"secret"}
//	GET    /_sim/faults
//	POST   /_sim/faults                       a Fault; "delay" is a duration → {"id"}
//	DELETE /_sim/faults, /_sim/faults/{id}
//
// # What is not as at ORCID
//
// A response body that never ends would stop ORCID's webhook job for ever;
// here it ends after Options.BodyTimeout, is recorded as hung, ends the run,
// and leaves the row as it was. Record and search make JSON only: XML, ORCID's
// default, answers 406. A search query that is none of the known clauses
// answers 500 as a syntax error of Solr does.
package sim

import (
	_ "embed" // the control API lists itself from the documentation above
	"strings"
)

//go:embed doc.go
var docText string

// controlHelp returns the lines above that list the control API.
func controlHelp() []string {
	var out []string
	for line := range strings.Lines(docText) {
		if text := strings.TrimPrefix(line, "//\t"); text != line && strings.Contains(text, " /_sim/") {
			out = append(out, strings.TrimSpace(text))
		}
	}
	return out
}
