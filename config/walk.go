package config

import (
	"cmp"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"dispatchd/internal/org"
)

// join of a path and a key. Keys that are not bare are quoted, so that a path
// never has control characters.
func below(path, key string) string {
	bare := key != ""
	for i := range len(key) {
		bare = bare && isBare(key[i])
	}
	if !bare {
		key = strconv.Quote(clip(key))
	}
	if path == "" {
		return key
	}
	return path + "." + key
}

// clip keeps an error readable whatever was fed in.
func clip(s string) string {
	if len(s) > 64 {
		return strings.ToValidUTF8(s[:64], "") + "…"
	}
	return s
}

// note remembers where a key stands.
func (r *reader) note(path string, at *node) {
	if at == nil {
		return
	}
	r.lines[path] = at.line
	r.sources[path] = fmt.Sprintf("%s:%d", r.file, at.line)
}

// table fills a struct from a table and reports every key that it does not know.
func (r *reader) table(path string, raw map[string]any, at *node, into reflect.Value) {
	list := fields(into.Type())
	keys := slices.SortedFunc(maps.Keys(raw), func(a, b string) int {
		return cmp.Or(cmp.Compare(lineOf(at.key(a)), lineOf(at.key(b))), cmp.Compare(a, b))
	})
	for _, key := range keys {
		r.note(below(path, key), at.key(key))
	}
	for _, key := range keys {
		i := slices.IndexFunc(list, func(f field) bool {
			return key == f.name || f.secret() && key == f.name+"_file"
		})
		if i < 0 {
			r.unknown(path, key, list)
			continue
		}
		if f := &list[i]; !f.secret() {
			r.value(below(path, key), raw[key], at.key(key), into.Field(f.index))
		}
	}
	for i := range list {
		if list[i].secret() {
			r.secret(path, &list[i], raw, into.Field(list[i].index))
		}
	}
}

func lineOf(n *node) int {
	if n == nil {
		return 0
	}
	return n.line
}

// unknown reports a key and what was probably meant.
func (r *reader) unknown(path, key string, list []field) {
	why := "is not a key of this table"
	if path == "" {
		why = "is not a key"
	}
	if like := nearest(key, names(list)); like != "" {
		why += fmt.Sprintf("; did you mean %s?", like)
	} else if others := tables(key); len(others) > 0 {
		why += "; it belongs in " + strings.Join(others, " or ")
	}
	r.wrong(below(path, key), "%s", why)
}

// value fills one field.
func (r *reader) value(path string, raw any, at *node, into reflect.Value) {
	switch into.Type() {
	case typeDuration:
		r.duration(path, raw, into)
	case typeLevel:
		if s, ok := r.text(path, raw); ok {
			var l slog.Level
			if !slices.Contains([]string{"debug", "info", "warn", "error"}, s) || l.UnmarshalText([]byte(s)) != nil {
				r.wrong(path, `must be "debug", "info", "warn" or "error" (got %q)`, clip(s))
				return
			}
			into.Set(reflect.ValueOf(l))
		}
	case typePrefix:
		r.prefix(path, raw, into)
	case typeOrgs:
		r.organisations(path, raw, at, into)
	case typeCreds:
		r.credentials(path, raw, at, into)
	default:
		r.plain(path, raw, at, into)
	}
}

// plain fills a field by its kind.
func (r *reader) plain(path string, raw any, at *node, into reflect.Value) {
	switch into.Kind() {
	case reflect.String:
		if s, ok := r.text(path, raw); ok {
			into.SetString(s)
		}
	case reflect.Bool:
		if b, ok := raw.(bool); ok {
			into.SetBool(b)
		} else {
			r.wrong(path, "must be true or false, without quotes (got %s)", kind(raw))
		}
	case reflect.Int:
		if n, ok := raw.(int64); ok {
			into.SetInt(n)
		} else {
			r.wrong(path, "must be a whole number, without quotes (got %s)", kind(raw))
		}
	case reflect.Float64:
		switch n := raw.(type) {
		case int64:
			into.SetFloat(float64(n))
		case float64:
			into.SetFloat(n)
		default:
			r.wrong(path, "must be a number, without quotes (got %s)", kind(raw))
		}
	case reflect.Slice:
		items, ok := elements(raw)
		if !ok {
			r.wrong(path, "must be a list in [ ] (got %s)", kind(raw))
			return
		}
		out := reflect.MakeSlice(into.Type(), len(items), len(items))
		for i, item := range items {
			here := fmt.Sprintf("%s[%d]", path, i)
			r.note(here, at.item(i))
			r.value(here, item, at.item(i), out.Index(i))
			r.bad[path] = r.bad[path] || r.bad[here]
		}
		into.Set(out)
	case reflect.Map:
		table, ok := raw.(map[string]any)
		if !ok {
			r.wrong(path, "must be a table (got %s)", kind(raw))
			return
		}
		out := reflect.MakeMapWithSize(into.Type(), len(table))
		for _, key := range slices.Sorted(maps.Keys(table)) {
			here := below(path, key)
			r.note(here, at.key(key))
			if s, ok := r.text(here, table[key]); ok {
				out.SetMapIndex(reflect.ValueOf(key), reflect.ValueOf(s))
			}
		}
		into.Set(out)
	case reflect.Struct:
		if table, ok := raw.(map[string]any); ok {
			r.table(path, table, at, into)
		} else {
			r.wrong(path, "must be a table (got %s)", kind(raw))
		}
	}
}

