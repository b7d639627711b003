package store

import (
	"context"
	"crypto/sha1" //nolint:gosec // EVALSHA names scripts by SHA-1; nothing is secured by it
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"dispatchd/internal/event"
)

// Errors of every call. The text of Redis stays in the wrapped message.
var (
	// ErrForgot says that this Redis is not the one we know: emptied, rolled
	// back, or another database. Only `recover --accept-loss` ends it.
	ErrForgot = errors.New("redis forgot")
	// ErrFenced says that another dispatchd has taken this Redis over since we
	// started; nothing was written.
	ErrFenced = errors.New("fenced: another dispatchd has taken over")
	// ErrAway says that Redis did not or could not do it now: down, frozen,
	// LOADING, READONLY, out of memory. The outcome may be unknown.
	ErrAway = errors.New("redis is away")
	// ErrAnswered says that Redis answered this call with an error of its own, as
	// for a key that a hand made another type (then it wraps a WrongType too).
	// Calls that need other keys work.
	ErrAnswered = errors.New("redis answered")
)

// script is one Lua script. Every script begins by comparing the mark of its
// partition (KEYS[1]) with ours (ARGV[1]), so that a Redis that forgot is found
// by the very call that would have trusted it.
type script struct {
	name     string
	allowOOM bool // may run on a full server, because it drains it
	fenced   bool // refuses when another daemon has taken over
	body     string

	text [2]string // as sent to Redis, to miniredis
	sha  [2]string

	bundle, bundleSHA string // see bundle.go
}

const markCheck = `
if mark ~= ARGV[1] then
  if not mark or string.match(mark, '^[^:]*') ~= string.match(ARGV[1], '^[^:]*') then
    return {err = 'FORGOT this redis has not our mark'}
  end
  if FENCED then return {err = 'FENCED another dispatchd has taken over'} end
end
`

// failedLua makes an answer of what a pcall caught: Redis gives a table, Lua a
// string.
const failedLua = `
local function failed(e) return {err = type(e) == 'table' and e.err or tostring(e)} end
`

// newScript prepares a script. The body finds its keys from KEYS[2] on and its
// arguments from ARGV[2] on.
func newScript(name string, flags scriptFlags, body string) *script {
	return newScriptWith(name, flags, "", body)
}

// newScriptWith prepares a script whose body uses functions. They are made once
// for all calls of a run (bundle.go), so they must not touch KEYS and ARGV, and
// what they keep must be set anew by the body.
func newScriptWith(name string, flags scriptFlags, functions, body string) *script {
	s := &script{name: name, allowOOM: flags&allowOOM != 0, fenced: flags&fenced != 0, body: body}
	functions = "local FENCED = " + fmt.Sprint(s.fenced) + failedLua + functions
	text := functions + "\nlocal mark = redis.call('GET', KEYS[1])" + markCheck + body
	shebang := "#!lua\n"
	if s.allowOOM {
		shebang = "#!lua flags=allow-oom\n"
	}
	s.text = [2]string{shebang + text, text} // miniredis does not know the shebang
	for i, t := range s.text {
		s.sha[i] = sha(t)
	}
	s.bundle = shebang + bundled(functions, body)
	s.bundleSHA = sha(s.bundle)
	return s
}

func sha(text string) string {
	sum := sha1.Sum([]byte(text)) //nolint:gosec // see the import
	return hex.EncodeToString(sum[:])
}

type scriptFlags int

const (
	allowOOM scriptFlags = 1 << iota
	fenced
)

// call is one script run in one partition (or lane, or the global one), named
// by its mark key.
type call struct {
	script *script
	keys   []string // KEYS[2:]; KEYS[1] is mark
	args   []any    // ARGV[2:]; ARGV[1] is our mark
	mark   string

	res any
	err error
}

