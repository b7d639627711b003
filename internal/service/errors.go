package service

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"dispatchd/internal/org"
	"dispatchd/internal/secret"
	"dispatchd/internal/store"
)

// Code names a kind of failure for programs.
type Code string

// The codes, as they stand in problem documents.
const (
	CodeNotFound    Code = "not_found"
	CodeInvalid     Code = "invalid"
	CodeReadOnly    Code = "read_only"  // owned by the configuration file
	CodeConflict    Code = "conflict"   // exists already, or another's
	CodeSuppressed  Code = "suppressed" // the researcher asked to be erased
	CodeRateLimited Code = "rate_limited"
	CodeGone        Code = "gone"        // worked once, and does not any more
	CodeUnavailable Code = "unavailable" // Redis is away; nothing was changed for sure
	CodeForgot      Code = "redis_forgot"
	CodeInternal    Code = "internal"
)

// Error is a failure in words for people: what happened and what to do. Faces
// turn it into a page, a problem document or a line on a terminal.
type Error struct {
	Code     Code
	What     string        // what happened
	Do       string        // what to do about it; may be empty
	Problems []org.Problem // for CodeInvalid: every bad field
	Err      error         // for the log only
}

// Error implements error.
func (e *Error) Error() string {
	s := e.What
	if e.Do != "" {
		s += " " + e.Do
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

func notFound(format string, args ...any) *Error {
	return &Error{Code: CodeNotFound, What: fmt.Sprintf(format, args...)}
}

func invalid(what string, err error) *Error {
	e := &Error{Code: CodeInvalid, What: what}
	var bad *org.Invalid
	if errors.As(err, &bad) {
		e.Problems = bad.Problems
	} else if err != nil {
		e.Problems = []org.Problem{{Key: "body", Why: err.Error()}}
	}
	return e
}

// badField is a request that is wrong in one field.
func badField(key string, why error) *Error {
	return &Error{Code: CodeInvalid, What: "The request is not valid.", Problems: []org.Problem{{Key: key, Why: why.Error()}}}
}

// BadField tells what is wrong with a field, when that is what err says.
func BadField(err error, key string) (why error, ok bool) {
	var e *Error
	if !errors.As(err, &e) || e.Code != CodeInvalid {
		return nil, false
	}
	for _, p := range e.Problems {
		if p.Key == key {
			return errors.New(p.Why), true
		}
	}
	return nil, false
}

// Explain turns a failure of a part below into an Error, in words for people.
func Explain(doing string, err error) error {
	if err == nil {
		return nil
	}
	var own *Error
	var key *store.WrongType
	switch {
	case errors.As(err, &own):
		return err
	case errors.As(err, &key):
		return &Error{
			Code: CodeUnavailable, What: fmt.Sprintf("In Redis, %v.", key), Do: strings.ToUpper(damageDo[:1]) + damageDo[1:] + ".",
			Err: fmt.Errorf("%s: %w", doing, err),
		}
	case errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, secret.ErrSealed):
		return &Error{
			Code: CodeUnavailable, What: "The secrets in Redis were sealed with another master key than the one this daemon has.",
			Do:  "Put the right one back where master_key_file says (by default master.key in data_dir) and restart. Is it lost for ever, so are the secrets: begin with an empty Redis.",
			Err: fmt.Errorf("%s: %w", doing, err),
		}
	case errors.Is(err, store.ErrSuppressed):
		return &Error{
			Code: CodeSuppressed, What: "This researcher asked to be erased and is on the suppression list.",
			Do: "If they want to be told about again, run `dispatchd user unsuppress` first.", Err: fmt.Errorf("%s: %w", doing, err),
		}
	case errors.Is(err, store.ErrDamaged):
		return &Error{
			Code: CodeConflict, What: "The stored record of this researcher is damaged.",
			Do: "Erase it with `dispatchd user erase`, lift that with `dispatchd user unsuppress`, and add the researcher again.", Err: fmt.Errorf("%s: %w", doing, err),
		}
	case errors.Is(err, store.ErrForgot):
		return &Error{
			Code: CodeForgot, What: "Redis is not the one this installation knows (it was emptied, rolled back, or exchanged).",
			Do: "Put the right one back and restart dispatchd, or restore its backup and run `dispatchd recover --accept-loss`.", Err: fmt.Errorf("%s: %w", doing, err),
		}
	case errors.Is(err, store.ErrAway), errors.Is(err, store.ErrFenced):
		return &Error{
			Code: CodeUnavailable, What: "Redis did not answer in time, so the change may not have been made.",
			Do: "Try again; every change can be repeated safely.", Err: fmt.Errorf("%s: %w", doing, err),
		}
	}
	return &Error{Code: CodeInternal, What: "Something went wrong inside dispatchd.", Do: "The log has the details.", Err: fmt.Errorf("%s: %w", doing, err)}
}
