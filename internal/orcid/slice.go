package orcid

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"time"
)

// MaxSearchRows is how many iDs ChangedBetween returns at once.
const MaxSearchRows = 1000

// ChangedBetween returns one page of all the iDs of ORCID whose records changed
// from from to to, both included (whole seconds), and how many there are. The
// order is ORCID's own and stands still only while none of them changes again:
// then it leaves the range, and whoever stood behind it moves up by one. It
// makes one request; rows is 1 to MaxSearchRows.
func (c *Client) ChangedBetween(ctx context.Context, from, to time.Time, start, rows int) (ids []ID, total int, err error) {
	if start < 0 || rows < 1 || rows > MaxSearchRows {
		return nil, 0, fmt.Errorf("search for changes: %d rows from %d on, at most %d", rows, start, MaxSearchRows)
	}
	q := "profile-last-modified-date:[" + solrTime(from) + " TO " + solrTime(to) + "]"
	err = c.get(ctx, call{
		op:  OpSearch,
		url: c.api + "/v3.0/search?q=" + url.QueryEscape(q) + "&start=" + strconv.Itoa(start) + "&rows=" + strconv.Itoa(rows),
		read: func(r io.Reader) error {
			paths, found, err := readFound(r)
			if err != nil {
				return err
			}
			if want := min(max(found-start, 0), rows); len(paths) < want {
				return fmt.Errorf("%w: %d of %d records given", errMalformed, len(paths), want)
			}
			ids, total = make([]ID, len(paths)), found
			for i, path := range paths {
				if ids[i], err = Parse(path); err != nil {
					return fmt.Errorf("%w: %w", errMalformed, err)
				}
			}
			return nil
		},
	})
	if err != nil {
		return nil, 0, fmt.Errorf("search for changes since %s: %w", solrTime(from), err)
	}
	return ids, total, nil
}

// solrTime writes a time as ORCID's search takes it.
func solrTime(t time.Time) string {
	return t.UTC().Truncate(time.Second).Format("2006-01-02T15:04:05Z")
}

// readFound reads {"result":[{"orcid-identifier":{"path":…}}],"num-found":n}.
func readFound(r io.Reader) (paths []string, found int, err error) {
	var answer struct {
		Result []struct {
			Identifier struct {
				Path string `json:"path"`
			} `json:"orcid-identifier"`
		} `json:"result"`
		NumFound *int `json:"num-found"`
	}
	if err := decode(json.NewDecoder(io.LimitReader(r, maxRead)), &answer); err != nil {
		return nil, 0, err
	}
	if answer.NumFound == nil {
		return nil, 0, fmt.Errorf("%w: no num-found", errMalformed)
	}
	paths = make([]string, len(answer.Result))
	for i := range answer.Result {
		paths[i] = answer.Result[i].Identifier.Path
	}
	return paths, *answer.NumFound, nil
}
