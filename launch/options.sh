# shellcheck shell=bash
# What the scripts beside this file share. Each sources it; it works in bash 3.2, that of macOS.

# Ends the script for a mistake on its command line.
misuse() {
  local LC_ALL=C text="$*"
  echo "error: ${text//[[:cntrl:]]/ }; see launch/${0##*/} --help" >&2
  exit 2
}

# Prints the comment that opens a script.
help() {
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
}

# Reads a command line: --NAME=VALUE goes to the variable NAME, --FLAG sets FLAG to "yes", in both
# with _ for -; the rest goes to the array `words`, and what follows "--" to the array `program`.
#   parse_options "NAME= FLAG ..." "$@"
parse_options() {
  local known=" $1 " option
  shift
  words=()
  program=()
  while [ $# -gt 0 ]; do
    option=${1%%=*}
    option=${option#--}
    case $1 in
      --)
        shift
        program=("$@")
        return
        ;;
      --help | -h)
        help
        exit 0
        ;;
      --?*=*)
        [[ $known == *" $option= "* ]] || misuse "unknown option $1 (the program's flags follow --)"
        [ -n "${1#*=}" ] || misuse "--$option is empty"
        printf -v "${option//-/_}" %s "${1#*=}"
        ;;
      --?*)
        [[ $known != *" $option= "* ]] || misuse "--$option needs a value: --$option=..."
        [[ $known == *" $option "* ]] || misuse "unknown option $1 (the program's flags follow --)"
        printf -v "${option//-/_}" yes
        ;;
      *) words+=("$1") ;;
    esac
    shift
  done
}

# Demands that options have a value.
require() {
  local option variable
  for option in "$@"; do
    variable=${option//-/_}
    [ -n "${!variable}" ] || misuse "--$option=... is missing"
  done
}

# Demands that options, where given, match a regular expression from end to end.
#   require_form REGEX "what that is" OPTION ...
require_form() {
  local LC_ALL=C form=$1 what=$2 option variable  # in C, a-z are 26 letters
  shift 2
  for option in "$@"; do
    variable=${option//-/_}
    [[ -z ${!variable} || ${!variable} =~ ^($form)$ ]] ||
      misuse "--$option=${!variable} is no $what"
  done
}

# Demands that options are whole numbers above 0 that fit into 32 bits, as Kubernetes wants them.
require_count() {
  require_form '[1-9][0-9]{0,8}' "whole number from 1 to 999999999" "$@"
}

# Demands that the program's flags hold one that begins so and goes on.
#   require_program --workdir=gs:// "why"
require_program() {
  local flag
  for flag in ${program[@]+"${program[@]}"}; do
    [[ $flag != "$1"?* ]] || return 0
  done
  misuse "after -- the program needs $1...${2:+, $2}"
}

# Prints words as a shell would read them.
quoted() {
  local word text=''
  for word in "$@"; do
    [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]] || word="'${word//\'/\'\\\'\'}'"
    text+="${text:+ }$word"
  done
  printf '%s\n' "$text"
}

# Runs a command, or with --dry-run prints it.
execute() {
  if [ -n "$dry_run" ]; then quoted "$@"; else "$@"; fi
}
