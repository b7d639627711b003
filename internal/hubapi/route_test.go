package hubapi

import (
	"net/url"
	"strings"
	"testing"
)

// FuzzRoute: whatever the path, it is a route of the table or none, and a
// callback is never empty on a route that has one.
func FuzzRoute(f *testing.F) {
	for _, path := range []string{
		"/api/v1/webhook", "/api/v1/webhook/undefined", "/api/v1/webhook/https%3A%2F%2Fa.example%2F", "/api/v1/webhook/https:/a.example//x/../y?z=1",
		"/api/v1/" + josiah + "/webhook/https%253A%252F%252Fa.example", "/api/v1.0/users/" + josiah, "/oauth/token/", "/api/v1//webhook", "/api/v1/webhook/%zz", "/api/v1/../webhook",
	} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		u, err := url.Parse(path)
		if err != nil {
			return
		}
		r, err := parseRoute(u)
		if err != nil {
			return
		}
		if endpoints[r.name] == nil {
			t.Errorf("%q: route %q is not in the table", path, r.name)
		}
		if strings.Contains(r.name, "{callback_url}") && r.callback == "" {
			t.Errorf("%q: a callback that is empty", path)
		}
		if strings.Contains(r.name, "{orcid}") && r.orcid.IsZero() && r.orcidErr == nil {
			t.Errorf("%q: an iD that is none passes", path)
		}
	})
}

func TestPathsThatAreNoRoute(t *testing.T) {
	t.Parallel()
	for _, path := range []string{
		"/api/v1", "/api/v1/", "/api/v1/users/", "/api/v2/webhook", "/api/v1/../webhook", "/api/v1//webhook", "/api/v1/" + josiah, "/api/v1/" + josiah + "/webhooks",
		"/api/v1/users/" + josiah + "/webhook", "/oauth/token/x", "/api/v1/users/0000-0000-0000-0001",
	} {
		u, err := url.Parse(path)
		if err != nil {
			t.Fatal(err)
		}
		if r, err := parseRoute(u); err == nil && r.orcidErr == nil {
			t.Errorf("%s is %s", path, r.name)
		}
	}
}
