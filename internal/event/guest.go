package event

import (
	"fmt"
	"strings"

	"dispatchd/internal/orcid"
)

// Guest is a callback URL of an organisation's own, registered at ORCID for one
// of its users. ORCID pings it directly: nothing of it ever comes to us.
type Guest struct {
	ORCID orcid.ID
	URL   string
	// Orgs are whose callback it is. ORCID has one row for a URL, whoever asked for
	// it, so those who want the same share it.
	Orgs []string
	// Gone says that the row is to go: the last organisation took it back, or the
	// user or the organisation left. Orgs is who that was.
	Gone bool
	// Registration is where the row stands at ORCID; its Credential is who owns
	// it there, or is to. Base means nothing here, and Epoch is always 1.
	Registration Registration
	// Version is opaque: what the store compares before it writes the row back;
	// empty when there is none yet.
	Version string
	// Damaged says that the stored row cannot be read: only ORCID, URL and Version
	// are known. It can be put off as it is, and be removed.
	Damaged bool
}

// String names it without its path, which may hold a secret.
func (g Guest) String() string {
	return fmt.Sprintf("callback of %s for %s", strings.Join(g.Orgs, " and "), g.ORCID)
}
