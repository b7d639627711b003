package main

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// below says which of our packages each package may import; tiny ones may be
// imported by everybody. A package that is not listed fails the test, so that
// whoever adds one decides where it stands.
var tiny = []string{
	"internal/event", "internal/orcid", "internal/org", "internal/secret", "internal/safedial", "internal/callback",
	"internal/directory", "internal/signed", "internal/peer",
}

var below = map[string][]string{
	"actors":                   {"internal/register"},
	"config":                   {},
	"config/gen":               {"config"},
	"internal/cli/gen":         {"internal/cli"},
	"internal/event":           {},
	"internal/orcid":           {},
	"internal/org":             {},
	"internal/secret":          {},
	"internal/safedial":        {},
	"internal/callback":        {},
	"internal/directory":       {},
	"internal/signed":          {},
	"internal/peer":            {},
	"internal/register":        {},
	"internal/intake":          {"internal/intake/spool", "internal/hub"},
	"internal/hub":             {},
	"internal/intake/spool":    {},
	"internal/store":           {},
	"internal/fanout":          {"internal/register", "internal/store"},
	"internal/unsubscribe":     {"internal/look", "internal/service"},
	"internal/monthly":         {"internal/store"},
	"internal/liveness":        {"internal/register"},
	"internal/guest":           {"internal/register"},
	"internal/deliver":         {},
	"internal/deliver/webhook": {"internal/deliver"},
	"internal/deliver/email":   {"internal/deliver"},
	"internal/service":         {"internal/store"},
	"internal/admin/page":      {"internal/look", "internal/service", "internal/store"},
	"internal/admin":           {"internal/admin/page", "internal/look", "internal/service", "internal/store"},
	"internal/hubapi":          {"internal/service", "internal/store"},
	"internal/cli":             {"internal/hub", "internal/service", "internal/store"},
	"internal/look":            {},
	"internal/web":             {"internal/service", "internal/store", "internal/look"},
	"internal/browsertest":     {},
	"internal/servicetest":     {},
	"internal/sim":             {},
	"internal/sim/kept":        {},
	"internal/sim/receiver":    {"internal/sim/kept", "internal/sim/selfsigned"},
	"internal/sim/smtpsink":    {"internal/sim/kept", "internal/sim/selfsigned"},
	"internal/sim/selfsigned":  {},
	"internal/redistest":       {},
	"internal/orcidtest":       {},
	"internal/postgrestest":    {},
	"docs":                     {},
	"docs/examples/receive":    {},
}

func TestImportsGoDownOnly(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports", "dispatchd/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	dec := json.NewDecoder(strings.NewReader(string(out)))
	seen := 0
	for {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimPrefix(p.ImportPath, "dispatchd/")
		if strings.HasPrefix(name, "daemon") || strings.HasPrefix(name, "bench") || name == "internal/chaos" {
			continue // the daemon joins everything; bench and chaos drive it from outside
		}
		seen++
		allowed, listed := below[name]
		if !listed {
			t.Errorf("%s is new: say in this test what it may import", name)
			continue
		}
		for _, imp := range p.Imports {
			own, ok := strings.CutPrefix(imp, "dispatchd/")
			if !ok {
				if strings.HasPrefix(imp, "github.com/asynkron/protoactor-go") {
					pkg := strings.TrimPrefix(imp, "github.com/asynkron/protoactor-go/")
					if name != "actors" || pkg != "actor" && pkg != "eventstream" {
						t.Errorf("%s imports %s: protoactor stays inside actors, and only actor and eventstream", name, imp)
					}
				}
				continue
			}
			if !slices.Contains(allowed, own) && !slices.Contains(tiny, own) {
				t.Errorf("%s must not import %s", name, own)
			}
		}
	}
	if seen < 15 {
		t.Fatalf("only %d packages seen", seen)
	}
}
