# Prints the arguments of `aws` that ask a pool for the run's machines, one a line. Reads $env, $run_id, $type, $subnet,
# $market, $deadline, $token, $user_data (a path), $settings, $exports, and $facts: facts.json.

($settings.nodes // 1) as $nodes
| [{Key: "Project", Value: $project}, {Key: "Environment", Value: $env}, {Key: "RunId", Value: $run_id},
 {Key: "Name", Value: "chronos-\($env)-\($run_id)"}, {Key: "Deadline", Value: $deadline}] as $tags
| (["instance", "volume", "network-interface"] + (if $market == "spot" then ["spot-instances-request"] else [] end)
   | map({ResourceType: ., Tags: $tags})) as $tag_specifications
| [{DeviceIndex: 0, SubnetId: $subnet,
    Groups: ([$exports.SecurityGroupId] + (if $nodes > 1 then [$exports.ClusterSecurityGroupId] else [] end)),
    AssociatePublicIpAddress: true, DeleteOnTermination: true}] as $network_interfaces
| [{DeviceName: $facts[0].ami.root_device,
    Ebs: {VolumeSize: $settings.volume_gb, VolumeType: "gp3", Encrypted: true, DeleteOnTermination: true}}] as $disks
# A one-time request: what is interrupted does not come back by itself.
| {MarketType: "spot", SpotOptions: ({SpotInstanceType: "one-time", InstanceInterruptionBehavior: "terminate"}
    + (if $settings.spot_max_price == "" then {} else {MaxPrice: $settings.spot_max_price} end))} as $spot
| ["ec2", "run-instances", "--output", "json",
   # All of them or none, by one request: EC2's own atomicity.
   "--count", "\($nodes)",
   "--image-id", $facts[0].ami.id, "--instance-type", $type,
   "--network-interfaces", ($network_interfaces | tojson),
   "--iam-instance-profile", "Name=\($exports.InstanceProfileName)",
   "--user-data", "file://\($user_data)", "--client-token", $token,
   "--instance-initiated-shutdown-behavior", "terminate",
   "--metadata-options", "HttpTokens=required,HttpEndpoint=enabled,HttpPutResponseHopLimit=1,InstanceMetadataTags=enabled"]
  # The alarms watch what EC2 reports of a type, and it does so for machines with detailed monitoring only.
  + (if ($settings.alarm_hours // 0) > 0 then ["--monitoring", "Enabled=true"] else [] end)
  + (if $nodes > 1 then ["--placement", "GroupName=\($exports.PlacementGroupName)"] else [] end)
  + ["--block-device-mappings", ($disks | tojson), "--tag-specifications", ($tag_specifications | tojson)]
  + (if $market == "spot" then ["--instance-market-options", ($spot | tojson)] else [] end)
| .[]
