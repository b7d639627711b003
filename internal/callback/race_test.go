//go:build race

package callback

// raceEnabled says that sync.Pool drops some of what it is given, so that
// allocations cannot be counted.
const raceEnabled = true
