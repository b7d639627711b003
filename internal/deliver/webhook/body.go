package webhook

import (
	"encoding/json"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/org"
)

const (
	timeFormat = "2006-01-02T15:04:05-07:00" // of UTC: …+00:00
	hubFormat  = "2006-01-02T15:04:05"       // the Hub's: UTC that does not say so
)

// appendBody appends the JSON that the organisation gets. The order of the keys
// is the documented one. A test has no researcher.
func (s *Sender) appendBody(b []byte, o *org.Organisation, id string, d event.Delivery, who event.Affiliation, now time.Time) []byte {
	hub := o.Webhook.Payload == org.PayloadHub
	format := timeFormat
	if hub {
		format = hubFormat
	}
	updated := d.LatestAt
	if updated.IsZero() {
		updated = now
	}
	b = append(b, '{')
	if !hub {
		b = appendField(b, "id", id)
	}
	if !d.ORCID.IsZero() {
		b = appendKey(b, "orcid")
		b = append(b, '"')
		b = append(d.ORCID.Append(b), '"')
		b = appendKey(b, "url")
		b = appendString(b, s.site)
		b = append(d.ORCID.Append(b[:len(b)-1]), '"')
	}
	b = appendField(b, "type", string(d.Type))
	b = appendTime(b, "updated-at", updated, format)
	if d.Type == event.Created && !d.CreatedAt.IsZero() {
		b = appendTime(b, "created-at", d.CreatedAt, format)
	}
	switch {
	case who.Email != "":
		b = appendField(b, "email", who.Email)
	case hub && !d.ORCID.IsZero():
		// The Hub sends the key for every user it knows, also without address.
		b = append(appendKey(b, "email"), "null"...)
	}
	if who.EPPN != "" {
		b = appendField(b, "eppn", who.EPPN)
	}
	if who.Name != "" && !hub {
		b = appendField(b, "name", who.Name)
	}
	return append(b, '}')
}

func appendKey(b []byte, key string) []byte {
	if b[len(b)-1] != '{' {
		b = append(b, ',')
	}
	b = append(b, '"')
	b = append(b, key...)
	return append(b, '"', ':')
}

func appendField(b []byte, key, value string) []byte {
	return appendString(appendKey(b, key), value)
}

func appendTime(b []byte, key string, t time.Time, format string) []byte {
	b = append(appendKey(b, key), '"')
	return append(t.UTC().AppendFormat(b, format), '"')
}

// appendString appends a JSON string; plain ASCII takes the short way.
func appendString(b []byte, s string) []byte {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < 0x20 || c > 0x7e || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			quoted, err := json.Marshal(s)
			if err != nil { // cannot be: a string always marshals
				quoted = []byte(`""`)
			}
			return append(b, quoted...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}
