# bash completion of rislab; made by: rislab completion bash
_rislab() {
  local current="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}" command="${COMP_WORDS[1]}"
  local choices="" files="" key="$command:"
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W "$commands --help --version" -- "$current"))
    return
  fi
  case "$before" in -*) [ "$COMP_CWORD" -gt 2 ] && key="$command:$before" ;; esac
  _rislab_words "$key"
  if [ -z "$choices$files" ]; then
    _rislab_words "$command:"
  fi
  case "$current" in
    -*) COMPREPLY=($(compgen -W "$choices" -- "$current")) ;;
    *) if [ "$key" != "$command:" ] && [ -n "$choices" ]; then COMPREPLY=($(compgen -W "$choices" -- "$current"))
       else COMPREPLY=($(compgen -f -- "$current")); fi ;;
  esac
}
_rislab_words() {
  case "$1" in
$cases
  esac
}
complete -o filenames -F _rislab rislab
