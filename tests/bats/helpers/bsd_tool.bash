#!/usr/bin/env bash
# Stands in for a tool of macOS: refuses what the tool of its name refuses there, and is this machine's tool otherwise.
set -Eeuo pipefail
name=${0##*/}

refuse() {
  printf '%s: illegal option: %s\n' "$name" "$1" >&2
  exit 64
}

for word in "$@"; do
  case $word in --) break ;; esac
  case "$name $word" in
    'grep -'*P* | 'sed -i' | 'sed -z' | 'stat -c'* | 'date -d'* | 'date -I'* | 'date -r'* | 'date -s'*) refuse "$word" ;;
    'mktemp -p'* | 'readlink -e' | 'readlink -m' | 'cp -t' | 'mv -t' | 'ln -r'* | 'xargs -r'* | 'xargs -d'*) refuse "$word" ;;
    'find -printf' | 'find -regextype' | 'find -executable' | 'touch -d@'* | 'touch @'*) refuse "$word" ;;
    'dd iflag='* | 'dd oflag='* | 'dd bs='*M) refuse "$word" ;;
    'grep --'*) ;;
    *' --'*) refuse "$word" ;;
  esac
done

real=$(PATH=/usr/local/bin:/usr/bin:/bin type -P "$name")
if [[ $name == wc ]]; then
  printf '%8s\n' "$("$real" "$@")"
else
  exec "$real" "$@"
fi
