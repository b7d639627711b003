# dispatchd completion for bash: eval "$(dispatchd completion bash)"
_dispatchd() {
  local IFS=$'\n'
  COMPREPLY=($(dispatchd __complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o default -F _dispatchd dispatchd
