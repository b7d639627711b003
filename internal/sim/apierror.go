package sim

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"io"
	"net/http"
	"strconv"
	"strings"

	"dispatchd/internal/orcid"
)

const moreInfo = "https://members.orcid.org/api/resources/troubleshooting"

// apiError is ORCID's error object; the order of the fields is the order of
// the keys.
type apiError struct {
	XMLName   xml.Name `json:"-" xml:"http://www.orcid.org/ns/error error"`
	Status    int      `json:"response-code" xml:"response-code"`
	Developer string   `json:"developer-message" xml:"developer-message"`
	User      string   `json:"user-message" xml:"user-message"`
	Code      int      `json:"error-code" xml:"error-code"`
	MoreInfo  string   `json:"more-info" xml:"more-info"`
	location  string   // Location header; empty for none
}

// newError makes an error; detail is the exception's message, if it has one.
func newError(status, code int, developer, user, detail string) *apiError {
	if detail != "" {
		developer += " Full validation error: " + detail
	}
	return &apiError{Status: status, Developer: developer, User: user, Code: code, MoreInfo: moreInfo}
}

func errNoProfile() *apiError {
	return newError(404, 9011, "404 Not Found: The ORCID record or item was not found.", "The resource was not found.", "")
}

func errNoWebhook(id, uri string) *apiError {
	return newError(404, 9028, "No webhook found for orcid="+id+", and uri="+uri+".", "The resource was not found.", "")
}

func errForbidden(detail string) *apiError {
	const text = "The client application is forbidden to perform the action."
	return newError(403, 9014, text, text, detail)
}

func errBadRequest(detail string) *apiError {
	const text = "The client application made a bad request to the ORCID API."
	return newError(400, 9012, text, text, detail)
}

func errScope() *apiError {
	return newError(403, 9038, "409 Conflict: The item has a limited or private visibility and your request doesn't have the required scope.",
		"You don't have the permissions to execute this action.", "")
}

func errUnauthorized(detail string) *apiError {
	return newError(401, 9017, "401 Unauthorized: The client application is not authorized for this ORCID record.",
		"The client application is not authorized.", detail)
}

func errNotFound() *apiError {
	return newError(404, 9016, "404 Not Found: The resource was not found.", "The resource was not found.", "")
}

func errClientLocked() *apiError {
	return newError(409, 9057, "409 Conflict: The client is locked.", "The client is locked.", "")
}

func errUnclaimed() *apiError {
	return newError(409, 9036, "409 Conflict: The ORCID record has not been claimed.", "The ORCID record has not been claimed.", "")
}

func errLocked(id orcid.ID) *apiError {
	s := id.String()
	return newError(409, 9018, "409 Conflict: The ORCID record is locked and cannot be edited. ORCID "+s,
		"The ORCID record is locked.", s+" is locked")
}

func errDeactivated(id orcid.ID) *apiError {
	return newError(409, 9044, "409 Conflict: The ORCID record is deactivated and cannot be edited.",
		"The ORCID record is deactivated.", id.String()+" is deactivated")
}

// errDeprecated is what a merged record answers; location is the same URL with
// the primary iD.
func errDeprecated(method string, id, primary orcid.ID, location string) *apiError {
	user := "This account is deprecated. Please refer to account: https://orcid.org/" + primary.String() + "."
	e := newError(301, 9007, "301 Moved Permanently: "+user+" ORCID https://orcid.org/"+id.String(), user, "")
	if method != http.MethodGet {
		e = newError(409, 9007, user, user, "")
	}
	e.location = location
	return e
}

func errInternal() *apiError {
	return newError(500, 9008, "Something went wrong in ORCID.", "Something went wrong in ORCID.", "")
}

// wantsJSON reports whether the error is to be JSON: only when Accept asks for
// it. XML is first among what ORCID produces.
func wantsJSON(r *http.Request) bool {
	for part := range strings.SplitSeq(r.Header.Get("Accept"), ",") {
		kind, _, _ := strings.Cut(strings.TrimSpace(part), ";")
		switch strings.ToLower(kind) {
		case "application/json", "application/vnd.orcid+json", "application/orcid+json", "text/json":
			return true
		case "application/xml", "application/vnd.orcid+xml", "application/orcid+xml", "*/*":
			return false
		}
	}
	return false
}

// write answers with the error.
func (e *apiError) write(w http.ResponseWriter, r *http.Request) {
	if e.location != "" {
		w.Header().Set("Location", e.location)
	}
	if wantsJSON(r) {
		writeBody(w, e.Status, "application/json", jsonBytes(e))
		return
	}
	var b bytes.Buffer
	b.WriteString(`<?xml version="1.0" encoding="UTF-8" standalone="yes"?>` + "\n")
	enc := xml.NewEncoder(&b)
	enc.Indent("", "    ")
	if err := enc.Encode(e); err != nil {
		panic(err) // strings and numbers always encode
	}
	b.WriteByte('\n')
	writeBody(w, e.Status, "application/xml", b.Bytes())
}

// jsonBytes encodes like Jackson: nothing escaped for HTML, no final newline.
func jsonBytes(v any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(err) // only called with plain data
	}
	return bytes.TrimRight(b.Bytes(), "\n")
}

// writeBody answers with a body of known length.
func writeBody(w http.ResponseWriter, status int, kind string, body []byte) {
	h := w.Header()
	if kind != "" {
		h.Set("Content-Type", kind)
	} else {
		h["Content-Type"] = nil // none, rather than a guess
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	// A client that went away is no concern of the server.
	_, _ = io.Copy(w, bytes.NewReader(body))
}

const jsonUTF8 = "application/json;charset=UTF-8"

// tokenErrorBody is what the bearer filter and the token endpoint answer.
type tokenErrorBody struct {
	Error       string `json:"error"`
	Description string `json:"error_description"`
}

// writeInvalidToken answers 401 and echoes the token, as ORCID does.
func writeInvalidToken(w http.ResponseWriter, token string) {
	writeBody(w, 401, jsonUTF8, jsonBytes(tokenErrorBody{"invalid_token", "Invalid access token: " + token}))
}

const html503 = "<html>\r\n<head><title>503 Service Temporarily Unavailable</title></head>\r\n<body>\r\n" +
	"<center><h1>503 Service Temporarily Unavailable</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"

const html400 = "<!doctype html><html lang=\"en\"><head><title>HTTP Status 400 – Bad Request</title></head>" +
	"<body><h1>HTTP Status 400 – Bad Request</h1></body></html>"
