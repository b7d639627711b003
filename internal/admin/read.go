package admin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
	"dispatchd/internal/service"
)

// mediaType is the content type of a request without its parameters; a charset
// other than UTF-8 counts as another type.
func mediaType(r *http.Request) string {
	text := r.Header.Get("Content-Type")
	mt, params, err := mime.ParseMediaType(text)
	if err != nil {
		return text
	}
	if c := params["charset"]; c != "" && !strings.EqualFold(c, "utf-8") && !strings.EqualFold(c, "us-ascii") {
		return mt + "; charset=" + c
	}
	return mt
}

func wrongType(r *http.Request, want ...string) *failure {
	got := mediaType(r)
	if got == "" {
		got = "nothing"
	}
	return &failure{
		status: http.StatusUnsupportedMediaType, code: "unsupported_media_type",
		detail: fmt.Sprintf("The Content-Type of the request is %s.", got), do: "Send " + strings.Join(want, " or ") + " in UTF-8.",
	}
}

// readBody reads a JSON body of at most 64 KiB. It returns nil when there is
// none.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var big *http.MaxBytesError
	if errors.As(err, &big) {
		return nil, &failure{
			status: http.StatusRequestEntityTooLarge, code: "too_large",
			detail: "The request body is too large.", do: fmt.Sprintf("Send at most %d bytes.", maxBody),
		}
	}
	if err != nil {
		return nil, &failure{status: http.StatusBadRequest, code: string(service.CodeInvalid), detail: "The request body could not be read to its end."}
	}
	setRead(http.NewResponseController(w), 0)
	if len(raw) == 0 {
		return nil, nil
	}
	if mt := mediaType(r); mt != "application/json" && (r.Method != http.MethodPatch || mt != "application/merge-patch+json") {
		return nil, wrongType(r, "application/json")
	}
	return raw, nil
}

// decode reads a JSON body strictly into v. Without a body it reports false and
// leaves v.
func decode(w http.ResponseWriter, r *http.Request, v any) (bool, error) {
	raw, err := readBody(w, r)
	if err != nil || raw == nil {
		return false, err
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return false, bad("body", strings.TrimPrefix(err.Error(), "json: "))
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return false, bad("body", "something follows after the JSON value")
	}
	return true, nil
}

// needed is the error of a request that had to have a body.
func needed(example string) *failure { return bad("body", "is missing; send for example "+example) }

// query returns the query parameters; one that is not known, or comes twice, is
// an error, so that a misspelt one does not pass for a default.
func query(r *http.Request, known ...string) (url.Values, error) {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, bad("query", "is not well-formed")
	}
	for key, values := range q {
		if !slices.Contains(known, key) {
			return nil, bad("query", fmt.Sprintf("unknown parameter %q", clip(key)))
		}
		if len(values) > 1 {
			return nil, bad(key, "is given more than once")
		}
	}
	return q, nil
}

// page is which part of a list is wanted.
type page struct {
	cursor string
	limit  int
}

const (
	defaultLimit = 100
	maxLimit     = 1000
)

func pageOf(q url.Values) (page, error) {
	p := page{cursor: q.Get("cursor"), limit: defaultLimit}
	if text := q.Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > maxLimit {
			return p, bad("limit", fmt.Sprintf("must be 1 to %d", maxLimit))
		}
		p.limit = n
	}
	return p, nil
}

// badCursor is the answer to a cursor that no page of ours ended with.
func badCursor() *failure { return bad("cursor", "is not the `next` of a page of this list") }

// channelOf reads the name of a channel; an empty one is what the caller says.
func channelOf(key, text string, empty event.Channel) (event.Channel, error) {
	if text == "" {
		return empty, nil
	}
	ch := event.Channel(text)
	if !slices.Contains(event.Channels[:], ch) {
		return "", bad(key, fmt.Sprintf("must be webhook or email (got %q)", clip(text)))
	}
	return ch, nil
}

// boolOf reads a switch of the query.
func boolOf(q url.Values, key string) (bool, error) {
	switch q.Get(key) {
	case "", "0", "false":
		return false, nil
	case "1", "true":
		return true, nil
	}
	return false, bad(key, "must be 0 or 1")
}

// researcher reads the iD of the path.
func researcher(r *http.Request) (orcid.ID, error) {
	id, err := orcid.Parse(r.PathValue("iD"))
	if err != nil {
		return id, bad("orcid", err.Error())
	}
	return id, nil
}

// plain refuses text that would spoil a table or a log.
func plain(key, text string) error {
	if len(text) > 200 || !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return r < 0x20 || r >= 0x7f && r < 0xa0 }) {
		return bad(key, "must have at most 200 bytes of UTF-8 and no control characters")
	}
	return nil
}

// clip keeps an answer readable whatever was sent.
func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "…"
	}
	return s
}
