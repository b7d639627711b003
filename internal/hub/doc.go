// Package hub owns what is needed to take over from the NZ ORCID Hub: the
// callback URLs that the Hub registered at ORCID go on working until each is
// replaced by one of ours (Map, Callbacks, Taker), and what the Hub knows is
// read from its exported tables (Export).
package hub