// do runs the calls in one pipeline and fills in their results. It returns the
// first error; each call carries its own. A script that Redis does not know
// (restart, SCRIPT FLUSH) has not run and is sent again whole.
func (s *Store) do(ctx context.Context, calls ...*call) error {
	if len(calls) == 0 {
		return nil
	}
	state := s.guard.state.Load()
	if state.err != nil {
		for _, c := range calls {
			c.err = state.err
		}
		return state.err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, s.timeout, errTimeout)
	defer cancel()
	began := time.Now()
	send := func(list []*call, whole bool) {
		bundles := s.bundles(list)
		if len(bundles) == 1 {
			cmd := redis.NewCmd(ctx, s.command(bundles[0], state.mark, whole)...)
			err := s.rdb.Process(ctx, cmd)
			s.answered(ctx, bundles[0], cmd.Val(), err)
			return
		}
		pipe := s.rdb.Pipeline()
		cmds := make([]*redis.Cmd, len(bundles))
		for i, b := range bundles {
			cmds[i] = redis.NewCmd(ctx, s.command(b, state.mark, whole)...)
			if err := pipe.Process(ctx, cmds[i]); err != nil {
				cmds[i].SetErr(err)
			}
		}
		// The errors are taken one by one below; Exec returns the first of them.
		_, execErr := pipe.Exec(ctx)
		for i, b := range bundles {
			err := cmds[i].Err()
			if err == nil && execErr != nil && cmds[i].Val() == nil {
				err = execErr
			}
			s.answered(ctx, b, cmds[i].Val(), err)
		}
	}
	send(calls, false)
	var unknown []*call
	for _, c := range calls {
		if errors.Is(c.err, errNoScript) {
			unknown = append(unknown, c)
		}
	}
	if len(unknown) > 0 {
		send(unknown, true)
	}
	var first error
	for _, c := range calls {
		c.err = s.wrongType(ctx, c.script.name, c.keys, c.err)
		if c.err != nil && first == nil {
			first = c.err
		}
	}
	s.metrics.observe(calls[0].script.name, time.Since(began), first)
	return first
}

// doEach is do for calls that stand for themselves: it fails only if one of them
// failed for another reason than that Redis answered it with an error, which the
// caller finds when it reads the answer of that call.
func (s *Store) doEach(ctx context.Context, calls ...*call) error {
	if s.do(ctx, calls...) == nil {
		return nil
	}
	for _, c := range calls {
		if c.err != nil && !errors.Is(c.err, ErrAnswered) {
			return c.err
		}
	}
	return nil
}

// incomplete is the error of a list of which these could not be read; nil
// without any.
func incomplete(doing string, unread []error) error {
	if len(unread) == 0 {
		return nil
	}
	return fmt.Errorf("%s: %w: %w", doing, event.ErrIncomplete, errors.Join(unread...))
}

// answered gives the calls of one run their results.
func (s *Store) answered(ctx context.Context, calls []*call, val any, err error) {
	if len(calls) == 1 {
		calls[0].res, calls[0].err = val, s.classify(ctx, calls[0].script.name, err)
		return
	}
	vals, errs := unbundle(calls, val, err)
	for i, c := range calls {
		c.res, c.err = vals[i], s.classify(ctx, c.script.name, errs[i])
	}
}

// command is one run: of one call, or of several of the same script.
func (s *Store) command(calls []*call, mark string, whole bool) []any {
	if len(calls) > 1 {
		return s.bundleCommand(calls, mark, whole)
	}
	c := calls[0]
	which := 0
	if s.embedded {
		which = 1
	}
	out := make([]any, 0, 5+len(c.keys)+len(c.args))
	if whole {
		out = append(out, "EVAL", c.script.text[which])
	} else {
		out = append(out, "EVALSHA", c.script.sha[which])
	}
	out = append(out, len(c.keys)+1, c.mark)
	for _, k := range c.keys {
		out = append(out, k)
	}
	out = append(out, mark)
	return append(out, c.args...)
}

var (
	errNoScript = errors.New("script not loaded")
	errTimeout  = errors.New("redis call timed out")
)

