package callback

import (
	"fmt"

	"dispatchd/internal/orcid"
)

const (
	// probeClient stands where a client id of ORCID would; ORCID's begin with APP-.
	probeClient = "dispatchd-probe"
	// probeBase is that of 0000-0000-0000-001X, far below what ORCID issues.
	probeBase = 1
	// ProbeHeader is in our own answer to a probe, so that a server in front that
	// says 204 to everything is told from us.
	ProbeHeader = "Dispatchd-Probe"
)

// ProbeURL returns the URL by which we call ourselves from outside. It is made
// and verified like a callback URL, and stands for nobody.
func (k *Keys) ProbeURL(publicURL string) (string, error) {
	id, err := orcid.FromBase(probeBase)
	if err != nil {
		return "", fmt.Errorf("build the probe's URL: %w", err)
	}
	return k.URL(publicURL, probeClient, id, 0, "")
}

// IsProbe reports whether the target is that of ProbeURL: it is answered, and
// neither stored nor counted.
func (t Target) IsProbe() bool { return t.ClientID == probeClient && t.ORCID.Base() == probeBase }
