#!/usr/bin/env bats
# shell/lib/launch_facts.sh: the model that a training starts from is looked at before anything is rented.
# shellcheck disable=SC2034,SC2154  # variables of the launch script and of the helpers
bats_require_minimum_version 1.5.0
load ../helpers/common

setup() {
  common_setup
  # shellcheck source=../../../shell/lib/launch_facts.sh
  source "$project/shell/lib/launch_facts.sh"
  use_fake_s3 bucket
  bucket=bucket environment=dev
  model="$FAKE_AWS_DIR/s3/bucket/cached-datasets/models/0123"
  mkdir -p "$model"
}

teardown() { common_teardown; }

# <trainer> <model_id>
settings_with() { settings=$(jq -cn --arg trainer "$1" --arg id "$2" '{trainer: $trainer, training: {model_id: $id}}'); }

@test "random weights, and other trainers, ask for nothing" {
  settings='{"trainer": "chronos", "training": {}}'
  run -0 require_start_model
  settings_with chronos random
  run -0 require_start_model
  settings_with command s3://elsewhere/model
  run -0 require_start_model
}

@test "a model with both of its files is accepted" {
  touch "$model/config.json" "$model/model.safetensors"
  settings_with chronos s3://bucket/cached-datasets/models/0123/
  run -0 require_start_model
}

@test "a model without safetensors is refused, and so is none" {
  touch "$model/config.json" "$model/pytorch_model.bin"
  settings_with chronos s3://bucket/cached-datasets/models/0123
  run -18 require_start_model
  assert_output --partial 'has no model.safetensors'
  assert_output --partial 'invoke upload --env dev --model DIR'
  settings_with chronos s3://bucket/nowhere
  run -18 require_start_model
  assert_output --partial 'has no config.json'
}

@test "a bucket that no instance reads is refused" {
  settings_with chronos s3://elsewhere/model
  run -26 require_start_model
  assert_output --partial 'an instance reads s3://bucket alone'
}