// classify turns what go-redis returned into our errors.
func (s *Store) classify(ctx context.Context, name string, err error) error {
	if err == nil || errors.Is(err, redis.Nil) {
		return nil
	}
	var re redis.Error
	if errors.As(err, &re) {
		text := re.Error()
		switch word, _, _ := strings.Cut(text, " "); {
		case word == "NOSCRIPT":
			return errNoScript
		case word == "FORGOT":
			s.guard.trip("the mark of this installation is gone")
			return fmt.Errorf("%s: %w", name, ErrForgot)
		case word == "FENCED":
			return fmt.Errorf("%s: %w", name, ErrFenced)
		case awayWords[word]:
			return fmt.Errorf("%s: %w: %s", name, ErrAway, text)
		case strings.Contains(text, "OOM"):
			return fmt.Errorf("%s: %w: %s", name, ErrAway, text)
		}
		return fmt.Errorf("%s: %w: %s", name, ErrAnswered, text)
	}
	if errors.Is(err, ErrForgot) { // found while connecting, see checkConnection
		return fmt.Errorf("%s: %w", name, err)
	}
	if cause := context.Cause(ctx); cause != nil && errors.Is(cause, context.Canceled) {
		return fmt.Errorf("%s: %w", name, cause)
	}
	return fmt.Errorf("%s: %w: %w", name, ErrAway, err)
}

// awayWords are the first words of answers by which a Redis says "not now".
var awayWords = map[string]bool{
	"OOM": true, "LOADING": true, "READONLY": true, "MASTERDOWN": true, "CLUSTERDOWN": true, "TRYAGAIN": true,
	"BUSY": true, "MISCONF": true, "NOREPLICAS": true, "UNKILLABLE": true,
}

// NotNow returns what a Redis said that answers and refuses work for now (no
// memory, a full disk, still loading, a replica); empty when err says that it
// did not answer, or something else.
func NotNow(err error) string {
	_, text, _ := strings.Cut(err.Error(), ErrAway.Error()+": ")
	text, _, _ = strings.Cut(text, "\n") // several calls may have met the same
	if word, _, _ := strings.Cut(text, " "); !awayWords[word] {
		return ""
	}
	return text
}

// ints reads an answer that is an array of integers.
func (c *call) ints(want int) ([]int64, error) {
	if c.err != nil {
		return nil, c.err
	}
	list, ok := c.res.([]any)
	if !ok || len(list) != want {
		return nil, fmt.Errorf("%s: %w: %T", c.script.name, errAnswer, c.res)
	}
	out := make([]int64, want)
	for i, v := range list {
		if out[i], ok = v.(int64); !ok {
			return nil, fmt.Errorf("%s: %w: element %T", c.script.name, errAnswer, v)
		}
	}
	return out, nil
}

// integer reads an answer that is one integer.
func (c *call) integer() (int64, error) {
	if c.err != nil {
		return 0, c.err
	}
	n, ok := c.res.(int64)
	if !ok {
		return 0, fmt.Errorf("%s: %w: %T", c.script.name, errAnswer, c.res)
	}
	return n, nil
}

// list reads an answer that is an array.
func (c *call) list() ([]any, error) {
	if c.err != nil {
		return nil, c.err
	}
	list, ok := c.res.([]any)
	if !ok {
		return nil, fmt.Errorf("%s: %w: %T", c.script.name, errAnswer, c.res)
	}
	return list, nil
}

// text reads an answer that is one string; nothing is empty.
func (c *call) text() (string, error) {
	if c.err != nil {
		return "", c.err
	}
	if c.res == nil {
		return "", nil
	}
	v, ok := c.res.(string)
	if !ok {
		return "", fmt.Errorf("%s: %w: %T instead of a string", c.script.name, errAnswer, c.res)
	}
	return v, nil
}

// texts reads elements of an answer that are strings.
func texts(list []any) ([]string, error) {
	out := make([]string, len(list))
	for i, v := range list {
		var ok bool
		if out[i], ok = v.(string); !ok {
			return nil, fmt.Errorf("%w: %T instead of a string", errAnswer, v)
		}
	}
	return out, nil
}
