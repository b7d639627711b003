package hubapi

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"dispatchd/internal/org"
)

// object is a part of the OpenAPI document.
type object = map[string]any

// described is the document, and which of its answers were seen.
type described struct {
	doc  object
	mu   sync.Mutex
	seen map[string]bool
}

func readDocument() (*described, error) {
	d := &described{seen: map[string]bool{}}
	if err := json.Unmarshal(document, &d.doc); err != nil {
		return nil, err
	}
	return d, nil
}

// spec is shared by all tests, so that their answers together can be compared
// with the document.
var spec *described

func TestMain(m *testing.M) {
	var err error
	if spec, err = readDocument(); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(complete{m})
}

// complete fails tests that, all together, did not get every answer of the
// document.
type complete struct{ m *testing.M }

// Run implements goleak.TestingM.
func (c complete) Run() int {
	code := c.m.Run()
	if flag.Lookup("test.run").Value.String() != "" || code != 0 {
		return code
	}
	for _, answer := range spec.unseen() {
		fmt.Println("the OpenAPI document has an answer that no test ever got:", answer)
		code = 1
	}
	return code
}

// part follows keys into the document, and references on the way.
func (d *described) part(from any, keys ...string) object {
	at, _ := from.(object)
	for _, k := range append([]string{""}, keys...) {
		if k != "" {
			at, _ = at[k].(object)
		}
		for at["$ref"] != nil {
			path := strings.Split(strings.TrimPrefix(at["$ref"].(string), "#/"), "/")
			at = d.part(d.doc, path...)
		}
	}
	return at
}

// usual are answers that every route may give.
var usual = []string{"401", "429", "500", "503"}

func (d *described) unseen() (out []string) {
	for path, item := range d.part(d.doc, "paths") {
		for verb, op := range item.(object) {
			if verb == "parameters" {
				continue
			}
			for status := range d.part(op, "responses") {
				key := strings.ToUpper(verb) + " " + path + " " + status
				if !slices.Contains(usual, status) && !d.seen[key] {
					out = append(out, key)
				}
			}
		}
	}
	slices.Sort(out)
	return out
}

// check compares an answer with the document.
func (d *described) check(t testing.TB, method, target, body string, a answer) {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		return
	}
	r, err := parseRoute(u)
	if err != nil || method == "OPTIONS" || a.code == 405 {
		return // answered before any route is known
	}
	verb := strings.ToLower(method)
	if method == "HEAD" {
		verb = "get"
	}
	what := fmt.Sprintf("%s %s %d", strings.ToUpper(verb), r.name, a.code)
	response := d.part(d.doc, "paths", r.name, verb, "responses", fmt.Sprint(a.code))
	if response == nil {
		t.Errorf("the document does not have %s: %s", what, a.body)
		return
	}
	d.mu.Lock()
	d.seen[what] = true
	d.mu.Unlock()
	schema := d.part(response, "content", "application/json", "schema")
	switch {
	case method == "HEAD":
	case schema == nil && a.body != "":
		t.Errorf("%s: the document has no body: %s", what, a.body)
	case schema != nil:
		var v any
		if err := json.Unmarshal([]byte(a.body), &v); err != nil || a.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: %v %s: %s", what, err, a.Header.Get("Content-Type"), a.body)
		} else if err := d.valid(schema, v); err != nil {
			t.Errorf("%s: %v: %s", what, err, a.body)
		}
	}
	// What was sent and taken must be as described as well.
	request := d.part(d.doc, "paths", r.name, verb, "requestBody", "content", "application/json", "schema")
	var v any
	if a.code < 300 && strings.TrimSpace(body) != "" && json.Unmarshal([]byte(body), &v) == nil {
		if request == nil {
			t.Errorf("%s: the document has no request body", what)
		} else if err := d.valid(request, v); err != nil {
			t.Errorf("%s: the request: %v: %s", what, err, body)
		}
	}
}

// valid checks a value against the part of JSON Schema that the document uses.
func (d *described) valid(schema object, v any) error {
	schema = d.part(schema)
	for key := range schema {
		if !slices.Contains([]string{"type", "properties", "required", "additionalProperties", "items", "enum", "const", "oneOf", "description", "format", "minimum", "maximum", "default"}, key) {
			return fmt.Errorf("the schema uses %q, which this test does not know", key)
		}
	}
	if list, ok := schema["oneOf"].([]any); ok {
		n := 0
		for _, one := range list {
			if d.valid(one.(object), v) == nil {
				n++
			}
		}
		if n != 1 {
			return fmt.Errorf("%v fits %d of oneOf", v, n)
		}
	}
	if c, ok := schema["const"]; ok && c != v {
		return fmt.Errorf("%v is not %v", v, c)
	}
	if e, ok := schema["enum"].([]any); ok && !slices.Contains(e, v) {
		return fmt.Errorf("%v is not one of %v", v, e)
	}
	if t, ok := schema["type"]; ok && !fits(t, v) {
		return fmt.Errorf("%v is not of type %v", v, t)
	}
	if text, ok := v.(string); ok && schema["format"] == "date-time" && !dateTime.MatchString(text) {
		return fmt.Errorf("%q is no time", text)
	}
	if list, ok := v.([]any); ok {
		for _, one := range list {
			if err := d.valid(d.part(schema, "items"), one); err != nil {
				return err
			}
		}
	}
	o, ok := v.(object)
	if !ok {
		return nil
	}
	if list, ok := schema["required"].([]any); ok {
		for _, key := range list {
			if _, ok := o[key.(string)]; !ok {
				return fmt.Errorf("%s is missing", key)
			}
		}
	}
	for key, value := range o {
		property := d.part(schema, "properties", key)
		switch {
		case property != nil:
			if err := d.valid(property, value); err != nil {
				return fmt.Errorf("%s: %w", key, err)
			}
		case schema["additionalProperties"] == false:
			return fmt.Errorf("%s is not described", key)
		}
	}
	return nil
}

