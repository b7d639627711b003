package orcid

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// MaxSearchIDs is how many iDs ChangedSince takes at once: more would not fit
// into a request line of 8 KiB.
const MaxSearchIDs = 300

// maxRead is how much is read of a search result or a record.
const maxRead = 4 << 20

// errMalformed says that an answer of 200 is not what it should be.
var errMalformed = errors.New("malformed answer")

// ChangedSince returns those of ids whose records changed at or after since, as
// far as ORCID's search has indexed them (minutes behind, so overlap calls by
// an hour). It makes one request, for at most MaxSearchIDs iDs.
func (c *Client) ChangedSince(ctx context.Context, ids []ID, since time.Time) ([]ID, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	if len(ids) > MaxSearchIDs {
		return nil, fmt.Errorf("search for changes: %d iDs at once, at most %d", len(ids), MaxSearchIDs)
	}
	asked := make(map[ID]bool, len(ids))
	var q strings.Builder
	q.WriteString("orcid:(")
	for i, id := range ids {
		if i > 0 {
			q.WriteByte(' ')
		}
		q.WriteString(id.String())
		asked[id] = true
	}
	fmt.Fprintf(&q, ") AND profile-last-modified-date:[%s TO *]", solrTime(since))
	var changed []ID
	err := c.get(ctx, call{
		op:  OpSearch,
		url: c.api + "/v3.0/search?q=" + url.QueryEscape(q.String()) + "&start=0&rows=1000",
		read: func(r io.Reader) error {
			paths, err := readSearch(r)
			if err != nil {
				return err
			}
			for _, path := range paths {
				id, err := Parse(path)
				if err != nil {
					return fmt.Errorf("%w: %w", errMalformed, err)
				}
				if asked[id] { // each once, and nobody we did not ask for
					asked[id] = false
					changed = append(changed, id)
				}
			}
			return nil
		},
	})
	if err != nil {
		return nil, fmt.Errorf("search for changes of %d iDs: %w", len(ids), err)
	}
	return changed, nil
}

// readSearch reads a whole result. One that was cut short by ORCID is an error:
// it would hide changes.
func readSearch(r io.Reader) ([]string, error) {
	paths, found, err := readFound(r)
	if err == nil && found > len(paths) {
		err = fmt.Errorf("%w: %d of %d found records given", errMalformed, len(paths), found)
	}
	return paths, err
}

// LastModified returns when the record of id last changed in any way, also in
// parts that are not public. The record is read only as far as needed.
func (c *Client) LastModified(ctx context.Context, id ID) (time.Time, error) {
	var at time.Time
	err := c.get(ctx, call{
		op:  OpRecord,
		url: c.api + "/v3.0/" + id.String() + "/record",
		read: func(r io.Reader) (err error) {
			at, err = readLastModified(r)
			return err
		},
	})
	if err != nil {
		return time.Time{}, fmt.Errorf("read record of %s: %w", id, err)
	}
	return at, nil
}

// readLastModified finds history.last-modified-date.value (epoch milliseconds)
// and stops there: what follows may be megabytes.
func readLastModified(r io.Reader) (time.Time, error) {
	d := json.NewDecoder(io.LimitReader(r, maxRead))
	if t, err := d.Token(); err != nil {
		return time.Time{}, malformed(err)
	} else if t != json.Delim('{') {
		return time.Time{}, fmt.Errorf("%w: not an object", errMalformed)
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return time.Time{}, malformed(err)
		}
		if key != "history" {
			var skipped json.RawMessage
			if err := decode(d, &skipped); err != nil {
				return time.Time{}, err
			}
			continue
		}
		var history struct {
			LastModified struct {
				Value int64 `json:"value"`
			} `json:"last-modified-date"`
		}
		if err := decode(d, &history); err != nil {
			return time.Time{}, err
		}
		if history.LastModified.Value <= 0 {
			return time.Time{}, fmt.Errorf("%w: no history.last-modified-date", errMalformed)
		}
		return time.UnixMilli(history.LastModified.Value).UTC(), nil
	}
	if _, err := d.Token(); err != nil { // More is false for a broken body too
		return time.Time{}, malformed(err)
	}
	return time.Time{}, fmt.Errorf("%w: no history.last-modified-date", errMalformed)
}

func decode(d *json.Decoder, into any) error { return malformed(d.Decode(into)) }

// malformed marks errors that are the body's fault; the network's pass as they
// are. A body that ends too early counts as the network's.
func malformed(err error) error {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case errors.Is(err, io.EOF):
		return io.ErrUnexpectedEOF
	case errors.As(err, &syntax), errors.As(err, &kind):
		return fmt.Errorf("%w: %w", errMalformed, err)
	}
	return err
}

// get makes a read with the token for public reading; any answer but OK is an
// *AnswerError.
func (c *Client) get(ctx context.Context, q call) error {
	q.method, q.source = http.MethodGet, c.read
	answer, err := c.do(ctx, q)
	if err == nil && answer.Kind != OK {
		err = &AnswerError{q.op, answer}
	}
	return err
}
