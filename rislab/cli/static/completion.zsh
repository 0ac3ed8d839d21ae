#compdef rislab
# zsh completion of rislab; made by: rislab completion zsh
_rislab_words() {
  case "$1" in
$cases
  esac
}
_rislab() {
  local command="${words[2]}" before="${words[CURRENT-1]}" current="${words[CURRENT]}"
  local choices="" files=""
  if (( CURRENT == 2 )); then
    compadd -- ${=:-$commands --help --version}
    return
  fi
  [[ "$before" == -* ]] && _rislab_words "$command:$before"
  if [[ -z "$choices$files" ]]; then
    [[ "$current" == -* ]] && _rislab_words "$command:" || _rislab_words "$command="
  fi
  if [[ -n "$choices" ]]; then
    compadd -- ${=choices}
  else
    _files
  fi
}
# Found in fpath, this file is the function, and the first call of it comes from here.
if [[ "$zsh_eval_context[-1]" == loadautofunc ]]; then _rislab "$@"; else compdef _rislab rislab; fi