var dateTime = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$`)

func fits(t, v any) bool {
	if list, ok := t.([]any); ok {
		return slices.ContainsFunc(list, func(one any) bool { return fits(one, v) })
	}
	switch v := v.(type) {
	case nil:
		return t == "null"
	case bool:
		return t == "boolean"
	case string:
		return t == "string"
	case float64:
		return t == "number" || t == "integer" && v == float64(int64(v))
	case []any:
		return t == "array"
	default:
		return t == "object"
	}
}

func TestTheDocumentHasEveryRouteAndVerb(t *testing.T) {
	t.Parallel()
	paths := spec.part(spec.doc, "paths")
	for name, verbs := range endpoints {
		for verb := range verbs {
			if verb != "HEAD" && spec.part(paths, name, strings.ToLower(verb)) == nil {
				t.Errorf("the document does not have %s %s", verb, name)
			}
		}
	}
	ids := map[any]bool{}
	for name, item := range paths {
		for verb, op := range item.(object) {
			if verb == "parameters" {
				continue
			}
			if endpoints[name][strings.ToUpper(verb)] == nil {
				t.Errorf("%s %s is only in the document", verb, name)
			}
			o := op.(object)
			if ids[o["operationId"]] || o["summary"] == nil {
				t.Errorf("%s %s: operationId %v, summary %v", verb, name, o["operationId"], o["summary"])
			}
			ids[o["operationId"]] = true
		}
	}
	if spec.doc["openapi"] != "3.1.0" {
		t.Error(spec.doc["openapi"])
	}
	// Every reference leads somewhere.
	for _, m := range regexp.MustCompile(`"\$ref": "#/([^"]+)"`).FindAllStringSubmatch(string(document), -1) {
		if spec.part(spec.doc, strings.Split(m[1], "/")...) == nil {
			t.Errorf("%s leads nowhere", m[1])
		}
	}
}

func TestTheDocumentIsServedToAnybody(t *testing.T) {
	t.Parallel()
	b := setup(t)
	a := b.send("GET", "/api/openapi.json", "")
	if a.code != 200 || a.body != string(document) || a.Header.Get("Content-Type") != "application/json" {
		t.Errorf("%d %v", a.code, a.Header)
	}
	if a := b.send("HEAD", "/api/openapi.json", ""); a.code != 200 || a.body != "" {
		t.Errorf("HEAD: %d %q", a.code, a.body)
	}
}

// TestEveryAnswerOfTheDocument gets those that no other test has a reason for.
func TestEveryAnswerOfTheDocument(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx := context.Background()
	a := b.as("uni-a")
	big := `{"x":"` + strings.Repeat("x", maxBody) + `"}`
	withURL := "/api/v1/webhook/https%3A%2F%2Fa.example"
	a.want(204, "", "DELETE", withURL, "")
	a.want(200, "-", "POST", "/api/v1/webhook", `{"append-orcid":true}`)
	for _, target := range []string{"PATCH /api/v1/webhook", "POST /api/v1/webhook", "PUT " + withURL} {
		verb, path, _ := strings.Cut(target, " ")
		a.want(400, "-", verb, path, `{"enabled":1}`)
		a.want(413, "-", verb, path, big)
		a.want(415, "-", verb, path, `{"url":"x:"}`)
	}
	a.want(201, "-", "PUT", withURL, `{"enabled":true}`)
	a.want(200, "-", "DELETE", "/api/v1/webhook", "")
	a.want(413, "-", "POST", "/api/v1/webhook/replay", big)
	a.want(415, "-", "POST", "/api/v1/webhook/replay", "all", "Content-Type", "text/plain")
	a.want(413, "-", "PUT", "/api/v1/users/"+josiah, big)
	a.want(415, "-", "DELETE", "/api/v1/users/1234", "")
	b.user("uni-a", josiah)
	a.want(415, "-", "DELETE", "/api/v1/"+josiah+"/webhook/nonsense", "")
	b.must(b.store.Suppress(ctx, orcidID(t, sofia), false))
	a.want(409, "-", "PUT", "/api/v1/users/"+sofia, "{}")
	_, err := b.svc.ApplyFile(ctx, operator, []org.Organisation{{
		ID: "uni-f", Name: "F", Credential: "main", API: org.API{ClientID: "client-uni-f", ClientSecret: secretA + "f"},
		Webhook: org.Webhook{Enabled: true, URL: "https://f.example/x"},
	}})
	b.must(err)
	f := client{b, b.token("uni-f", secretA+"f")}
	for _, target := range []string{"PATCH /api/v1/webhook", "POST /api/v1/webhook", "PUT " + withURL, "DELETE " + withURL} {
		verb, path, _ := strings.Cut(target, " ")
		f.want(403, "-", verb, path, `{"enabled":false}`)
	}
}
