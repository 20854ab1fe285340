# shellcheck shell=bash
# The stateful part of the fake `aws`: objects are files, ETags their MD5, conditions are kept as S3 keeps them.
# An option that it does not know is rejected, so that no condition is ever ignored.

# Prints an S3 error and ends. <code> <operation>
_s3_error() {
  printf '\nAn error occurred (%s) when calling the %s operation: the fake says so\n' "$1" "$2" >&2
  exit 254
}

_etag() {
  local sum
  sum=$(md5sum "$1")
  printf '\\"%s\\"' "${sum:0:32}"
}

# Holds the conditions of a write against what is there. <file> <operation>
_check_conditions() {
  local current=''
  if [[ -f $1 ]]; then
    current=$(_etag "$1")
    current=${current//\\/}
  fi
  if [[ -n ${options[if_none_match]:-} && -n $current ]]; then _s3_error PreconditionFailed "$2"; fi
  if [[ -n ${options[if_match]:-} ]]; then
    if [[ -z $current ]]; then _s3_error NoSuchKey "$2"; fi
    if [[ $current != "${options[if_match]}" ]]; then _s3_error PreconditionFailed "$2"; fi
  fi
}

_condition() {
  if [[ -n ${options[if_none_match]:-} ]]; then printf ' if-none-match=%s' "${options[if_none_match]}"; fi
  if [[ -n ${options[if_match]:-} ]]; then printf ' if-match'; fi
}

_effect() { printf '%s %s%s\n' "$1" "$2" "$(_condition)" >>"$FAKE_AWS_DIR/effects"; }

# <argv of aws>
fake_s3() {
  local -A options=()
  local operation=$2 words=() file known name
  if [[ $1 == s3 ]]; then
    _s3_cp "$@"
    return
  fi
  case $operation in
    put-object) known=' bucket key body content-type tagging if-match if-none-match ' ;;
    copy-object) known=' bucket key copy-source if-match if-none-match ' ;;
    get-object) known=' bucket key ' ;;
    head-object) known=' bucket key query output ' ;;
    delete-object) known=' bucket key if-match ' ;;
    list-objects-v2) known=' bucket prefix output ' ;;
    *) _reject "$@" ;;
  esac
  shift 2
  while (($# > 0)); do
    if [[ $1 == --* ]]; then
      if [[ $known != *" ${1#--} "* ]]; then _reject "s3api $operation $1"; fi
      name=${1#--}
      options[${name//-/_}]=$2
      shift 2
    else
      words+=("$1")
      shift
    fi
  done
  if [[ ! -d $FAKE_AWS_DIR/s3/${options[bucket]} ]]; then _s3_error NoSuchBucket "$operation"; fi
  file="$FAKE_AWS_DIR/s3/${options[bucket]}/${options[key]:-}"
  "_s3_${operation//-/_}"
}

_reject() {
  printf '%s\n' "$*" >>"$FAKE_AWS_DIR/unplanned"
  printf 'fake S3: not known: %s\n' "$*" >&2
  exit 97
}

_s3_put_object() {
  _check_conditions "$file" PutObject
  mkdir -p "${file%/*}"
  cp "${options[body]}" "$file"
  _effect put-object "${options[key]}"
  printf '{"ETag": "%s"}\n' "$(_etag "$file")"
}

_s3_copy_object() {
  local source="$FAKE_AWS_DIR/s3/${options[copy_source]}"
  if [[ ! -f $source ]]; then _s3_error NoSuchKey CopyObject; fi
  _check_conditions "$file" CopyObject
  mkdir -p "${file%/*}"
  cp "$source" "$file"
  cat "$source" >>"$FAKE_AWS_DIR/published"
  _effect copy-object "${options[key]}"
  printf '{"CopyObjectResult": {"ETag": "%s"}}\n' "$(_etag "$file")"
}

_s3_get_object() {
  if [[ ! -f $file ]]; then _s3_error NoSuchKey GetObject; fi
  cp "$file" "${words[0]}"
  printf '{"ETag": "%s"}\n' "$(_etag "$file")"
}

_s3_head_object() {
  local etag
  if [[ ! -f $file ]]; then _s3_error 404 HeadObject; fi
  etag=$(_etag "$file")
  printf '%s\n' "${etag//\\/}"
}

_s3_delete_object() {
  _check_conditions "$file" DeleteObject
  if [[ -f $file ]]; then
    rm "$file"
    _effect delete-object "${options[key]}"
  fi
}

_s3_list_objects_v2() {
  local keys
  keys=$(cd "$FAKE_AWS_DIR/s3/${options[bucket]}" && find . -type f | sed 's#^\./##' | sort)
  printf '%s\n' "$keys" | jq -R . | jq -s --arg prefix "${options[prefix]}" \
    '[.[] | select(. != "" and startswith($prefix)) | {Key: .}] | if length > 0 then {Contents: .} else {} end'
}

# aws s3 cp --only-show-errors|--quiet s3://BUCKET/KEY FILE|-
# aws s3 cp --recursive --only-show-errors s3://BUCKET/PREFIX/ FOLDER
_s3_cp() {
  if [[ "$1 $2 $3 $4" == 's3 cp --recursive --only-show-errors' && $5 == s3://*/ && $# == 6 ]]; then
    cp -r "$FAKE_AWS_DIR/s3/${5#s3://}." "$6"
    return
  fi
  if [[ "$1 $2 $3" != 's3 cp --only-show-errors' && "$1 $2 $3" != 's3 cp --quiet' || $4 != s3://* || $# != 5 ]]; then _reject "$@"; fi
  if [[ ! -f $FAKE_AWS_DIR/s3/${4#s3://} ]]; then
    printf 'fatal error: An error occurred (404) when calling the HeadObject operation: Key does not exist\n' >&2
    exit 1
  fi
  if [[ $5 == - ]]; then
    cat "$FAKE_AWS_DIR/s3/${4#s3://}"
  else
    cp "$FAKE_AWS_DIR/s3/${4#s3://}" "$5"
  fi
}
