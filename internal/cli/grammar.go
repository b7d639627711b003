package cli

// globals are the flags of every command that talks to a daemon.
type globals struct {
	Admin     string `help:"Where the daemon's admin listener is: http://host:port or unix:/path. Default: from --config, else $$DISPATCHD_ADMIN, else http://127.0.0.1:9480." placeholder:"URL"`
	Config    string `help:"The configuration file; its admin address and token are used." placeholder:"FILE" short:"c"`
	TokenFile string `help:"The file with the admin token. Default: from --config, else $$DISPATCHD_ADMIN_TOKEN_FILE." placeholder:"FILE"`
	JSON      bool   `name:"json" help:"Print the API's JSON instead of tables."`
}

// grammar is the command table; help, completion and the man page come from it.
type grammar struct {
	globals

	Serve    serveCmd    `cmd:"" group:"run" help:"Run the daemon."`
	Check    checkCmd    `cmd:"" group:"run" help:"Check a configuration file and show every mistake at once."`
	Demo     demoCmd     `cmd:"" group:"run" help:"See it work: simulated ORCID, organisations and researchers."`
	Simulate simulateCmd `cmd:"" name:"simulate-orcid" group:"run" help:"Run a simulated ORCID registry."`
	Conf     configCmd   `cmd:"" name:"config" group:"run" help:"Print the annotated example, or what a file amounts to."`

	Status  statusCmd  `cmd:"" group:"look" help:"Problems first, then everything at a glance; exit code 1 if there is a problem."`
	Health  healthCmd  `cmd:"" group:"look" help:"Whether pings can be stored durably; exit code 1 if not. Needs no token."`
	Ledger  ledgerCmd  `cmd:"" group:"look" help:"Do the books balance? Exit code 1 if not."`
	Reload  reloadCmd  `cmd:"" group:"change" help:"Read the configuration file again, all or nothing."`
	Level   levelCmd   `cmd:"" name:"log-level" group:"change" help:"Show how much is logged, or change it until the next reload or restart."`
	Recover recoverCmd `cmd:"" group:"change" help:"Go on with a Redis that forgot."`

	Org          orgCmd          `cmd:"" group:"change" help:"Organisations: list, show, add, set, enable, pause, test …"`
	User         userCmd         `cmd:"" group:"change" help:"Researchers: list, show, add, remove, import, sync, export, erase …"`
	Delivery     deliveryCmd     `cmd:"" group:"change" help:"Attempts and dead letters: log, list, replay, purge."`
	Registration registrationCmd `cmd:"" group:"change" help:"Registrations at ORCID: status, rearm, sync, pause, resume."`
	Hub          hubCmd          `cmd:"" group:"change" help:"Take over from the NZ ORCID Hub: sql, config, import."`
	Credential   credentialCmd   `cmd:"" group:"look" help:"ORCID credentials: list, show, test."`
	Job          jobCmd          `cmd:"" group:"look" help:"Long work: list, show, cancel."`

	Version    versionCmd    `cmd:"" group:"self" help:"Print the version and how it was built."`
	Completion completionCmd `cmd:"" group:"self" help:"Print a completion script for bash, zsh or fish."`
	Complete   completeCmd   `cmd:"" name:"__complete" hidden:""`
}

type orgCmd struct {
	List    orgListCmd    `cmd:"" help:"Every organisation."`
	Show    orgShowCmd    `cmd:"" help:"One organisation: settings, channels, what waits."`
	Add     orgAddCmd     `cmd:"" help:"Make an organisation."`
	Set     orgSetCmd     `cmd:"" help:"Change settings: key=value, keys as in [[organisation]] of config.toml."`
	Enable  orgEnableCmd  `cmd:"" help:"Enable a channel."`
	Disable orgDisableCmd `cmd:"" help:"Disable channels: what waits is cancelled, users are unregistered."`
	Pause   orgPauseCmd   `cmd:"" help:"Let deliveries wait; nothing is lost or unregistered."`
	Resume  orgResumeCmd  `cmd:"" help:"End a pause or a suspension."`
	Test    orgTestCmd    `cmd:"" help:"Send a test event and show the answer."`
	Link    orgLinkCmd    `cmd:"" help:"Print a link that signs in to the organisation's pages: works once, for 15 minutes."`
	Rotate  orgRotateCmd  `cmd:"" name:"rotate-secret" help:"Make a new signing secret; the old one signs too until the next time."`
	Move    orgMoveCmd    `cmd:"" help:"Let another ORCID credential serve an organisation, without a gap."`
	Remove  orgRemoveCmd  `cmd:"" help:"Remove an organisation with everything it has."`
}

type userCmd struct {
	List   userListCmd   `cmd:"" help:"An organisation's users."`
	Show   userShowCmd   `cmd:"" help:"Everything known of one researcher."`
	Add    userAddCmd    `cmd:"" help:"Affiliate a researcher with an organisation."`
	Remove userRemoveCmd `cmd:"" help:"End an affiliation."`
	Import userImportCmd `cmd:"" help:"Affiliate everybody in a list."`
	Sync   userSyncCmd   `cmd:"" help:"Make an organisation's users those of a list."`
	Export userExportCmd `cmd:"" help:"Print all that is held of a researcher, as JSON."`
	Erase  userEraseCmd  `cmd:"" help:"Remove every trace of a researcher, here and at ORCID."`
	Parked userParkedCmd `cmd:"" help:"News that is set aside because a stored record or a line of the log is damaged."`
	Lift   userLiftCmd   `cmd:"" name:"unsuppress" help:"Let a researcher who was erased be added again."`
}

type deliveryCmd struct {
	Log    deliveryLogCmd    `cmd:"" help:"The latest attempts."`
	List   deliveryListCmd   `cmd:"" help:"Dead letters: what was given up on."`
	Replay deliveryReplayCmd `cmd:"" help:"Try dead letters again."`
	Purge  deliveryPurgeCmd  `cmd:"" help:"Throw dead letters away."`
}

type credentialCmd struct {
	List credentialListCmd `cmd:"" help:"Every ORCID credential."`
	Show credentialShowCmd `cmd:"" help:"One ORCID credential."`
	Test credentialTestCmd `cmd:"" help:"Ask ORCID for a token with it; exit code 1 if there is none."`
}

type jobCmd struct {
	List   jobListCmd   `cmd:"" help:"Jobs, newest first."`
	Show   jobShowCmd   `cmd:"" help:"One job: how far it is, and what went wrong."`
	Cancel jobCancelCmd `cmd:"" help:"Stop a job that may stop halfway; what it has done stays."`
}
