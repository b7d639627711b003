package store

import (
	"fmt"

	"github.com/redis/go-redis/v9"
)

// A run of a script costs Redis and us some ten microseconds before it does
// anything, and work is spread over many partitions, so that a call often
// carries a single slot or user. On one server, where any script reaches every
// partition, the calls of one script therefore go together as one run of its
// bundled form, which runs them one after the other as if each had been sent:
// each compares its mark, and the error of one is its own. A Redis Cluster
// keeps partitions on different servers and gets them one by one.

// bundleArgs is how many keys and arguments one run carries at most, unless a
// single call has more: a run delays everybody else's.
const bundleArgs = 4000

// bundled makes the text of a script's bundled form. KEYS are the marks of all
// calls, then the other keys of each; ARGV is how many calls, our mark, then per
// call how many keys, how many arguments, and the arguments.
func bundled(functions, body string) string {
	return functions + "\nlocal function one(KEYS, ARGV, mark)\n" + markCheck + body + `
end
local calls, ours = tonumber(ARGV[1]), ARGV[2]
local marks = redis.call('MGET', unpack(KEYS, 1, calls))
local out, k, a = {}, calls, 2
for call = 1, calls do
  local nk, na = tonumber(ARGV[a + 1]), tonumber(ARGV[a + 2])
  a = a + 2
  local ok, res = pcall(one, {KEYS[call], unpack(KEYS, k + 1, k + nk)}, {ours, unpack(ARGV, a + 1, a + na)}, marks[call])
  k, a = k + nk, a + na
  if not ok then
    res = failed(res)
  elseif res == nil then
    res = false
  end
  out[call] = res
end
return out
`
}

// bundles cuts the calls into those that may go as one run.
func (s *Store) bundles(calls []*call) [][]*call {
	out := make([][]*call, 0, 4)
	size := 0
	for _, c := range calls {
		n := len(c.keys) + len(c.args)
		last := len(out) - 1
		if last < 0 || s.cluster || s.embedded || out[last][0].script != c.script || size+n > bundleArgs {
			out, size = append(out, nil), 0
			last++
		}
		out[last] = append(out[last], c)
		size += n
	}
	return out
}

// bundleCommand is command for several calls of one script.
func (s *Store) bundleCommand(calls []*call, mark string, whole bool) []any {
	sc := calls[0].script
	keys, size := 0, 5
	for _, c := range calls {
		keys += len(c.keys) + 1
		size += len(c.keys) + len(c.args) + 3
	}
	out := make([]any, 0, size)
	if whole {
		out = append(out, "EVAL", sc.bundle)
	} else {
		out = append(out, "EVALSHA", sc.bundleSHA)
	}
	out = append(out, keys)
	for _, c := range calls {
		out = append(out, c.mark)
	}
	for _, c := range calls {
		for _, k := range c.keys {
			out = append(out, k)
		}
	}
	out = append(out, len(calls), mark)
	for _, c := range calls {
		out = append(out, len(c.keys), len(c.args))
		out = append(out, c.args...)
	}
	return out
}

// unbundle gives each call what it would have got alone.
func unbundle(calls []*call, val any, err error) (vals []any, errs []error) {
	vals, errs = make([]any, len(calls)), make([]error, len(calls))
	list, ok := val.([]any)
	if err == nil && (!ok || len(list) != len(calls)) {
		err = fmt.Errorf("%s: %w for %d calls", calls[0].script.name, errAnswer, len(calls))
	}
	for i := range calls {
		if err != nil {
			errs[i] = err
			continue
		}
		if e, failed := list[i].(redis.Error); failed {
			errs[i] = e
			continue
		}
		vals[i] = list[i]
	}
	return vals, errs
}
