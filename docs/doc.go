// Package docs makes the documentation true: its test reads every Markdown file
// of the repository and runs what they tell people to type. A page needs nothing
// but Markdown; blocks are told apart by the words behind the fence.
//
//	```sh test             run with bash -euo pipefail, in the page's own directory
//	```sh test exit=1      run; its last command must exit with 1
//	```sh test slow        run; it compiles something, and may take ten minutes
//	```sh test background  started, and ended with the page; the next block runs
//	                       when a daemon answers and has its Redis, or the block ended
//	```sh booted           not run here, but by "make test-deb" in a Debian that runs
//	```toml file=a.toml    written to that file; any language, any name
//	```text output         what the test block before it printed, in this order:
//	                       "…" stands for anything, a line "…" for any lines
//	```sh                  not run, but its dispatchd commands must parse, with
//	                       flags that exist
//	```toml                not loaded, but its keys must exist
//
// All blocks of a page share one directory, and what one exports the later ones
// have. What readers need not see stands in an HTML comment whose first line
// would follow the fence:
//
//	<!-- sh test
//	printf 'orcid\n0000-0002-1825-0097\n' > users.csv
//	-->
//
// Three more comments:
//
//	<!-- postgres -->                  start a PostgreSQL; $HUB_DATABASE is an empty
//	                                   database there
//	<!-- world -->                     start a simulated ORCID (600 times as fast as
//	                                   the real one), a webhook receiver and a daemon
//	                                   with a Redis inside it and the credential "main"
//	<!-- replace https://hub.example.edu => $CALLBACK_URL -->
//	                                   from here on, in this page's blocks
//
// Every page has $PAGE_DIR (its directory), $DISPATCHD_ADMIN, $CALLBACK_ADDR, $CALLBACK_URL, $WEB_ADDR,
// $WEB_URL, $ADMIN_ADDR and $SPARE_ADDR on free ports, $ORCID_URL of a simulated ORCID that
// knows the client $ORCID_CLIENT with $ORCID_SECRET and the records $ORCID_IDS,
// $RECEIVER_URL of a receiver that answers 204 (422 below /refuses), $DOCS of this directory, and a freshly built dispatchd in
// $PATH. A world adds $DISPATCHD_ADMIN_TOKEN_FILE and config.toml.
//
// Links to files and headings inside the repository must lead somewhere.
package docs
