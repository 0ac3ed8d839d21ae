#compdef rislab
# zsh completion of rislab; made by: rislab completion zsh
_rislab_words() {
  case "$1" in
$cases
  esac
}
_rislab() {
  local command="${words[2]}" before="${words[CURRENT-1]}" current="${words[CURRENT]}" key position=$CURRENT
  local choices="" files=""
  key="$command:"
  if (( position == 2 )); then
    compadd -- ${=:-$commands --help --version}
    return
  fi
  [[ "$before" == -* ]] && key="$command:$before"
  _rislab_words "$key"
  [[ -z "$choices$files" ]] && { key="$command:"; _rislab_words "$key" }
  if [[ "$current" == -* || ( "$key" != "$command:" && -n "$choices" ) ]]; then
    compadd -- ${=choices}
  else
    _files
  fi
}
compdef _rislab rislab
