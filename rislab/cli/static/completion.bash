# bash completion of rislab; made by: rislab completion bash
_rislab() {
  local current="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}" command="${COMP_WORDS[1]}"
  local choices="" files=""
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W "$commands --help --version" -- "$current"))
    return
  fi
  case "$before" in -*) _rislab_words "$command:$before" ;; esac
  if [ -z "$choices$files" ]; then
    case "$current" in -*) _rislab_words "$command:" ;; *) _rislab_words "$command=" ;; esac
  fi
  if [ -n "$choices" ]; then COMPREPLY=($(compgen -W "$choices" -- "$current"))
  else COMPREPLY=($(compgen -f -- "$current")); fi
}
_rislab_words() {
  case "$1" in
$cases
  esac
}
complete -o filenames -F _rislab rislab
