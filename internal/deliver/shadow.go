package deliver

import (
	"context"
	"fmt"
	"strings"

	"dispatchd/internal/event"
	"dispatchd/internal/org"
)

// Previewer is a Sender that can say what it would send. It holds no secret.
type Previewer interface {
	Preview(o *org.Organisation, d event.Delivery, who event.Affiliation) string
}

// Shadow returns a Sender in the place of s that sends nothing and answers with
// KindShadow. Everything around it, slots, leases, books and the attempt log,
// works as if the organisation had been told.
func Shadow(s Sender) Sender { return shadow{s} }

type shadow struct{ real Sender }

// SendDigest implements DigestSender.
func (s shadow) SendDigest(ctx context.Context, _ *org.Organisation, d event.Digest, _ []event.Affiliation) Answer {
	if ctx.Err() != nil {
		return Failure(KindCancelled, "the daemon is stopping")
	}
	return Answer{Kind: KindShadow, Excerpt: fmt.Sprintf("a digest about %d researchers", len(d.Items))}
}

// Send implements Sender.
func (s shadow) Send(ctx context.Context, o *org.Organisation, d event.Delivery, who event.Affiliation) Answer {
	if ctx.Err() != nil {
		return Failure(KindCancelled, "the daemon is stopping")
	}
	a := Answer{Kind: KindShadow}
	if p, ok := s.real.(Previewer); ok {
		a.Excerpt = p.Preview(o, d, who)
		if len(a.Excerpt) > ExcerptBytes {
			a.Excerpt = strings.ToValidUTF8(a.Excerpt[:ExcerptBytes-len("…")], "") + "…"
		}
	}
	return a
}