func (r *reader) text(path string, raw any) (string, bool) {
	s, ok := raw.(string)
	if !ok {
		r.wrong(path, "must be text in quotes (got %s)", kind(raw))
	}
	return s, ok
}

func (r *reader) duration(path string, raw any, into reflect.Value) {
	if n, ok := raw.(int64); ok {
		r.wrong(path, `%s, in quotes (got the number %d)`, errDuration, n)
		return
	}
	s, ok := raw.(string)
	if !ok {
		r.wrong(path, "%s, in quotes (got %s)", errDuration, kind(raw))
		return
	}
	d, err := ParseDuration(s)
	if err != nil {
		r.wrong(path, "%s (got %q)", err, clip(s))
		return
	}
	into.Set(reflect.ValueOf(d))
}

func (r *reader) prefix(path string, raw any, into reflect.Value) {
	s, ok := r.text(path, raw)
	if !ok {
		return
	}
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		r.wrong(path, "must be a network such as 10.1.0.0/16 (got %q)", clip(s))
	case p.Addr().Is4In6():
		r.wrong(path, "must be written as an IPv4 network (got %q)", clip(s))
	case p != p.Masked():
		r.wrong(path, "has bits set beyond its length; did you mean %s? (got %q)", p.Masked(), clip(s))
	default:
		into.Set(reflect.ValueOf(p))
	}
}

func (r *reader) credentials(path string, raw any, at *node, into reflect.Value) {
	all, ok := raw.(map[string]any)
	if !ok {
		r.wrong(path, "must be tables [orcid.credential.NAME] (got %s)", kind(raw))
		return
	}
	out := make(map[string]Credential, len(all))
	for _, name := range slices.Sorted(maps.Keys(all)) {
		here := below(path, name)
		r.note(here, at.key(name))
		table, ok := all[name].(map[string]any)
		if !ok {
			r.wrong(here, "must be a table [orcid.credential.NAME] (got %s)", kind(all[name]))
			continue
		}
		if !org.ValidID(name) {
			r.wrong(here, "the name must be 1 to 64 lower-case letters, digits and inner hyphens")
		}
		var c Credential
		r.table(here, table, at.key(name), reflect.ValueOf(&c).Elem())
		out[name] = c
	}
	into.Set(reflect.ValueOf(out))
}

func (r *reader) organisations(path string, raw any, at *node, into reflect.Value) {
	items, ok := elements(raw)
	if !ok {
		r.wrong(path, "must be written [[organisation]], with two brackets (got %s)", kind(raw))
		return
	}
	r.ids = make([]string, len(items))
	out := make([]org.Organisation, len(items))
	for i, item := range items {
		here := fmt.Sprintf("%s[%d]", path, i)
		r.note(here, at.item(i))
		table, ok := item.(map[string]any)
		if !ok {
			r.wrong(here, "must be a table (got %s)", kind(item))
			continue
		}
		r.ids[i], _ = table["id"].(string)
		o := defaultOrganisation()
		r.table(here, table, at.item(i), reflect.ValueOf(&o).Elem())
		if !r.given(here + ".webhook.enabled") {
			o.Webhook.Enabled = o.Webhook.URL != ""
		}
		out[i] = o.toOrg()
	}
	into.Set(reflect.ValueOf(out))
}

// elements returns the elements of a TOML array of either Go type.
func elements(raw any) ([]any, bool) {
	switch list := raw.(type) {
	case []any:
		return list, true
	case []map[string]any:
		out := make([]any, len(list))
		for i, m := range list {
			out[i] = m
		}
		return out, true
	}
	return nil, false
}

// kind names what stands in the file, never the value: it may be a secret.
func kind(raw any) string {
	switch raw.(type) {
	case string:
		return "text"
	case bool:
		return "true or false"
	case int64:
		return "a number"
	case float64:
		return "a number with a decimal point"
	case []any, []map[string]any:
		return "a list"
	case map[string]any:
		return "a table"
	case time.Time:
		return "a date or time"
	}
	return "something else"
}
