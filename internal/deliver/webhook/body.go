package webhook

import (
	"encoding/json"
	"strconv"
	"time"

	"dispatchd/internal/event"
	"dispatchd/internal/org"
)

// zone follows the times of the standard payload; the Hub's do not say that
// they are UTC.
const zone = "+00:00"

// appendBody appends the JSON that the organisation gets. The order of the keys
// is the documented one. A test has no researcher.
func (s *Sender) appendBody(b []byte, o *org.Organisation, id string, d event.Delivery, who event.Affiliation, now time.Time) []byte {
	hub := o.Webhook.Payload == org.PayloadHub
	offset := zone
	if hub {
		offset = ""
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
	b = appendTime(b, "updated-at", updated, offset)
	if d.Type == event.Created && !d.CreatedAt.IsZero() {
		b = appendTime(b, "created-at", d.CreatedAt, offset)
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

// appendTime writes to the second; AppendFormat takes ten times as long.
func appendTime(b []byte, key string, t time.Time, offset string) []byte {
	t = t.UTC()
	year, month, day := t.Date()
	hour, minute, second := t.Clock()
	b = append(appendKey(b, key), '"')
	if year < 1000 || year > 9999 {
		b = t.AppendFormat(b, time.DateOnly)
	} else {
		b = strconv.AppendInt(b, int64(year), 10)
		b = appendTwo(append(b, '-'), int(month))
		b = appendTwo(append(b, '-'), day)
	}
	b = appendTwo(append(b, 'T'), hour)
	b = appendTwo(append(b, ':'), minute)
	b = appendTwo(append(b, ':'), second)
	return append(append(b, offset...), '"')
}

func appendTwo(b []byte, n int) []byte { return append(b, byte('0'+n/10), byte('0'+n%10)) }

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
