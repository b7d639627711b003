package store

import (
	"hash/fnv"
	"slices"
	"strconv"

	"dispatchd/internal/event"
	"dispatchd/internal/orcid"
)

// Partitions is how many partitions the state is cut into; it is part of the
// schema. Everything of one organisation that changes together, and everything
// of one user, lies in one partition, whose hash tag keeps it in one slot of
// Redis Cluster.
const Partitions = 64

// Lanes is how many streams the intake log has.
const Lanes = 2

// SchemaVersion is the version of the layout that DESIGN.md describes.
const SchemaVersion = 1

// orgPartition returns the partition of an organisation.
func orgPartition(org string) int {
	h := fnv.New32a()
	h.Write([]byte(org)) // a hash.Hash never fails (documentation of hash.Hash)
	return int(h.Sum32() % Partitions)
}

// userPartition returns the partition of a user: the upper six of the fifty
// mixed bits (see mix); the other 44 name the user inside it.
func userPartition(id orcid.ID) int {
	return int(mix(id.Base()) >> (mixBits - 6))
}

// keys makes every key; no key text stands anywhere else.
type keys struct{ prefix string }

func (k keys) part(p int) string { return k.prefix + "{p" + strconv.Itoa(p) + "}:" }
func (k keys) lane(l int) string { return k.prefix + "{l" + strconv.Itoa(l) + "}:" }
func (k keys) global() string    { return k.prefix + "{g}:" }

// Global keys.
func (k keys) globalMark() string  { return k.global() + "mark" }
func (k keys) schema() string      { return k.global() + "schema" }
func (k keys) beat() string        { return k.global() + "beat" }
func (k keys) orgs() string        { return k.global() + "orgs" }
func (k keys) orgNumbers() string  { return k.global() + "org-numbers" }
func (k keys) credentials() string { return k.global() + "credentials" }
func (k keys) bases() string       { return k.global() + "bases" }
func (k keys) tokens() string      { return k.global() + "tokens" }
func (k keys) jobs() string        { return k.global() + "jobs" }
func (k keys) facts() string       { return k.global() + "facts" }
func (k keys) silences() string    { return k.global() + "silences" }
func (k keys) pinged() string      { return k.global() + "pinged" }

func (k keys) checks(kind event.CheckKind) string {
	return k.global() + "checks:" + string(rune(kind))
}

// hubTaken holds the Hub's users that were taken over.
func (k keys) hubTaken() string { return k.global() + "hub-taken" }

// Keys that end by themselves; each name is a hash.
func (k keys) session(name string) string { return k.global() + "session:" + name }
func (k keys) used(name string) string    { return k.global() + "used:" + name }
func (k keys) count(name string) string   { return k.global() + "count:" + name }

// Intake log keys.
func (k keys) laneMark(l int) string   { return k.lane(l) + "mark" }
func (k keys) log(l int) string        { return k.lane(l) + "log" }
func (k keys) laneLedger(l int) string { return k.lane(l) + "ledger" }
func (k keys) parked(l int) string     { return k.lane(l) + "parked" }

// Partition keys.
func (k keys) mark(p int) string              { return k.part(p) + "mark" }
func (k keys) ready(p int) string             { return k.part(p) + "ready" }
func (k keys) ledger(p int) string            { return k.part(p) + "ledger" }
func (k keys) applied(p, lane int) string     { return k.part(p) + "applied:" + strconv.Itoa(lane) }
func (k keys) userWork(p int) string          { return k.part(p) + "user-work" }
func (k keys) userBuckets(p int) string       { return k.part(p) + "u" }         // + ":" + bucket
func (k keys) userMeta(p int) string          { return k.part(p) + "u-meta" }    // buckets, users
func (k keys) userHistory(p int) string       { return k.part(p) + "u-history" } // + ":" + user in hex
func (k keys) suppressed(p int) string        { return k.part(p) + "suppressed" }
func (k keys) members(p int, o string) string { return k.part(p) + "o:" + o + ":m" } // + ":" + bucket
func (k keys) memberMeta(p int, o string) string {
	return k.part(p) + "o:" + o + ":m-meta"
}

// channel is the prefix of what one organisation has on one channel.
func (k keys) channel(p int, o string, ch event.Channel) string {
	return k.part(p) + "o:" + o + ":" + channelCode(ch) + ":"
}
func (k keys) due(p int, o string, ch event.Channel) string   { return k.channel(p, o, ch) + "due" }
func (k keys) slots(p int, o string, ch event.Channel) string { return k.channel(p, o, ch) + "slots" }

func (k keys) dead(p int, o string, ch event.Channel) string { return k.channel(p, o, ch) + "dead" }

func (k keys) deadAt(p int, o string, ch event.Channel) string {
	return k.channel(p, o, ch) + "dead-at"
}

func (k keys) control(p int, o string, ch event.Channel) string {
	return k.channel(p, o, ch) + "control"
}

func (k keys) attempts(p int, o string, ch event.Channel) string {
	return k.channel(p, o, ch) + "attempts"
}

// tally counts the attempts of the last day by the hour.
func (k keys) tally(p int, o string, ch event.Channel) string {
	return k.channel(p, o, ch) + "tally"
}

// Keys of e-mail.
func (k keys) month(p int, o string, m Month) string {
	return k.part(p) + "o:" + o + ":month:" + string(m)
}
func (k keys) monthSent(p int, o string) string { return k.part(p) + "o:" + o + ":month-sent" }
func (k keys) digest(p int, o string) string    { return k.channel(p, o, event.Email) + "digest" }
func (k keys) digestUsers(p int, o string) string {
	return k.channel(p, o, event.Email) + "digest-users"
}
func (k keys) mailed(p int, o string) string { return k.channel(p, o, event.Email) + "mailed" }

// Callbacks of organisations' own.
func (k keys) guests(p int, id orcid.ID) string { return k.part(p) + "g:" + slotField(id) }
func (k keys) guestWork(p int) string           { return k.part(p) + "guest-work" }
func (k keys) guestCounts(p int) string         { return k.part(p) + "guest-counts" }

// apiTokens are an organisation's access tokens of the Hub-compatible API.
func (k keys) apiTokens(p int, o string) string { return k.part(p) + "o:" + o + ":api" }

// channelCode is the channel inside keys and the ready index; of a further one it
// is the name.
func channelCode(ch event.Channel) string {
	switch ch {
	case event.Webhook:
		return "w"
	case event.Email:
		return "e"
	}
	return string(ch)
}

// codeChannel undoes channelCode.
func codeChannel(code string) (event.Channel, bool) {
	switch code {
	case "w":
		return event.Webhook, true
	case "e":
		return event.Email, true
	}
	ch := event.Channel(code)
	return ch, knownChannel(ch) && channelCode(ch) == code
}

func knownChannel(ch event.Channel) bool { return slices.Contains(event.Channels[:], ch) }

// slotField is a user inside slot hashes and due sets: the fifteen digits of
// the base without padding; the check digit follows from them.
func slotField(id orcid.ID) string { return strconv.FormatUint(id.Base(), 10) }

// fieldUser undoes slotField.
func fieldUser(field string) (orcid.ID, error) {
	base, err := strconv.ParseUint(field, 10, 64)
	if err != nil {
		return orcid.ID{}, err
	}
	return orcid.FromBase(base)
}
