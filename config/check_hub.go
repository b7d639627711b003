package config

import "time"

// legacyAtMost is for how long the Hub's callbacks, which anybody can guess, may
// be answered from now on.
const legacyAtMost = 366 * day

func (r *reader) checkHub(c *Config) {
	h := &c.Hub
	if h.LegacyMap == "" {
		for key, set := range map[string]bool{"hub.legacy_base_url": h.LegacyBaseURL != "", "hub.legacy_until": h.LegacyUntil != ""} {
			if set {
				r.refuse(key, "needs hub.legacy_map")
			}
		}
		return
	}
	if c.Shadow() {
		r.refuse("hub.legacy_map", `must not be set while delivery.mode is "shadow": the Hub would lose its registrations`)
	}
	if h.LegacyBaseURL == "" {
		r.refuse("hub.legacy_base_url", "must be set with hub.legacy_map: the Hub's address, such as https://orcidhub.example")
	} else {
		r.baseURL("hub.legacy_base_url", h.LegacyBaseURL)
	}
	last, err := time.Parse(time.DateOnly, h.LegacyUntil)
	switch {
	case h.LegacyUntil == "":
		r.refuse("hub.legacy_until", "must be set with hub.legacy_map: the last day on which the Hub's callbacks are answered, such as 2027-03-31")
	case err != nil:
		r.refuse("hub.legacy_until", "must be a date such as 2027-03-31 (got %q)", clip(h.LegacyUntil))
	case time.Until(last) > legacyAtMost:
		r.refuse("hub.legacy_until", "must be at most a year ahead: anybody can guess the Hub's callbacks (got %q)", h.LegacyUntil)
	case time.Now().After(h.Until()):
		r.warn("hub.legacy_until", "has passed: the Hub's callbacks are answered 404; take [hub] out")
	}
}
