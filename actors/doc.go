// Package actors decides what happens next: which organisation claims what, who
// is registered at ORCID and at which pace. It owns no data: Redis is the truth,
// an actor is the lock, the cache and the clock of one key, and a message is a
// hint that may be lost (a scan finds the work again) but never the only copy of
// work. Only the daemon calls it; it reaches the world through ports.go.
//
//	guardian                     spawns all below, respawns what stopped
//	├── orgs-NN                  registry shards: one entry an organisation, no I/O
//	│   └── <org>~<epoch>        orgActor: claims slots and starts deliveries
//	├── users-NN                 registry shards: one entry a researcher with work
//	│   └── <iD>~<epoch>         userActor: that user's PUTs and DELETEs, one at a time
//	├── credentials              the one rate for all, hands tokens out in turn
//	│   └── <name>~<n>           credentialActor: who of its users goes next, its trouble
//	└── recovery                 looks in Redis for what is due, and hints
//
// Who sends what to whom (messages.go has all of it):
//
//	System.HintChannel ─ hint ─► orgs-NN ─ wake ─► orgActor     (at once when due,
//	                   └ look ─► recovery                        else when it is due)
//	System.HintUser ──── hint ─► users-NN ─ wake ─► userActor
//	recovery ─────────── hint ─► orgs-NN, users-NN              (Slots.Ready, Users.DueUsers)
//	orgActor, userActor ─ awake, idle, crashed ─► their registry
//	orgActor ─ take ─► room ─ roomFree ─► orgActor               (room.go: not an actor)
//	delivery goroutine ─ deliveryDone ─► orgActor
//	userActor ─ askPermit ─► credentials ─► credentialActor ─ permit, denied ─► userActor
//	credentialActor ─ wantToken ─► credentials ─ token ─► credentialActor
//	userActor ─ spent ─► credentials ─► credentialActor ─ strain, ease ─► credentials
//
// # Passivation
//
// A registry entry is {pid, epoch, waking, idle, stopping, news}. A wake carries
// a new epoch; the child answers awake with it before it reads Redis, and idle
// with it when it has nothing to do. Only an idle whose epoch is still the
// entry's is believed; a sweep then poisons the child. News that comes while a
// wake is pending or the child stops is merged into the entry and handed over
// by the next wake: at most one wake is in a mailbox, and none is lost.
//
// No name is ever used twice (the epoch is in it): a late result of an old
// incarnation goes to nobody, and nobody can send to a name that is just being
// spawned, which would wedge it.
//
// # Decisions
//
// What to do is decided by pure functions with tables in their tests:
// decideBreaker (breaker.go), planUser (userplan.go), bucket and pace
// (bucket.go), lanes (lanes.go), room (room.go), and package register.
package actors
