# dispatchd completion for fish: dispatchd completion fish | source
function __dispatchd_complete
  set -l words (commandline -opc) (commandline -ct)
  dispatchd __complete -- $words[2..-1] 2>/dev/null
end
complete -c dispatchd -a '(__dispatchd_complete)'
