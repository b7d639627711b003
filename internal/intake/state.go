package intake

import (
	"log/slog"
	"sync"
	"time"
)

// Mode is where pings go.
type Mode string

// The modes.
const (
	ToLog    Mode = "log"      // to Redis
	ToSpool  Mode = "spool"    // to the local disk: Redis is away or not trusted
	Refusing Mode = "refusing" // nowhere: pings are answered 429
)

// State is where pings went last.
type State struct {
	Mode  Mode
	Since time.Time // of the mode; zero before the first ping
	Err   error     // why it is not ToLog; nil when it is
}

// quietFor is how long the same trouble is not logged again.
const quietFor = time.Minute

// mode keeps the State and says in the log when it changes. Trouble that comes
// and goes is said once a minute; the counters tell the rest.
type mode struct {
	logger *slog.Logger

	mu     sync.Mutex
	state  State
	warned time.Time // when it was last logged that pings go to the spool
	denied time.Time // when it was last logged that they are refused
	quiet  bool      // this trouble was not logged, so its end is not either
}

func (m *mode) get() State {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.state.Mode == "" {
		return State{Mode: ToLog}
	}
	return m.state
}

func (m *mode) set(to Mode, why error, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	was := m.state
	if was.Mode == to {
		return
	}
	if was.Mode == "" && to == ToLog {
		m.state = State{Mode: to, Since: now}
		return
	}
	m.state = State{Mode: to, Since: now, Err: why}
	switch to {
	case ToLog:
		if !m.quiet {
			m.logger.Info("pings go to redis again", "was", string(was.Mode), "for", now.Sub(was.Since))
		}
	case ToSpool:
		switch {
		case now.Sub(m.warned) >= quietFor:
			m.warned, m.quiet = now, false
			m.logger.Warn("redis cannot be used; pings go to the local spool", "err", why)
		case was.Mode != Refusing: // which is the same trouble
			m.quiet = true
		}
	case Refusing:
		// On a full disk now and then a ping finds room, and the next one none.
		if now.Sub(m.denied) >= quietFor {
			m.denied, m.quiet = now, false
			m.logger.Error("pings are refused with 429: neither redis nor the spool takes them", "err", why)
		}
	}
}
